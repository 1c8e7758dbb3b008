"""Exports as their consumers read them: `datasets`, TRL, and a hub's client against a stand-in on 127.0.0.1."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import yaml
from test_data_export import LABELS, kept, put, rows
from test_data_export import lake as lake

from graft.data.export import export
from graft.data.export.push import check_push, push_folder
from graft.data.lake import Lake
from graft.schemas.errors import GraftError, KeyMissing


def opened(folder: Path, cache: Path, **more: Any) -> Any:
    """The folder as loaded by `datasets`."""
    from datasets import load_dataset
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    return load_dataset(str(folder), cache_dir=str(cache), **more)


def of_lines(path: Path, cache: Path) -> Any:
    return opened(Path("json"), cache, data_files=str(path), split="train")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama.write(tmp_path_factory.mktemp("llama")))


def test_the_hub_layout_loads_with_its_class_names(lake: Lake, tmp_path: Path) -> None:
    out = tmp_path / "o"
    paths = export(lake, "d", format="hf", out=out, shards=2)
    assert [path.relative_to(out).as_posix() for path in paths[:2]] == [
        "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet",
    ]  # fmt: skip
    found = opened(out, tmp_path / "cache")
    assert {name: part.num_rows for name, part in found.items()} == {"train": 7, "test": 4}
    train = found["train"]
    assert train.features["label"].names == sorted(LABELS)
    assert [train.features["label"].int2str(row["label"]) for row in train] == [row.label for row in kept("train")]
    assert list(train["text"]) == [row.text for row in kept("train")]
    head = yaml.safe_load((out / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert (head["license"], head["size_categories"], head["language"]) == ("cc0-1.0", ["n<1K"], ["en"])
    assert head["task_categories"] == ["text-classification"]
    card = json.loads((out / "croissant.json").read_text())
    assert card["conformsTo"].endswith("/croissant/1.0") and len(card["recordSet"]) == 2
    sets = [one for one in card["distribution"] if one["@type"] == "cr:FileSet"]
    assert not any("containedIn" in one for one in sets), "mlcroissant would take the Parquet file for an archive"
    assert [len(list(out.glob(one["includes"]))) for one in sets] == [2, 2]
    known = {one["@id"] for one in card["distribution"]}
    used = {field["source"]["fileSet"]["@id"] for of in card["recordSet"] for field in of["field"]}
    assert used <= known and {"data/train-00000-of-00002.parquet"} <= known


def test_json_lines_and_parquet_load(lake: Lake, tmp_path: Path) -> None:
    for format, builder in (("jsonl", "json"), ("parquet", "parquet"), ("jsonl", "json")):
        packed = "zstd" if format == "parquet" else "gzip"
        path = export(lake, "d", format=format, out=tmp_path / format, compression=packed, overwrite=True)[0]
        found = opened(Path(builder), tmp_path / "cache", data_files=str(path), split="train")
        assert list(found["text"]) == [row.text for row in kept("train")]


def test_trl_takes_messages_and_prompts(lake: Lake, tmp_path: Path, tokenizer: Any) -> None:
    from trl.data_utils import apply_chat_template, is_conversational

    for format, key in (("messages", "text"), ("prompt_completion", "prompt")):
        found = of_lines(export(lake, "qa", format=format, out=tmp_path / format)[0], tmp_path / "cache")
        assert is_conversational(found[0])
        assert found.map(apply_chat_template, fn_kwargs={"processing_class": tokenizer})[0][key].startswith(
            "<user> ask 0"
        )
    plain = export(lake, "qa", format="prompt_completion", out=tmp_path / "plain", plain=True)[0]
    assert not is_conversational(of_lines(plain, tmp_path / "cache")[0])


def test_trl_takes_chatml_from_sharegpt(lake: Lake, tmp_path: Path) -> None:
    from trl.data_utils import maybe_convert_to_chatml

    found = of_lines(export(lake, "qa", format="sharegpt", out=tmp_path / "o")[0], tmp_path / "cache")
    turns = maybe_convert_to_chatml(found[0])["messages"]
    assert [one["content"] for one in turns] == ["ask 0", "reply 0 0"]


@pytest.mark.parametrize("plain", [True, False])
def test_trl_takes_pairs_and_verdicts(lake: Lake, tmp_path: Path, tokenizer: Any, plain: bool) -> None:
    from trl.data_utils import apply_chat_template, is_conversational, maybe_unpair_preference_dataset

    pairs = of_lines(export(lake, "qa", format="preference", out=tmp_path / "p", plain=plain)[0], tmp_path / "cache")
    assert is_conversational(pairs[0]) is not plain and pairs.column_names == ["prompt", "chosen", "rejected"]
    single = maybe_unpair_preference_dataset(pairs)
    made = export(lake, "qa", format="unpaired_preference", out=tmp_path / "u", plain=plain)[0]
    verdicts = of_lines(made, tmp_path / "cache")
    assert set(verdicts.column_names) == set(single.column_names) == {"prompt", "completion", "label"}
    wrong = [one["completion"] for one in verdicts if not one["label"]]
    assert wrong == [one["completion"] for one in single if not one["label"]]
    if not plain:
        given = apply_chat_template(pairs[0], tokenizer)
        assert given["prompt"].endswith("<bot> ") and given["rejected"] == "reply 0 1 <end>\n"


class Hub(ThreadingHTTPServer):
    """A hub of a few routes. What is committed is in `files`; `allowed` is the token that may write."""

    allowed, private, lfs = "hf_good", True, False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Routes)
        self.files: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self.made: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Routes(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _say(self, value: Any, status: int = 200) -> None:
        given = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(given)))
        self.end_headers()
        self.wfile.write(given)

    def do_GET(self) -> None:
        path, hub = self.path.partition("?")[0], self.server
        if path == "/api/whoami-v2":
            self._say({"name": "me", "type": "user", "orgs": []})
        elif "/tree/" in path:
            self._say([{"type": "file", "path": name, "size": 1, "oid": "0"} for name in hub.files])
        elif path.startswith("/api/datasets/"):
            self._say({"id": "me/set", "sha": "0" * 40, "private": hub.private, "siblings": [
                {"rfilename": name} for name in hub.files]})  # fmt: skip
        else:
            self._say({"error": f"no route {path}"}, 404)

    def do_PUT(self) -> None:
        self.server.stored[self.path.rpartition("/")[2]] = self._body()
        self._say({})

    def do_POST(self) -> None:
        path, hub, body = self.path.partition("?")[0], self.server, self._body()
        if self.headers.get("Authorization", "").removeprefix("Bearer ") != hub.allowed and "/info/lfs" not in path:
            self._say({"error": "You don't have the rights to create a dataset under this namespace"}, 403)
        elif path == "/api/validate-yaml":
            self._say({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            hub.made.append(json.loads(body))
            self._say({"url": f"{hub.url}/datasets/me/set"})
        elif "/preupload/" in path:
            mode = ["regular", "lfs"]
            self._say({"files": [
                {"path": one["path"], "uploadMode": mode[hub.lfs and one["path"].endswith(".parquet")],
                 "shouldIgnore": False} for one in json.loads(body)["files"]]})  # fmt: skip
        elif path.endswith("/info/lfs/objects/batch"):
            self._say({"transfer": "basic", "objects": [
                {"oid": one["oid"], "size": one["size"],
                 "actions": {"upload": {"href": f"{hub.url}/store/{one['oid']}"}}}
                for one in json.loads(body)["objects"]]})  # fmt: skip
        elif "/commit/" in path:
            self._commit(body)
        else:
            self._say({"error": f"no route {path}"}, 404)

    def _commit(self, body: bytes) -> None:
        hub = self.server
        for line in body.splitlines():
            given = json.loads(line)
            value = given["value"]
            if given["key"] == "file":
                hub.files[value["path"]] = base64.b64decode(value["content"])
            elif given["key"] == "lfsFile":
                hub.files[value["path"]] = hub.stored[value["oid"]]
            elif given["key"] == "deletedFile":
                hub.deleted.append(value["path"])
        self._say({"success": True, "commitOid": "1" * 40, "commitUrl": f"{hub.url}/datasets/me/set/commit/1"})


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def pushed(hub: Hub, folder: Path, *words: str, token: str = "hf_good") -> subprocess.CompletedProcess[str]:
    """The push in a process of its own, where the hub's client is not set to offline."""
    program = """
import sys
from pathlib import Path
from graft.data.export.push import push_folder
from graft.schemas.errors import GraftError
try:
    print(push_folder(Path(sys.argv[1]), "me/set", private="private" in sys.argv, restricted=False))
except GraftError as error:
    sys.exit(str(error))
"""
    environment = {
        **os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HOME": str(folder.parent / "hf"), "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", program, str(folder), *words], env=environment, capture_output=True, text=True,
        cwd=Path(__file__).parent.parent, timeout=100, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("lfs", [False, True])
def test_a_push_commits_the_whole_folder(lake: Lake, tmp_path: Path, hub: Hub, lfs: bool) -> None:
    folder = tmp_path / "o"
    paths = export(lake, "d", format="hf", out=folder)
    (folder / "mine.txt").write_text("stays here")
    hub.lfs, hub.files["data/train-00000-of-00009.parquet"] = lfs, b"of an earlier push"
    done = pushed(hub, folder, "private")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.url}/datasets/me/set" and "private" in json.dumps(hub.made[0])
    assert hub.deleted == ["data/train-00000-of-00009.parquet"]
    for path in paths:
        assert hub.files[path.relative_to(folder).as_posix()] == path.read_bytes()
    assert "mine.txt" not in hub.files and bool(hub.stored) is lfs


