"""A gate and an audit of another distribution, one file each, from the recipe to the pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from plugged import plug
from starlette.testclient import TestClient
from test_flows_make_dataset import run_json, write_recipe
from typer.testing import CliRunner

from graft.cli import audit as audit_verb
from graft.cli.app import app
from graft.cli.quality import quality as quality_verb
from graft.cli.rescreen import rescreen as gate_verb
from graft.dashboard.app import create_app
from graft.dashboard.door import Door
from graft.data.gates import Admission, reads_reviews, rules
from graft.data.lake import Lake
from graft.data.versions import version
from graft.flows.plan import run_id_of
from graft.schemas.errors import InputInvalid
from graft.schemas.gates import GateSettings
from graft.schemas.home import Home
from graft.schemas.kinds import GATES
from graft.schemas.load import load_recipe, recipe_json_schema


def test_a_gate_and_an_audit_of_a_plugin_work_like_our_own(
    tmp_path: Path, fake_llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, home = write_recipe(tmp_path, fake_llm.url, rows=12), Home(tmp_path / "home")
    recipe.write_text(recipe.read_text() + "gates: {harsh_below: 6.5}\n")
    plug(monkeypatch, tmp_path / "plugins")
    done = run_json(home.root, recipe)
    assert done["version"]["labels"] == {"alpha": 12, "beta": 12}
    run_id = done["run"]["id"]
    with Lake.open(home, read_only=True) as lake:
        query = "SELECT count(*) AS n FROM lake.candidates WHERE run_id = ? AND code = 'gate.harsh_review'"
        assert lake.query(query, [run_id])[0]["n"] > 0
        means = [one.mean for made in lake.accepted(run_id) for one in made.reviews if one.stage == "content"]
        assert min(mean for mean in means if mean is not None) >= 6.5
        assert "harsh" in version(lake, "shop").card

    monkeypatch.setenv("GRAFT_HOME", str(home.root))
    monkeypatch.setenv("COLUMNS", "160")
    app = typer.Typer()
    app.command("rescreen")(gate_verb)
    app.command("quality")(quality_verb)
    app.command("audit", context_settings=audit_verb.UNKNOWN)(audit_verb.audit)

    def said(*words: str) -> str:
        answer = CliRunner().invoke(app, words)
        assert answer.exit_code == 0, answer.output
        return answer.stdout

    stricter = ("--set=gates.harsh_below=7", "--set=gates.learned.action='off'")
    gated = json.loads(said("rescreen", "shop", "--json", *stricter))
    assert {(one["gate"], one["rule"]) for one in gated["rules"]} == {("harsh", "harsh_review")} and gated["published"]
    told = json.loads(said("audit", "shop@1", "openings", "--words", "2", "--json"))
    assert len(told["openings"]["opening"].split()) == 2 and told["poison"] is None
    assert "Openings" in said("audit", "shop@1", "openings")
    assert "Balance" in said("quality", gated["published"])
    with TestClient(create_app(home, door=Door()), "http://127.0.0.1") as pages:
        assert "gate.harsh_review" in pages.get("/datasets/shop@1").text
        left_out = pages.get(f"/datasets/{gated['published']}").text
        assert "harsh_review" in left_out and "Left out of" in left_out


def test_a_gate_changes_the_id_of_the_runs_that_have_it_on_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_recipe(tmp_path, "http://127.0.0.1:1")
    before = run_id_of(load_recipe(file), [])
    with pytest.raises(InputInvalid, match="harsh_below"):
        load_recipe(file, {"gates.harsh_below": 5})
    plug(monkeypatch, tmp_path / "plugins")
    off, on = load_recipe(file), load_recipe(file, {"gates.harsh_below": 5})
    assert run_id_of(off, []) == before != run_id_of(on, [])
    assert "harsh" not in rules(off) and rules(on)["harsh"] == 1
    assert reads_reviews(on) and not reads_reviews(off)
    assert "harsh" in [one.name for one in Admission(on).gates]
    monkeypatch.setattr(GATES.get("harsh"), "version", 2)
    assert run_id_of(off, []) == before and rules(on)["harsh"] == 2
    assert "harsh_below" in recipe_json_schema()["properties"]["gates"]["properties"]
    with pytest.raises(InputInvalid, match="harsh_below is out of range"):
        load_recipe(file, {"gates.harsh_below": 11})


def test_a_plugin_whose_field_another_gate_has_is_reported_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug(monkeypatch, tmp_path / "plugins", gates="first = graft_example.gate\nsecond = graft_example.gate")
    assert GateSettings(harsh_below=1).harsh_below == 1
    assert GATES.plugins["second"].problem == "its field gates.harsh_below belongs to the gate first"
    assert "second" not in GATES.names and "first" in GATES.names


def test_the_second_plugin_of_a_name_is_reported_and_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plug(monkeypatch, tmp_path / "first", gates="harsh = graft_example.gate\nlength = graft_example.gate")
    plug(monkeypatch, tmp_path / "second", name="graft-other", gates="harsh = no_such_module")
    listed = CliRunner().invoke(app, ["plugins", "--json"])
    assert listed.exit_code == 0, listed.output
    found = {(one["name"], one["distribution"]): (one["status"], one["problem"]) for one in json.loads(listed.stdout)}
    assert found == {
        ("harsh", "graft-example"): ("ok", ""),
        ("harsh", "graft-other"): (
            "problem", "the name belongs to the plugin of graft-example: remove one of the two"
        ),
        ("length", "graft-example"): ("problem", "the name belongs to one of Graft's own kinds"),
    }  # fmt: skip
    assert GATES.get("harsh").__module__ == "graft_example.gate"
    assert GATES.get("length").__module__ == "graft.data.gates.length"
    assert GATES.names.count("harsh") == 1


def test_settings_of_gates_are_read_and_written_as_one_block() -> None:
    made = GateSettings(max_chars=50, personal={"action": "redact"})
    assert made.personal.action == "redact" and GateSettings.model_validate(made.model_dump()) == made
    assert GateSettings() == GateSettings.model_validate({}) and GateSettings().min_chars == 8
    with pytest.raises(ValueError, match="min_chars is larger than max_chars"):
        GateSettings(max_chars=5)
    with pytest.raises(ValueError, match="max_char\n"):
        GateSettings(max_char=5)
