"""Several labels a text, or none: a sigmoid for each label, with a threshold of its own.

A label cell names the labels: `a|b` is two, an empty cell none. Probabilities are independent of each other, one list a
row in the order of the labels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.data.scores.answers import BETWEEN
from graft.schemas.base import content_hash
from graft.schemas.errors import GraftError
from graft.schemas.students import ClassScore, Evaluation, StudentSettings
from graft.students.evaluate import Probabilities, Rows, Slice, Slices, few, worst_slices, write_bins
from graft.students.heads.base import Answer, Head, Predicted, Rule, Say
from graft.students.rows import Given, TrainRow, as_rows

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray
    from torch import Tensor

    from graft.data.scores.maths import Bin

FACT = "multi_label"
"""Key in classifier.json and labels.json of such a student: each label's threshold."""

USUAL = 0.5
"""The threshold of a label that the validation rows do not decide."""


class MultiLabel(Head):
    """The head of a student with `multi_label`.

    Args:
        labels: in the order of the logits
        thresholds: one per label; all 0.5 if omitted
        least: the probability from which a soft label counts as one of a row's labels
    """

    name, noun = "multi_label", "several labels a text"
    several = soft_labels = tuned_on_validation = True
    guessing = math.log(2)

    def __init__(self, labels: Sequence[str], thresholds: Sequence[float] = (), least: float = 1.0) -> None:
        super().__init__(labels)
        self.thresholds = tuple(thresholds) or (USUAL,) * len(self.labels)
        self._least = least

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> MultiLabel | None:
        """The head of a student's JSON; None if that student gives exactly one label per text."""
        given = facts.get(FACT)
        if given is None:
            return None
        try:
            return cls(facts["labels"], [float(given[label]) for label in facts["labels"]])
        except (KeyError, TypeError, ValueError):
            raise GraftError(
                f"{FACT} does not hold a threshold for each label", where="the student's JSON", fix="train it again"
            ) from None

    def facts(self) -> dict[str, Any]:
        """The thresholds."""
        return {FACT: dict(zip(self.labels, self.thresholds, strict=True))}

    def check(self, settings: StudentSettings) -> None:
        """A soft label is one distribution over all labels: of two true ones each has a half at most, so it is no
        target for sigmoids. It decides which labels a row has instead.
        """
        if settings.soft_weight:
            raise GraftError(
                "soft labels cannot be learned where a text has several labels: they sum to 1 over all of them",
                where="student.soft_weight",
                fix="set it to 0: multi_label reads which labels a row has from the soft ones",
            )  # fmt: skip
        if strange := [label for label in self.labels if BETWEEN in label]:
            raise GraftError(
                f"the label {strange[0]!r} holds a {BETWEEN!r}, which stands between labels", where="task.labels",
                fix="rename it, or leave student.multi_label out",
            )  # fmt: skip

    def objective(self, settings: StudentSettings) -> str:
        """A sigmoid for each label."""
        return "binary_cross_entropy"

    # ---- targets

    def training_rows(self, rows: Iterable[Given]) -> list[TrainRow]:
        """Every text once, in the order of their first places, with all labels that its rows have.

        A row has its own labels and those whose soft label is at least `least`. `label` is the first of its own in the
        order of the labels; soft labels are used up. Raises GraftError for a label that is not among them.
        """
        own, found = dict[str, set[str]](), dict[str, set[str]]()
        for row in as_rows(rows):
            own.setdefault(row.text, set()).update((row.label, *row.labels))
            held = found.setdefault(row.text, set())
            shares = row.soft or (0.0,) * len(self.labels)
            held.update(label for label, share in zip(self.labels, shares, strict=True) if share >= self._least)
        if unknown := sorted({label for some in own.values() for label in some} - set(self.labels)):
            raise GraftError(
                f"training rows with labels that the dataset lacks: {few(unknown)}", where="training rows",
                fix=f"the dataset has {few(self.labels)}",
            )  # fmt: skip
        return [
            TrainRow(text, next(label for label in self.labels if label in own[text]),
                     labels=tuple(label for label in self.labels if label in own[text] | found[text]))
            for text in own
        ]  # fmt: skip

    def validation_rows(self, rows: Iterable[Given]) -> list[TrainRow]:
        """As training rows."""
        return self.training_rows(rows)

    def test_rows(self, rows: Rows, test_file: str, say: Say) -> Rows:
        """The rows with their cells in order, as `cell_of` writes them; reports labels that the file does not test.

        Raises GraftError for an empty file, or a cell with a label that the student cannot predict.
        """
        if not rows:
            raise GraftError("there is no row to evaluate on", where=test_file, fix="name a labelled file with --test")
        read, held = [], set[str]()
        for number, (text, cell) in enumerate(rows, start=1):
            try:
                some = labels_in(cell, self.labels)
            except GraftError as error:
                raise GraftError(f"row {number}: {error.what}", where=test_file, fix=error.fix) from None
            held.update(some)
            read.append((text, cell_of(some)))
        if not held:
            raise GraftError(
                "no row of the test file has a label", where=test_file, fix="label it, or name another file"
            )
        if untested := [label for label in self.labels if label not in held]:
            say(f"{test_file} has no rows of {few(untested)}: macro-F1 is over the other {len(held)} labels")
        return read

    def true(self, row: TrainRow) -> str:
        """The cell of all its labels."""
        return cell_of(row.every)

    # ---- predictions

    def activate(self, logits: Tensor) -> Tensor:
        """Sigmoids."""
        return logits.sigmoid()

    def shares(self, logits: NDArray[float64]) -> NDArray[float64]:
        """Sigmoids."""
        import numpy

        shares: NDArray[float64] = numpy.exp(-numpy.logaddexp(0.0, -logits))
        return shares

    def many(self, shares: Probabilities) -> list[tuple[str, ...]]:
        """The labels of each row whose probability is above their threshold, in order."""
        return [
            tuple(label for label, share, least in zip(self.labels, row, self.thresholds, strict=True) if share > least)
            for row in shares
        ]

    def predicted(self, shares: Probabilities) -> list[str]:
        """The cells of these labels."""
        return [cell_of(labels) for labels in self.many(shares)]

    def answers(self, logits: NDArray[float64], rule: Rule) -> list[Answer]:
        """A cell, and the probability of exactly its labels, taken as independent."""
        shares = self.shares(logits).tolist()
        found = []
        for labels, row in zip(self.many(shares), shares, strict=True):
            held = zip(self.labels, row, strict=True)
            sure = math.prod(share if label in labels else 1 - share for label, share in held)
            found.append(Answer(cell_of(labels), sure, row))
        return found

    def tuned(self, shares: Probabilities, rows: Sequence[TrainRow]) -> MultiLabel:
        """For each label the threshold with the largest F1 on these rows; 0.5 if all rows or none have it."""
        import numpy as np

        from graft.data.scores.maths import as_matrix
        from graft.students.calibrate import choose_threshold

        if not rows:
            return MultiLabel(self.labels, least=self._least)
        matrix = as_matrix(shares, len(rows), len(self.labels))
        chosen = []
        for place, label in enumerate(self.labels):
            cut = choose_threshold(matrix[:, place], np.array([label in row.every for row in rows]))
            chosen.append(USUAL if cut is None else max(0.0, cut))
        return MultiLabel(self.labels, chosen, self._least)

    # ---- figures

    def evaluate(
        self, predicted: Predicted, rows: Rows, *, student_id: str, test_file: str,
        validation: tuple[Probabilities, Sequence[str]] | None = None,
    ) -> Evaluation:  # fmt: skip
        """Accuracy, its interval and `majority` (the file's commonest set) are of whole sets of labels.

        Macro-F1 is over the labels that the file has. `confusion` counts on its diagonal the rows whose label was
        found, beside it the rows where one label was missed and the other wrongly predicted. `ece` is of every label's
        probability on every row. Nothing is fitted on `validation`. Errors as `test_rows`; ValueError for a missing
        prediction.
        """
        from graft.data.scores.maths import accuracy_interval, calibration_error

        true = [set(labels_in(cell, self.labels)) for _, cell in self.test_rows(rows, test_file, lambda text: None)]
        guessed = [set(labels_in(cell, self.labels)) for cell in predicted[0]]
        right = sum(a == b for a, b in zip(true, guessed, strict=True))
        classes, count = self._scores(true, guessed), len(rows)
        seen = [one.f1 for one in classes if one.support]
        hits = sum(len(a & b) for a, b in zip(true, guessed, strict=True))
        return Evaluation(
            student_id=student_id, test_file=test_file, test_hash=content_hash(rows), rows=count,
            accuracy=right / count, macro_f1=sum(seen) / len(seen),
            micro_f1=2 * hits / sum(map(len, (*true, *guessed))), classes=classes,
            confusion=self._confusion(true, guessed), labels=self.labels, interval=accuracy_interval(right, count),
            ece=calibration_error(self._bins(true, predicted[1])) if predicted[1] else None,
            majority=max(Counter(map(frozenset, true)).values()) / count,
        )  # fmt: skip

    def weakest(self, predicted: Predicted, rows: Rows) -> Slices:
        """The three labels and the text lengths with the smallest share of rows whose whole set is right."""
        by_length = worst_slices(predicted[0], rows)
        shares = []
        judged = [
            (set(labels_in(cell, self.labels)), guess == cell)
            for guess, (_, cell) in zip(predicted[0], rows, strict=True)
        ]
        for label in self.labels:
            if inside := [right for held, right in judged if label in held]:
                shares.append(Slice(label, len(inside), sum(inside) / len(inside)))
        shares.sort(key=lambda one: (one.accuracy, -one.rows, one.name))
        return replace(by_length, labels=tuple(shares[:3]))

    def write_reliability(self, predicted: Predicted, rows: Rows, folder: Path, title: str) -> None:
        """Of every label's probability on every row."""
        true = [set(labels_in(cell, self.labels)) for _, cell in rows]
        write_bins(self._bins(true, predicted[1]), folder, title, "probability of a label")

    def _bins(self, true: Sequence[set[str]], probabilities: Probabilities) -> tuple[Bin, ...]:
        """Confidence of each label on each row, and the frequency with which the row had it."""
        import numpy as np

        from graft.data.scores.maths import as_matrix, reliability

        matrix = as_matrix(probabilities, len(true), len(self.labels))
        return reliability(matrix.reshape(-1, 1), np.array([label in held for held in true for label in self.labels]))

    def _scores(self, true: Sequence[set[str]], predicted: Sequence[set[str]]) -> tuple[ClassScore, ...]:
        """Each label on its own; 0 instead of a division by zero."""
        held = Counter(label for some in true for label in some)
        claimed = Counter(label for some in predicted for label in some)
        hits = Counter(label for a, b in zip(true, predicted, strict=True) for label in a & b)
        return tuple(
            ClassScore(
                label=label, precision=hits[label] / max(1, claimed[label]), recall=hits[label] / max(1, held[label]),
                f1=2 * hits[label] / max(1, held[label] + claimed[label]), support=held[label],
            )
            for label in self.labels
        )  # fmt: skip

    def _confusion(self, true: Sequence[set[str]], predicted: Sequence[set[str]]) -> tuple[tuple[int, ...], ...]:
        counts = Counter[tuple[str, str]]()
        for a, b in zip(true, predicted, strict=True):
            counts.update((label, label) for label in a & b)
            counts.update((missed, wrong) for missed in a - b for wrong in b - a)
        return tuple(tuple(counts[row, column] for column in self.labels) for row in self.labels)


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
            f"the label cell {cell[:120]!r} holds an unknown label: {shown}", where="labels",
            fix=f"write labels with {BETWEEN!r} between them, none as an empty cell; known are {few(known)}",
        )  # fmt: skip
    return tuple(label for label in known if label in pieces)


def cell_of(labels: Iterable[str]) -> str:
    """The cell that `labels_in` reads."""
    return BETWEEN.join(labels)
