"""The wheel outside the checkout: it holds recipes and prefect.yaml, hides no other package, and runs the demo."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("agents", "cli", "dashboard", "data", "flows", "schemas", "students")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the committed files' folders, so that nothing is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("graft", "recipes", *ROOMS):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "prefect.yaml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    words = ["wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "-w", str(out)]
    subprocess.run([sys.executable, "-m", "pip", *words, str(source)], check=True, timeout=180)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel, and finds its dependencies in this one, but not this Graft."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True, timeout=120)
    python = place / "bin" / "python"
    words = ["--python", str(python), "install", "--quiet", "--disable-pip-version-check", "--no-deps", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True, timeout=180)
    packages = next(place.glob("lib/python*/site-packages"))
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"], encoding="utf-8")
    return python


def test_the_wheel_holds_one_package_with_all_that_a_run_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"graft"}
    committed = subprocess.run(["git", "ls-files", *ROOMS, "recipes"], cwd=ROOT, text=True, capture_output=True)
    missing = {f"graft/{name}" for name in committed.stdout.split() if not name.endswith("AGENTS.md")} - set(names)
    assert not missing
    assert {"graft/prefect.yaml", "graft/py.typed", "graft/__main__.py"} <= set(names)


def test_an_installed_graft_runs_the_demo_outside_the_checkout(
    installed: Path, wheel: Path, fake_llm: Any, tmp_path: Path
) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "GRAFT_HOME": str(tmp_path / "home"), "NO_COLOR": "1", "COLUMNS": "160",
    }  # fmt: skip

    def run(*words: str) -> str:
        done = subprocess.run(
            [str(installed), *words], cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    home = "import graft, graft.schemas.load as load; print(graft.__file__); print(load.find_recipe('topics'))"
    package, recipe = map(Path, run("-c", home).split())
    assert installed.parent.parent in package.parents and package.parent in recipe.parents
    assert "demo" in run("-m", "graft", "validate", "demo")
    assert f"-{run('-m', 'graft', '--version').split()[1]}-" in wheel.name

    shipped = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    served = [{"name": f"m{n}", "provider": "openai", "model": f"fake-{n}", "base_url": fake_llm.url} for n in range(4)]
    changed = {key: value for key, value in shipped.items() if key not in ("roles", "gates")} | {"models": served}
    (tmp_path / "recipes").symlink_to(recipe.parent)  # its seeds lie beside it
    (tmp_path / "topics.yaml").write_text(
        yaml.safe_dump(changed | {"seeds": {"path": "recipes/data/topics_seeds.jsonl"}, "student": {}}),
        encoding="utf-8",
    )
    result = json.loads(run("-m", "graft", "run", "topics.yaml", "--rows-per-label", "4", "--json"))
    assert result["run"]["stopped_by"] == "target" and result["version"]["rows"] == 24
    assert "delivery" in run("-m", "graft", "show", "topics")
