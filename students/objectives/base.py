"""The contract of an objective: a loss, its own settings, and its requirements on a student.

A module of this folder holds its class as `KIND`; another distribution names its class in the entry-point group
`graft.objectives`. The modules are imported to read recipes: load torch inside the functions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from graft.schemas.errors import GraftError
from graft.schemas.kinds import OBJECTIVES
from graft.schemas.students import ObjectiveSettings, StudentSettings
from graft.students.heads import Head
from graft.students.rows import TrainRow

if TYPE_CHECKING:
    from torch import Tensor

    from graft.students.classifier import TextClassifier


class Objective(ABC):
    """One training's loss.

    Args:
        head: whether texts have one label or several, and which labels there are
        settings: the student's; `self.own` holds the objective's own part of them
        rows: all training rows, such as for class weights

    Attributes:
        Settings: the pydantic class of the objective's own settings, with its `kind` as a Literal
        heads: names of the heads that it can train
        soft_labels: whether it learns from soft labels, which are then read out of the lake
    """

    Settings: ClassVar[type[ObjectiveSettings]]
    heads: ClassVar[tuple[str, ...]] = ("single", "multi_label")
    soft_labels: ClassVar[bool] = False

    def __init__(self, head: Head, settings: StudentSettings, rows: Sequence[TrainRow]) -> None:
        self.head, self.settings = head, settings
        self.own = settings.objective or self.Settings.model_validate({})

    @classmethod
    def check(cls, head: Head, settings: StudentSettings) -> None:
        """Refuse settings that do not fit this objective, before any training. Raises GraftError."""
        if head.name not in cls.heads:
            raise GraftError(
                f"{cls._kind()} cannot train a student of {head.noun}", where="student.objective",
                fix=f"choose another objective, of {', '.join(OBJECTIVES.names)}",
            )  # fmt: skip
        if settings.soft_weight and not cls.soft_labels:
            raise GraftError(
                f"{cls._kind()} learns no soft labels", where="student.soft_weight",
                fix="set it to 0, or leave student.objective out",
            )  # fmt: skip

    @abstractmethod
    def loss(self, model: TextClassifier, batch: Sequence[TrainRow], step: int) -> Tensor:
        """The mean loss of a batch, to minimise.

        Args:
            model: `model(texts)` gives logits of shape (rows, labels), `model.embed(texts)` unit vectors; on CUDA both
                compute in bfloat16, so convert their results to 32 bits (`.float()`)
            batch: at least one row, at most the settings' batch size
            step: optimiser steps made before this one

        Returns:
            A scalar, in nats if it is a likelihood. Validation rows are judged by the same loss.
        """

    def guessing(self, rows: Sequence[TrainRow]) -> float:
        """The loss of a model without knowledge of these rows. A training that ends far above it has diverged."""
        return self.head.guessing

    def after_pass(self) -> str:
        """A sentence for people at the end of each pass over the training rows; empty: nothing to tell."""
        return ""

    def state(self) -> dict[str, Any]:
        """Plain values that the objective has gathered in training, for a checkpoint."""
        return {}

    def resume(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most objectives gather nothing
        """Go on from the values of a checkpoint."""

    @classmethod
    def _kind(cls) -> str:
        return str(cls.Settings.model_fields["kind"].default)


def objective_of(head: Head, settings: StudentSettings) -> type[Objective]:
    """The objective that the settings name, else the head's usual one; checked. Raises NotFound and GraftError."""
    found: type[Objective] = OBJECTIVES.get(settings.objective.kind if settings.objective else head.objective(settings))
    found.check(head, settings)
    return found
