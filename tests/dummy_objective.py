"""An objective of another distribution: focal loss (Lin et al., arXiv 1708.02002), which minds easy rows less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast

from pydantic import Field

from graft.schemas.students import ObjectiveSettings
from graft.students.objectives.base import Objective
from graft.students.rows import TrainRow

if TYPE_CHECKING:
    from torch import Tensor

    from graft.students.classifier import TextClassifier


class FocalSettings(ObjectiveSettings):
    """Focusing parameter of the loss."""

    kind: Literal["focal"] = "focal"
    gamma: float = Field(default=2.0, ge=0, description="0 is cross-entropy")


class Focal(Objective):
    """-(1 - p)^gamma * log p, where p is the probability of a row's label."""

    Settings = FocalSettings
    heads = ("single",)

    def loss(self, model: TextClassifier, batch: Sequence[TrainRow], step: int) -> Tensor:
        """The mean over a batch."""
        import torch

        logs = model([row.text for row in batch]).float().log_softmax(-1)
        places = torch.tensor([self.head.labels.index(row.label) for row in batch], device=logs.device)
        own = logs.gather(1, places.unsqueeze(1)).squeeze(1)
        return -((1 - own.exp()) ** cast(FocalSettings, self.own).gamma * own).mean()


KIND = Focal
