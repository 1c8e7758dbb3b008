"""Exactly one label a text: a softmax over the labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graft.schemas.students import Evaluation, StudentSettings
from graft.students.evaluate import (
    Probabilities,
    Rows,
    Slices,
    check_test_rows,
    evaluate,
    worst_slices,
    write_reliability,
)
from graft.students.heads.base import Answer, Head, Predicted, Rule, Say
from graft.students.rows import Given, TrainRow, as_rows, unique

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray
    from torch import Tensor


class Single(Head):
    """The head of most students."""

    name, noun = "single", "one label a text"

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__(labels)
        self.guessing = math.log(len(self.labels))

    def check(self, settings: StudentSettings) -> None:
        """Every setting goes with it."""

    def objective(self, settings: StudentSettings) -> str:
        """Cross-entropy, mixed with soft labels if they have a weight."""
        return "distillation" if settings.soft_weight else "cross_entropy"

    def training_rows(self, rows: Iterable[Given]) -> list[TrainRow]:
        """Each text and label once."""
        return unique(rows)

    def validation_rows(self, rows: Iterable[Given]) -> list[TrainRow]:
        """As they came."""
        return as_rows(rows)

    def test_rows(self, rows: Rows, test_file: str, say: Say) -> Rows:
        """As they came, checked as `check_test_rows` does."""
        check_test_rows(rows, self.labels, test_file, say)
        return rows

    def true(self, row: TrainRow) -> str:
        """Its label."""
        return row.label

    def activate(self, logits: Tensor) -> Tensor:
        """Softmax."""
        return logits.softmax(-1)

    def predicted(self, shares: Probabilities) -> list[str]:
        """The most probable labels."""
        return [self.labels[max(range(len(row)), key=row.__getitem__)] for row in shares]

    def shares(self, logits: NDArray[float64]) -> NDArray[float64]:
        """Softmax."""
        import numpy

        powers: NDArray[float64] = numpy.exp(logits - logits.max(axis=1, keepdims=True))
        shares: NDArray[float64] = powers / powers.sum(axis=1, keepdims=True)
        return shares

    def answers(self, logits: NDArray[float64], rule: Rule) -> list[Answer]:
        """By the rule."""
        import numpy

        if not len(logits):
            return []
        shares = self.shares(logits / rule.temperature)
        chosen = shares.argmax(axis=1)
        if rule.threshold is not None and rule.positive in self.labels and len(self.labels) > 1:
            place = self.labels.index(rule.positive)
            others = shares.copy()
            others[:, place] = -1.0
            chosen = numpy.where(self.shares(logits)[:, place] > rule.threshold, place, others.argmax(axis=1))
        return [
            Answer(self.labels[at], float(row[at]), [float(share) for share in row])
            for at, row in zip(chosen.tolist(), shares, strict=True)
        ]

    def evaluate(
        self, predicted: Predicted, rows: Rows, *, student_id: str, test_file: str,
        validation: tuple[Probabilities, Sequence[str]] | None = None,
    ) -> Evaluation:  # fmt: skip
        """As `students.evaluate.evaluate`."""
        return evaluate(
            predicted[0], rows, self.labels, student_id=student_id, test_file=test_file, probabilities=predicted[1],
            validation=validation,
        )  # fmt: skip

    def weakest(self, predicted: Predicted, rows: Rows) -> Slices:
        """Labels, lengths and sure mistakes."""
        return worst_slices(predicted[0], rows, predicted[1])

    def write_reliability(self, predicted: Predicted, rows: Rows, folder: Path, title: str) -> None:
        """Of the predicted label's probability."""
        write_reliability(predicted[0], rows, predicted[1], folder, title)
