"""A student's predictions on each test row: one Parquet file per test in the student's folder.

No text is stored: a held-out row is identified by its position and hash, a row of a version by its id.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from graft.data.gates.shared.held_out import text_hash
from graft.data.scores import maths
from graft.schemas.base import Value
from graft.schemas.durable import put
from graft.schemas.errors import NO_SPACE, GraftError, NotFound, StorageFull
from graft.schemas.home import Home
from graft.schemas.students import Evaluation, Student

if TYPE_CHECKING:
    import pyarrow as pa

VALIDATION = "validation split (synthetic)"
"""Name of the evaluation on a version's own validation rows."""

BETWEEN = "|"
"""Separator of the labels in a cell, for a student with several labels."""

COLUMNS = ("row", "row_id", "text_hash", "chars", "label", "predicted", "confidence", "probabilities")
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_FACTS = b"graft"


class Speed(Value):
    """A student's speed at its evaluation: all rows in batches, then some of them one by one."""

    device: str
    rows: int
    seconds: float
    texts_per_second: float
    singles: int
    p50_s: float
    p95_s: float


class Reliability(Value):
    """The bins of a student's confidence, and the calibration error that is computed from them."""

    bins: tuple[maths.Bin, ...]
    ece: float


@dataclass(frozen=True)
class Answers:
    """A student's answers on a test, in the order of its rows.

    `table` has the columns `row` (position, from 1), `row_id` (of a version's row; empty for a file's), `text_hash`,
    `chars`, `label`, `predicted`, `confidence` (probability of the prediction) and `probabilities` (float32, in the
    order of `labels`). If `several`, label and predicted are cells such as `a|b`, possibly empty, each probability is
    its own label's, and `confidence` is that of exactly this set, treating the labels as independent.
    """

    student_id: str
    test_file: str
    test_hash: str
    labels: tuple[str, ...]
    several: bool
    table: pa.Table

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.table.num_rows)

    @property
    def right(self) -> maths.Truths:
        """True if each prediction is right, of shape (rows,); with several labels, if all of them are."""
        return np.array([a == b for a, b in zip(self.column("label"), self.column("predicted"), strict=True)], bool)

    @property
    def probabilities(self) -> maths.Matrix:
        """Probabilities of shape (rows, labels)."""
        flat = self.table.column("probabilities").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return maths.as_matrix(flat.reshape(self.rows, -1), self.rows, len(self.labels))

    def column(self, name: str) -> list[Any]:
        """A column's values."""
        found: list[Any] = self.table.column(name).to_pylist()
        return found


def keep(
    folder: Path, evaluation: Evaluation, rows: maths.Rows, predicted: Sequence[str],
    probabilities: Sequence[Sequence[float]], *, ids: Sequence[str] = (), speed: Speed | None = None,
) -> Path:  # fmt: skip
    """Write `answers-<test_hash>.parquet` and `speed-<test_hash>.json`, each atomically.

    Args:
        folder: The student's folder.
        evaluation: The evaluation on these rows.
        rows: Its (text, label) rows.
        predicted: The prediction for each row.
        probabilities: Shape (rows, labels), in the order of the evaluation's labels.
        ids: The ids of the rows if they belong to a version, in the same order; empty for a file.
        speed: The measured speed, if any.

    Returns:
        The path of the answers.

    Raises:
        StorageFull: The disk is full.
        GraftError: The files cannot be written.
        ValueError: The lengths differ.
    """
    from pyarrow import parquet

    table = _table(evaluation, rows, predicted, probabilities, ids)
    file = _file(folder, evaluation.test_hash)
    staged = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        parquet.write_table(table, staged, compression="zstd")
        put(staged, file)
        if speed is not None:
            staged.write_text(speed.model_dump_json(), encoding="utf-8")
            put(staged, _speed_file(folder, evaluation.test_hash))
    except OSError as error:
        if error.errno in NO_SPACE:
            raise StorageFull("no space left for the student's answers", where=str(folder), fix="free space") from None
        raise GraftError(f"the student's answers cannot be written: {error}", where=str(folder)) from None
    finally:
        staged.unlink(missing_ok=True)
    return file


def answers(home: Home, student: Student, test_hash: str) -> Answers | None:
    """Return a student's answers on a test, or None if they were not kept and the student has to be trained again.

    Raises GraftError if the file is damaged or not ours.
    """
    import pyarrow as pa
    from pyarrow import parquet

    if not _HASH.fullmatch(test_hash):
        return None
    file = _file(home.student(student.id), test_hash)
    if not file.is_file():
        return None
    try:
        table = parquet.read_table(file)
        facts = json.loads((table.schema.metadata or {})[_FACTS])
        found = Answers(
            student.id, facts["test_file"], test_hash, tuple(facts["labels"]), facts["several"], table.select(COLUMNS)
        )  # fmt: skip
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        fix = f"train it again: graft train {student.dataset}"
        raise GraftError("the student's answers cannot be read", where=str(file), fix=fix) from error
    return found


