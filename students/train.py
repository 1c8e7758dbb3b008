"""A version's student and, always beside it, one that learned from the seeds only: the gain is a measured number.

Knows neither Prefect nor the lake: it is handed rows and hands back values.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from graft.data.scores.answers import VALIDATION as VALIDATION
from graft.data.scores.answers import keep
from graft.schemas.base import content_hash, stable_hash, utc_now
from graft.schemas.errors import GraftError
from graft.schemas.home import Home
from graft.schemas.students import Evaluation, Student, StudentSettings
from graft.students.answering import Said, say, say_timed
from graft.students.encoder import Encoder, find_encoder
from graft.students.evaluate import Slices, check_test_rows, confusion_png, evaluate, worst_slices, write_reliability
from graft.students.multilabel import (
    cell_of,
    check_settings,
    check_test,
    choose_thresholds,
    evaluate_many,
    merged,
    weak_labels,
    write_reliability_many,
)  # fmt: skip
from graft.students.report import comparison
from graft.students.rows import Given, TrainRow, as_rows, unique
from graft.students.select import select_rows

if TYPE_CHECKING:
    from graft.students.classifier import TextClassifier

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Read when torch loads: waiting threads sleep. Spinning ones slow training tenfold where another process is busy."""

Rows = Sequence[tuple[str, str]]
"""(text, label) pairs; of a student that gives several labels (text, cell) pairs, as `multilabel.labels_in` reads."""

_NOT_LEARNED = {"test", "text_field", "label_field", "runs", "teacher_rows", "instruct"}
"""Settings that change nothing in the weights."""


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
    test_ids: Sequence[str] = ()
    validation_ids: Sequence[str] = ()

    def prepared(self, rows: Sequence[Given]) -> list[TrainRow]:
        """Rows as they are learned from: each text and label once, or each text once with all its labels."""
        least = self.settings.multi_label
        return unique(rows) if least is None else merged(rows, self.labels, least)


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
    validation: Sequence[Given] = (), test_ids: Sequence[str] = (), validation_ids: Sequence[str] = (),
) -> StudentReport:  # fmt: skip
    """Train on the version's rows and the seeds, and on the seeds alone, with the same settings; evaluate both.

    Weights and pictures go to `home.students/<id>/`. The test rows are checked before anything is trained. A row that
    is given twice, as seed and in the version, counts once. The version's `validation` rows decide when the version's
    student has learned enough (`settings.patience`), never the baseline: it knows seeds only. With `settings.select`
    the baseline says which of the version's rows it does not know yet, and the version's student learns from these and
    the seeds. With `settings.multi_label` a test row's label is a cell such as `a|b`, texts that occur several times
    are one row, and the validation rows choose both students' thresholds. What both students say of the rows is kept in
    their folders, beside `test_ids` and `validation_ids`: the ids of a version's rows, in the rows' order. Raises
    GraftError for test labels that the dataset lacks, an empty test, training rows of fewer than two classes, settings
    that do not go together, or training that comes apart.
    """
    from graft.students.calibrate import paired

    job = _job(test_rows, test_name, validation, labels, settings, home, dataset, say)
    whole = len(job.validation) == len(validation_ids)  # rows of several labels a text were merged
    job = replace(job, test_ids=test_ids, validation_ids=validation_ids if whole else ())
    everything = job.prepared([*seeds, *rows])
    _say_overlap(everything, job.test_rows, test_name, say)
    if settings.soft_weight:
        soft = sum(row.soft is not None for row in everything)
        say(f"{soft} of {len(everything)} training rows have soft labels; the others learn their label alone")
    base = _one(job, "seeds", None, job.prepared(seeds))
    selected = _selected(job, base, rows)
    if selected:
        everything = job.prepared([*seeds, *selected[0]])
    ours = _one(job, "version", version, everything)
    notes = (*base.notes, *([selected[1]] if selected else ()), *ours.notes)
    text = comparison(
        ours.student, base.evaluation, ours.evaluation, ours.picture,
        paired=paired(base.said[0], ours.said[0], job.test_rows), slices=_weakest(job, ours.said),
    )  # fmt: skip
    return StudentReport(
        (base.student, ours.student), (base.evaluation, ours.evaluation), (base.picture, ours.picture),
        ours.evaluation.accuracy - base.evaluation.accuracy, "\n".join([text, *(["", *notes] if notes else [])]),
        ours.validation, notes,
    )  # fmt: skip


