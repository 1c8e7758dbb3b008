"""What a classifier's training minimises: hard labels, soft labels, or both; or several labels a row. Loads torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graft.schemas.students import StudentSettings
from graft.students.multilabel import check_settings
from graft.students.rows import TrainRow


class Loss:
    """(1 - w) * cross-entropy of the labels + w * T^2 * KL of the soft labels, in nats; w is 0 by default.

    Both sides of the KL are softened by the temperature T; a row without a soft label has all of its probability on its
    label. Balanced weights count a row of class c in the cross-entropy n / (k * n_c) times: n rows, k classes that have
    rows.

    With `settings.multi_label` it is the mean over rows and labels of the binary cross-entropy of each label's sigmoid,
    every label of a row being true. Balanced weights then count a true label c (n - n_c) / n_c times, as much as all
    rows without it; once where every row has it, or none. Soft weights are refused there: GraftError.
    """

    def __init__(self, rows: Sequence[TrainRow], labels: Sequence[str], settings: StudentSettings) -> None:
        self._places = {label: place for place, label in enumerate(labels)}
        self._share, self._heat = settings.soft_weight, settings.temperature
        self._weights: Tensor | None = None
        self._many = settings.multi_label is not None
        if self._many:
            check_settings(settings, labels)
            self._weights = self._each_label(rows) if settings.class_weights == "balanced" else None
        elif settings.class_weights == "balanced":
            counts = Counter(row.label for row in rows)
            weights = [len(rows) / (len(counts) * counts[label]) if counts[label] else 0.0 for label in labels]
            self._weights = torch.tensor(weights)

    def __call__(self, logits: Tensor, batch: Sequence[TrainRow]) -> Tensor:
        """The mean over a batch, from logits of shape (rows, labels) in 32 bits."""
        if self._many:
            weights = None if self._weights is None else self._weights.to(logits.device)
            true = self._true(batch).to(logits.device)
            return nn.functional.binary_cross_entropy_with_logits(logits, true, pos_weight=weights)
        wanted = torch.tensor([self._places[row.label] for row in batch], device=logits.device)
        if self._weights is None:
            hard = nn.functional.cross_entropy(logits, wanted)
        else:
            each = nn.functional.cross_entropy(logits, wanted, reduction="none")
            hard = (each * self._weights.to(logits.device)[wanted]).mean()
        if not self._share:
            return hard
        said = nn.functional.log_softmax(logits / self._heat, -1)
        apart = nn.functional.kl_div(said, self._targets(batch).to(logits.device), reduction="batchmean")
        return (1 - self._share) * hard + self._share * self._heat**2 * apart

    def _true(self, batch: Sequence[TrainRow]) -> Tensor:
        """1 for each label that a row has, else 0, shape (rows, labels)."""
        true = torch.zeros(len(batch), len(self._places))
        for place, row in enumerate(batch):
            true[place, [self._places[label] for label in row.every]] = 1.0
        return true

    def _each_label(self, rows: Sequence[TrainRow]) -> Tensor:
        """What a true label counts where labels are balanced, shape (labels,)."""
        held = Counter(label for row in rows for label in row.every)
        return torch.tensor([
            (len(rows) - held[label]) / held[label] if 0 < held[label] < len(rows) else 1.0 for label in self._places
        ])  # fmt: skip

    def _targets(self, batch: Sequence[TrainRow]) -> Tensor:
        """Soft labels, softened, shape (rows, labels)."""
        given = torch.zeros(len(batch), len(self._places))
        for place, row in enumerate(batch):
            if row.soft is None:
                given[place, self._places[row.label]] = 1.0
            else:
                given[place] = torch.tensor(row.soft)
        return (given.log() / self._heat).softmax(-1)

    def guessing(self, rows: Sequence[TrainRow]) -> float:
        """The loss of guessing, at least that of the labels alone."""
        level = math.log(2 if self._many else len(self._places))
        if not self._share and not (self._many and self._weights is not None):
            return level
        return max(level, float(self(torch.zeros(len(rows), len(self._places)), rows)))
