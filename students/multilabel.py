"""Texts with several labels each, or none: how they are read, merged, told apart by thresholds, and judged.

A label cell says them: `a|b` is two labels, an empty cell none. Probabilities are independent of each other, one list a
row in the order of the labels. Loads neither torch nor transformers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.data.scores.answers import BETWEEN
from graft.schemas.base import content_hash
from graft.schemas.errors import GraftError
from graft.schemas.students import ClassScore, Evaluation, StudentSettings
from graft.students.evaluate import Probabilities, Rows, Slice, Slices, worst_slices, write_bins
from graft.students.rows import Given, TrainRow, as_rows

if TYPE_CHECKING:
    from graft.students.calibrate import Bin

FACT = "multi_label"
"""In classifier.json and labels.json of a student that gives several labels: each label's threshold."""

USUAL = 0.5
"""The threshold of a label that the validation rows say nothing of."""


def labels_in(cell: str, known: Sequence[str]) -> tuple[str, ...]:
    """The labels of a cell such as `a|b`, each once and in the order of `known`; none of an empty cell.

    Blanks around a label are no part of it. Raises GraftError for a label that is not known, or an empty one.
    """
    if not cell.strip():
        return ()
    pieces = {piece if piece in known else piece.strip() for piece in cell.split(BETWEEN)}
    if unknown := sorted(pieces - set(known)):
        shown = ", ".join(repr(piece[:60]) for piece in unknown[:5])
        raise GraftError(
            f"the label cell {cell[:120]!r} holds what is no label: {shown}", where="labels",
            fix=f"write labels with {BETWEEN!r} between them, none as an empty cell; known are {_few(known)}",
        )  # fmt: skip
    return tuple(label for label in known if label in pieces)


def cell_of(labels: Iterable[str]) -> str:
    """The cell that `labels_in` reads."""
    return BETWEEN.join(labels)


def check_settings(settings: StudentSettings, labels: Sequence[str]) -> None:
    """Whether a student of these labels may give several of them. Raises GraftError.

    A soft label is one distribution over all labels: of two true ones each has a half at most, so that it is no target
    for sigmoids. It tells which labels a row has instead (`settings.multi_label`).
    """
    if settings.multi_label is None:
        return
    if settings.soft_weight:
        raise GraftError(
            "soft labels cannot be learned where a text has several labels: they sum to 1 over all of them",
            where="student.soft_weight", fix="set it to 0: multi_label reads which labels a row has from the soft ones",
        )  # fmt: skip
    if strange := [label for label in labels if BETWEEN in label]:
        raise GraftError(
            f"the label {strange[0]!r} holds a {BETWEEN!r}, which stands between labels", where="task.labels",
            fix="rename it, or leave student.multi_label out",
        )  # fmt: skip


def merged(rows: Iterable[Given], labels: Sequence[str], least: float) -> list[TrainRow]:
    """Every text once, in the order of their first places, with all labels that its rows have.

    A row has its own labels and those whose soft label is at least `least`. `label` is the first of its own in the
    order of `labels`; soft labels are used up. Raises GraftError for a label that is not among `labels`.
    """
    own, found = dict[str, set[str]](), dict[str, set[str]]()
    for row in as_rows(rows):
        own.setdefault(row.text, set()).update((row.label, *row.labels))
        held = found.setdefault(row.text, set())
        held.update(label for label, share in zip(labels, row.soft or (0.0,) * len(labels), strict=True)
                    if share >= least)  # fmt: skip
    if unknown := sorted({label for some in own.values() for label in some} - set(labels)):
        raise GraftError(
            f"training rows with labels that the dataset lacks: {_few(unknown)}", where="training rows",
            fix=f"the dataset has {_few(labels)}",
        )  # fmt: skip
    return [
        TrainRow(text, next(label for label in labels if label in own[text]),
                 labels=tuple(label for label in labels if label in own[text] | found[text]))
        for text in own
    ]  # fmt: skip


def check_test(rows: Rows, labels: Sequence[str], test_file: str, say: Callable[[str], None]) -> list[tuple[str, str]]:
    """The rows with their cells in order, as `cell_of` writes them; says which labels the file does not test.

    Raises GraftError for an empty file, or a cell with a label that the student cannot predict.
    """
    if not rows:
        raise GraftError("there is no row to evaluate on", where=test_file, fix="name a labelled file with --test")
    read, held = [], set[str]()
    for number, (text, cell) in enumerate(rows, start=1):
        try:
            some = labels_in(cell, labels)
        except GraftError as error:
            raise GraftError(f"row {number}: {error.what}", where=test_file, fix=error.fix) from None
        held.update(some)
        read.append((text, cell_of(some)))
    if not held:
        raise GraftError("no row of the test file has a label", where=test_file, fix="label it, or name another file")
    if untested := [label for label in labels if label not in held]:
        say(f"{test_file} has no rows of {_few(untested)}: macro-F1 is over the other {len(held)} labels")
    return read


def above(
    probabilities: Probabilities, thresholds: Sequence[float], labels: Sequence[str]
) -> list[tuple[str, ...]]:  # fmt: skip
    """The labels of each row whose probability is above their threshold, in order."""
    return [
        tuple(label for label, share, least in zip(labels, row, thresholds, strict=True) if share > least)
        for row in probabilities
    ]


