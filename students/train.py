"""A version's student and, always beside it, one that learned from the seeds only: the gain is a measured number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.base import content_hash, stable_hash, utc_now
from schemas.home import Home
from schemas.students import Evaluation, Student, StudentSettings
from students.encoder import find_encoder
from students.report import comparison

Rows = Sequence[tuple[str, str]]
"""(text, label) pairs."""


@dataclass(frozen=True)
class StudentReport:
    """Both students, baseline first, with their evaluations and pictures. `gain` is in accuracy, -1 to 1."""

    students: tuple[Student, ...]
    evaluations: tuple[Evaluation, ...]
    confusion: tuple[Path, ...]
    gain: float
    text: str


def train_student(
    *, rows: Rows, seeds: Rows, test_rows: Rows, test_name: str, labels: Sequence[str], settings: StudentSettings,
    home: Home, dataset: str, version: int | None, say: Callable[[str], None],
) -> StudentReport:  # fmt: skip
    """Train on the version's rows and the seeds, and on the seeds alone, with the same settings; evaluate both."""
    given = (
        ("seeds", None, list(seeds)),
        ("version", version, [*seeds, *rows]),
    )
    students, evaluations, pictures = [], [], []
    for trained_on, number, training in given:
        student, evaluation, picture = _one(
            trained_on, number, training, test_rows, test_name, labels, settings, home, dataset, say
        )
        students.append(student)
        evaluations.append(evaluation)
        pictures.append(picture)
    gain = evaluations[1].accuracy - evaluations[0].accuracy
    text = comparison(students[1], evaluations[0], evaluations[1], pictures[1])
    return StudentReport(tuple(students), tuple(evaluations), tuple(pictures), gain, text)


def _one(
    trained_on: str, version: int | None, training: list[tuple[str, str]], test_rows: Rows, test_name: str,
    labels: Sequence[str], settings: StudentSettings, home: Home, dataset: str, say: Callable[[str], None],
) -> tuple[Student, Evaluation, Path]:  # fmt: skip
    encoder = find_encoder(settings.encoder)
    from students.evaluate import confusion_png, evaluate
    from students.fit import fit, save

    say(f"training on {len(training)} rows ({'seeds only' if trained_on == 'seeds' else 'version and seeds'})")
    name = "st_" + stable_hash(dataset, version, content_hash(training), settings.model_dump(), encoder.revision)
    fitted = fit(training, labels, settings, say)
    folder = home.students / name
    save(fitted.model, folder)
    student = Student(
        id=name, dataset=dataset, version=version, trained_on=trained_on, settings=settings,
        encoder_revision=encoder.revision, train_rows=len(training), device=fitted.device,
        seconds=round(fitted.seconds, 2), path=str(folder.relative_to(home.root)), created_at=utc_now(),
    )  # fmt: skip
    predicted = fitted.model.predict([text for text, _ in test_rows])
    evaluation = evaluate(predicted, test_rows, labels, student_id=name, test_file=test_name)
    picture = folder / "confusion.png"
    what = "seeds only" if trained_on == "seeds" else f"version {version}"
    confusion_png(evaluation, picture, f"{dataset}, {what}: accuracy {evaluation.accuracy:.1%}")
    return student, evaluation, picture
