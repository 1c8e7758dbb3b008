"""A version's student and, always beside it, one that learned from the seeds only: the gain is a measured number.

Knows neither Prefect nor the lake: it is handed rows and hands back values.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.base import content_hash, stable_hash, utc_now
from schemas.home import Home
from schemas.students import Evaluation, Student, StudentSettings
from students.encoder import Encoder, find_encoder
from students.evaluate import check_test_rows, confusion_png, evaluate
from students.report import comparison

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Read when torch loads: waiting threads sleep. Spinning ones slow training tenfold where another process is busy."""

VALIDATION = "validation split (synthetic)"
"""Name of the evaluation on a version's own validation rows."""

Rows = Sequence[tuple[str, str]]
"""(text, label) pairs."""


def as_one_text(text: str, response: str | None) -> str:
    """What a classifier reads of a row: the text, and below it the response, where there is one."""
    return f"{text}\n\n{response}" if response else text


@dataclass(frozen=True)
class StudentReport:
    """Both students, baseline first, with their evaluations and pictures. `gain` is in accuracy, -1 to 1."""

    students: tuple[Student, ...]
    evaluations: tuple[Evaluation, ...]
    confusion: tuple[Path, ...]
    gain: float
    text: str
    validation: Evaluation | None = None
    """The version's student on the version's own validation rows: what may steer generation, as the test may not."""


@dataclass(frozen=True)
class _Job:
    """What both trainings share."""

    test_rows: Rows
    test_name: str
    labels: Sequence[str]
    settings: StudentSettings
    encoder: Encoder
    home: Home
    dataset: str
    say: Callable[[str], None]


def train_student(
    *, rows: Rows, seeds: Rows, test_rows: Rows, test_name: str, labels: Sequence[str], settings: StudentSettings,
    home: Home, dataset: str, version: int | None, say: Callable[[str], None], validation: Rows = (),
) -> StudentReport:  # fmt: skip
    """Train on the version's rows and the seeds, and on the seeds alone, with the same settings; evaluate both.

    Weights and pictures go to `home.students/<id>/`. The test rows are checked before anything is trained. A row that
    is given twice, as seed and in the version, counts once. Raises GraftError for test labels that the dataset lacks,
    an empty test, training rows of fewer than two classes, or training that comes apart.
    """
    check_test_rows(test_rows, labels, test_name, say)
    everything = list(dict.fromkeys([*seeds, *rows]))
    _say_overlap(everything, test_rows, test_name, say)
    job = _Job(test_rows, test_name, labels, settings, find_encoder(settings.encoder), home, dataset, say)
    base, base_judged, base_picture = _one(job, "seeds", None, list(dict.fromkeys(seeds)))
    ours, judged, picture = _one(job, "version", version, everything)
    return StudentReport(
        (base, ours), (base_judged, judged), (base_picture, picture), judged.accuracy - base_judged.accuracy,
        comparison(ours, base_judged, judged, picture), _validated(ours, validation, labels, home),
    )  # fmt: skip


def _validated(student: Student, rows: Rows, labels: Sequence[str], home: Home) -> Evaluation | None:
    if not rows:
        return None
    predicted, _ = _predict(home.root / student.path, rows)
    return evaluate(predicted, rows, labels, student_id=student.id, test_file=VALIDATION)


def _one(
    job: _Job, trained_on: str, version: int | None, training: list[tuple[str, str]]
) -> tuple[Student, Evaluation, Path]:
    from students.fit import train_classifier

    what = "seeds only" if trained_on == "seeds" else "version and seeds"
    job.say(f"training on {len(training)} rows ({what})")
    learned_with = job.settings.model_dump(mode="json", exclude={"test", "text_field", "label_field"})
    name = "st_" + stable_hash(
        job.dataset, trained_on, version, content_hash(training), list(job.labels), learned_with, job.encoder.revision
    )
    folder = job.home.students / name
    result = train_classifier(training, job.labels, job.settings, folder, say=job.say)
    student = Student(
        id=name, dataset=job.dataset, version=version, trained_on=trained_on, settings=job.settings,
        encoder_revision=job.encoder.revision, train_rows=len(training), device=result.device,
        seconds=round(result.seconds, 2), path=folder.relative_to(job.home.root).as_posix(), created_at=utc_now(),
    )  # fmt: skip
    predicted, _ = _predict(folder, job.test_rows)
    evaluation = evaluate(predicted, job.test_rows, job.labels, student_id=name, test_file=job.test_name)
    picture = folder / "confusion.png"
    title = what if version is None else f"version {version} and seeds"
    confusion_png(evaluation, picture, f"{job.dataset}, {title}: accuracy {evaluation.accuracy:.1%}")
    return student, evaluation, picture


def _predict(folder: Path, rows: Rows) -> tuple[list[str], list[list[float]]]:
    """What the classifier as it was written says, so that what is measured is what a user loads."""
    from students.classifier import TextClassifier
    from students.fit import pick_device

    return TextClassifier.load(folder).to(pick_device()).predict([text for text, _ in rows])


def _say_overlap(training: Rows, test_rows: Rows, test_name: str, say: Callable[[str], None]) -> None:
    known = {" ".join(text.casefold().split()) for text, _ in training}
    shared = sum(" ".join(text.casefold().split()) in known for text, _ in test_rows)
    if shared:
        say(f"{shared} of {len(test_rows)} rows of {test_name} are also training rows: the figures flatter")
