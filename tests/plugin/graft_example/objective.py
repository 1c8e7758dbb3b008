"""An objective: cross-entropy with label smoothing (Szegedy et al., arXiv 1512.00567, section 7)."""

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


class SmoothedSettings(ObjectiveSettings):
    """The block `student.objective` in a recipe."""

    kind: Literal["smoothed"] = "smoothed"
    share: float = Field(default=0.1, ge=0, lt=1, description="probability that is spread evenly over all labels")


class Smoothed(Objective):
    """For students of one label per text."""

    Settings, heads = SmoothedSettings, ("single",)

    def loss(self, model: TextClassifier, batch: Sequence[TrainRow], step: int) -> Tensor:
        """The mean loss of a batch, in nats."""
        import torch

        logits = model([row.text for row in batch]).float()  # (rows, labels)
        labels = torch.tensor([self.head.labels.index(row.label) for row in batch], device=logits.device)
        share = cast(SmoothedSettings, self.own).share
        return torch.nn.functional.cross_entropy(logits, labels, label_smoothing=share)


KIND = Smoothed
