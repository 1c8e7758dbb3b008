"""Distillation (Hinton et al., arXiv 1503.02531): cross-entropy of the labels mixed with the KL of soft labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from graft.schemas.errors import GraftError
from graft.schemas.students import ObjectiveSettings, StudentSettings
from graft.students.heads import Head
from graft.students.objectives.cross_entropy import CrossEntropy
from graft.students.rows import TrainRow

if TYPE_CHECKING:
    from torch import Tensor


class DistillationSettings(ObjectiveSettings):
    """None of its own: `soft_weight` and `temperature` are the student's."""

    kind: Literal["distillation"] = "distillation"


class Distillation(CrossEntropy):
    """(1 - w) * cross-entropy of the labels + w * T^2 * KL of the soft labels, in nats.

    w is `soft_weight`. Both sides of the KL are softened by T, the `temperature`; a row without a soft label has all of
    its probability on its label.
    """

    Settings = DistillationSettings
    soft_labels = True

    @classmethod
    def check(cls, head: Head, settings: StudentSettings) -> None:
        """As every objective's; `soft_weight` must be above 0."""
        super().check(head, settings)
        if not settings.soft_weight:
            raise GraftError(
                "distillation gives soft labels no weight", where="student.soft_weight",
                fix="set it above 0, such as 0.5",
            )  # fmt: skip

    def _of(self, logits: Tensor, batch: Sequence[TrainRow]) -> Tensor:
        from torch.nn import functional

        share, heat = self.settings.soft_weight, self.settings.temperature
        hard = super()._of(logits, batch)
        log_shares = functional.log_softmax(logits / heat, -1)
        apart = functional.kl_div(log_shares, self._targets(batch).to(logits.device), reduction="batchmean")
        return (1 - share) * hard + share * heat**2 * apart

    def _targets(self, batch: Sequence[TrainRow]) -> Tensor:
        """Soft labels, softened, shape (rows, labels)."""
        import torch

        given = torch.zeros(len(batch), len(self._places))
        for place, row in enumerate(batch):
            if row.soft is None:
                given[place, self._places[row.label]] = 1.0
            else:
                given[place] = torch.tensor(row.soft)
        return (given.log() / self.settings.temperature).softmax(-1)

    def guessing(self, rows: Sequence[TrainRow]) -> float:
        """The loss of equal logits, at least that of the labels alone."""
        import torch

        return max(self.head.guessing, float(self._of(torch.zeros(len(rows), len(self._places)), rows)))


KIND = Distillation
