"""Servers for embedded models: started once per machine, shared through leases, stopped without holders.

    async with embedded_servers(recipe.models, home, print) as urls:
        urls["gemma"]  # http://127.0.0.1:40123/v1

A server is identified by its weights: home.models/servers/<name>-<sha> holds its state, log and leases. The first run
starts it, later runs take a lease, and the last run to leave waits for its end. A killed holder's lease is void.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.agents.local.files import BUILT_IN, ModelFile, model_file, read_json, write_json
from graft.agents.local.serve import SLOTS, folder_lock, live_leases, process_stamp
from graft.schemas.errors import MissingExtra, ModelUnreachable
from graft.schemas.home import Home, python_path
from graft.schemas.models import CONTEXT, ModelSpec

LARGE = 300_000_000
"""Bytes of weights from which a lone server takes every core."""
TOKEN_BYTES = 32_000
"""Cache of one token, at least that of the largest built-in model."""
READY_WITHIN_S = 120.0
STOPPED_WITHIN_S = 10.0
_children: dict[Path, subprocess.Popen[bytes]] = {}
"""Servers started by this process, reaped when they end so that none remains a zombie."""


@dataclass(frozen=True)
class _Lease:
    file: ModelFile
    folder: Path
    path: Path
    started: bool


@asynccontextmanager
async def embedded_servers(
    models: Sequence[ModelSpec], home: Home, say: Callable[[str], None]
) -> AsyncIterator[dict[str, str]]:
    """Serve the embedded models while the context is open.

    Args:
        models: the recipe's models; other providers are ignored.
        home: the home folder, for weights, state and logs.
        say: receives a line when a model starts to load and when it is ready.

    Yields:
        Base address ('http://127.0.0.1:PORT/v1') by the model's name.

    Raises:
        MissingExtra: a wheel is not installed.
        ModelUnreachable: a model's file is wrong, or its server does not answer within 120 s.
    """
    embedded = [model for model in models if model.provider == "embedded"]
    if embedded and importlib.util.find_spec("xllamacpp") is None:
        raise MissingExtra(
            "xllamacpp, which serves the embedded models, is not installed",
            where=f"models.{embedded[0].name}",
            fix="pip install 'graft-factory[local]' (or: pip install xllamacpp)",
        )
    files = [await asyncio.to_thread(model_file, model, home) for model in embedded]  # assembled in sequence
    threads = threads_per_server([file.size for file in files])
    leases: list[_Lease] = []
    try:
        for model, file in zip(embedded, files, strict=True):  # loading overlaps
            leases.append(await asyncio.to_thread(_take_lease, model, file, home, threads))
        ready = await asyncio.gather(
            *(_ready(model, lease, say) for model, lease in zip(embedded, leases, strict=True))
        )
        yield {model.name: url for model, url in zip(embedded, ready, strict=True)}
    finally:
        for lease in leases:
            lease.path.unlink(missing_ok=True)
        await asyncio.gather(*(asyncio.to_thread(_await_end, lease) for lease in leases))


def threads_per_server(sizes: Sequence[int]) -> int:
    """Return the threads of one server, so that all servers together never exceed the cores.

    llama.cpp's threads spin while they wait for each other: on 2 cores, two busy servers with 2 threads each generated
    0.5 short texts a second together, with 1 thread each 6. A lone server of a tiny model leaves half of the cores
    free, because more threads gain nothing there; a lone larger one takes them all: a model of 1.5 billion parameters
    read 49.5 tokens a second with 2 threads, 24.6 with 1.

    Args:
        sizes: bytes of each server's weights.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    lone_and_large = len(sizes) == 1 and sizes[0] >= LARGE
    return max(1, min(8, cores if lone_and_large else cores // max(2, len(sizes))))


def memory_for(size: int, context: int = CONTEXT) -> int:
    """Bytes that a server takes, about: its weights, the slots' caches and the buffers."""
    return int(1.5 * size) + 200_000_000 + SLOTS * max(0, context - CONTEXT) * TOKEN_BYTES


def _check_memory(model: ModelSpec, file: ModelFile) -> None:
    """Raises ModelUnreachable if the machine has too little free memory for a model's server."""
    import psutil

    free, needed = psutil.virtual_memory().available, memory_for(file.size, model.slot_tokens)
    if needed > free:
        fits = [name for name, one in BUILT_IN.items() if memory_for(one.size) <= free]
        raise ModelUnreachable(
            f"{file.name} needs about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free",
            where=f"models.{model.name}.model",
            fix="close other programs" + (f", or use a built-in model that fits: {', '.join(fits)}" if fits else ""),
        )


def _take_lease(model: ModelSpec, file: ModelFile, home: Home, threads: int) -> _Lease:
    """Take a lease on a model's server and start the server if none is alive. Raises ModelUnreachable."""
    wide = f"-{model.context}" if model.context else ""
    folder = home.models / "servers" / f"{_slug(file.name)}-{file.sha256[:16]}{wide}"
    (folder / "leases").mkdir(parents=True, exist_ok=True)
    path = folder / "leases" / f"{os.getpid()}-{uuid.uuid4().hex[:12]}.json"
    with folder_lock(folder):
        live_leases(folder)  # removes leases of dead holders
        write_json(path, {"pid": os.getpid(), "stamp": process_stamp(os.getpid())})
        alive = _alive(read_json(folder / "state.json"))
        try:
            if not alive:
                _check_memory(model, file)
                _spawn(file, folder, threads, model.slot_tokens)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return _Lease(file, folder, path, started=not alive)


def _spawn(file: ModelFile, folder: Path, threads: int, context: int) -> None:
    state: dict[str, Any] = {
        "name": file.name, "path": str(file.path), "sha256": file.sha256, "threads": threads,
        "context": context,
    }  # fmt: skip
    write_json(folder / "state.json", state)
    with (folder / "log.txt").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "graft.agents.local.serve", str(folder)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={"OMP_WAIT_POLICY": "passive", **os.environ, "PYTHONPATH": python_path()},
            start_new_session=True,  # Ctrl-C ends the run, which then releases the server itself
        )  # fmt: skip
    _children[folder] = child
    stamped = {**state, "pid": child.pid, "stamp": process_stamp(child.pid)}
    write_json(folder / "state.json", stamped)


def _alive(state: dict[str, Any]) -> bool:
    return "pid" in state and process_stamp(int(state["pid"])) == state["stamp"] is not None


async def _ready(model: ModelSpec, lease: _Lease, say: Callable[[str], None]) -> str:
    """Wait until the server answers; returns its base address."""
    name, begin = lease.file.name, time.monotonic()
    if lease.started:
        say(f"loading {name} ({lease.file.size / 1e6:.0f} MB) …")
    while time.monotonic() - begin < READY_WITHIN_S:
        state: dict[str, Any] = read_json(lease.folder / "state.json")
        if not _alive(state):
            raise _unreachable(model, lease, "ended while loading")
        if "port" in state and await asyncio.to_thread(_healthy, int(state["port"])):
            took = time.monotonic() - begin
            say(f"{name} ready in {took:.1f} s" if lease.started else f"{name} is already running on this machine")
            return f"http://127.0.0.1:{state['port']}/v1"
        await asyncio.sleep(0.05)
    raise _unreachable(model, lease, f"did not answer within {READY_WITHIN_S:.0f} s")


def _healthy(port: int) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(json.load(answer).get("status") == "ok")
    except (urllib.error.URLError, OSError, json.JSONDecodeError):
        return False


def _unreachable(model: ModelSpec, lease: _Lease, what: str) -> ModelUnreachable:
    log = lease.folder / "log.txt"
    tail = log.read_text(errors="replace").strip().splitlines()[-8:] if log.exists() else []
    return ModelUnreachable(
        f"the server of {lease.file.name} {what}" + "".join(f"\n    {line}" for line in tail),
        where=f"models.{model.name}",
        fix=f"see {log}; if the machine is short of memory, use fewer embedded models",
    )


def _await_end(lease: _Lease) -> None:
    """Wait for the server's end if this was the last lease; the server notices within half a second."""
    until = time.monotonic() + STOPPED_WITHIN_S
    state: dict[str, Any] = read_json(lease.folder / "state.json")
    child = _children.get(lease.folder)
    while (_alive(state) or _runs(child)) and not live_leases(lease.folder) and time.monotonic() < until:
        time.sleep(0.05)
    if child is not None and not _runs(child):
        _children.pop(lease.folder, None)


def _runs(child: subprocess.Popen[bytes] | None) -> bool:
    """Return True if a server started by this process still runs; `poll` reaps an ended server."""
    return child is not None and child.poll() is None


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in name)[:60]
