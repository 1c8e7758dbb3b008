"""docs/extend.md: its code is that of `tests/plugin`, a distribution that is built, installed, used and removed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml
from plugged import ENTRIES, PLUGIN, plug
from starlette.testclient import TestClient
from typer.testing import CliRunner

from graft.cli.app import app
from graft.dashboard.app import create_app
from graft.dashboard.door import Door
from graft.data.lake import Lake
from graft.flows.plan import read_recipe
from graft.schemas.home import Home
from graft.schemas.kinds import EXPORTS, FAMILIES, METHODS

ROOT = Path(__file__).resolve().parent.parent
RECIPE: dict[str, Any] = {
    "name": "poems",
    "task": {"kind": "mood", "moods": ["merry", "calm"]},
    "method": {"kind": "haiku", "seasons": ["spring"], "lines": 2},
    "models": [{"name": "m", "provider": "openai", "model": "fake", "base_url": "http://127.0.0.1:9/v1"}],
    "target": {"rows_per_label": 4},
    "gates": {"harsh_below": 5},
    "student": {"objective": {"kind": "smoothed"}},
    "improve": {"policies": ["errors"]},
}


def written(folder: Path, **more: Any) -> Path:
    file = folder / "poems.yaml"
    file.write_text(yaml.safe_dump({**RECIPE, **more}), encoding="utf-8")
    return file


# ---- the document


def test_the_documents_code_is_the_plugins() -> None:
    text = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^`([\w/.]+)`:\n\n```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    files = {
        str(file.relative_to(PLUGIN)): file.read_text(encoding="utf-8")
        for file in PLUGIN.rglob("*")
        if file.suffix in (".py", ".jinja", ".toml") and file.name != "__init__.py"
    }
    assert shown == files


def test_there_is_an_example_of_every_family_that_people_extend() -> None:
    without = {"students", "stages"}
    """Their contracts are larger than an example; graft.students.kinds.base and .instruct.stages.base describe them."""
    assert set(ENTRIES) == {f"graft.{family.family}" for family in FAMILIES if family.family not in without}


# ---- the distribution


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the plugin, built as a wheel, and finds all else in this one."""
    source, place, out = (tmp_path_factory.mktemp(name) for name in ("source", "environment", "wheel"))
    shutil.copytree(PLUGIN, source / "plugin", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out), str(source / "plugin")]
    subprocess.run([*pip, *words], check=True, timeout=180)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True, timeout=120)
    found = place / "bin" / "python"
    words = ["--python", str(found), "install", "--quiet", "--no-deps", str(next(out.glob("*.whl")))]
    subprocess.run([*pip, *words], check=True, timeout=180)
    packages = next(place.glob("lib/python*/site-packages"))
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"], encoding="utf-8")
    return found


def test_a_distribution_is_listed_used_and_removed(python: Path, fake_llm: Any, tmp_path: Path) -> None:
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "GRAFT_HOME": str(tmp_path / "home"),
        "NO_COLOR": "1", "COLUMNS": "160",
    }  # fmt: skip

    def graft(*words: str, ends: int = 0) -> str:
        done = subprocess.run(
            [str(python), "-m", "graft", *words], cwd=tmp_path, env=environment, text=True, capture_output=True,
            timeout=240,
        )  # fmt: skip
        assert done.returncode == ends, done.stderr
        return done.stdout + (done.stderr if ends else "")

    listed = json.loads(graft("plugins", "--json"))
    assert {f"graft.{one['family']}": [one["name"]] for one in listed} == {of: [*some] for of, some in ENTRIES.items()}
    assert {(one["distribution"], one["version"], one["status"]) for one in listed} == {("graft-example", "0.3", "ok")}
    assert "graft-example" in graft("plugins")

    file = written(tmp_path, models=[{**RECIPE["models"][0], "base_url": fake_llm.url}])
    result = json.loads(graft("run", str(file), "--export", "tsv", "--json"))
    assert result["version"]["labels"] == {"calm": 4, "merry": 4}
    assert result["run"]["code_version"].endswith(" + graft-example 0.3")
    assert "graft\\-example 0\\.3" in result["version"]["card"]
    folder = Path(result["exported"][-1]).parent
    lines = [line.split("\t") for file in folder.glob("*.tsv") for line in file.read_text("utf-8").splitlines()]
    assert len(lines) == 8 and {label for label, _ in lines} == {"calm", "merry"}
    assert json.loads((folder / "manifest.json").read_text("utf-8"))["graft"].endswith(" + graft-example 0.3")

    with Lake.open(Home(tmp_path / "home"), read_only=True) as lake:
        row = lake.accepted(result["run"]["id"])[0]
    with TestClient(create_app(Home(tmp_path / "home"), door=Door()), "http://127.0.0.1") as pages:
        assert "graft-example 0.3" in pages.get(f"/runs/{result['run']['id']}").text, "also where it is not installed"
    assert row.slot.payload == {"season": "spring", "lines": 2} and "harsh" in {one.gate for one in row.gates}
    assert "graft-example 0.3" in graft("explain", row.id)
    assert json.loads(graft("audit", "poems", "openings", "--words", "2", "--json"))["openings"]["share"] > 0

    words = ["--python", str(python), "uninstall", "--quiet", "--yes", "graft-example"]
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *words], check=True, timeout=180)
    assert json.loads(graft("plugins", "--json")) == [] and "no plugin is installed" in graft("plugins")
    told = graft("validate", str(file), ends=2)
    assert "no kind 'haiku'" in told and "no kind 'mood'" in told and "harsh_below" in told
    assert "poems@1" in graft("datasets"), "what it made stays"
    assert "no export 'tsv'" in graft("export", "poems", "--format", "tsv", ends=8)


# ---- plugins that do not work


def test_a_broken_plugin_is_reported_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug(
        monkeypatch, tmp_path / "site",
        methods="gra = graft_example.method\nlost = no_such_module\nbare = graft_example.policy",
        exports="tsv = graft.data.export:Format\njsonl = graft_example.policy",
    )  # fmt: skip
    listed = json.loads(CliRunner().invoke(app, ["plugins", "--json"]).stdout)
    result = {(one["family"], one["name"]): one["problem"] for one in listed if one["status"] == "problem"}
    assert result["methods", "lost"] == "ModuleNotFoundError: No module named 'no_such_module'"
    assert result["methods", "gra"] == result["exports", "jsonl"] == "the name belongs to one of Graft's own kinds"
    assert result["methods", "bare"].startswith("it has no kind, Settings")
    assert result["exports", "tsv"].startswith("it has no")
    assert METHODS.get("gra").kind == "gra" and EXPORTS.get("jsonl").container == "jsonl"
    _, recipe, _ = read_recipe(str(ROOT / "recipes" / "topics.yaml"))
    assert recipe.kinds[0] == (METHODS, recipe.method.kind)
    shown = CliRunner().invoke(app, ["plugins"], env={"COLUMNS": "160"}).stdout
    assert "no_such_module" in shown and "graft-example" in shown
    failed = CliRunner().invoke(app, ["validate", str(written(tmp_path, method={"kind": "lost"}, task={}))])
    assert "kind 'lost' of graft-example cannot be used" in str(failed.exception) + failed.output
