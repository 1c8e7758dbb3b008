"""Audits of a version in the lake: its gates, its rounds, pictures, and the verb."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from plugged import plug
from test_data_audit import TOPICS, embed
from test_data_audit import rows as audit_rows
from test_data_provenance import AT, RUN
from typer.testing import CliRunner

from graft.cli import audit as verbs
from graft.data.lake import Lake
from graft.data.versions import publish
from graft.flows.audit import audit
from graft.schemas.datasets import DatasetVersion, Row
from graft.schemas.errors import GraftError, InputInvalid, NotFound
from graft.schemas.recipe import Recipe, SeedRow, SeedSettings
from graft.schemas.rows import Candidate, Decision, Slot
from graft.schemas.steering import Improvement, ImproveSettings, RoundResult
from graft.schemas.tasks.base import Label
from graft.schemas.tasks.classification import ClassificationTask

RECIPE = Recipe(
    name="shop",
    task=ClassificationTask(labels=tuple(Label(name=name) for name in TOPICS)),
    seeds=SeedSettings(rows=(SeedRow(text="where is it", label="delivery"),)),
)


def fill(
    lake: Lake, number: int = 1, mean: float = 8.0, *, recipe: bool = True, role: str = "generator"
) -> DatasetVersion:
    run = RUN.model_copy(
        update={"id": f"shop-{number}", "recipe": RECIPE.model_dump(mode="json") if recipe else {}, "recipe_file": ""}
    )
    lake.save_run(run)
    given = audit_rows(40 + number, secret="kindly")
    made = [
        Candidate(
            id=row.id, slot=Slot(id=row.id, run_id=run.id, shard=0, round=0, index=0, label=row.label, seed=1),
            text=row.text, label=row.label, intended_label=row.label, models={role: row.writer},
            decision=Decision(status="accepted", route="agreed", code="agreed", reason="fine", mean=mean),
        )
        for row in given
    ]  # fmt: skip
    lake.commit(run.id, "b", made, [])
    held = [
        Row.model_validate({"id": r.id, "text": r.text, "label": r.label, "split": r.split, "restricted": n == 0})
        for n, r in enumerate(given)
    ]
    return publish(lake, run=run, rows=held, models={}, seeds=1, card="#")


def test_the_writer_is_the_model_of_a_role_that_its_method_says_writes(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(lake, role="poet")
    assert audit(lake, "shop", ["shortcuts"], embed=embed).found["shortcuts"].shares["account"] == {"unknown": 41}
    plug(monkeypatch, tmp_path / "plugins", methods="haiku = graft_example.method")
    assert audit(lake, "shop", ["shortcuts"], embed=embed).found["shortcuts"].shares["account"] == {"gemma": 41}


def test_an_audit_is_whole_and_publishes_nothing(lake: Lake, tmp_path: Path) -> None:
    found = fill(lake)
    result = audit(lake, "shop", options={"poison.repeats": 1}, out=tmp_path / "out", embed=embed)
    assert result.found["shortcuts"].labels[0].token == "kindly"
    assert result.found["shortcuts"].shares["account"] == {"gemma": 41}
    assert result.found["poison"].gates_checked and result.found["poison"].planted == 1
    assert "no golden figure" in result.found["hacking"][0].verdict
    assert [one.name for one in result.sections] == ["hacking-1", "poison", "shortcuts"] and result.sections[2].unusual
    assert result.rows == found.rows - 1 and "1 restricted rows" in result.notes[0]
    assert [path.name for path in result.pictures] == ["shop-1-hacking.png", "shop-1-shortcuts.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in result.pictures)
    assert json.dumps(result.as_dict()) and result.as_dict()["shortcuts"]["labels"][0]["flagged"]
    assert lake.query("SELECT count(*) AS n FROM lake.versions") == [{"n": 1}]
    assert audit(lake, "shop", ["shortcuts"], restricted=True).rows == found.rows


def test_a_version_without_a_recipe_is_noted(lake: Lake) -> None:
    fill(lake, recipe=False)
    result = audit(lake, "shop", ["poison"], {"poison.repeats": 1}, embed=embed)
    assert not result.found["poison"].gates_checked and "no recipe" in " ".join(result.notes)
    assert list(result.found) == ["poison"] and result.pictures == ()
    with pytest.raises(NotFound):
        audit(lake, "nothing")
    with pytest.raises(GraftError, match="--target"):
        audit(lake, "shop", ["poison"], {"poison.target": "x"}, embed=embed)
    with pytest.raises(NotFound, match="no audit 'poisson'"):
        audit(lake, "shop", ["poisson"])


def test_an_option_that_cannot_be_is_named(lake: Lake) -> None:
    fill(lake)
    for option, text in (("poison.shares", "did you mean 'poison.share'"), ("poison.share", "poison.share"),
                         ("shortcuts.share", "unknown option")):  # fmt: skip
        with pytest.raises(InputInvalid, match=text):
            audit(lake, "shop", ["poison"], {option: 7})


def test_rounds_of_a_loop(lake: Lake) -> None:
    made = [fill(lake, number, mean) for number, mean in ((1, 7.0), (2, 8.0))]
    rounds = [
        RoundResult(arm="steered", seed=1, round=n, dataset="shop", version=v.version, run_id=v.run_id, test=test)
        for n, v, test in zip((1, 2), made, (0.8, 0.7), strict=True)
    ]
    loop = Improvement(
        id="im_1", dataset="shop", recipe_file="shop.yaml", settings=ImproveSettings(), test_file="test.jsonl",
        rounds=(*reversed(rounds), RoundResult(arm="steered", seed=1, round=0, test=0.5)), created_at=AT,
    )  # fmt: skip
    lake.save_improvement(loop)
    [curve] = audit(lake, "shop", ["hacking"]).found["hacking"]
    assert [(p.round, p.score, p.agreement, p.golden) for p in curve.points] == [(1, 7.0, 1.0, 0.8), (2, 8.0, 1.0, 0.7)]
    assert [p.round for p in curve.hacked] == [2] and curve.golden == "accuracy on test.jsonl"


def test_the_verb(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(lake)
    monkeypatch.setenv("GRAFT_HOME", str(lake.home.root))
    monkeypatch.setattr("graft.agents.local.encoder.find_embed", lambda: (embed, ""))
    app = typer.Typer()
    app.command(context_settings=verbs.UNKNOWN)(verbs.audit)
    shown = CliRunner().invoke(app, ["shop", "--repeats", "1", "--out", str(tmp_path / "o")])
    assert shown.exit_code == 0, shown.output
    for piece in ("kindly", "endorsement", "no golden figure", "writers of each label", "shop-1-shortcuts.png"):
        assert piece in " ".join(shown.stdout.split()) or piece in shown.stdout.replace("\n", "")
    for words in (["shop", "--shortcuts", "--json"], ["--json", "shop", "shortcuts"]):
        dumped = json.loads(CliRunner().invoke(app, words).stdout)
        assert dumped["version"] == "shop@1" and dumped["poison"] is None and dumped["hacking"] is None
    options = ["shop", "poison", "--share=0.1", "--set", "poison.repeats=1", "--target", "refund", "--json"]
    planted = json.loads(CliRunner().invoke(app, options).stdout)["poison"]
    assert (planted["target"], planted["repeats"]) == ("refund", 1) and planted["share"] == pytest.approx(0.1, abs=0.01)
    wrong = CliRunner().invoke(app, ["shop", "--repeat", "2"])
    assert wrong.exit_code == 2 and "--repeats" in wrong.output
    assert verbs.chosen(["--student", "shop"]) == (["shop"], {"poison.student": True})
