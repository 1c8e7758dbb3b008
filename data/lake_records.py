"""Records in the lake: runs with their seeds and candidates, students, and loops that trained several in turn.

Also hashes of the files that students are evaluated on, so that a row that repeats one of their texts can be refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import orjson

from graft.data.arrow import from_rows, to_table
from graft.data.duck import execute
from graft.data.lake_schema import TestFileRecord, TestTextRecord, assemble
from graft.schemas.base import stable_hash, utc_now
from graft.schemas.datasets import Run
from graft.schemas.decisions import NOT_CHOSEN
from graft.schemas.rows import Accepted, Candidate, Seed, Status
from graft.schemas.steering import Improvement
from graft.schemas.students import Evaluation, InstructEvaluation, Student

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from graft.data.gates.shared.held_out import TestText

PAGE = 1000
"""Candidates per read."""
T = TypeVar("T")


class RunRecords:
    """The part of a lake that reads runs and candidates."""

    _guard: AbstractContextManager[Any]

    if TYPE_CHECKING:

        def query(self, query: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
            """The lake's own: the answer to a query."""

    def run(self, run_id: str) -> Run | None:
        """The run of that id, or None."""
        found = from_rows(Run, self.query("SELECT * FROM lake.runs WHERE id = ?", [run_id]))
        return found[0] if found else None

    def runs(self, dataset: str | None = None, limit: int | None = None) -> list[Run]:
        """Runs, newest first; of one dataset if named."""
        query = "SELECT * FROM lake.runs WHERE ?::VARCHAR IS NULL OR dataset = ? ORDER BY started_at DESC, id LIMIT ?"
        return from_rows(Run, self.query(query, [dataset, dataset, limit]))

    def seeds(self, run_id: str) -> list[Seed]:
        """The seeds that a person gave for a run, by id."""
        query = "SELECT * FROM lake.seeds WHERE run_id = ? AND kind = 'seed' ORDER BY id"
        return from_rows(Seed, self.query(query, [run_id]), drop=("run_id", "kind"))

    def settled(self, run_id: str, round: int, shard: int) -> list[Candidate]:
        """Every candidate of a shard that is in the lake, whole, by label and place in its stream."""
        return self._candidates(run_id, "round = ? AND shard = ?", [round, shard], 'slot_label, "index"')

    def accepted(self, run_id: str, round: int | None = None) -> list[Candidate]:
        """The accepted candidates of a run, or of one round of it, whole, by id."""
        condition = "status = 'accepted' AND (?::BIGINT IS NULL OR round = ?)"
        return self._candidates(run_id, condition, [round, round], "candidate_id")

    def kept(self, run_id: str, round: int) -> list[Accepted]:
        """The accepted candidates of one round of a run, by id, without the steps that made them; those too that a run
        which was stopped had not chosen, as it chooses again."""
        query = """
            SELECT candidate_id AS id, text, response, label, coalesce(mean, 0.0) AS mean, restricted,
                   slot_group AS "group", shard, slot_label = '' AS given, data
            FROM lake.candidates WHERE run_id = ? AND (status = 'accepted' OR code = ?) AND round = ?
            ORDER BY candidate_id"""
        rows = self.query(query, [run_id, NOT_CHOSEN, round])
        return [
            Accepted(**{**row, "label": sys.intern(row["label"]), "data": orjson.loads(row["data"])}) for row in rows
        ]

    def named(self, run_id: str, ids: Sequence[str]) -> list[Candidate]:
        """These candidates of a run, whole, by id."""
        return self._candidates(run_id, "list_contains(?::VARCHAR[], candidate_id)", [list(ids)], "candidate_id")

    def candidate(self, run_id: str, candidate_id: str) -> Candidate | None:
        """One candidate of a run, whole, or None."""
        found = self._candidates(run_id, "candidate_id = ?", [candidate_id], "candidate_id LIMIT 1")
        return found[0] if found else None

    def iter_candidates(
        self, run_id: str, status: Status | None = None, limit: int | None = None
    ) -> Iterator[Candidate]:
        """Whole candidates by id, one page at a time, so that memory does not grow with their number."""
        last, left = "", limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = self._candidates(
                run_id, "candidate_id > ? AND (?::VARCHAR IS NULL OR status = ?)", [last, status, status],
                f"candidate_id LIMIT {size:d}",
            )  # fmt: skip
            yield from page
            if len(page) < size:
                return
            last, left = page[-1].id, None if left is None else left - len(page)

    def _candidates(self, run_id: str, condition: str, params: Sequence[Any], order: str) -> list[Candidate]:
        chosen = f"FROM lake.candidates WHERE run_id = ? AND {condition} ORDER BY {order}"
        with self._guard:
            rows = self.query(f"SELECT * {chosen}", [run_id, *params])
            wanted = sorted({name for row in rows for name in row["exemplar_ids"]})
            query = "SELECT * FROM lake.seeds WHERE run_id = ? AND list_contains(?::VARCHAR[], id)"
            shown = self.query(query, [run_id, wanted])
        return assemble(rows, {seed.id: seed for seed in from_rows(Seed, shown, drop=("run_id", "kind"))})

    def counts(self, run_id: str) -> dict[str, int]:
        """opened, accepted, rejected, failed: candidates of a run in the lake."""
        query = "SELECT status, count(*) AS n FROM lake.candidates WHERE run_id = ? GROUP BY status"
        found = {row["status"]: int(row["n"]) for row in self.query(query, [run_id])}
        by_status = {name: found.get(name, 0) for name in ("accepted", "rejected", "failed")}
        return {"opened": sum(by_status.values()), **by_status}

    def reasons(self, run_id: str) -> list[tuple[str, str, str, int, str]]:
        """The funnel, most frequent first: (status, route, code, candidates, the text of one of them)."""
        query = """
            SELECT status, route, code, count(*) AS n, min_by(text, candidate_id) AS example
            FROM lake.candidates WHERE run_id = ? GROUP BY ALL ORDER BY n DESC, status, route, code"""
        rows = self.query(query, [run_id])
        return [(r["status"], r["route"], r["code"], int(r["n"]), r["example"]) for r in rows]


