"""The contract of a stage: its training data, and one training of the previous stage's model.

A module of this folder holds its class as `KIND`; another distribution names its class in the entry-point group
`graft.stages`. The modules are imported to read recipes: load torch inside the functions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from graft.schemas.students import StageSettings, StudentSettings
from graft.students.instruct.base import CausalBase
from graft.students.instruct.data import Encoded, Pair

if TYPE_CHECKING:
    from graft.students.instruct.runner import Ended


@dataclass(frozen=True)
class Course:
    """Inputs that all stages of one student share: the base model, the training data, and the student's settings."""

    base: CausalBase
    tokenizer: Any
    rows: Sequence[Encoded]
    pairs: Sequence[Pair]
    settings: StudentSettings
    say: Callable[[str], None]


class Stage(ABC):
    """One training.

    Args:
        own: the stage's own settings

    Attributes:
        Settings: the pydantic class of the own settings, with their `kind` as a Literal
        pairs: whether it learns from pairs of a chosen and a rejected response
        first: whether it can start from the base model
    """

    Settings: ClassVar[type[StageSettings]]
    pairs: ClassVar[bool] = False
    first: ClassVar[bool] = True

    def __init__(self, own: StageSettings) -> None:
        self.own = own

    @abstractmethod
    def nothing(self, course: Course) -> str:
        """Reason for leaving out this stage, for people, if it has nothing to learn from; else empty."""

    @abstractmethod
    def train(self, course: Course, start: Path | None, folder: Path) -> Ended:
        """Train with checkpoints in `folder`, through `runner.train`, whose errors it raises.

        Args:
            course: the inputs
            start: the folder of the previous stage's model (an adapter, or all weights); None: the base model
            folder: the stage's own, for checkpoints
        """
