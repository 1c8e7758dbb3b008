"""One student of a loop: trained on what the rounds made so far, or taken as it lies there from before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graft.data.scores.answers import keep
from graft.schemas.base import content_hash, stable_hash, utc_now
from graft.schemas.home import Home
from graft.schemas.students import Evaluation, Student, StudentSettings
from graft.students.answering import say_timed
from graft.students.encoder import find_encoder
from graft.students.evaluate import evaluate
from graft.students.rows import TrainRow, unique

Say = Callable[[str], None]
Rows = Sequence[tuple[str, str]]
"""(text, label) pairs."""


@dataclass(frozen=True)
class Lesson:
    """What a student learns from. `version` is None where that is the seeds alone."""

    dataset: str
    version: int | None
    rows: Sequence[TrainRow]
    validation: Sequence[TrainRow]
    labels: Sequence[str]
    settings: StudentSettings


class Learner:
    """A trained student that can be asked."""

    def __init__(self, home: Home, student: Student) -> None:
        from graft.students.classifier import TextClassifier
        from graft.students.device import pick_device

        self.student = student
        self._folder = home.student(student.id)
        self._model = TextClassifier.load(self._folder).to(pick_device())
        self.labels = self._model.labels

    def ask(self, texts: Sequence[str]) -> tuple[list[str], list[list[float]]]:
        """Predicted labels, and each text's probabilities in the order of `labels`."""
        return self._model.predict(texts) if texts else ([], [])

    def judged(self, rows: Rows, name: str, ids: Sequence[str] = ()) -> Evaluation:
        """The student on labelled rows, a version's by their ids; what it says of them is kept in its folder."""
        (guesses, shares), speed = say_timed(self._model, [text for text, _ in rows])
        judged = evaluate(
            guesses, rows, self.labels, student_id=self.student.id, test_file=name, probabilities=shares
        )  # fmt: skip
        keep(self._folder, judged, rows, guesses, shares, ids=ids, speed=speed)
        return judged


def learn(lesson: Lesson, home: Home, known: Callable[[str], Student | None], say: Say) -> Learner:
    """The lesson's student. `known` finds one by id: where its weights lie in the home, nothing is trained again.

    Raises GraftError as `students.fit.fit`.
    """
    from graft.students.fit import train_classifier

    rows = unique(lesson.rows)
    encoder = find_encoder(lesson.settings.encoder)
    name = _identity(lesson, rows, encoder.revision)
    folder = home.student(name)
    found = known(name)
    if found is not None and (folder / "classifier.json").is_file():
        say(f"{name} learned this before")
        return Learner(home, found)
    say(f"training on {len(rows)} rows")
    made = train_classifier(rows, lesson.labels, lesson.settings, folder, say=say, validation=lesson.validation)
    student = Student(
        id=name, dataset=lesson.dataset, version=lesson.version,
        trained_on="seeds" if lesson.version is None else "version", settings=lesson.settings,
        encoder_revision=encoder.revision, train_rows=len(rows), device=made.device, seconds=round(made.seconds, 2),
        tokens_per_second=made.tokens_per_second, peak_share=made.peak_share,
        path=folder.relative_to(home.root).as_posix(), created_at=utc_now(),
    )  # fmt: skip
    return Learner(home, student)


def _identity(lesson: Lesson, rows: Sequence[TrainRow], revision: str) -> str:
    settings = lesson.settings.model_dump(mode="json", exclude={"test", "text_field", "label_field", "runs"})
    return "st_" + stable_hash(
        "round", lesson.dataset, lesson.version, content_hash(row.order for row in rows),
        content_hash(row.order for row in lesson.validation), list(lesson.labels), settings, revision,
    )  # fmt: skip
