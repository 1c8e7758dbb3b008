"""A lake that an older Graft made is brought up to date when it is opened, and keeps its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from graft.data.edits import edits, record
from graft.data.lake import Lake
from graft.data.lake_schema import ADDED, MOVED, SCHEMA_VERSION, VIEWS, CandidateRecord, identifier
from graft.schemas.base import utc_now
from graft.schemas.datasets import Edit
from graft.schemas.home import Home
from graft.schemas.rows import Candidate, Decision, Review, Slot, Steer
from graft.schemas.steering import Improvement, ImproveSettings, RoundResult
from graft.schemas.students import (
    ClassScore,
    Evaluation,
    InstructEvaluation,
    Student,
    StudentSettings,
    TeacherScore,
)

NEW = ("instruct_evaluations", "improvements", "test_files", "test_texts")
"""Tables that version 4 brought."""
NEWER = ("tags", "edits", "drops", "recalls", "deletions")
"""Tables that version 5 brought."""


def candidate(number: int) -> Candidate:
    """An accepted row with one review."""
    slot = Slot(id=f"sl_{number}", run_id="r-1", shard=0, round=0, index=number, label="a", seed=number)
    decision = Decision(status="accepted", route="agreed", code="accepted.agreed", reason="fits")
    review = Review(stage="content", role="reviewer", model="m", mean=9.0, call_key="k")
    return Candidate(
        id=f"c_{number}", slot=slot, text=f"text {number}", label="a", intended_label="a", reviews=(review,),
        decision=decision,
    )  # fmt: skip


def evaluation(test_file: str, **more: Any) -> Evaluation:
    """One student's, as version 2 kept it, and what is given besides."""
    score = ClassScore(label="a", precision=1, recall=0.5, f1=0.75, support=2)
    return Evaluation(
        student_id="st", test_file=test_file, test_hash=test_file, rows=2, accuracy=0.5, macro_f1=0.75,
        classes=(score,), confusion=((2,),), labels=("a",), **more,
    )  # fmt: skip


def as_version(lake: Lake, old: int) -> None:
    """Take off again what the versions after `old` added."""

    def work(connection: Any) -> None:
        for name in VIEWS:
            connection.execute(f"DROP VIEW lake.{name}")
        for version in range(SCHEMA_VERSION, old, -1):
            for table, (_, gone) in MOVED.get(version, {}).items():
                for column in gone:
                    kind = "BOOLEAN" if column == "prefilled" else "VARCHAR"
                    connection.execute(f"ALTER TABLE lake.{table} ADD COLUMN {column} {kind}")
            for table, columns in ADDED[version].items():
                for column in columns:
                    connection.execute(f"ALTER TABLE lake.{table} DROP COLUMN {identifier(column)}")
        for table in (*(NEW if old < 4 else ()), *(NEWER if old < 5 else ())):
            connection.execute(f"DROP TABLE lake.{table}")
        connection.execute("UPDATE lake.meta SET value = ? WHERE key = 'schema_version'", [str(old)])

    lake.write(work)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_lake_of_version_1_gets_its_columns_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_only: bool
) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    home = Home.find()
    with Lake.open(home) as lake:
        lake.commit("r-1", "b1", [candidate(1)], [])
        as_version(lake, 1)
        assert "slot_group" not in lake.sql("FROM lake.candidates").column_names
        assert "interval" not in lake.sql("FROM lake.evaluations").column_names
    with Lake.open(home, read_only=read_only) as lake:
        columns = lake.sql("FROM lake.candidates").column_names
        assert set(columns) == set(CandidateRecord.model_fields)
        assert list(lake.iter_candidates("r-1")) == [candidate(1)]
        assert lake.query("SELECT answer FROM lake.reviews") == [{"answer": ""}]
    with Lake.open(home) as lake:
        lake.commit("r-1", "b2", [candidate(2)], [])
        assert {row.id for row in lake.iter_candidates("r-1")} == {"c_1", "c_2"}


@pytest.mark.parametrize("read_only", [False, True])
def test_a_lake_of_version_2_reads_its_evaluations_and_takes_fuller_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_only: bool
) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    home = Home.find()
    full = evaluation(
        "z", interval=(0.25, 0.75), majority=0.5, ece=0.1, ece_scaled=0.05, temperature=1.5, auprc=0.9, positive="a",
        threshold=0.4, false_refusals=0.0, accuracies=(0.5, 0.25),
    )  # fmt: skip
    with Lake.open(home) as lake:
        lake.save_evaluation(evaluation("t"))
        as_version(lake, 2)
        assert not set(ADDED[3]["evaluations"]) & set(lake.sql("FROM lake.evaluations").column_names)
    with Lake.open(home, read_only=read_only) as lake:
        assert set(lake.sql("FROM lake.evaluations").column_names) == set(Evaluation.model_fields)
        assert lake.evaluations("st") == [evaluation("t")]
    with Lake.open(home) as lake:
        lake.save_evaluation(full)
        assert lake.evaluations("st") == [evaluation("t"), full]


TEACHER = TeacherScore(
    model="m", shots=2, rows=4, answered=3, accuracy=0.5, interval=(0.25, 0.75), macro_f1=0.5, student_accuracy=0.75,
    prompt_tokens=90, completion_tokens=4, price_usd=None, p50_s=0.1, p95_s=0.2,
)  # fmt: skip
LOOP = Improvement(
    id="im", dataset="d", recipe_file="r.yaml", settings=ImproveSettings(rounds=2), test_file="t.jsonl",
    rounds=(RoundResult(arm="steered", seed=1, round=1, test=0.5, wanted={"a": 3}, said=("more of a",)),),
    created_at=utc_now(),
)  # fmt: skip


