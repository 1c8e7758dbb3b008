"""A version's student and, always beside it, one that learned from the seeds only: the gain is a measured number.

Knows neither Prefect nor the lake: it is handed rows and hands back values.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.base import content_hash, stable_hash, utc_now
from schemas.errors import GraftError
from schemas.home import Home
from schemas.students import Evaluation, Student, StudentSettings
from students.encoder import Encoder, find_encoder
from students.evaluate import check_test_rows, confusion_png, evaluate, worst_slices, write_reliability
from students.report import comparison
from students.rows import Given, TrainRow, as_rows, unique

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Read when torch loads: waiting threads sleep. Spinning ones slow training tenfold where another process is busy."""

VALIDATION = "validation split (synthetic)"
"""Name of the evaluation on a version's own validation rows."""

Rows = Sequence[tuple[str, str]]
"""(text, label) pairs."""

Said = tuple[list[str], list[list[float]]]
"""Predicted labels, and the probabilities of each text in the labels' order."""


def as_one_text(text: str, response: str | None) -> str:
    """What a classifier reads of a row: the text, and below it the response, where there is one."""
    return f"{text}\n\n{response}" if response else text


@dataclass(frozen=True)
class StudentReport:
    """Both students, baseline first, with their evaluations and pictures. `gain` is in accuracy, -1 to 1.

    `notes` say what a person must know of how they were trained (stopped early, came apart); the text has them too.
    """

    students: tuple[Student, ...]
    evaluations: tuple[Evaluation, ...]
    confusion: tuple[Path, ...]
    gain: float
    text: str
    validation: Evaluation | None = None
    """The version's student on the version's own validation rows: what may steer generation, as the test may not."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Job:
    """What both trainings share."""

    test_rows: Rows
    test_name: str
    validation: Sequence[TrainRow]
    labels: Sequence[str]
    settings: StudentSettings
    encoder: Encoder
    home: Home
    dataset: str
    say: Callable[[str], None]


@dataclass(frozen=True)
class _Made:
    """One student with all that was found out about it."""

    student: Student
    evaluation: Evaluation
    said: Said
    validation: Evaluation | None
    picture: Path
    notes: tuple[str, ...]


def train_student(
    *, rows: Sequence[Given], seeds: Rows, test_rows: Rows, test_name: str, labels: Sequence[str],
    settings: StudentSettings, home: Home, dataset: str, version: int | None, say: Callable[[str], None],
    validation: Sequence[Given] = (),
) -> StudentReport:  # fmt: skip
    """Train on the version's rows and the seeds, and on the seeds alone, with the same settings; evaluate both.

    Weights and pictures go to `home.students/<id>/`. The test rows are checked before anything is trained. A row that
    is given twice, as seed and in the version, counts once. The version's `validation` rows decide when the version's
    student has learned enough (`settings.patience`), never the baseline: it knows seeds only. Raises GraftError for
    test labels that the dataset lacks, an empty test, training rows of fewer than two classes, or training that comes
    apart.
    """
    from students.calibrate import paired

    check_test_rows(test_rows, labels, test_name, say)
    everything = unique([*seeds, *rows])
    _say_overlap(everything, test_rows, test_name, say)
    if settings.soft_weight:
        soft = sum(row.soft is not None for row in everything)
        say(f"{soft} of {len(everything)} training rows have soft labels; the others learn their label alone")
    checked = as_rows(validation)
    job = _Job(test_rows, test_name, checked, labels, settings, find_encoder(settings.encoder), home, dataset, say)
    base, ours = _one(job, "seeds", None, unique(seeds)), _one(job, "version", version, everything)
    notes = (*base.notes, *ours.notes)
    text = comparison(
        ours.student, base.evaluation, ours.evaluation, ours.picture,
        paired=paired(base.said[0], ours.said[0], test_rows),
        slices=worst_slices(ours.said[0], test_rows, ours.said[1]),
    )  # fmt: skip
    return StudentReport(
        (base.student, ours.student), (base.evaluation, ours.evaluation), (base.picture, ours.picture),
        ours.evaluation.accuracy - base.evaluation.accuracy, "\n".join([text, *(["", *notes] if notes else [])]),
        ours.validation, notes,
    )  # fmt: skip


def _one(job: _Job, trained_on: str, version: int | None, training: Sequence[TrainRow]) -> _Made:
    from students.fit import train_classifier

    what = "seeds only" if trained_on == "seeds" else "version and seeds"
    validation = job.validation if trained_on == "version" else ()
    job.say(f"training on {len(training)} rows ({what})")
    name = _identity(job, trained_on, version, training, validation)
    folder = job.home.students / name
    result = train_classifier(training, job.labels, job.settings, folder, say=job.say, validation=validation)
    student = Student(
        id=name, dataset=job.dataset, version=version, trained_on=trained_on, settings=job.settings,
        encoder_revision=job.encoder.revision, train_rows=len(training), device=result.device,
        seconds=round(result.seconds, 2), path=folder.relative_to(job.home.root).as_posix(), created_at=utc_now(),
    )  # fmt: skip
    said, evaluation, checked = _judged(job, name, folder)
    notes = [f"{what}: {result.note}"] if result.note else []
    if job.settings.runs > 1:
        others, broken = _other_runs(job, training, validation)
        evaluation = evaluation.model_copy(update={"accuracies": (evaluation.accuracy, *others)})
        notes += [f"{what}: {_spread(evaluation.accuracies)}", *(f"{what}: {text}" for text in broken)]
    title = f"{job.dataset}, {what if version is None else f'version {version} and seeds'}"
    picture = folder / "confusion.png"
    confusion_png(evaluation, picture, f"{title}: accuracy {evaluation.accuracy:.1%}")
    write_reliability(said[0], job.test_rows, said[1], folder, title)
    return _Made(student, evaluation, said, checked, picture, tuple(notes))


def _identity(
    job: _Job, trained_on: str, version: int | None, training: Sequence[TrainRow], validation: Sequence[TrainRow]
) -> str:
    """The id of a student: the same for the same rows and settings, as far as they make its weights."""
    learned_with = job.settings.model_dump(mode="json", exclude={"test", "text_field", "label_field", "runs"})
    soft = bool(job.settings.soft_weight)
    learned = content_hash(row.order if soft else row.pair for row in training)
    watched = content_hash(row.order if soft else row.pair for row in validation) if job.settings.patience else ""
    return "st_" + stable_hash(
        job.dataset, trained_on, version, learned, watched, list(job.labels), learned_with, job.encoder.revision
    )


def _judged(job: _Job, name: str, folder: Path) -> tuple[Said, Evaluation, Evaluation | None]:
    """What the student says of the test rows, and its evaluations on them and on the validation rows, if any."""
    said = _predict(folder, job.test_rows)
    pairs = [row.pair for row in job.validation]
    if not pairs:
        judged = evaluate(
            said[0], job.test_rows, job.labels, student_id=name, test_file=job.test_name, probabilities=said[1]
        )
        return said, judged, None
    guesses, shares = _predict(folder, pairs)
    judged = evaluate(
        said[0], job.test_rows, job.labels, student_id=name, test_file=job.test_name, probabilities=said[1],
        validation=(shares, [label for _, label in pairs]),
    )  # fmt: skip
    checked = evaluate(guesses, pairs, job.labels, student_id=name, test_file=VALIDATION, probabilities=shares)
    return said, judged, checked


def _other_runs(
    job: _Job, training: Sequence[TrainRow], validation: Sequence[TrainRow]
) -> tuple[list[float], list[str]]:
    """Accuracies on the test rows of trainings with the seeds after the first; and which trainings came apart."""
    from students.fit import fit

    accuracies, broken, texts = list[float](), list[str](), [text for text, _ in job.test_rows]
    for number in range(1, job.settings.runs):
        seed = job.settings.seed + number
        settings = job.settings.model_copy(update={"seed": seed})
        try:
            fitted = fit(training, job.labels, settings, validation=validation)
        except GraftError as error:
            broken.append(f"the training with seed {seed} counts in no figure: {error.what}")
            job.say(broken[-1])
            continue
        guesses, _ = fitted.model.predict(texts)
        right = sum(guess == label for guess, (_, label) in zip(guesses, job.test_rows, strict=True))
        accuracies.append(right / len(texts))
        job.say(f"training {number + 1} of {job.settings.runs} (seed {seed}): accuracy {accuracies[-1]:.1%}")
        if fitted.note:
            broken.append(f"seed {seed}: {fitted.note}")
    return accuracies, broken


def _spread(accuracies: Sequence[float]) -> str:
    """Mean and standard deviation of several trainings' accuracies, in percent."""
    mean = 100 * statistics.mean(accuracies)
    if len(accuracies) < 2:
        return f"accuracy {mean:.1f}% of one training"
    return f"accuracy over {len(accuracies)} trainings {mean:.1f}% ± {100 * statistics.stdev(accuracies):.1f}"


def _predict(folder: Path, rows: Rows) -> Said:
    """What the classifier as it was written says, so that what is measured is what a user loads."""
    from students.classifier import TextClassifier
    from students.fit import pick_device

    return TextClassifier.load(folder).to(pick_device()).predict([text for text, _ in rows])


def _say_overlap(training: Sequence[TrainRow], test_rows: Rows, test_name: str, say: Callable[[str], None]) -> None:
    known = {" ".join(row.text.casefold().split()) for row in training}
    shared = sum(" ".join(text.casefold().split()) in known for text, _ in test_rows)
    if shared:
        say(f"{shared} of {len(test_rows)} rows of {test_name} are also training rows: the figures flatter")
