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
Predicted = tuple[list[str], list[list[float]]]
"""Predicted labels, or label cells, and the probabilities of each text in the labels' order."""


@dataclass(frozen=True)
class Rule:
    """Rule from logits to an answer.

    Probabilities are those of the logits divided by `temperature`. With a threshold the answer is `positive` if its
    probability before that division is above it, else the best of the others; without, the most probable label.
    """

    temperature: float = 1.0
    threshold: float | None = None
    positive: str = ""

    @classmethod
    def of(cls, evaluations: Iterable[Evaluation]) -> Rule:
        """The rule from the student's evaluations, held-out ones first; the plain rule if they found none."""
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
    """Reading of logits of shape (texts, labels).

    Attributes:
        name: for objectives, which list the heads that they can train
        noun: completes "a student of …"
        several: whether a text may have several labels: a label is then a cell such as `a|b`
        soft_labels: whether soft labels decide which labels a row has
        tuned_on_validation: whether validation rows choose thresholds, and so are part of a student's identity
        guessing: the loss of a model that finds every label equally likely, in nats
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
        """Refuse settings and labels that do not fit this head. Raises GraftError."""

    @abstractmethod
    def objective(self, settings: StudentSettings) -> str:
        """The kind of objective that trains it if the settings name none."""

    # ---- targets

    @abstractmethod
    def training_rows(self, rows: Iterable[Given]) -> list[TrainRow]:
        """Training rows, each once."""

    @abstractmethod
    def validation_rows(self, rows: Iterable[Given]) -> list[TrainRow]:
        """Evaluation rows."""

    @abstractmethod
    def test_rows(self, rows: Rows, test_file: str, say: Say) -> Rows:
        """Held-out evaluation rows; reports labels that they do not test. Raises GraftError."""

    @abstractmethod
    def true(self, row: TrainRow) -> str:
        """The label, or cell, that a prediction is compared with."""

    # ---- predictions

    @abstractmethod
    def activate(self, logits: Tensor) -> Tensor:
        """Torch logits to probabilities, both of shape (texts, labels)."""

    @abstractmethod
    def predicted(self, shares: Probabilities) -> list[str]:
        """The label, or cell, that follows from each text's probabilities."""

    def many(self, shares: Probabilities) -> list[tuple[str, ...]]:
        """The labels of each text. Raises GraftError if the head gives exactly one."""
        raise GraftError("this student gives exactly one label a text", where="predict_many", fix="use predict")

    @abstractmethod
    def shares(self, logits: NDArray[float64]) -> NDArray[float64]:
        """Numpy logits to probabilities, both of shape (texts, labels)."""

    @abstractmethod
    def answers(self, logits: NDArray[float64], rule: Rule) -> list[Answer]:
        """One answer per text; `rule` applies only if texts have one label."""

    def tuned(self, shares: Probabilities, rows: Sequence[TrainRow]) -> Head:
        """The head with thresholds chosen on these rows and their probabilities; unchanged if it has no thresholds."""
        return self

    def facts(self) -> dict[str, Any]:
        """Facts for a student's JSON, beside the labels."""
        return {}

    # ---- figures

    @abstractmethod
    def evaluate(
        self, predicted: Predicted, rows: Rows, *, student_id: str, test_file: str,
        validation: tuple[Probabilities, Sequence[str]] | None = None,
    ) -> Evaluation:  # fmt: skip
        """Evaluate predictions on held-out (text, label) rows.

        `validation` has the student's probabilities on the validation rows, and their labels: all fitting uses them.
        """

    @abstractmethod
    def weakest(self, predicted: Predicted, rows: Rows) -> Slices:
        """Weak points of a student."""

    @abstractmethod
    def write_reliability(self, predicted: Predicted, rows: Rows, folder: Path, title: str) -> None:
        """Write `reliability.json` and `reliability.png` into the folder."""
