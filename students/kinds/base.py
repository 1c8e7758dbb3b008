"""The contract of a kind of student: trained from a version, opened for answers, exported with a card, shown in tables.

A module of this folder holds its kind as `KIND`, an instance; another distribution names one in the entry-point group
`graft.students`. A task names the kind that its rows train. Flows, verbs and pages call the kind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NoReturn

from graft.data.lake import Lake
from graft.schemas.base import Value
from graft.schemas.datasets import DatasetVersion, Run
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home
from graft.schemas.kinds import STUDENTS
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed
from graft.schemas.sections import Table
from graft.schemas.steering import ImproveSettings
from graft.schemas.students import Evaluation, Student, StudentSettings, TeacherScore
from graft.students.predict import Engine, Predictor
from graft.students.report import Report
from graft.students.rows import Material, TrainRow
from graft.students.steer.base import Judge, SteeringRow

Pairs = Sequence[tuple[str, str]]
"""(text, label) pairs."""

Predict = Callable[[Sequence[str]], list[str]]
"""Texts to labels."""


@dataclass(frozen=True)
class Training:
    """Inputs of a student's training.

    Args:
        run: the one that made the version, with its seeds in the lake
        recipe: the run's
        settings: the recipe's, perhaps changed for this training
        test: a held-out file in place of the settings' own
        ask_teachers: the recipe's labelers on held-out rows, to compare: (rows, the student's predictions) to scores
            and their table as text; raises GraftError if none can be called
        reuse: test a student that was trained on the same rows with the same settings, instead of training it again
    """

    lake: Lake
    version: DatasetVersion
    run: Run
    recipe: Recipe
    settings: StudentSettings
    home: Home
    say: Callable[[str], None]
    test: str | None
    ask_teachers: Callable[[Pairs, Predict], tuple[tuple[TeacherScore, ...], str]]
    reuse: bool = False


@dataclass(frozen=True)
class Exported:
    """An export: its folder, and the largest difference of a logit between its ONNX model and PyTorch."""

    student: Student
    folder: Path
    difference: float
    bytes: int


@dataclass(frozen=True)
class Term:
    """Inputs that the students of a loop share. `settings` have the loop's seed; `test` is the held-out file."""

    lake: Lake
    home: Home
    settings: StudentSettings
    labels: Sequence[str]
    test: Pairs
    test_name: str
    say: Callable[[str], None]


class Pupil(ABC):
    """The student of one round of a loop."""

    student: Student

    @abstractmethod
    def tested(self, validation: Sequence[TrainRow], ids: Sequence[str]) -> tuple[float, tuple[float, ...]]:
        """Its score on the held-out file, 0 to 1, with its 95% interval, empty if there is none.

        Evaluations are stored, also that on the version's validation rows with their ids, if the kind has such.
        """

    @abstractmethod
    async def judged(self, rows: Sequence[TrainRow], judge: Judge) -> list[SteeringRow]:
        """Rows with its answers. `judge` scores responses, for a kind that needs it."""

    @abstractmethod
    async def mined(self, rows: Sequence[TrainRow], judge: Judge) -> Sequence[SteeringRow]:
        """The rows it has learned from, judged so that its mistakes show."""


class InRounds(ABC):
    """The part of a kind of student in a loop (`graft improve`).

    Attributes:
        steered: what its students give, and policies must suit: `steer.base.LABELS` or RESPONSES
    """

    steered: ClassVar[str]

    @abstractmethod
    def held_out(self, file: Path, settings: StudentSettings, labels: Sequence[str]) -> list[tuple[str, str]]:
        """A file's texts, each with its label or response. Raises InputInvalid."""

    @abstractmethod
    def seed_rows(self, seeds: Sequence[Seed]) -> list[TrainRow]:
        """The seeds that a student can learn from."""

    @abstractmethod
    def version_rows(
        self, lake: Lake, found: DatasetVersion, labels: Sequence[str], say: Callable[[str], None]
    ) -> Material:
        """A version's rows, by split."""

    @abstractmethod
    def learn(
        self, term: Term, dataset: str, version: int | None, rows: Sequence[TrainRow], validation: Sequence[TrainRow]
    ) -> Pupil:
        """The student of these rows, stored in the lake; one that is there already is not trained again."""


class StudentKind(ABC):
    """One kind of student.

    Attributes:
        name: the module's, and the kind's
        noun: for messages, with its article
        Settings: its own block under the recipe's `student`, named as the kind, each field with a default;
            `request.settings.of(Settings)` reads it. None: it has no block and learns with the fields of all students
    """

    name: ClassVar[str]
    noun: ClassVar[str]
    Settings: ClassVar[type[Value] | None] = None

    @abstractmethod
    def train(self, request: Training) -> Report:
        """Train, evaluate, and store student and evaluations in the lake. Raises GraftError subclasses."""

    @abstractmethod
    def lies_in(self, folder: Path) -> bool:
        """Return True if a student of this kind lies in the folder, trained or exported."""

    def in_rounds(self, settings: StudentSettings, improve: ImproveSettings) -> InRounds:
        """Its part in a loop (`graft improve`). Raises GraftError if such students cannot be steered: no kind's can
        unless it overrides this.
        """
        raise GraftError(
            f"improve cannot steer {self.noun}", where="task.kind", fix="graft run and graft train",
        )  # fmt: skip

    def tables(self, lake: Lake, dataset: str | None = None, version: int | None = None) -> tuple[Table, ...]:
        """Students with evaluations of their own kind, for terminal and pages; of a dataset, and of a version.

        Those with evaluations on held-out rows are on the leaderboard already (`data.scores`). Each row has a
        `student_id`; a column may link by `link`, which a page fills in.
        """
        return ()

    def open(self, student: Student, home: Home, evaluations: Sequence[Evaluation], engine: Engine) -> Predictor:
        """The student, ready to label texts."""
        self._cannot("label texts", student)

    def export(self, student: Student, home: Home, lake: Lake, folder: Path, *, overwrite: bool) -> Exported:
        """Write the student with its model card into a folder of its own, whole or not at all."""
        self._cannot("be exported as an ONNX model", student)

    def _cannot(self, what: str, student: Student) -> NoReturn:
        raise GraftError(
            f"{self.noun} cannot {what}", where=student.id, fix=f"use its folder: GRAFT_HOME/{student.path}"
        )


def tables_of_kinds(lake: Lake, dataset: str | None = None, version: int | None = None) -> list[Table]:
    """The tables of all kinds that have rows."""
    kinds: list[StudentKind] = list(STUDENTS.all().values())
    return [table for kind in kinds for table in kind.tables(lake, dataset, version) if table.rows]


def kind_in(folder: Path) -> StudentKind:
    """The kind of the student in a folder. Raises NotFound."""
    found: StudentKind | None = next((kind for kind in STUDENTS.all().values() if kind.lies_in(folder)), None)
    if found is None:
        raise NotFound("no student found", where=str(folder), fix="train one: graft train NAME")
    return found
