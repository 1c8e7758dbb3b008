"""References, tags, and deleting a version."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from graft.cli import versions as verbs
from graft.data.arrow import to_table
from graft.data.delete import Dependents, delete, dependents
from graft.data.lake import Lake
from graft.data.tags import remove_tag, set_tag, tags
from graft.data.versions import MOMENT, derive, held_by, publish, rows, version, versions
from graft.schemas.datasets import DatasetVersion, Deletion, Row, Run, Tag
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.rows import GateResult
from graft.schemas.students import Student, StudentSettings

AT = datetime(2026, 11, 25, tzinfo=UTC)
RUN = Run(id="run1", dataset="d", recipe={}, status="finished", started_at=AT, code_version="1", price_usd=None)
RUNNER = CliRunner()


def put(lake: Lake, count: int, run: Run = RUN) -> DatasetVersion:
    some = [Row(id=f"c_{i}", text=f"text {i}", label="a", split="train") for i in range(count)]
    return publish(lake, run=run, rows=some, models={}, seeds=0, card="# card")


def call(verb: object, *args: str, **more: str) -> Result:
    app = typer.Typer()
    app.command()(verb)  # type: ignore[type-var]
    return RUNNER.invoke(app, list(args), env={"COLUMNS": "160"}, **more)  # type: ignore[arg-type]


def test_the_newest_row_of_a_tag_counts(lake: Lake) -> None:
    first, second = put(lake, 1), put(lake, 2)
    set_tag(lake, first, "prod", by="ann")
    assert version(lake, "d@prod") == first
    set_tag(lake, second, "prod", by="bob")
    assert version(lake, "d@prod") == second and [(t.tag, t.version, t.by) for t in tags(lake, "d")] == [
        ("prod", 2, "bob")
    ]
    ahead = Tag(dataset="d", tag="prod", version=2, by="x", at=datetime.now(UTC) + timedelta(days=9))
    lake.write(lambda _: lake.insert("tags", to_table(Tag, [ahead])))  # a clock that went wrong
    set_tag(lake, first, "prod", by="ann")
    assert version(lake, "d@prod") == first
    assert remove_tag(lake, "d", "prod", by="ann").version == 1
    assert tags(lake, "d") == [] and len(lake.sql("SELECT * FROM lake.tags")) == 5
    with pytest.raises(NotFound, match="no tags"):
        version(lake, "d@prod")
    with pytest.raises(NotFound, match="no tag 'prod'"):
        remove_tag(lake, "d", "prod", by="ann")
    set_tag(lake, second, "v2-checked", by="ann")
    with pytest.raises(NotFound, match=r"one of: d@1, d@2; tags: d@v2-checked = @2"):
        version(lake, "d@staging")


@pytest.mark.parametrize("wrong", ["latest", "3", "2026-11-20", "Prod", "a b", "", "-x", "2026-11-20t10", "1.2"])
def test_what_cannot_be_a_tag(lake: Lake, wrong: str) -> None:
    with pytest.raises(GraftError, match="cannot be"):
        set_tag(lake, put(lake, 1), wrong, by="ann")


def at(lake: Lake, number: int, moment: datetime) -> None:
    lake.write(
        lambda c: c.execute("UPDATE lake.versions SET created_at = ? WHERE version = ?", [moment, number]).fetchall()
    )


def test_a_date_means_the_newest_version_at_its_end(lake: Lake) -> None:
    for count in (1, 2, 3):
        put(lake, count)
    at(lake, 1, datetime(2026, 11, 19, 23, 59, 59, tzinfo=UTC))
    at(lake, 2, datetime(2026, 11, 20, 10, 0, 30, tzinfo=UTC))
    at(lake, 3, datetime(2026, 11, 20, 23, 59, 59, 999999, tzinfo=UTC))
    meant = {
        "2026-11-19": 1, "2026-11-20": 3, "2026-12-31": 3, "2026-11-20T09:59": 1, "2026-11-20T10:00": 2,
        "2026-11-20T10:00:29": 1, "2026-11-20T10:00:30Z": 2, "2026-11-20T23:59Z": 3, "": 3, "latest": 3, "2": 2,
    }  # fmt: skip
    assert {which: version(lake, f"d@{which}").version for which in meant} == meant
    for wrong in ("2026-11-18", "2026-13-40", "2026-11-20T25:00", "9999-12-31T", "4", "02", "²"):
        with pytest.raises(NotFound, match="one of: d@1, d@2, d@3"):
            version(lake, f"d@{wrong}")
    with pytest.raises(NotFound, match="has no version"):
        version(lake, "d@0001-01-01")
    assert version(lake, "d@9999-12-30").version == 3


@settings(max_examples=100, deadline=None)
@given(moment=st.datetimes(min_value=datetime(1000, 1, 1)))
def test_every_moment_is_one(moment: datetime) -> None:
    for text in (f"{moment:%Y-%m-%d}", moment.isoformat(timespec="minutes"), moment.isoformat(timespec="seconds")):
        assert MOMENT.fullmatch(text)


def test_deleting_lists_dependants_and_keeps_them(lake: Lake) -> None:
    lake.save_run(RUN.model_copy(update={"version": 1}))
    first = put(lake, 4)
    drop = GateResult(gate="near", rule="jaccard", passed=False)
    second = derive(lake, first, held_by(lake, first)[1:], origin="gates", note="n", drops=[drop], dropped=["c_0"])
    student = Student(
        id="st_1", dataset="d", version=1, trained_on="version", settings=StudentSettings(), encoder_revision="e",
        train_rows=3, device="cpu", seconds=1.5, path="students/st", created_at=AT,
    )  # fmt: skip
    lake.save_student(student)
    set_tag(lake, first, "prod", by="ann")
    (lake.home.exports / "d-1-jsonl").mkdir(parents=True)
    (lake.home.exports / "d-10-jsonl").mkdir()
    named = dependents(lake, first)
    assert named == Dependents(
        students=("st_1",), tags=("prod",), derived=("d@2",), exports=(str(lake.home.exports / "d-1-jsonl"),)
    )
    with pytest.raises(GraftError, match="has the tag prod"):
        delete(lake, first, by="ann")
    assert versions(lake, "d") == [first, second]
    made = delete(lake, first, by="ann", reason="wrong", force=True)
    assert (made.version, made.rows, made.reason, made.content_hash) == (1, 4, "wrong", first.content_hash)
    assert versions(lake) == [second] and rows(lake, first).num_rows == 0 and rows(lake, second).num_rows == 3
    assert tags(lake, "d") == [] and [s.id for s in lake.students("d")] == ["st_1"]
    run = lake.run("run1")
    assert run is not None and run.version is None
    with pytest.raises(NotFound, match="no longer exists"):
        delete(lake, first, by="ann")
    with pytest.raises(NotFound, match="no longer exists"):
        set_tag(lake, first, "prod", by="ann")
    delete(lake, second, by="ann")
    assert lake.sql("SELECT * FROM lake.drops").num_rows == 0 and dependents(lake, second).empty
    assert put(lake, 4).version == 3  # numbers are not used again
    assert lake.sql("SELECT * FROM lake.deletions").num_rows == 2 == len(Deletion.model_fields) - 5


def test_tags_and_deletion_on_the_command_line(lake: Lake) -> None:
    for count in (1, 2):
        put(lake, count)
    assert "no tags" in call(verbs.tag, "d").output
    assert "d@prod is d@1" in call(verbs.tag, "d@1", "prod", "--by", "ann").output
    listed = json.loads(call(verbs.tag, "d@prod", "--json").stdout)
    assert [(t["tag"], t["version"], t["by"]) for t in listed] == [("prod", 1, "ann")]
    assert "prod" in call(verbs.tag, "d").output
    refused = call(verbs.delete, "d@1", "--yes")
    assert isinstance(refused.exception, GraftError) and "d@OTHER" in str(refused.exception)
    assert "prod is no longer a tag of d" in call(verbs.tag, "d", "prod", "--remove").output
    assert isinstance(call(verbs.tag, "d", "--remove").exception, GraftError)
    assert isinstance(call(verbs.delete, "d@1", "--json").exception, GraftError)
    output = call(verbs.delete, "d@1", input="n\n")
    assert output.exit_code == 1 and "nothing was deleted" in output.output and len(versions(lake)) == 2
    assert "deleted d@1" in call(verbs.delete, "d@1", input="y\n").output
    report = json.loads(call(verbs.delete, "d", "--yes", "--json", "--by", "ann").stdout)
    assert report["deletion"]["version"] == 2 and report["deletion"]["by"] == "ann" and versions(lake) == []
