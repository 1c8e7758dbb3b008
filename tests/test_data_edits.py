"""A person's edits: recorded, folded, applied as a derived version, and rebased onto another."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from graft.cli import versions as verbs
from graft.data.diff import diff
from graft.data.edits import apply, decide, edits, fold, rebase, record
from graft.data.lake import Lake
from graft.data.versions import held_by, publish, version, versions
from graft.schemas.datasets import DatasetVersion, Edit, EditAction, Row, Run
from graft.schemas.errors import GraftError, NotFound

AT = datetime(2026, 11, 25, tzinfo=UTC)
TASK = {"kind": "classification", "labels": [{"name": "a"}, {"name": "b"}, {"name": "never used"}]}
RUN = Run(id="run1", dataset="d", recipe={"task": TASK}, status="finished", started_at=AT, code_version="1")
RUNNER = CliRunner()


def rows(count: int = 5, **more: object) -> list[Row]:
    given = [{"id": f"c_row{i}00", "text": f"text {i}", "label": "ab"[i % 2], "split": ("train", "test")[i % 2]}
             for i in range(count)]  # fmt: skip
    return [Row.model_validate({**one, **more}) for one in given]


def put(lake: Lake, some: list[Row], run: Run = RUN) -> DatasetVersion:
    lake.save_run(run)
    return publish(lake, run=run, rows=some, models={"m": "MIT"}, seeds=2, card="# card")


def say(lake: Lake, found: DatasetVersion, row: str, action: EditAction, **more: str) -> Edit:
    made = decide(lake, found, row, action, by="ann", **more)
    assert record(lake, [made]) == 1
    return made


def test_edits_make_a_derived_version(lake: Lake) -> None:
    first = put(lake, rows())
    relabel = say(lake, first, "c_row0", "relabel", label="never used", note="clear")
    say(lake, first, "c_row100", "edit", text="better words", label="a")
    say(lake, first, "c_row200", "reject", note="nonsense")
    say(lake, first, "c_row300", "accept")
    say(lake, first, "c_row400", "note", note="hm")
    assert record(lake, [relabel]) == 0 == record(lake, []) and len(edits(lake, "d")) == 5
    assert (relabel.base_text, relabel.base_label, relabel.version) == ("text 0", "a", 1)
    made = apply(lake, first)
    assert (made.ref, made.origin, made.parent, made.run_id) == ("d@2", "edits", 1, "run1")
    held = {row.id: (row.text, row.label, row.split) for row, *_ in held_by(lake, made)}
    assert held == {
        "c_row000": ("text 0", "never used", "train"), "c_row100": ("better words", "a", "test"),
        "c_row300": ("text 3", "b", "test"), "c_row400": ("text 4", "a", "train"),
    }  # fmt: skip
    assert made.content_hash != first.content_hash and "2 relabelled, 1 edited, 1 rejected" in made.note
    drop = lake.query("SELECT * FROM lake.drops")[0]
    assert (drop["row_id"], drop["gate"], drop["rule"], drop["detail"]) == (
        "c_row200", "person", "reject", "ann: nonsense",
    )  # fmt: skip
    assert apply(lake, made) == made and apply(lake, first) == made and len(versions(lake)) == 2
    found = diff(lake, first, made)
    assert (found.dropped, found.edited, found.relabelled, found.added) == (1, 1, 2, 0)
    assert found.drops[0].gate == "person"


def test_rebase_onto_another_version_lists_conflicts(lake: Lake) -> None:
    first = put(lake, rows())
    say(lake, first, "c_row000", "edit", text="my words")
    say(lake, first, "c_row100", "relabel", label="a")
    say(lake, first, "c_row200", "reject")
    say(lake, first, "c_row300", "relabel", label="a")
    changed = rows(8)
    changed[0] = changed[0].model_copy(update={"text": "their words"})
    changed[1] = changed[1].model_copy(update={"label": "never used"})
    second = put(lake, [row for row in changed if row.id != "c_row300"])
    plan = rebase(lake, second, dry_run=True)
    assert plan.version is None and len(versions(lake)) == 2 and plan.rejected == ("c_row200",)
    assert {(c.edit.row_id, c.field) for c in plan.conflicts} == {("c_row000", "text"), ("c_row100", "label")}
    assert plan.absent == ("c_row300",) and plan.relabelled == plan.edited == ()
    assert rebase(lake, second).version == "d@3" and version(lake, "d").parent == 2
    forced = rebase(lake, second, force=True)
    held = {row.id: row for row, *_ in held_by(lake, version(lake, "d"))}
    assert forced.version == "d@4" and forced.conflicts == ()
    assert held["c_row000"].text == "my words" and held["c_row100"].label == "a"
    again = rebase(lake, version(lake, "d@4"))  # what people made of a row is no conflict
    assert not again.changes and again.conflicts == () and again.version is None


def test_a_later_word_wins_and_an_accept_ends_a_reject(lake: Lake) -> None:
    first = put(lake, rows())
    say(lake, first, "c_row000", "edit", text="one")
    second = apply(lake, first)
    say(lake, second, "c_row000", "edit", text="two")
    say(lake, first, "c_row100", "reject")
    say(lake, first, "c_row100", "accept", label="a")
    third = apply(lake, second)
    held = {row.id: row for row, *_ in held_by(lake, third)}
    assert held["c_row000"].text == "two" and held["c_row100"].label == "a"
    assert apply(lake, first) == third
    for row in held:
        say(lake, third, row, "reject")
    with pytest.raises(GraftError, match="no row is left"):
        apply(lake, third)


def test_an_edit_needs_a_row_a_label_and_a_change(lake: Lake) -> None:
    first = put(lake, rows())
    for row, action, more, match in (
        ("c_nope", "reject", {}, "no row"), ("c_row", "reject", {}, "not a complete id"),
        ("c_row000", "relabel", {"label": "c"}, "one of: a, b, never used"),
        ("c_row000", "relabel", {}, "has no content"),
        ("c_row000", "edit", {"text": "  "}, "has no content"), ("c_row000", "note", {}, "has no content"),
    ):  # fmt: skip
        with pytest.raises(GraftError, match=match):
            decide(lake, first, row, action, by="ann", **more)  # type: ignore[arg-type]


def test_a_guards_row_that_becomes_harmful_is_restricted(lake: Lake) -> None:
    task = {"kind": "guard", "labels": [{"name": "safe"}, {"name": "unsafe"}]}
    run = RUN.model_copy(update={"recipe": {"task": task}})
    first = put(lake, rows(2, label="safe"), run)
    say(lake, first, "c_row000", "relabel", label="unsafe")
    say(lake, first, "c_row100", "edit", text="other words")
    assert {row.id: row.restricted for row, *_ in held_by(lake, apply(lake, first))} == {
        "c_row000": True, "c_row100": False,
    }  # fmt: skip


ACTIONS: list[EditAction] = ["accept", "reject", "relabel", "edit", "note", "skip", "undo"]
steps = st.lists(st.tuples(st.sampled_from(ACTIONS), st.sampled_from("xyz"), st.integers(0, 7)), max_size=10)


def edits_of(some: list[tuple[EditAction, str, int]]) -> list[Edit]:
    """The edits that these steps are; an undo takes back the edit at that place, whatever that is."""
    return [
        Edit(id=f"e{i}", dataset="d", version=1, row_id="r", action=action, base_text="t", base_label="l", by="ann",
             text=word if action == "edit" else None, label=word if action == "relabel" else None,
             undoes=f"e{place}" if action == "undo" else "", at=AT + timedelta(seconds=i))
        for i, (action, word, place) in enumerate(some)
    ]  # fmt: skip


@given(steps=steps)
def test_fold_keeps_the_newest_of_each(steps: list[tuple[EditAction, str, int]]) -> None:
    steps = [step for step in steps if step[0] != "undo"]
    folded = fold(edits_of(steps)).get("r")
    decisions = [action for action, *_ in steps if action in ("accept", "reject")]
    texts = [word for action, word, _ in steps if action == "edit"]
    assert bool(folded and folded.reject) == (decisions[-1:] == ["reject"])
    assert bool(folded and folded.accept) == (decisions[-1:] == ["accept"])
    assert (folded.text.text if folded and folded.text else None) == (texts[-1] if texts else None)
    assert (folded is None) == all(action == "skip" for action, *_ in steps)


@given(steps=steps)
def test_what_was_undone_might_as_well_not_have_been(steps: list[tuple[EditAction, str, int]]) -> None:
    made = edits_of(steps)
    undone = {one.undoes for one in made if one.action == "undo"}
    assert fold(made) == fold(one for one in made if one.action != "undo" and one.id not in undone)


def call(verb: object, *args: str) -> Result:
    app = typer.Typer()
    app.command()(verb)  # type: ignore[type-var]
    return RUNNER.invoke(app, list(args), env={"COLUMNS": "160"})


def test_edit_and_rebase_on_the_command_line(lake: Lake) -> None:
    put(lake, rows(restricted=True))
    noted = call(verbs.edit, "c_row000", "--dataset", "d", "--label", "b", "--note", "private words", "--json")
    report = json.loads(noted.stdout)
    assert report["action"] == "relabel" and report["base_text"] == report["note"] == "(restricted)" and report["by"]
    assert "recorded: reject c_row200 of d@1, by bob" in call(
        verbs.edit, "c_row200", "-d", "d@1", "--reject", "--by", "bob"
    ).output  # fmt: skip
    assert "text 1" in call(verbs.edit, "c_row100", "-d", "d", "--text", "new", "--restricted", "--json").stdout
    assert isinstance(call(verbs.edit, "c_row100", "-d", "d", "--reject", "--accept").exception, GraftError)
    assert isinstance(call(verbs.edit, "c_zzzzzz", "-d", "d", "--reject").exception, NotFound)
    changed = [row.model_copy(update={"text": f"other {row.id}"}) for row in rows(restricted=True)]
    put(lake, changed)
    plan = json.loads(call(verbs.rebase, "d", "--dry-run", "--json").stdout)
    assert len(plan["conflicts"]) == 3 and {c["edit"]["base_text"] for c in plan["conflicts"]} == {"(restricted)"}
    shown = call(verbs.rebase, "d@2")
    assert "conflicts" in shown.output and "no version was made" in shown.output and "private" not in shown.output
    assert "published d@3" in call(verbs.rebase, "d@1").output
    assert "nothing was published" in call(verbs.rebase, "d@1", "--dry-run").output
