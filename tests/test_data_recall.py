"""Recall: rows go because of where they come from, once and for all; a recalled model's words stay out of a new run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from test_data_provenance import AT, IDS, RUN, SEED, candidate, fill
from test_flows_make_dataset import graft, run_json, write_recipe
from typer.testing import CliRunner

from graft.cli import provenance as verbs
from graft.data.delete import delete
from graft.data.explain import explain
from graft.data.lake import Lake
from graft.data.recall import plan, recall
from graft.data.tags import set_tag
from graft.data.versions import NothingLeft, derive, held_by, publish, rows, version, versions
from graft.data.withdrawn import Selector, recalls, withdrawn
from graft.schemas.datasets import Row
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home
from graft.schemas.students import Student, StudentSettings


@pytest.fixture
def lake(tmp_path: Path):
    with Lake.open(Home(tmp_path / "home")) as opened:
        fill(opened)
        yield opened


def do(lake: Lake, selector: Selector, reason: str = "its terms changed"):
    return recall(lake, selector, reason=reason, by="ann")


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
    history = explain(lake, IDS[1])
    assert [(r["kind"], r["reason"]) for r in history["recalls"]] == [("seed", "its terms changed")]
    assert [(d["version"], d["gate"], d["rule"]) for d in history["drops"]] == [(2, "recall", "seed")]
    assert explain(lake, IDS[2])["recalls"] == []


def test_a_recall_that_is_killed_in_the_middle_leaves_neither_record_nor_version(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    selector = Selector("model", "second")
    with monkeypatch.context() as broken:
        broken.setattr("graft.data.recall.insert_version", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            do(lake, selector)
    assert recalls(lake) == [] and len(versions(lake)) == 1
    done = do(lake, selector)[0]
    assert done.version is not None and done.version.rows == 4 and len(recalls(lake)) == 1


def test_what_publishes_leaves_recalled_rows_out(lake: Lake) -> None:
    def gone(dataset: str, run_id: str, *names: str) -> set[str]:
        return {name for name, _ in withdrawn(lake, dataset, [(name, run_id, name) for name in names])}

    assert gone("shop", RUN.id, *IDS) == set()
    do(lake, Selector("model", "second"))
    assert gone("shop", RUN.id, *IDS) == {IDS[3]}
    fresh = candidate(3, SEED, "judge")  # a later run's row of the same model
    later = fresh.model_copy(update={"id": "c_later01", "slot": fresh.slot.model_copy(update={"run_id": "shop-2"})})
    lake.commit("shop-2", "b1", [later], [])
    assert gone("shop", "shop-2", "c_later01", "c_other01") == {"c_later01"}
    do(lake, Selector("row", IDS[0]))
    assert gone("shop", "elsewhere", IDS[0]) == {IDS[0]} and gone("other", RUN.id, *IDS) == set()


def test_a_recall_binds_a_run_that_has_published_nothing_yet(lake: Lake) -> None:
    requested = {"models": [{"name": "fresh", "model": "org/fresh"}]}
    lake.save_run(RUN.model_copy(update={"id": "new-1", "dataset": "new", "status": "running", "recipe": requested}))
    done = do(lake, Selector("model", "fresh"))  # not one call of it is in the lake yet
    assert [(one.recall.dataset, one.plan.parent, one.version) for one in done] == [("new", None, None)]
    made = candidate(0, SEED, "judge")
    slot = made.slot.model_copy(update={"run_id": "new-1"})
    some = [
        made.model_copy(update={"id": f"c_new{model}", "slot": slot, "models": {"generator": model}})
        for model in ("fresh", "second", "writer")
    ]
    lake.commit("new-1", "b1", some, [])
    assert [one.dataset for one in plan(lake, Selector("model", "second"))] == ["shop", "new"]
    recall(lake, Selector("model", "second"), "new", reason="r", by="ann")
    given = [Row(id=one.id, text=one.id, label="refund", split="train") for one in some]
    run = RUN.model_copy(update={"id": "new-1", "dataset": "new"})
    first = publish(lake, run=run, rows=given, models={}, seeds=0, card="#")
    assert rows(lake, first)["id"].to_pylist() == ["c_newwriter"] and first.partial
    with pytest.raises(NothingLeft, match="recalls withdraw all 1"):
        publish(lake, run=run, rows=given[:1], models={}, seeds=0, card="#")
    history = explain(lake, "c_newfresh")  # no version ever held it
    assert [(one["kind"], one["value"]) for one in history["recalls"]] == [("model", "fresh")]


def test_rows_without_a_candidate_stay_out_of_versions_made_from_old_ones(lake: Lake) -> None:
    run = RUN.model_copy(update={"id": "brought-1", "dataset": "brought"})
    given = [Row(id=f"r_{n}", text=f"{n}", label="refund", split="train", source="imported") for n in range(3)]
    first = publish(lake, run=run, rows=given[:2], models={}, seeds=0, card="#", origin="import")
    later = run.model_copy(update={"id": "brought-2"})
    publish(lake, run=later, rows=given[2:], models={}, seeds=0, card="#", origin="import")
    lake.save_run(run)
    assert recall(lake, Selector("run", "brought-1"), reason="r", by="ann")[0].version is None  # the newest is clean
    with pytest.raises(NothingLeft):
        derive(lake, first, held_by(lake, first), origin="gates", note="stricter")
    again = publish(lake, run=later, rows=given, models={}, seeds=0, card="#", origin="import")
    assert again.rows == 3  # the same words from another source are no rows of that run


def test_the_newest_version_is_never_one_that_holds_recalled_rows(lake: Lake) -> None:
    first = versions(lake)[0]
    later = RUN.model_copy(update={"id": "shop-2"})
    lake.save_run(later)
    fresh = candidate(3, SEED, "judge")
    one = fresh.model_copy(update={"id": "c_later01", "slot": fresh.slot.model_copy(update={"run_id": "shop-2"})})
    lake.commit("shop-2", "b1", [one], [])
    row = Row(id=one.id, text="another one", label="refund", split="train")
    second = publish(lake, run=later, rows=[row], models={}, seeds=0, card="#", carried=first)
    set_tag(lake, second, "prod", by="ann")
    done = do(lake, Selector("run", "shop-2"))[0]
    assert done.plan.tags == ("prod = shop@2",) and done.version is not None
    assert done.version.version == 3 and done.version.content_hash == first.content_hash
    assert version(lake, "shop").version == 3
    with pytest.raises(GraftError, match="shop@latest would be shop@2 again, which contains 1 recalled rows"):
        delete(lake, done.version, by="ann")
    delete(lake, done.version, by="ann", force=True)
    assert do(lake, Selector("run", "shop-2"))[0].version == version(lake, "shop@4")
    delete(lake, first, by="ann")  # an older one may go


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
    assert done["datasets"][0]["published"] == "shop@2" and done["datasets"][0]["tags"] == []
    assert done["datasets"][0]["rows"] == [IDS[3]]
    assert [one.reason for one in recalls(lake)] == ["licence"]
    assert CliRunner().invoke(app, ["shop", "--reason", "x"]).exit_code != 0


def test_a_later_run_leaves_out_what_a_recalled_model_wrote(tmp_path: Path, fake_llm: Any) -> None:
    home = tmp_path / "home"
    file = write_recipe(tmp_path, fake_llm.url, rows=6)
    text = file.read_text(encoding="utf-8").replace("generator: {models: [m1]", "generator: {models: [m1, m5]")
    file.write_text(text.replace("adjudicator: {models: [m5]", "adjudicator: {models: [m2]"), encoding="utf-8")
    first = run_json(home, file)
    assert first["version"]["rows"] == 12
    shown = graft(home, "recall", "--model", "m1", "--reason", "its licence changed")
    assert shown.returncode == 0 and "shop@1" in shown.stdout, shown.stderr
    assert len(json.loads(graft(home, "datasets", "--json").stdout)) == 1  # without --yes nothing is done
    done = graft(home, "recall", "--model", "m1", "--reason", "its licence changed", "--yes")
    assert done.returncode == 0, done.stderr
    versions = json.loads(graft(home, "datasets", "--json").stdout)
    assert [one["origin"] for one in versions] == ["run", "recall"] and 0 < versions[1]["rows"] < 12
    whole = graft(home, "gate", "shop@1", "--set", "gates.min_chars=1", "--json")
    assert whole.returncode == 0 and json.loads(graft(home, "datasets", "--json").stdout) == versions
    later = run_json(home, write_again(file))
    assert later["version"]["version"] == 3 and later["run"]["status"] == "partial"
    touched = json.loads(graft(home, "trace", "--model", "m1", "shop@3", "--json").stdout)
    assert "c_" not in json.dumps(touched)
    rows = json.loads(graft(home, "show", "shop@3", "--json").stdout)["rows"]
    for row in rows[:2]:
        history = json.loads(graft(home, "explain", row["id"], "--json").stdout)
        assert history["models"]["generator"] == "m5"


def write_again(file: Path) -> Path:
    """The same recipe with one row more a label: another run."""
    file.write_text(
        file.read_text(encoding="utf-8").replace("rows_per_label: 6", "rows_per_label: 7"), encoding="utf-8"
    )
    return file