@pytest.mark.parametrize("read_only", [False, True])
def test_a_lake_of_version_3_gets_columns_and_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_only: bool
) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    home = Home.find()
    student = Student(
        id="st", dataset="d", version=1, trained_on="version", settings=StudentSettings(), encoder_revision="1",
        train_rows=2, device="cpu", seconds=1.0, path="students/st", created_at=utc_now(),
    )  # fmt: skip
    with Lake.open(home) as lake:
        lake.commit("r-1", "b1", [candidate(1)], [])
        lake.save_evaluation(evaluation("t"))
        lake.save_student(student)
        as_version(lake, 3)
        tables = lake.sql("SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake'").to_pydict()
        assert not set(NEW) & set(tables["table_name"])
    with Lake.open(home, read_only=read_only) as lake:
        assert list(lake.iter_candidates("r-1")) == [candidate(1)]
        assert lake.evaluations("st") == [evaluation("t")] and lake.students() == [student]
        assert lake.improvements() == [] and lake.instruct_evaluations("st") == [] and lake.test_texts("d") == []
    steered = candidate(2).model_copy(
        update={"slot": candidate(2).slot.model_copy(update={"steer": Steer(concept="x")})}
    )
    fuller = evaluation("z", micro_f1=0.5, teachers=(TEACHER, TEACHER))
    learned = student.model_copy(update={"id": "s2", "tokens_per_second": 900.0, "peak_share": 0.25})
    with Lake.open(home) as lake:
        lake.commit("r-1", "b2", [steered], [])
        lake.save_evaluation(fuller)
        lake.save_student(learned)
        assert lake.candidate("r-1", "c_2") == steered
        assert lake.evaluations("st") == [evaluation("t"), fuller]
        assert learned in lake.students("d")


def test_a_lake_of_version_5_keeps_its_edits(tmp_path: Path) -> None:
    def noted(name: str, **more: Any) -> Edit:
        return Edit(id=name, dataset="d", version=1, row_id="c_1", action="accept", base_text="text 1", base_label="a",
                    by="ann", at=utc_now(), **more)  # fmt: skip

    before, after = noted("e1"), noted("e2", queue="margin", blind=True, seconds=2.5, undoes="e1")
    with Lake.open(Home(tmp_path)) as lake:
        record(lake, [before])
        as_version(lake, 5)
        assert "queue" not in lake.sql("FROM lake.edits").column_names
    with Lake.open(Home(tmp_path)) as lake:
        assert edits(lake, "d") == [before]
        record(lake, [after])
        assert edits(lake, "d") == [before, after]


def test_a_lake_of_version_6_gets_one_column_for_what_methods_want_of_a_slot(tmp_path: Path) -> None:
    """PromptMix's mix, HarmAug's aim and begun turn move into the slot's payload and the candidate's notes."""
    mix = {"partner": "b", "alpha": 0.75, "classes": ["a", "b"]}
    aim = {"side": "borderline", "variant": "refusal"}
    moved = [
        candidate(1),
        candidate(2).model_copy(update={"slot": candidate(2).slot.model_copy(update={"payload": mix})}),
        candidate(3).model_copy(
            update={
                "slot": candidate(3).slot.model_copy(update={"payload": aim}), "notes": {"prefilled": True},
            }
        ),
        candidate(4).model_copy(update={"notes": {"prefilled": False}}),
    ]  # fmt: skip
    with Lake.open(Home(tmp_path)) as lake:
        lake.commit("r-1", "b1", [candidate(number) for number in range(1, 5)], [])
        as_version(lake, 6)

        def old(connection: Any) -> None:
            for column, value, name in (
                ("mix", orjson.dumps(mix).decode(), "c_2"), ("aim", orjson.dumps(aim).decode(), "c_3"),
                ("prefilled", True, "c_3"), ("prefilled", False, "c_4"),
            ):  # fmt: skip
                connection.execute(f"UPDATE lake.candidates SET {column} = ? WHERE candidate_id = ?", [value, name])

        lake.write(old)
        assert {"mix", "aim", "prefilled"} <= set(lake.sql("FROM lake.candidates").column_names)
    for read_only in (True, False):
        with Lake.open(Home(tmp_path), read_only=read_only) as lake:
            assert set(lake.sql("FROM lake.candidates").column_names) == set(CandidateRecord.model_fields)
            assert sorted(lake.iter_candidates("r-1"), key=lambda one: one.id) == moved


def test_loops_and_instruction_evaluations_replace_their_like(tmp_path: Path) -> None:
    judged = InstructEvaluation(student_id="st", rows=3, loss=1.5, base_loss=2.0, tokens=30)
    with Lake.open(Home(tmp_path)) as lake:
        for loss in (1.75, 1.5):
            lake.save_instruct_evaluation(judged.model_copy(update={"loss": loss}))
        assert lake.instruct_evaluations("st") == [judged] and lake.instruct_evaluations("x") == []
        lake.save_improvement(LOOP.model_copy(update={"rounds": ()}))
        lake.save_improvement(LOOP)
        assert lake.improvements() == lake.improvements("d") == [LOOP] and lake.improvements("e") == []