def test_a_refused_push_is_explained(lake: Lake, tmp_path: Path, hub: Hub) -> None:
    folder = tmp_path / "o"
    export(lake, "d", format="hf", out=folder, include_restricted=True)
    refused = pushed(hub, folder)
    assert "not pushed to a public repository" in refused.stderr and not hub.made
    hub.private = False
    public = pushed(hub, folder, "private")
    assert "already public: nothing was sent" in public.stderr and not hub.files
    hub.private = True
    token = pushed(hub, folder, "private", token="hf_bad")
    assert "has no write permission there" in token.stderr and "fix: set a token in HF_TOKEN" in token.stderr
    assert "hf_bad" not in token.stderr + token.stdout


def test_what_a_push_needs_before_anything_is_written(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(KeyMissing, match="HF_TOKEN is not set"):
        check_push("me/set", "hf", restricted=False, private=False)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    put(lake, "p", rows(3))
    export(lake, "p", format="hf", out=tmp_path / "o")
    with pytest.raises(GraftError, match="HF_HUB_OFFLINE is set"):
        push_folder(tmp_path / "o", "me/set")
    export(lake, "p", format="csv", out=tmp_path / "c")
    with pytest.raises(GraftError, match="the format csv cannot be pushed"):
        push_folder(tmp_path / "c", "me/set")
