"""Selects a version's training rows: those with a confident teacher that the student does not know yet.

After LLKD (Li et al., "Learning with Less: Knowledge Distillation from Large Language Models via Unlabeled Data",
arXiv 2411.08028), which prefers unlabelled texts whose teacher is confident in its pseudo-label and whose student needs
the information most. There both thresholds are set for each class and anew while the student trains, and the loss is
weighted; five text-classification sets were tried, and on PubMed-RCT-20k 3.7% of the training data was enough. Here the
choice is made once, before training: the student is the seeds-only one, the cuts are quantiles of each
label's rows, and the loss stays as it is. Cutting within a label keeps a method such as PromptMix usable, whose rows
near a boundary have an unsure teacher by design.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graft.schemas.errors import GraftError
from graft.schemas.students import Selection
from graft.students.evaluate import Probabilities
from graft.students.rows import TrainRow


@dataclass(frozen=True)
class _Judged:
    """One row: its place, and the probabilities that teacher (None: not given) and student give its label."""

    place: int
    teacher: float | None
    student: float


@dataclass
class _Tally:
    """Counts of removed rows, by reason."""

    unsure: int = 0
    known: int = 0
    both: int = 0
    back: int = 0


def select_rows(
    rows: Sequence[TrainRow], known: Probabilities, settings: Selection, labels: Sequence[str]
) -> tuple[list[TrainRow], str]:
    """The rows that stay, in their order, and a note with the counts of the others by reason.

    `known` has the seeds-only student's probabilities of each row, in the order of `labels`. Within each label the rows
    are removed that are below the `teacher_quantile` of the soft label's probability of that label, and those above the
    (1 - `student_quantile`) quantile of the student's; equal values stay together. A row without a soft label is never
    removed for its teacher. `least_share` of a label's rows, rounded up, stays in any case: of the removed rows, those
    that only the student knew come back first (least known first), then those of the surest teacher. Which rows stay
    does not depend on their order. Raises GraftError for a label that is not among `labels`, ValueError if `known` is
    not one list a row.
    """
    places = {label: place for place, label in enumerate(labels)}
    if unknown := sorted({row.label for row in rows} - set(places)):
        raise GraftError(
            f"training rows with labels that the dataset lacks: {', '.join(unknown[:5])}", where="training rows",
            fix=f"the dataset has {', '.join(labels)}",
        )  # fmt: skip
    groups: dict[str, list[_Judged]] = {}
    for place, (row, shares) in enumerate(zip(rows, known, strict=True)):
        column = places[row.label]
        teacher = None if row.soft is None else row.soft[column]
        groups.setdefault(row.label, []).append(_Judged(place, teacher, shares[column]))
    tally, gone = _Tally(), set[int]()
    for group in groups.values():
        gone |= _cut(group, rows, settings, tally)
    silent = sum(row.soft is None for row in rows)
    return [row for place, row in enumerate(rows) if place not in gone], _note(len(rows), len(gone), silent, tally)


def _cut(group: Sequence[_Judged], rows: Sequence[TrainRow], settings: Selection, tally: _Tally) -> set[int]:
    """The places of one label's removed rows."""
    import numpy as np

    sure = [one.teacher for one in group if one.teacher is not None]
    least = float(np.quantile(sure, settings.teacher_quantile)) if sure else 0.0
    most = float(np.quantile([one.student for one in group], 1 - settings.student_quantile))
    unsure = {one.place for one in group if one.teacher is not None and one.teacher < least}
    known = {one.place for one in group if one.student > most}
    leaving = [one for one in group if one.place in unsure | known]
    leaving.sort(key=lambda one: (
        one.place in unsure, -(one.teacher or 0.0) if one.place in unsure else 0.0, one.student, rows[one.place].order,
    ))  # fmt: skip
    short = math.ceil(settings.least_share * len(group)) - (len(group) - len(leaving))
    back = max(0, short)
    gone = {one.place for one in leaving[back:]}
    tally.both += len(gone & unsure & known)
    tally.unsure += len(gone & unsure - known)
    tally.known += len(gone & known - unsure)
    tally.back += back
    return gone


def _note(rows: int, gone: int, silent: int, tally: _Tally) -> str:
    lines = [f"selection: {rows - gone} of the version's {rows} rows are used"]
    if gone:
        lines.append(
            f"{tally.unsure} removed as their teacher was unsure, {tally.known} as the seeds-only student knew them,"
            f" {tally.both} for both"
        )
    if tally.back:
        lines.append(f"{tally.back} kept only for the least share of their label")
    if silent:
        lines.append(f"{silent} have no soft label, so that no teacher cut applied to them")
    return "; ".join(lines)
