"""Cross-entropy of each row's label, by default with equal class weights: the usual loss for one label per text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from graft.schemas.students import ObjectiveSettings, StudentSettings
from graft.students.heads import Head
from graft.students.objectives.base import Objective
from graft.students.rows import TrainRow

if TYPE_CHECKING:
    from torch import Tensor

    from graft.students.classifier import TextClassifier


class CrossEntropySettings(ObjectiveSettings):
    """None of its own."""

    kind: Literal["cross_entropy"] = "cross_entropy"


class CrossEntropy(Objective):
    """Balanced weights (`class_weights`) count a row of class c n / (k * n_c) times: n rows, k classes with rows."""

    Settings: ClassVar[type[ObjectiveSettings]] = CrossEntropySettings
    heads = ("single",)

    def __init__(self, head: Head, settings: StudentSettings, rows: Sequence[TrainRow]) -> None:
        super().__init__(head, settings, rows)
        self._places = {label: place for place, label in enumerate(head.labels)}
        self._weights: list[float] | None = None
        if settings.class_weights == "balanced":
            counts = Counter(row.label for row in rows)
            self._weights = [
                len(rows) / (len(counts) * counts[label]) if counts[label] else 0.0 for label in head.labels
            ]

    def loss(self, model: TextClassifier, batch: Sequence[TrainRow], step: int) -> Tensor:
        """The mean over a batch, in nats."""
        return self._of(model([row.text for row in batch]).float(), batch)

    def _of(self, logits: Tensor, batch: Sequence[TrainRow]) -> Tensor:
        """From logits of shape (rows, labels) in 32 bits."""
        import torch
        from torch.nn import functional

        wanted = torch.tensor([self._places[row.label] for row in batch], device=logits.device)
        if self._weights is None:
            return functional.cross_entropy(logits, wanted)
        each = functional.cross_entropy(logits, wanted, reduction="none")
        return (each * torch.tensor(self._weights).to(logits.device)[wanted]).mean()


KIND = CrossEntropy
