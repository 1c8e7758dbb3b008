"""A lake that an older Graft made is brought up to date when it is opened, and keeps its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.lake import Lake
from data.lake_schema import ADDED, SCHEMA_VERSION, VIEWS, CandidateRecord, identifier
from schemas.home import Home
from schemas.rows import Candidate, Decision, Review, Slot
from schemas.students import ClassScore, Evaluation


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
        for version in range(old + 1, SCHEMA_VERSION + 1):
            for table, columns in ADDED[version].items():
                for column in columns:
                    connection.execute(f"ALTER TABLE lake.{table} DROP COLUMN {identifier(column)}")
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
        assert lake.sql("SELECT answer FROM lake.reviews").to_pylist() == [{"answer": ""}]
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