def _job(
    test_rows: Rows, test_name: str, validation: Sequence[Given], labels: Sequence[str], settings: StudentSettings,
    home: Home, dataset: str, say: Callable[[str], None],
) -> _Job:  # fmt: skip
    """What both trainings share, with test rows and settings checked."""
    check_settings(settings, labels)
    least = settings.multi_label
    if least is None:
        check_test_rows(test_rows, labels, test_name, say)
    else:
        test_rows = check_test(test_rows, labels, test_name, say)
    checked = as_rows(validation) if least is None else merged(validation, labels, least)
    return _Job(test_rows, test_name, checked, labels, settings, find_encoder(settings.encoder), home, dataset, say)


def _selected(job: _Job, base: _Made, rows: Sequence[Given]) -> tuple[list[TrainRow], str] | None:
    """The version's rows that are learned from, and a note on the others; None where all of them are."""
    if job.settings.select is None:
        return None
    each = unique(rows)
    known = say(_loaded(job.home.student(base.student.id)), [row.text for row in each])[1] if each else []
    kept, note = select_rows(each, known, job.settings.select, job.labels)
    job.say(note)
    return kept, note


def _weakest(job: _Job, said: Said) -> Slices:
    if job.settings.multi_label is None:
        return worst_slices(said[0], job.test_rows, said[1])
    return weak_labels(said[0], job.test_rows, job.labels)


def _one(job: _Job, trained_on: str, version: int | None, training: Sequence[TrainRow]) -> _Made:
    from graft.students.fit import train_classifier

    what = "seeds only" if trained_on == "seeds" else "version and seeds"
    validation = job.validation if trained_on == "version" else ()
    job.say(f"training on {len(training)} rows ({what})")
    name = _identity(job, trained_on, version, training, validation)
    folder = job.home.student(name)
    result = train_classifier(training, job.labels, job.settings, folder, say=job.say, validation=validation)
    student = Student(
        id=name, dataset=job.dataset, version=version, trained_on=trained_on, settings=job.settings,
        encoder_revision=job.encoder.revision, train_rows=len(training), device=result.device,
        seconds=round(result.seconds, 2),
        tokens_per_second=result.tokens_per_second, peak_share=result.peak_share,
        path=folder.relative_to(job.home.root).as_posix(), created_at=utc_now(),
    )  # fmt: skip
    if job.settings.multi_label is not None:
        _choose(job, folder)
    said, evaluation, checked = _judged(job, name, folder)
    notes = [f"{what}: {result.note}"] if result.note else []
    if job.settings.runs > 1:
        others, broken = _other_runs(job, training, validation)
        evaluation = evaluation.model_copy(update={"accuracies": (evaluation.accuracy, *others)})
        notes += [f"{what}: {_spread(evaluation.accuracies)}", *(f"{what}: {text}" for text in broken)]
    title = f"{job.dataset}, {what if version is None else f'version {version} and seeds'}"
    picture = folder / "confusion.png"
    confusion_png(evaluation, picture, f"{title}: accuracy {evaluation.accuracy:.1%}")
    if job.settings.multi_label is None:
        write_reliability(said[0], job.test_rows, said[1], folder, title)
    else:
        write_reliability_many(job.test_rows, said[1], job.labels, folder, title)
    return _Made(student, evaluation, said, checked, picture, tuple(notes))


def _identity(
    job: _Job, trained_on: str, version: int | None, training: Sequence[TrainRow], validation: Sequence[TrainRow]
) -> str:
    """The id of a student: the same for the same rows and settings, as far as they make its weights."""
    many = job.settings.multi_label is not None
    unused = {"select"} if trained_on == "seeds" else set[str]()
    learned_with = job.settings.model_dump(mode="json", exclude=_NOT_LEARNED | unused)
    whole = many or bool(job.settings.soft_weight)
    learned = content_hash(row.order if whole else row.pair for row in training)
    used = job.validation if many else validation if job.settings.patience else ()  # of several labels: thresholds too
    watched = content_hash(row.order if whole else row.pair for row in used) if used or job.settings.patience else ""
    return "st_" + stable_hash(
        job.dataset, trained_on, version, learned, watched, list(job.labels), learned_with, job.encoder.revision
    )


