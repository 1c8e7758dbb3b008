"""Paired comparison of two students on the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from graft.data.arrow import from_rows
from graft.data.scores import maths
from graft.data.scores.answers import VALIDATION, Answers, answers, not_kept
from graft.data.scores.board import leaderboard
from graft.schemas.base import Value
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home
from graft.schemas.sections import FEW
from graft.schemas.shown import Shown
from graft.schemas.students import Evaluation, Student

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.schemas.datasets import DatasetVersion

SURE = 0.05
"""McNemar's p below which a difference is significant."""


class Paired(Shown, Value):
    """Student b against student a on the same rows.

    `both`, `only_a`, `only_b`, `neither` count the rows that they have right. `p_value` is McNemar's exact two-sided
    p; `difference` is b's accuracy minus a's (-1 to 1), `interval` its 95% bootstrap interval from seeded resamples.
    """

    a: str
    b: str
    test_file: str
    test_hash: str
    rows: int
    both: int
    only_a: int
    only_b: int
    neither: int
    p_value: float
    difference: float
    interval: tuple[float, float]
    verdict: str

    def shown(self) -> dict[str, object]:
        """See Shown."""
        low, high = (f"{100 * end:+.1f}" for end in self.interval)
        points = f"{100 * self.difference:+.1f} points ({low} to {high})"
        return {"a": self.a, "b": self.b, "rows": self.rows, "b minus a": points, "p": self.p_value}

    @property
    def accuracies(self) -> tuple[float, float]:
        """Accuracies of a and of b."""
        return (self.both + self.only_a) / self.rows, (self.both + self.only_b) / self.rows


def find_student(lake: Lake, beginning: str) -> Student:
    """Return the student whose id has this prefix.

    Raises NotFound, listing the candidates, if there is none or several.
    """
    query = "SELECT * FROM lake.students ORDER BY created_at DESC, id"
    every = from_rows(Student, lake.query(query))
    found = [one for one in every if beginning and one.id.startswith(beginning)]
    if len(found) == 1 or (found and found[0].id == beginning):
        return found[0]
    where = str(lake.home.root)
    if not every:
        raise NotFound(
            f"no student {beginning!r}: no student has been trained yet", where=where, fix="graft train DATASET"
        )
    names = ", ".join(one.id for one in (found or every)[:20])
    what = f"{len(found)} students begin with {beginning!r}" if found else f"no student {beginning!r}"
    raise NotFound(what, where=where, fix=f"one of: {names}")


def shared_tests(lake: Lake, a: str, b: str) -> list[tuple[str, str]]:
    """Return (hash, file) of the tests that both students were evaluated on: held-out files first, largest first."""
    query = """
        SELECT e.test_hash, any_value(e.test_file) AS test_file FROM lake.evaluations e
        JOIN lake.evaluations o ON o.test_hash = e.test_hash AND o.student_id = $2
        WHERE e.student_id = $1 GROUP BY e.test_hash
        ORDER BY bool_or(e.test_file = $3), bool_or(ends_with(e.test_file, '(synthetic)')), max(e.rows) DESC, 1"""
    return [(row["test_hash"], row["test_file"]) for row in lake.query(query, [a, b, VALIDATION])]


def compare(home: Home, lake: Lake, a: Student, b: Student, test_hash: str | None = None) -> Paired:
    """Run the paired test of two students.

    Args:
        home: The home with the students' folders.
        lake: The lake.
        a: The first student.
        b: The second student.
        test_hash: The test; None selects the largest held-out test that both were evaluated on.

    Raises:
        NotFound: They share no such test, or the answers of one were not kept.
        GraftError: The answers are not about the same rows.
    """
    shared = dict(shared_tests(lake, a.id, b.id))
    wanted = test_hash or next(iter(shared), "")
    if wanted not in shared:
        raise _nothing_shared(lake, a, b, test_hash)
    held = []
    for student in (a, b):
        found = answers(home, student, wanted)
        if found is None:
            raise not_kept(home, student, shared[wanted])
        held.append(found)
    return paired(*held)


