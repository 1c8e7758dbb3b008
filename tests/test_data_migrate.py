"""A lake that an older Graft made is brought up to date when it is opened, and keeps its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.lake import Lake
from data.lake_schema import ADDED, VIEWS, CandidateRecord
from schemas.home import Home
from schemas.rows import Candidate, Decision, Review, Slot


def candidate(number: int) -> Candidate:
    """An accepted row with one review."""
    slot = Slot(id=f"sl_{number}", run_id="r-1", shard=0, round=0, index=number, label="a", seed=number)
    decision = Decision(status="accepted", route="agreed", code="accepted.agreed", reason="fits")
    review = Review(stage="content", role="reviewer", model="m", mean=9.0, call_key="k")
    return Candidate(
        id=f"c_{number}", slot=slot, text=f"text {number}", label="a", intended_label="a", reviews=(review,),
        decision=decision,
    )  # fmt: skip


def as_version_1(lake: Lake) -> None:
    """Take off again what version 2 added."""

    def work(connection: Any) -> None:
        for name in VIEWS:
            connection.execute(f"DROP VIEW lake.{name}")
        for table, columns in ADDED[2].items():
            for column in columns:
                connection.execute(f"ALTER TABLE lake.{table} DROP COLUMN {column}")
        connection.execute("UPDATE lake.meta SET value = '1' WHERE key = 'schema_version'")

    lake.write(work)


@pytest.mark.parametrize("read_only", [False, True])
def test_an_older_lake_gets_its_columns_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_only: bool
) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    home = Home.find()
    with Lake.open(home) as lake:
        lake.commit("r-1", "b1", [candidate(1)], [])
        as_version_1(lake)
        assert "slot_group" not in lake.sql("FROM lake.candidates").column_names
    with Lake.open(home, read_only=read_only) as lake:
        columns = lake.sql("FROM lake.candidates").column_names
        assert set(columns) == set(CandidateRecord.model_fields)
        assert list(lake.iter_candidates("r-1")) == [candidate(1)]
        assert lake.sql("SELECT answer FROM lake.reviews").to_pylist() == [{"answer": ""}]
    with Lake.open(home) as lake:
        lake.commit("r-1", "b2", [candidate(2)], [])
        assert {row.id for row in lake.iter_candidates("r-1")} == {"c_1", "c_2"}
