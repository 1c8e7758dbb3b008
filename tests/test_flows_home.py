"""GRAFT_HOME with every character that a folder's name may have, and one that is no folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from fake_llm import Serving
from test_flows_guard import ODD, graft
from test_flows_make_dataset import write_recipe
from typer.testing import CliRunner

from graft.cli.app import app
from graft.schemas.errors import GraftError

WITHOUT_HOME = {"init", "plugins", "prompts show", "recipes copy", "recipes show", "schema", "validate"}
"""Verbs that write nothing there and read no lake."""
MORE = {
    "recall": ["--model", "m", "--reason", "r"], "journal prune": ["--older-than", "30d"],
    "edit": ["--dataset", "demo", "--text", "t", "--by", "Ada"], "import": ["--name", "n"],
    "label": ["--labels", "a,b"],
}  # fmt: skip
"""Words without which a verb does not begin."""


def test_a_run_works_in_a_home_of_any_name_and_writes_nothing_beside_it(tmp_path: Path) -> None:
    home = tmp_path / ODD
    with Serving() as llm:
        done = graft(home, "run", str(write_recipe(tmp_path, llm.url, rows=6)))
    assert done.returncode == 0, done.stderr
    assert {file.name for file in tmp_path.iterdir()} == {ODD, "shop.yaml"}
    runs = json.loads(graft(home, "status", "--json").stdout)["runs"]
    assert [one["dataset"] for one in runs] == ["shop"]


def words_of(name: str, command: typer.core.TyperCommand) -> list[str]:
    """The verb with a value for each required argument."""
    wanted = [one for one in command.params if one.param_type_name == "argument" and one.required]
    return [
        *name.split(),
        *("demo.csv" if name in ("import", "label") else "demo" for _ in wanted),
        *MORE.get(name, ()),
    ]


def commands() -> dict[str, list[str]]:
    root = typer.main.get_command(app)
    found = {}
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        for inner, one in getattr(command, "commands", {"": command}).items():
            whole = f"{name} {inner}".strip()
            found[whole] = words_of(whole, one)
    return found


READING = {
    "audit", "batches", "clean", "compare", "datasets", "diff", "doctor", "estimate", "explain", "journal size",
    "lineage", "mcp", "models", "quality", "review", "show", "status", "students", "trace",
}  # fmt: skip
"""Verbs that make no home, so that they do not notice that it cannot be made."""


@pytest.mark.parametrize("kind", ["a file", "under a file", "cannot be made", "no such user"])
def test_every_verb_reports_an_unusable_graft_home(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "demo.csv").write_text("text,label\none,a\n")
    named = {
        "a file": tmp_path / "file", "under a file": tmp_path / "file" / "home", "cannot be made": "/proc/none/home",
        "no such user": "~no-such-user/home",
    }[kind]  # fmt: skip
    monkeypatch.setenv("GRAFT_HOME", str(named))
    monkeypatch.chdir(tmp_path)
    silent = set()
    for name, words in commands().items():
        error = CliRunner().invoke(app, words).exception
        if isinstance(error, GraftError) and "GRAFT_HOME" in error.what:
            assert str(named) in error.where and error.fix
        else:
            silent.add(name)
    assert silent == WITHOUT_HOME | (READING if kind == "cannot be made" else set())