def gain_of(home: Home, lake: Lake, found: DatasetVersion) -> tuple[str, bool] | None:
    """The gain of a version's best student over the seeds alone on the first held-out test, and whether it is one.

    A gain whose interval holds 0 may be chance. None without such a student.
    """
    standings = leaderboard(lake, found.dataset)
    ours = next((one for one in standings if one.version == found.version and one.gain is not None), None)
    if ours is None:
        return None
    if ours.rows < FEW:
        right, before = round(ours.accuracy * ours.rows), round((ours.accuracy - (ours.gain or 0)) * ours.rows)
        return f"student: {right:,} of {ours.rows:,} test rows right; seeds only: {before:,}", False
    sentence = f"student: {100 * (ours.gain or 0):+.1f} points over seeds only on {ours.rows:,} rows"
    try:
        base, student = (find_student(lake, name or "") for name in (ours.baseline, ours.student_id))
        test = compare(home, lake, base, student, ours.test_hash)
    except GraftError:
        return f"{sentence}; their answers were not kept, so it may be chance", False
    low, high = test.interval
    chance = "" if low > 0 or high < 0 else ", may be chance"
    between = f"{100 * low:.1f} to {100 * high:.1f}"
    return f"{sentence} ({between}; p = {test.p_value:.2g}{chance})", low > 0


def paired(a: Answers, b: Answers) -> Paired:
    """Run the paired test on loaded answers. Raises GraftError if they are not about the same rows."""
    order_a, order_b = _order(a), _order(b)
    if [one[:3] for one in order_a] != [one[:3] for one in order_b]:
        what = f"the answers of {a.student_id} and {b.student_id} are not about the same rows"
        raise GraftError(what, where=a.test_file, fix="train both again with the same test file")
    right_a = a.right[[place for *_, place in order_a]]
    right_b = b.right[[place for *_, place in order_b]]
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    both = int((right_a & right_b).sum())
    tested = maths.paired_counts(only_b, only_a, a.rows)
    differ = int((_predictions(a, order_a) != _predictions(b, order_b)).sum())
    return Paired(
        a=a.student_id, b=b.student_id, test_file=a.test_file, test_hash=a.test_hash, rows=a.rows,
        both=both, only_a=only_a, only_b=only_b, neither=a.rows - both - only_a - only_b,
        p_value=tested.p_value, difference=tested.difference, interval=(tested.low, tested.high),
        verdict=_verdict(a.student_id, b.student_id, tested, differ, (both + only_a, both + only_b), a.rows),
    )  # fmt: skip


Placed = tuple[str, str, int, int]
"""Hash, label and length of a row, by which rows of two files are matched, and its index."""


def _order(found: Answers) -> list[Placed]:
    """Rows in an order that is independent of the file's."""
    columns = (found.column(name) for name in ("text_hash", "label", "chars"))
    return sorted(zip(*columns, range(found.rows), strict=True))


def _predictions(found: Answers, order: list[Placed]) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    predictions = np.array(found.column("predicted"), dtype=object)
    return predictions[[place for *_, place in order]]


def _verdict(a: str, b: str, tested: maths.Paired, differ: int, right: tuple[int, int], rows: int) -> str:
    if not differ:
        return f"no difference: {a} and {b} have the same prediction for every row"
    if not tested.difference:
        return f"no difference: {a} and {b} are right on equally many rows"
    if rows < FEW:
        return f"{b} is right on {right[1]} of {rows} rows, {a} on {right[0]}"
    better, worse = (b, a) if tested.difference > 0 else (a, b)
    ends = sorted((abs(tested.low), abs(tested.high))) if tested.low * tested.high > 0 else None
    points = f"{100 * abs(tested.difference):.1f} points"
    chance = "p < 0.0001" if tested.p_value < 0.0001 else f"p = {tested.p_value:.4f}"
    if tested.p_value < SURE and ends:
        return f"{better} is better than {worse} by {points} ({100 * ends[0]:.1f} to {100 * ends[1]:.1f}; {chance})"
    return f"{better} is ahead of {worse} by {points}, which may be chance ({chance})"


def _nothing_shared(lake: Lake, a: Student, b: Student, test_hash: str | None) -> NotFound:
    if test_hash:
        return NotFound(
            "the students were not both evaluated on that test", where=test_hash, fix="graft students lists the tests"
        )
    files = [
        ", ".join(dict.fromkeys(one.test_file for one in _judged(lake, student))) or "nothing" for student in (a, b)
    ]
    return NotFound(
        f"{a.id} and {b.id} were not evaluated on the same rows", where=f"{files[0]}; {files[1]}",
        fix="train both with the same held-out file: graft train DATASET --test FILE",
    )  # fmt: skip


def _judged(lake: Lake, student: Student) -> list[Evaluation]:
    return lake.evaluations(student.id)
