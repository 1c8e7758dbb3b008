"""GRAFT_HOME with every character that a folder's name may have, and one that is no folder."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
import typer
from fake_llm import Serving
from test_flows_guard import graft, results, start, until
from test_flows_make_dataset import write_recipe
from typer.testing import CliRunner

from graft.cli.app import app
from graft.schemas.errors import GraftError

ODD = "50%20 %s a b?c#d é ü 文 \"q\" 'p' $HOME ; &"
WITHOUT_HOME = {"plugins", "schema", "validate"}
"""Verbs that write nothing and read no lake."""
MORE = {
    "recall": ["--model", "m", "--reason", "r"], "journal prune": ["--older-than", "30d"],
    "edit": ["--dataset", "demo", "--text", "t", "--by", "Ada"], "import": ["--name", "n"],
}  # fmt: skip
"""Words without which a verb does not begin."""


def test_a_run_works_in_a_home_of_any_name_and_takes_its_server_along(tmp_path: Path) -> None:
    home = tmp_path / ODD
    with Serving(median_ms=20) as llm:
        run = start(home, "run", str(write_recipe(tmp_path, llm.url, rows=60)))
        try:
            until(lambda: run.poll() is not None or results(home))
            assert run.poll() is None, (home / "prefect" / "logs" / "run-server.log").read_text()
            servers = psutil.Process(run.pid).children(recursive=True)
            assert any("graft.flows.server" in " ".join(one.cmdline()) for one in servers)
        finally:
            run.kill()  # nothing of its own can stop the server then
            run.wait(20)
    psutil.wait_procs(servers, timeout=20)
    assert not [one for one in servers if one.is_running()]
    assert {file.name for file in tmp_path.iterdir()} == {ODD, "shop.yaml"}, "something was written beside the home"
    runs = json.loads(graft(home, "status", "--json").stdout)["runs"]
    assert [one["dataset"] for one in runs] == ["shop"]


def words_of(name: str, command: typer.core.TyperCommand) -> list[str]:
    """The verb with a value for each required argument."""
    wanted = [one for one in command.params if one.param_type_name == "argument" and one.required]
    return [*name.split(), *("demo.csv" if name == "import" else "demo" for _ in wanted), *MORE.get(name, ())]


def commands() -> dict[str, list[str]]:
    root = typer.main.get_command(app)
    found = {}
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        for inner, one in getattr(command, "commands", {"": command}).items():
            whole = f"{name} {inner}".strip()
            found[whole] = words_of(whole, one)
    return found


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
    assert silent == WITHOUT_HOME
