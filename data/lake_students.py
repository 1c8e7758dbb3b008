"""Students in the lake: records, evaluations, and loops that trained several in turn.

Also hashes of the files that they are evaluated on, so that a row that repeats one of their texts can be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from graft.data.arrow import from_table, to_table
from graft.data.lake_schema import TestFileRecord, TestTextRecord
from graft.schemas.base import stable_hash, utc_now
from graft.schemas.steering import Improvement
from graft.schemas.students import Evaluation, InstructEvaluation, Student

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from graft.data.gates.shared.held_out import TestText

T = TypeVar("T")


class Store(Protocol):
    """Methods of a lake that these accessors use."""

    def sql(self, query: str, params: Sequence[Any] = ()) -> pa.Table:
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
        return from_table(Student, self.sql(query, [dataset, dataset]))

    def save_evaluation(self: Store, evaluation: Evaluation) -> None:
        """Stores an evaluation, replacing the same student's on the same test file."""
        key = {"student_id": evaluation.student_id, "test_hash": evaluation.test_hash}
        self.replace("evaluations", to_table(Evaluation, [evaluation]), **key)

    def evaluations(self: Store, student_id: str) -> list[Evaluation]:
        """A student's evaluations, by test file."""
        query = "SELECT * FROM lake.evaluations WHERE student_id = ? ORDER BY test_file, test_hash"
        return from_table(Evaluation, self.sql(query, [student_id]))

    def save_instruct_evaluation(self: Store, evaluation: InstructEvaluation) -> None:
        """Stores an instruction student's evaluation, replacing the earlier one."""
        rows = to_table(InstructEvaluation, [evaluation])
        self.replace("instruct_evaluations", rows, student_id=evaluation.student_id)

    def instruct_evaluations(self: Store, student_id: str) -> list[InstructEvaluation]:
        """An instruction student's evaluation: one, or none."""
        query = "SELECT * FROM lake.instruct_evaluations WHERE student_id = ?"
        return from_table(InstructEvaluation, self.sql(query, [student_id]))

    def save_improvement(self: Store, improvement: Improvement) -> None:
        """Stores a loop, replacing the one with its id."""
        self.replace("improvements", to_table(Improvement, [improvement]), id=improvement.id)

    def improvements(self: Store, dataset: str | None = None) -> list[Improvement]:
        """Loops, newest first; of one dataset if named."""
        query = "SELECT * FROM lake.improvements WHERE ?::VARCHAR IS NULL OR dataset = ? ORDER BY created_at DESC, id"
        return from_table(Improvement, self.sql(query, [dataset, dataset]))

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
        if self.sql(there, [dataset, digest]).to_pylist()[0]["here"]:
            return False
        known = [TestText.of(name, number, text) for number, text in enumerate(texts, start=1)]

        def work(connection: duckdb.DuckDBPyConnection) -> bool:
            of_dataset, anywhere = connection.execute(there, [dataset, digest]).fetchall()[0]
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
            for row in self.sql(query, [dataset]).to_pylist()
        ]