def choose_thresholds(
    probabilities: Probabilities, truths: Sequence[Sequence[str]], labels: Sequence[str]
) -> tuple[float, ...]:
    """For each label the threshold with the largest F1 on these rows; 0.5 where all of them have it, or none."""
    import numpy as np

    from graft.students.calibrate import as_matrix, choose_threshold

    if not truths:
        return (USUAL,) * len(labels)
    matrix = as_matrix(probabilities, len(truths), len(labels))
    chosen = []
    for place, label in enumerate(labels):
        cut = choose_threshold(matrix[:, place], np.array([label in held for held in truths]))
        chosen.append(USUAL if cut is None else max(0.0, cut))
    return tuple(chosen)


def thresholds_of(facts: Mapping[str, Any]) -> tuple[float, ...] | None:
    """The thresholds that a student's JSON holds, in the order of its labels; None: it gives exactly one label.

    Raises GraftError where a label has none.
    """
    given = facts.get(FACT)
    if given is None:
        return None
    try:
        return tuple(float(given[label]) for label in facts["labels"])
    except (KeyError, TypeError, ValueError):
        raise GraftError(
            f"{FACT} does not hold a threshold for each label", where="the student's JSON", fix="train it again"
        ) from None


def evaluate_many(
    predicted: Sequence[str], rows: Rows, labels: Sequence[str], *, student_id: str, test_file: str,
    probabilities: Probabilities | None = None,
) -> Evaluation:  # fmt: skip
    """Compare predicted cells with the (text, cell) rows. Errors as `check_test`; ValueError for a missing prediction.

    Accuracy, its interval and `majority` (the file's commonest set) are of whole sets of labels; macro-F1 is over the
    labels that the file has. `confusion` counts on its diagonal the rows whose label was found, beside it the rows
    where one label was missed and the other wrongly said. `ece` is of every label's probability on every row.
    """
    from graft.students.calibrate import accuracy_interval, calibration_error

    true = [set(labels_in(cell, labels)) for _, cell in check_test(rows, labels, test_file, lambda text: None)]
    said = [set(labels_in(cell, labels)) for cell in predicted]
    right = sum(a == b for a, b in zip(true, said, strict=True))
    classes, count = _scores(true, said, labels), len(rows)
    seen = [one.f1 for one in classes if one.support]
    hits = sum(len(a & b) for a, b in zip(true, said, strict=True))
    return Evaluation(
        student_id=student_id, test_file=test_file, test_hash=content_hash(rows), rows=count, accuracy=right / count,
        macro_f1=sum(seen) / len(seen), micro_f1=2 * hits / sum(map(len, (*true, *said))),
        classes=classes, confusion=_confusion(true, said, labels), labels=tuple(labels),
        interval=accuracy_interval(right, count),
        ece=None if probabilities is None else calibration_error(_bins(true, probabilities, labels)),
        majority=max(Counter(map(frozenset, true)).values()) / count,
    )  # fmt: skip


def weak_labels(predicted: Sequence[str], rows: Rows, labels: Sequence[str]) -> Slices:
    """The three labels and the text lengths with the smallest share of rows whose whole set is right."""
    by_length = worst_slices(predicted, rows)
    shares = []
    judged = [(set(labels_in(cell, labels)), said == cell) for said, (_, cell) in zip(predicted, rows, strict=True)]
    for label in labels:
        if inside := [right for held, right in judged if label in held]:
            shares.append(Slice(label, len(inside), sum(inside) / len(inside)))
    shares.sort(key=lambda one: (one.accuracy, -one.rows, one.name))
    return replace(by_length, labels=tuple(shares[:3]))


def write_reliability_many(
    rows: Rows, probabilities: Probabilities, labels: Sequence[str], folder: Path, title: str
) -> tuple[Bin, ...]:
    """As `students.evaluate.write_reliability`, of every label's probability on every (text, cell) row."""
    bins = _bins([set(labels_in(cell, labels)) for _, cell in rows], probabilities, labels)
    write_bins(bins, folder, title, "probability of a label")
    return bins


def _bins(true: Sequence[set[str]], probabilities: Probabilities, labels: Sequence[str]) -> tuple[Bin, ...]:
    """How sure the student was of each label on each row, and how often the row had it."""
    import numpy as np

    from graft.students.calibrate import as_matrix, reliability

    matrix = as_matrix(probabilities, len(true), len(labels))
    return reliability(matrix.reshape(-1, 1), np.array([label in held for held in true for label in labels]))


def _scores(true: Sequence[set[str]], said: Sequence[set[str]], labels: Sequence[str]) -> tuple[ClassScore, ...]:
    """Each label alone; 0 where nothing can be divided."""
    held, claimed = Counter(label for some in true for label in some), Counter(label for some in said for label in some)
    hits = Counter(label for a, b in zip(true, said, strict=True) for label in a & b)
    return tuple(
        ClassScore(
            label=label, precision=hits[label] / max(1, claimed[label]), recall=hits[label] / max(1, held[label]),
            f1=2 * hits[label] / max(1, held[label] + claimed[label]), support=held[label],
        )
        for label in labels
    )  # fmt: skip


def _confusion(
    true: Sequence[set[str]], said: Sequence[set[str]], labels: Sequence[str]
) -> tuple[tuple[int, ...], ...]:  # fmt: skip
    counts = Counter[tuple[str, str]]()
    for a, b in zip(true, said, strict=True):
        counts.update((label, label) for label in a & b)
        counts.update((missed, wrong) for missed in a - b for wrong in b - a)
    return tuple(tuple(counts[row, column] for column in labels) for row in labels)


def _few(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - 8} more" if len(labels) > 8 else ""
    return ", ".join(labels[:8]) + more