def not_kept(home: Home, student: Student, test_file: str) -> GraftError:
    """Return the error for answers that were not kept."""
    fix = f"train it again: graft train {_ref(student)}"
    if not (home.student(student.id)).is_dir():
        return NotFound(f"the folder of student {student.id} is gone", where=str(home.student(student.id)), fix=fix)
    return NotFound(f"the answers of student {student.id} on {test_file} were not kept", where=student.path, fix=fix)


def speed(home: Home, student: Student, test_hash: str) -> Speed | None:
    """Return a student's speed on a test, or None if it was not measured."""
    if not _HASH.fullmatch(test_hash):
        return None
    try:
        return Speed.model_validate_json(_speed_file(home.student(student.id), test_hash).read_bytes())
    except (OSError, ValidationError):
        return None


def reliability(found: Answers, bins: int = maths.BINS) -> Reliability:
    """Return confidence and accuracy by bin. With 15 bins `ece` equals that of the Evaluation.

    With several labels it covers every label's probability on every row, as the Evaluation does.
    """
    matrix, right = found.probabilities, found.right
    if found.several:
        held = [set(cell.split(BETWEEN)) for cell in found.column("label")]
        right = np.array([label in some for some in held for label in found.labels], bool)
        matrix = matrix.reshape(-1, 1)
    stretches = maths.reliability(matrix, right, bins)
    return Reliability(bins=stretches, ece=maths.calibration_error(stretches))


def carried(old: Path, new: Path) -> None:
    """Copy the answers on other tests from a student's folder into the folder that replaces it.

    They belong to the weights of the lake's evaluations on these tests. Raises OSError.
    """
    import shutil

    for file in (*old.glob("answers-*.parquet"), *old.glob("speed-*.json")):
        shutil.copy2(file, new / file.name)


def _table(
    evaluation: Evaluation, rows: maths.Rows, predicted: Sequence[str], probabilities: Sequence[Sequence[float]],
    ids: Sequence[str],
) -> pa.Table:  # fmt: skip
    import pyarrow as pa

    count, several = len(rows), evaluation.micro_f1 is not None
    matrix = maths.as_matrix(probabilities, count, len(evaluation.labels))
    if len(predicted) != count or (ids and len(ids) != count):
        raise ValueError(f"{count} rows, but {len(predicted)} predictions and {len(ids)} ids")
    confidence = _of_sets(predicted, matrix, evaluation.labels) if several else matrix.max(axis=1)
    facts = {
        "student_id": evaluation.student_id, "test_file": evaluation.test_file, "labels": evaluation.labels,
        "several": several,
    }  # fmt: skip
    flat = pa.array(matrix.astype(np.float32).ravel())
    starts = np.arange(0, matrix.size + 1, len(evaluation.labels), dtype=np.int32)
    columns = {
        "row": pa.array(range(1, count + 1), pa.int64()),
        "row_id": pa.array(list(ids) or [""] * count, pa.string()),
        "text_hash": pa.array([text_hash(text) for text, _ in rows], pa.string()),
        "chars": pa.array([len(text) for text, _ in rows], pa.int64()),
        "label": pa.array([label for _, label in rows], pa.string()),
        "predicted": pa.array(list(predicted), pa.string()),
        "confidence": pa.array(confidence.astype(np.float32)),
        "probabilities": pa.ListArray.from_arrays(starts, flat),
    }
    return pa.table(columns).replace_schema_metadata({_FACTS: json.dumps(facts).encode()})


def _of_sets(predicted: Sequence[str], matrix: maths.Matrix, labels: Sequence[str]) -> maths.Matrix:
    """The probability of exactly the predicted labels, of shape (rows,)."""
    predicted_sets = np.array(
        [[label in some for label in labels] for some in (set(cell.split(BETWEEN)) for cell in predicted)]
    )
    sure: maths.Matrix = np.where(predicted_sets, matrix, 1 - matrix).prod(axis=1)
    return sure


def _file(folder: Path, test_hash: str) -> Path:
    return folder / f"answers-{test_hash}.parquet"


def _speed_file(folder: Path, test_hash: str) -> Path:
    return folder / f"speed-{test_hash}.json"


def _ref(student: Student) -> str:
    return student.dataset if student.version is None else f"{student.dataset}@{student.version}"