class Store(Protocol):
    """Methods of a lake that these accessors use."""

    def query(self, query: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The answer to a query."""

    def insert(self, table: str, rows: pa.Table) -> None:
        """Adds rows inside a `write`."""

    def write(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """Runs work in a transaction."""

    def replace(self, table: str, rows: pa.Table, **key: str) -> None:
        """Replaces the rows with the key."""


class StudentRecords:
    """The part of a lake that reads and writes students."""

    def save_student(self: Store, student: Student) -> None:
        """Stores a student, replacing the one with its id."""
        self.replace("students", to_table(Student, [student]), id=student.id)

    def students(self: Store, dataset: str | None = None) -> list[Student]:
        """Students, newest first; of one dataset if named."""
        query = "SELECT * FROM lake.students WHERE ?::VARCHAR IS NULL OR dataset = ? ORDER BY created_at DESC, id"
        return from_rows(Student, self.query(query, [dataset, dataset]))

    def save_evaluation(self: Store, evaluation: Evaluation) -> None:
        """Stores an evaluation, replacing the same student's on the same test file."""
        key = {"student_id": evaluation.student_id, "test_hash": evaluation.test_hash}
        self.replace("evaluations", to_table(Evaluation, [evaluation]), **key)

    def evaluations(self: Store, student_id: str) -> list[Evaluation]:
        """A student's evaluations, by test file."""
        query = "SELECT * FROM lake.evaluations WHERE student_id = ? ORDER BY test_file, test_hash"
        return from_rows(Evaluation, self.query(query, [student_id]))

    def save_instruct_evaluation(self: Store, evaluation: InstructEvaluation) -> None:
        """Stores an instruction student's evaluation, replacing the earlier one."""
        rows = to_table(InstructEvaluation, [evaluation])
        self.replace("instruct_evaluations", rows, student_id=evaluation.student_id)

    def instruct_evaluations(self: Store, student_id: str) -> list[InstructEvaluation]:
        """An instruction student's evaluation: one, or none."""
        query = "SELECT * FROM lake.instruct_evaluations WHERE student_id = ?"
        return from_rows(InstructEvaluation, self.query(query, [student_id]))

    def save_improvement(self: Store, improvement: Improvement) -> None:
        """Stores a loop, replacing the one with its id."""
        self.replace("improvements", to_table(Improvement, [improvement]), id=improvement.id)

    def improvements(self: Store, dataset: str | None = None) -> list[Improvement]:
        """Loops, newest first; of one dataset if named."""
        query = "SELECT * FROM lake.improvements WHERE ?::VARCHAR IS NULL OR dataset = ? ORDER BY created_at DESC, id"
        return from_rows(Improvement, self.query(query, [dataset, dataset]))

    def register_test_file(self: Store, dataset: str, name: str, texts: Sequence[str]) -> bool:
        """Stores the hashes of a held-out file's texts, so that rows of this dataset that repeat one are refused.

        False: a file with these texts is registered for the dataset already, and nothing was written.
        """
        from graft.data.gates.shared.held_out import TestText

        digest = stable_hash(*texts, length=32)
        file = TestFileRecord(
            dataset=dataset, hash=digest, name=Path(name).name, rows=len(texts), registered_at=utc_now()
        )
        there = "SELECT count(*) FILTER (dataset = ?) AS here, count(*) AS n FROM lake.test_files WHERE hash = ?"
        if self.query(there, [dataset, digest])[0]["here"]:
            return False
        known = [TestText.of(name, number, text) for number, text in enumerate(texts, start=1)]

        def work(connection: duckdb.DuckDBPyConnection) -> bool:
            of_dataset, anywhere = execute(connection, there, [dataset, digest]).fetchall()[0]
            if of_dataset:
                return False
            self.insert("test_files", to_table(TestFileRecord, [file]))
            if not anywhere:
                self.insert("test_texts", to_table(TestTextRecord, known, file_hash=[digest] * len(known)))
            return True

        return self.write(work)

    def test_texts(self: Store, dataset: str) -> list[TestText]:
        """Hashes of a dataset's held-out texts, by file and row, for the contamination gate."""
        from graft.data.gates.shared.held_out import TestText

        query = """
            SELECT f.name AS file, t.row, t.text_hash, t.sketch, t.grams FROM lake.test_files f
            JOIN lake.test_texts t ON t.file_hash = f.hash WHERE f.dataset = ? ORDER BY f.name, f.hash, t.row"""
        return [
            TestText(row["file"], row["row"], row["text_hash"], tuple(row["sketch"]), tuple(row["grams"]))
            for row in self.query(query, [dataset])
        ]
