"""GRAFT_HOME: found upwards, and left alone by verbs that only read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from graft.data.lake import Lake
from graft.schemas.home import Home, python_path


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAFT_HOME", raising=False)


def graft(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("GRAFT_HOME", "PREFECT_API_URL")}
    return subprocess.run(
        [sys.executable, "-m", "graft", *words], cwd=folder, text=True, capture_output=True, timeout=60, check=False,
        env={**kept, "PYTHONPATH": python_path(kept), "NO_COLOR": "1", "COLUMNS": "160"},
    )  # fmt: skip


@pytest.mark.usefixtures("unset")
def test_the_nearest_home_from_the_working_folder_upwards_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "project" / "notebooks" / "deep"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert Home.find(create=False).root == inner / ".graft" and not (inner / ".graft").exists()
    (tmp_path / "project" / ".graft").mkdir()
    assert Home.find().root == tmp_path / "project" / ".graft"
    monkeypatch.setattr(os, "getuid", lambda: 12345, raising=False)
    assert Home.find(create=False).root == inner / ".graft", "another user's folder above does not count"
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "named"))
    assert Home.find().root == tmp_path / "named" and (tmp_path / "named").is_dir()


def test_verbs_that_read_create_nothing(tmp_path: Path) -> None:
    for words in (["datasets"], ["status"], ["show", "shop"], ["estimate", "demo"], ["journal", "size"]):
        done = graft(tmp_path, *words)
        assert "Traceback" not in done.stderr, done.stderr
        assert not list(tmp_path.iterdir()), f"{words}: {list(tmp_path.rglob('*'))}"
        if words[0] in ("datasets", "status"):
            assert str(tmp_path / ".graft") in done.stdout, done.stdout


def test_a_lake_that_is_looked_at_is_the_homes_own(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with Lake.look(home) as lake:
        assert lake.runs() == []
    assert not home.root.exists()
    with Lake.open(home) as made, Lake.look(home) as lake:
        assert lake.id == made.id


def test_the_version_is_printed(tmp_path: Path) -> None:
    done = graft(tmp_path, "--version")
    assert done.returncode == 0 and done.stdout.startswith("graft ") and "--version" in graft(tmp_path, "--help").stdout
