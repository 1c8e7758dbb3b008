"""Recall: rows go because of where they come from, once and for all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from test_data_provenance import AT, IDS, RUN, SEED, candidate, fill
from typer.testing import CliRunner

from cli import provenance as verbs
from data.explain import explain
from data.lake import Lake
from data.recall import plan, recall, recalled_rows, recalls
from data.trace import Selector
from data.versions import rows, versions
from schemas.errors import GraftError, NotFound
from schemas.home import Home
from schemas.students import Student, StudentSettings


@pytest.fixture
def lake(tmp_path: Path):
    with Lake.open(Home(tmp_path / "home")) as opened:
        fill(opened)
        yield opened


def do(lake: Lake, selector: Selector, reason: str = "its terms changed"):
    return recall(lake, selector, plan(lake, selector), reason=reason, by="ann")


def test_a_recall_takes_rows_out_once(lake: Lake) -> None:
    student = Student(
        id="st_1", dataset="shop", version=1, trained_on="version", settings=StudentSettings(), encoder_revision="e",
        train_rows=3, device="cpu", seconds=1, path="students/st_1", created_at=AT,
    )  # fmt: skip
    lake.save_student(student)
    selector = Selector("seed", SEED.id)
    shown = plan(lake, selector)[0]
    assert {row.id for row in shown.rows} == {SEED.id, *IDS[:2]} and shown.held == {1: 3}
    assert [s.id for s in shown.students] == ["st_1"] and recalls(lake) == []
    done = do(lake, selector)[0]
    assert done.version is not None and (done.version.version, done.version.origin) == (2, "recall")
    assert done.version.parent == 1 and set(rows(lake, done.version)["id"].to_pylist()) == set(IDS[2:])
    again = do(lake, selector, "another reason")[0]
    assert again.version is None and again.recall == done.recall and len(versions(lake)) == 2
    assert [s.id for s in plan(lake, selector)[0].students] == ["st_1"]
    told = explain(lake, IDS[1])
    assert [(r["kind"], r["reason"]) for r in told["recalls"]] == [("seed", "its terms changed")]
    assert [(d["version"], d["gate"], d["rule"]) for d in told["drops"]] == [(2, "recall", "seed")]
    assert explain(lake, IDS[2])["recalls"] == []


def test_a_kill_between_record_and_version_is_made_good(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    selector = Selector("model", "second")
    with monkeypatch.context() as broken:
        broken.setattr("data.recall.derive", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            do(lake, selector)
    assert len(recalls(lake)) == 1 and len(versions(lake)) == 1
    done = do(lake, selector)[0]
    assert done.version is not None and done.version.rows == 4 and len(recalls(lake)) == 1


def test_what_publishes_leaves_recalled_rows_out(lake: Lake) -> None:
    assert recalled_rows(lake, "shop", [RUN.id]) == {}
    do(lake, Selector("model", "second"))
    assert set(recalled_rows(lake, "shop", [RUN.id])) == {IDS[3]}
    fresh = candidate(3, SEED, "judge")  # a later run's row of the same model
    later = fresh.model_copy(update={"id": "c_later01", "slot": fresh.slot.model_copy(update={"run_id": "shop-2"})})
    lake.commit("shop-2", "b1", [later], [])
    assert set(recalled_rows(lake, "shop", ["shop-2"])) == {"c_later01", IDS[3]}
    do(lake, Selector("row", IDS[0]))
    assert IDS[0] in recalled_rows(lake, "shop", []) and recalled_rows(lake, "other", [RUN.id]) == {}


def test_refusals(lake: Lake) -> None:
    with pytest.raises(GraftError, match="all 5 rows would go"):
        do(lake, Selector("run", RUN.id))
    assert recalls(lake) == []
    with pytest.raises(NotFound, match="writer"):
        plan(lake, Selector("model", "nobody"))


def test_the_verb_shows_before_it_does(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(lake.home.root))
    app = typer.Typer()
    app.command()(verbs.recall)
    given = ["shop", "--model", "second", "--reason", "licence"]
    shown = CliRunner().invoke(app, given)
    assert shown.exit_code == 0 and "nothing was changed" in shown.stdout and len(versions(lake)) == 1
    done = json.loads(CliRunner().invoke(app, [*given, "--yes", "--json"]).stdout)
    assert done["datasets"][0]["published"] == "shop@2" and done["datasets"][0]["rows"] == [IDS[3]]
    assert [one.reason for one in recalls(lake)] == ["licence"]
    assert CliRunner().invoke(app, ["shop", "--reason", "x"]).exit_code != 0
