"""Weights from a model hub: shown, downloaded, continued, pinned, and refused if they are not the pinned ones."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fake_llm import Serving
from in_thread import InThread

from graft.agents.local import files, hub
from graft.schemas.errors import InputInvalid, ModelUnreachable, StorageFull
from graft.schemas.home import Home
from graft.schemas.load import load_recipe
from graft.schemas.models import ModelSpec

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "hf:acme/tiny-GGUF/q4/tiny.gguf@v1"
SPEC = ModelSpec(name="tiny", provider="embedded", model=NAME)


class FakeHub(InThread):
    """One repository with one file; `asked` are its requests, `break_at` cuts a transfer after so many bytes."""

    def __init__(self, content: bytes) -> None:
        self.content, self.digest, self.asked = content, hashlib.sha256(content).hexdigest(), list[str]()
        self.break_at, self.ranges = 0, True
        app = web.Application()
        app.router.add_get("/api/models/acme/tiny-GGUF/revision/{revision}", self._info)
        app.router.add_get(f"/acme/tiny-GGUF/resolve/{COMMIT}/q4/tiny.gguf", self._file)
        super().__init__(app)

    @property
    def address(self) -> str:
        return self.url.removesuffix("/v1")

    async def _info(self, request: web.Request) -> web.Response:
        self.asked.append(f"info {request.match_info['revision']}")
        if request.match_info["revision"] != "v1":
            raise web.HTTPNotFound
        lfs = {"sha256": self.digest, "size": len(self.content)}
        there = [{"rfilename": "README.md"}, {"rfilename": "q4/tiny.gguf", "size": lfs["size"], "lfs": lfs}]
        return web.json_response({"sha": COMMIT, "siblings": there, "cardData": {"license": "mit"}})

    async def _file(self, request: web.Request) -> web.StreamResponse:
        found = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", "")) if self.ranges else None
        start = int(found[1]) if found else 0
        self.asked.append(f"file from {start}")
        response = web.StreamResponse(status=206 if found else 200)
        response.content_length = len(self.content) - start
        await response.prepare(request)
        end = min(len(self.content), start + self.break_at) if self.break_at else len(self.content)
        await response.write(self.content[start:end])
        if end < len(self.content) and request.transport:
            request.transport.abort()
        return response


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub(b"GGUF" + os.urandom(50_000)) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        yield running


async def fetched(tmp_path: Path, spec: ModelSpec = SPEC, home: str = "home") -> tuple[ModelSpec, list[str]]:
    lines: list[str] = []
    (found,) = await hub.fetch([spec], tmp_path / "recipe.yaml", Home(tmp_path / home), lines.append)
    return found, lines


async def test_a_file_is_downloaded_once_and_pinned_beside_the_recipe(served: FakeHub, tmp_path: Path) -> None:
    found, lines = await fetched(tmp_path)
    assert lines == ["downloading q4/tiny.gguf (0 MB, licence mit) of acme/tiny-GGUF"]
    assert (found.weights, found.licence) == (served.digest, "mit")
    assert files.model_file(found, Home(tmp_path / "home")).path.read_bytes() == served.content
    entry = {"commit": COMMIT, "sha256": served.digest, "size": len(served.content), "licence": "mit"}
    assert json.loads((tmp_path / "models.lock.json").read_text()) == {NAME: entry}
    asked = served.asked.copy()
    assert await fetched(tmp_path) == (found, []) and served.asked == asked
    elsewhere, _ = await fetched(tmp_path, home="of another machine")  # by the lock alone: the revision may have moved
    assert elsewhere == found and served.asked == [*asked, "file from 0"]


async def test_an_interrupted_download_continues_where_it_stopped(
    served: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "ATTEMPTS", 1)
    served.break_at = 20_000
    with pytest.raises(ModelUnreachable, match="the same command continues"):
        await fetched(tmp_path)
    (part,) = (tmp_path / "home").rglob("*.part")
    have = part.stat().st_size
    served.break_at = 0
    found, lines = await fetched(tmp_path)
    assert served.asked[-1] == f"file from {have}" and have > 0 and found.weights == served.digest
    assert "MB are here" in lines[0] and not list((tmp_path / "home").rglob("*.part"))


async def test_a_break_is_bridged_and_a_server_without_ranges_sends_all_again(served: FakeHub, tmp_path: Path) -> None:
    served.break_at = 30_000
    assert (await fetched(tmp_path))[0].weights == served.digest
    served.break_at, served.ranges = 0, False
    pinned = SPEC.model_copy(update={"weights": served.digest})
    part = files.hub_path(pinned, Home(tmp_path / "b")).with_suffix(".gguf.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"GGUF of an earlier time")
    assert (await fetched(tmp_path, home="b"))[0].weights == served.digest


async def test_a_file_that_is_not_the_pinned_one_is_deleted_and_refused(served: FakeHub, tmp_path: Path) -> None:
    await fetched(tmp_path)
    served.content = b"GGUF" + os.urandom(50_000)
    with pytest.raises(ModelUnreachable, match=r"has the SHA-256 .*; it was deleted"):
        await fetched(tmp_path, home="b")
    assert not list((tmp_path / "b").rglob("*.gguf")) + list((tmp_path / "b").rglob("*.part"))
    with pytest.raises(ModelUnreachable, match="not " + "0" * 64):
        await fetched(tmp_path, SPEC.model_copy(update={"weights": "0" * 64}))


async def test_a_disk_without_room_is_reported_before_the_download(
    served: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Free:
        free = 1_000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Free)
    with pytest.raises(StorageFull, match=r"no space left for q4/tiny\.gguf"):
        await fetched(tmp_path)
    assert served.asked == ["info v1"]


@pytest.mark.parametrize(("name", "message"), [
    ("hf:acme/tiny-GGUF/q5/tiny.gguf@v1", r"has no file q5/tiny.gguf at v1: it has q4/tiny.gguf"),
    ("hf:acme/tiny-GGUF/q4/tiny.gguf@v2", r"has no acme/tiny-GGUF at v2 \(HTTP 404\)"),
    ("hf:acme/none/q4/tiny.gguf", r"has no acme/none at main \(HTTP 404\)"),
])  # fmt: skip
async def test_a_name_that_the_hub_does_not_have(served: FakeHub, tmp_path: Path, name: str, message: str) -> None:
    spec = SPEC.model_copy(update={"model": name})
    with pytest.raises(ModelUnreachable, match=message):
        await fetched(tmp_path, spec)
    assert re.search(message, await hub.check(spec, Home(tmp_path / "home")) or "")
    assert await hub.check(SPEC, Home(tmp_path / "home")) is None


def write(folder: Path, model: str, base_url: str) -> Path:
    recipe: dict[str, Any] = {
        "name": "hubbed", "task": {"kind": "classification", "labels": [{"name": "a"}, {"name": "b"}]},
        "seeds": {"rows": [{"text": "one two three", "label": "a"}, {"text": "four five six", "label": "b"}]},
        "models": [
            {"name": "writer", "provider": "openai", "model": "fake", "base_url": base_url},
            {"name": "judge", "provider": "embedded", "model": model, "max_concurrency": 8},
        ],
        "roles": {"generator": {"models": ["writer"]}, "reviewer": {"models": ["judge"], "answer": "logprobs"},
                  "adjudicator": {"models": ["writer"]}},
        "method": {
            "kind": "gra", "reviewers": 1, "tau": 0, "calibration_texts": 0, "min_probability": 0, "min_margin": 0,
        },
        "target": {"rows_per_label": 2},
    }  # fmt: skip
    file = folder / "hubbed.json"
    file.write_text(json.dumps(recipe))
    return file


def graft(tmp_path: Path, endpoint: str, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "GRAFT_HOME": str(tmp_path / "home"), "HF_ENDPOINT": endpoint, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "graft", *words], text=True, capture_output=True, timeout=120, check=False, env=env
    )


def test_an_unreachable_hub_is_reported_at_once_with_another_way(tmp_path: Path, fake_llm: Serving) -> None:
    began = time.monotonic()
    done = graft(tmp_path, "http://127.0.0.1:9", "run", str(write(tmp_path, NAME, fake_llm.url)))
    assert done.returncode == 3 and time.monotonic() - began < 30
    text = " ".join(done.stderr.split())
    assert "the model hub does not answer (ClientConnectorError)" in text and "qwen2.5-coder-1.5b-instruct" in text


def test_a_name_of_the_wrong_form_is_a_problem_of_the_recipe(tmp_path: Path, fake_llm: Serving) -> None:
    for name in ("hf:acme/tiny.gguf", "hf:acme/tiny/model.safetensors", "hf:acme/../x/y.gguf"):
        with pytest.raises(InputInvalid, match="not the name of a GGUF file on a hub"):
            load_recipe(write(tmp_path, name, fake_llm.url))


@pytest.mark.models
def test_a_run_downloads_its_judge_and_a_rerun_needs_no_hub(tmp_path: Path, fake_llm: Serving) -> None:
    weights = files.model_file(ModelSpec(name="m", provider="embedded", model="smollm2-135m-instruct"), Home(tmp_path))
    with FakeHub(weights.path.read_bytes()) as running:
        recipe = write(tmp_path, NAME, fake_llm.url)
        done = graft(tmp_path, running.address, "run", str(recipe))
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "models.lock.json").read_text())[NAME]["licence"] == "mit"
        assert running.asked == ["info v1", "file from 0"]
    again = graft(tmp_path, "http://127.0.0.1:9", "run", str(recipe), "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["repeated"], again.stderr
