"""The contract of a head, and the values that students answer with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from graft.data.scores.answers import VALIDATION
from graft.schemas.errors import GraftError
from graft.schemas.students import Evaluation, StudentSettings
from graft.students.evaluate import Probabilities, Rows, Slices
from graft.students.rows import Given, TrainRow

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray
    from torch import Tensor

Say = Callable[[str], None]
Said = tuple[list[str], list[list[float]]]
"""Predicted labels, or label cells, and the probabilities of each text in the labels' order."""


@dataclass(frozen=True)
class Rule:
    """How logits become an answer.

    Probabilities are those of the logits divided by `temperature`. Where there is a threshold, `positive` is said where
    its probability before that division is above it, else the best of the others; where none, the most probable label.
    """

    temperature: float = 1.0
    threshold: float | None = None
    positive: str = ""

    @classmethod
    def of(cls, evaluations: Iterable[Evaluation]) -> Rule:
        """What the student's evaluations found, the held-out ones first; the plain rule where they found nothing."""
        ordered = sorted(evaluations, key=lambda judged: (judged.test_file == VALIDATION, judged.temperature is None))
        warm = next((judged.temperature for judged in ordered if judged.temperature is not None), 1.0)
        cut = next((judged for judged in ordered if judged.threshold is not None and judged.positive), None)
        return cls(warm, cut.threshold, cut.positive) if cut else cls(warm)


class Answer(NamedTuple):
    """A text's label, that label's probability, and all probabilities in the order of the student's labels."""

    label: str
    probability: float
    probabilities: list[float]


class Several(NamedTuple):
    """A text's labels, perhaps none, and each label's own probability in the order of the student's labels."""

    labels: tuple[str, ...]
    probabilities: list[float]


class Head(ABC):
    """How logits of shape (texts, labels) are read.

    Attributes:
        name: for objectives, which say the heads that they can train
        noun: completes "a student of …"
        several: whether a text may have several labels: a label is then a cell such as `a|b`
        soft_labels: whether soft labels decide which labels a row has
        tuned_on_validation: whether validation rows choose thresholds, and so are a part of what a student is
        guessing: the loss of a model that finds every label alike, in nats
    """

    name: ClassVar[str]
    noun: ClassVar[str]
    several: ClassVar[bool] = False
    soft_labels: ClassVar[bool] = False
    tuned_on_validation: ClassVar[bool] = False
    guessing: float

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)

    @abstractmethod
    def check(self, settings: StudentSettings) -> None:
        """Refuse settings and labels that do not go with this head. Raises GraftError."""

    @abstractmethod
    def objective(self, settings: StudentSettings) -> str:
        """The kind of objective that trains it if the settings name none."""

    # ---- targets

    @abstractmethod
    def training_rows(self, rows: Iterable[Given]) -> list[TrainRow]:
        """Rows as they are learned from, each once."""

    @abstractmethod
    def validation_rows(self, rows: Iterable[Given]) -> list[TrainRow]:
        """Rows as they are judged."""

    @abstractmethod
    def test_rows(self, rows: Rows, test_file: str, say: Say) -> Rows:
        """Held-out rows as they are judged; says which labels they do not test. Raises GraftError."""

    @abstractmethod
    def true(self, row: TrainRow) -> str:
        """The label, or cell, that a prediction is compared with."""

    # ---- predictions

    @abstractmethod
    def activate(self, logits: Tensor) -> Tensor:
        """Torch logits to probabilities, both of shape (texts, labels)."""

    @abstractmethod
    def said(self, shares: Probabilities) -> list[str]:
        """The label, or cell, that each text's probabilities say."""

    def many(self, shares: Probabilities) -> list[tuple[str, ...]]:
        """The labels of each text. Raises GraftError if the head gives exactly one."""
        raise GraftError("this student gives exactly one label a text", where="predict_many", fix="use predict")

    @abstractmethod
    def shares(self, logits: NDArray[float64]) -> NDArray[float64]:
        """Numpy logits to probabilities, both of shape (texts, labels)."""

    @abstractmethod
    def answers(self, logits: NDArray[float64], rule: Rule) -> list[Answer]:
        """One answer a text; `rule` plays a part only if texts have one label."""

    def tuned(self, shares: Probabilities, rows: Sequence[TrainRow]) -> Head:
        """The head with thresholds chosen on these rows and their probabilities. One without thresholds stays."""
        return self

    def facts(self) -> dict[str, Any]:
        """What a student's JSON holds of it beside the labels."""
        return {}

    # ---- figures

    @abstractmethod
    def evaluate(
        self, said: Said, rows: Rows, *, student_id: str, test_file: str,
        validation: tuple[Probabilities, Sequence[str]] | None = None,
    ) -> Evaluation:  # fmt: skip
        """What was said of held-out (text, label) rows against their labels.

        `validation` is what the student gives the validation rows, and their labels: what is fitted is fitted on them.
        """

    @abstractmethod
    def weakest(self, said: Said, rows: Rows) -> Slices:
        """Where a student goes wrong."""

    @abstractmethod
    def write_reliability(self, said: Said, rows: Rows, folder: Path, title: str) -> None:
        """Write `reliability.json` and `reliability.png` into the folder."""