def _judged(job: _Job, name: str, folder: Path) -> tuple[Said, Evaluation, Evaluation | None]:
    """What the student says of the test rows, and its evaluations on them and on the validation rows, if any.

    What it says of either is kept in its folder.
    """
    model = _loaded(folder)
    said, speed = say_timed(model, [text for text, _ in job.test_rows])
    many = job.settings.multi_label is not None
    pairs = [(row.text, cell_of(row.every) if many else row.label) for row in job.validation]
    checked = say(model, [text for text, _ in pairs]) if pairs else None
    judged, also = (_evaluated_many if many else _evaluated)(job, name, said, pairs, checked)
    keep(folder, judged, job.test_rows, *said, ids=job.test_ids, speed=speed)
    if also is not None and checked is not None:
        keep(folder, also, pairs, *checked, ids=job.validation_ids)
    return said, judged, also


def _evaluated(
    job: _Job, name: str, said: Said, pairs: Rows, checked: Said | None
) -> tuple[Evaluation, Evaluation | None]:
    """The evaluations on the test and on the validation rows, of what a student of one label said of both."""
    judged = evaluate(
        said[0], job.test_rows, job.labels, student_id=name, test_file=job.test_name, probabilities=said[1],
        validation=(checked[1], [label for _, label in pairs]) if checked else None,
    )  # fmt: skip
    if checked is None:
        return judged, None
    return judged, evaluate(
        checked[0], pairs, job.labels, student_id=name, test_file=VALIDATION, probabilities=checked[1]
    )  # fmt: skip


def _evaluated_many(
    job: _Job, name: str, said: Said, cells: Rows, checked: Said | None
) -> tuple[Evaluation, Evaluation | None]:
    """The same of a student that gives several labels."""
    judged = evaluate_many(
        said[0], job.test_rows, job.labels, student_id=name, test_file=job.test_name, probabilities=said[1]
    )
    if checked is None:
        return judged, None
    return judged, evaluate_many(
        checked[0], cells, job.labels, student_id=name, test_file=VALIDATION, probabilities=checked[1]
    )  # fmt: skip


def _choose(job: _Job, folder: Path) -> None:
    """Write each label's threshold into a trained student: chosen on the validation rows, 0.5 without them."""
    model = _loaded(folder)
    _thresholds(job, model)
    model.save_facts(folder)


def _thresholds(job: _Job, model: TextClassifier) -> None:
    model.thresholds = choose_thresholds([], [], job.labels)
    shares = model.predict_many([row.text for row in job.validation])[1]
    model.thresholds = choose_thresholds(shares, [row.every for row in job.validation], job.labels)


def _other_runs(
    job: _Job, training: Sequence[TrainRow], validation: Sequence[TrainRow]
) -> tuple[list[float], list[str]]:
    """Accuracies on the test rows of trainings with the seeds after the first; and which trainings came apart."""
    from graft.students.fit import fit

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
        if job.settings.multi_label is not None:
            _thresholds(job, fitted.model)
        guesses, _ = say(fitted.model, texts)
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


def _loaded(folder: Path) -> TextClassifier:
    """The classifier as it was written, so that what is measured is what a user loads."""
    from graft.students.classifier import TextClassifier
    from graft.students.device import pick_device

    return TextClassifier.load(folder).to(pick_device())


def _say_overlap(training: Sequence[TrainRow], test_rows: Rows, test_name: str, say: Callable[[str], None]) -> None:
    known = {" ".join(row.text.casefold().split()) for row in training}
    shared = sum(" ".join(text.casefold().split()) in known for text, _ in test_rows)
    if shared:
        say(f"{shared} of {len(test_rows)} rows of {test_name} are also training rows: the figures flatter")
