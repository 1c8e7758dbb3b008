"""Binary cross-entropy of a sigmoid for each label: the usual loss for several labels per text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from graft.schemas.students import ObjectiveSettings, StudentSettings
from graft.students.heads import Head
from graft.students.objectives.base import Objective
from graft.students.rows import TrainRow

if TYPE_CHECKING:
    from torch import Tensor

    from graft.students.classifier import TextClassifier


class BinaryCrossEntropySettings(ObjectiveSettings):
    """None of its own."""

    kind: Literal["binary_cross_entropy"] = "binary_cross_entropy"


class BinaryCrossEntropy(Objective):
    """The mean over rows and labels, every label of a row being true.

    Balanced weights (`class_weights`) count a true label c (n - n_c) / n_c times, as much as all rows without it; once
    if every row has it, or none.
    """

    Settings = BinaryCrossEntropySettings
    heads = ("multi_label",)

    def __init__(self, head: Head, settings: StudentSettings, rows: Sequence[TrainRow]) -> None:
        super().__init__(head, settings, rows)
        self._places = {label: place for place, label in enumerate(head.labels)}
        self._weights: list[float] | None = None
        if settings.class_weights == "balanced":
            held = Counter(label for row in rows for label in row.every)
            self._weights = [
                (len(rows) - held[label]) / held[label] if 0 < held[label] < len(rows) else 1.0
                for label in head.labels
            ]  # fmt: skip

    def loss(self, model: TextClassifier, batch: Sequence[TrainRow], step: int) -> Tensor:
        """The mean over a batch, in nats."""
        return self._of(model([row.text for row in batch]).float(), batch)

    def _of(self, logits: Tensor, batch: Sequence[TrainRow]) -> Tensor:
        """From logits of shape (rows, labels) in 32 bits."""
        import torch
        from torch.nn import functional

        true = torch.zeros(len(batch), len(self._places))
        for place, row in enumerate(batch):
            true[place, [self._places[label] for label in row.every]] = 1.0
        weights = None if self._weights is None else torch.tensor(self._weights).to(logits.device)
        return functional.binary_cross_entropy_with_logits(logits, true.to(logits.device), pos_weight=weights)

    def guessing(self, rows: Sequence[TrainRow]) -> float:
        """The loss of equal logits, at least that of plain labels."""
        import torch

        if self._weights is None:
            return self.head.guessing
        return max(self.head.guessing, float(self._of(torch.zeros(len(rows), len(self._places)), rows)))


KIND = BinaryCrossEntropy
