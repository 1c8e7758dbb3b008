"""Trains a version's student and always a seeds-only student beside it, so that the gain is measured.

Independent of Prefect and the lake: it takes rows and returns values. `train_student` trains and compares both,
`learn` returns the student of one lesson, such as a round of a loop.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graft.data.scores import Speed
from graft.data.scores.answers import VALIDATION, keep
from graft.schemas.base import content_hash, stable_hash, utc_now
from graft.schemas.errors import GraftError
from graft.schemas.home import Home
from graft.schemas.students import Evaluation, Student, StudentSettings
from graft.students.encoder import Encoder, find_encoder
from graft.students.evaluate import Probabilities, Rows, confusion_png
from graft.students.heads import Head, Predicted, head_of
from graft.students.objectives.base import objective_of
from graft.students.progress import reporter
from graft.students.report import Report, comparison
from graft.students.rows import Given, TrainRow, named, unique
from graft.students.select import select_rows

if TYPE_CHECKING:
    from graft.data.scores.maths import Paired
    from graft.students.classifier import TextClassifier

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Read when torch loads: waiting threads sleep. Spinning threads slow training tenfold beside a busy process."""

Say = Callable[[str], None]

SINGLES = 32
"""Texts that are predicted one by one to measure latency."""

NOTE = "note.txt"
"""File of a student's folder: what its training reported, such as that it stopped early."""
PATIENCE_S = 0.5
"""Most seconds of that measurement."""

NO_SEEDS = "the version has no seeds: its baseline (seeds only) learns the names of the labels alone"
"""Note of a training without seeds."""


@dataclass(frozen=True)
class StudentReport(Report):
    """Both students, baseline first, with their evaluations and pictures. `gain` is in accuracy, -1 to 1."""

    evaluations: tuple[Evaluation, ...]
    confusion: tuple[Path, ...] = ()
    gain: float = 0.0
    validation: Evaluation | None = None
    """The version's student on the version's own validation rows: these may steer generation, the test may not."""
    paired: Paired | None = None
    """The version's student against the baseline, on the same test rows."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        pictures = [str(path) for path in self.confusion]
        compared = asdict(self.paired) if self.paired else None
        return {**super().as_dict(), "confusion": pictures, "gain": self.gain, "paired": compared}


@dataclass(frozen=True)
class Lesson:
    """Training data of one student.

    Args:
        version: None if that is the seeds alone
        rows: as `head.training_rows` gives them
        validation: decides when the student has learned enough (`settings.patience`)
        tuning: rows that choose the thresholds, if the head has some
    """

    dataset: str
    version: int | None
    rows: Sequence[TrainRow]
    validation: Sequence[TrainRow]
    head: Head
    settings: StudentSettings
    trained_on: str
    tuning: Sequence[TrainRow] = ()

    @property
    def what(self) -> str:
        """For people."""
        return "seeds only" if self.trained_on == "seeds" else "version and seeds"

    def student_id(self, encoder: Encoder) -> str:
        """The same for the same rows and settings, as far as they decide the weights and thresholds."""
        learned_with = self.settings.learned_with("classifier")
        if self.trained_on == "version":  # its rows tell, but ids have always held it
            learned_with |= self.settings.model_dump(mode="json", include={"select"})
        whole = self.head.several or objective_of(self.head, self.settings).soft_labels
        used = self.tuning if self.head.tuned_on_validation else self.validation if self.settings.patience else ()
        learned, watched = (
            content_hash(row.order if whole else row.pair for row in rows) for rows in (self.rows, used)
        )
        return "st_" + stable_hash(
            self.dataset, self.trained_on, self.version, learned, watched if used or self.settings.patience else "",
            list(self.head.labels), learned_with, encoder.revision,
        )  # fmt: skip


class Learner:
    """A trained student, loaded from disk as a user loads it."""

    def __init__(self, home: Home, student: Student) -> None:
        from graft.students.classifier import TextClassifier
        from graft.students.device import pick_device

        self.student = student
        self.folder = home.student(student.id)
        self._model = TextClassifier.load(self.folder).to(pick_device())
        self.labels = self._model.labels

    def ask(self, texts: Sequence[str]) -> Predicted:
        """Predicted labels, and each text's probabilities in the order of `labels`."""
        return self._model.say(texts) if texts else ([], [])

    def judged(
        self, rows: Rows, name: str, ids: Sequence[str] = (),
        validation: tuple[Probabilities, Sequence[str]] | None = None,
    ) -> tuple[Predicted, Evaluation]:  # fmt: skip
        """Predict labelled rows (a version's by their ids) and evaluate: predictions and evaluation are kept in its
        folder.

        Latency is kept too, except for validation rows. `validation` as of `Head.evaluate`.
        """
        texts = [text for text, _ in rows]
        predicted, speed = (self.ask(texts), None) if name == VALIDATION else say_timed(self._model, texts)
        judged = self._model.outputs.evaluate(
            predicted, rows, student_id=self.student.id, test_file=name, validation=validation
        )
        keep(self.folder, judged, rows, *predicted, ids=ids, speed=speed)
        return predicted, judged


@dataclass(frozen=True)
class _Job:
    """Inputs that both trainings share."""

    test_rows: Rows
    test_name: str
    validation: Sequence[TrainRow]
    head: Head
    settings: StudentSettings
    home: Home
    dataset: str
    say: Say
    test_ids: Sequence[str] = ()
    validation_ids: Sequence[str] = ()
    known: Callable[[str], Student | None] = lambda name: None


@dataclass(frozen=True)
class _Made:
    """One student with all its evaluations."""

    learner: Learner
    evaluation: Evaluation
    predicted: Predicted
    validation: Evaluation | None
    picture: Path
    notes: tuple[str, ...]


def train_student(
    *, rows: Sequence[Given], seeds: Rows, test_rows: Rows, test_name: str, labels: Sequence[str],
    settings: StudentSettings, home: Home, dataset: str, version: int | None, say: Say,
    validation: Sequence[Given] = (), test_ids: Sequence[str] = (), validation_ids: Sequence[str] = (),
    known: Callable[[str], Student | None] = lambda name: None,
) -> StudentReport:  # fmt: skip
    """Train on the version's rows and the seeds, and on the seeds alone, with the same settings; evaluate both.

    Weights and pictures go to `home.students/<id>/`. The test rows are checked before any training. A row that is both
    a seed and in the version counts once. The version's `validation` rows decide when the version's student stops
    (`settings.patience`), never the baseline: it has seeds only. With `settings.select` the baseline selects the
    version's rows that it is not sure of yet, and the version's student learns from these and the seeds. With
    `settings.multi_label` a test row's label is a cell such as `a|b`, texts that occur several times are one row, and
    the validation rows choose both students' thresholds. Both students' predictions are kept in their folders, beside
    `test_ids` and `validation_ids`: the ids of a version's rows, in the rows' order. A student that `known` finds by
    its id is tested, and not trained again. Without seeds the baseline learns the labels' names alone. Raises
    GraftError for test labels that the dataset lacks, an empty test, training rows of fewer than two classes, settings
    that do not fit together, or training that diverges.
    """
    from graft.data.scores.maths import paired

    head = head_of(settings, labels)
    objective = objective_of(head, settings)
    checked = head.validation_rows(validation)
    test_rows = head.test_rows(test_rows, test_name, say)
    job = _Job(test_rows, test_name, checked, head, settings, home, dataset, say)
    whole = len(job.validation) == len(validation_ids)  # rows of several labels a text were merged
    job = replace(job, test_ids=test_ids, validation_ids=validation_ids if whole else (), known=known)
    everything = head.training_rows([*seeds, *rows])
    _say_overlap(everything, job.test_rows, test_name, say)
    if objective.soft_labels:
        soft = sum(row.soft is not None for row in everything)
        say(f"{soft} of {len(everything)} training rows have soft labels; the others have only their label")
    if not seeds:
        say(NO_SEEDS)
    base = _one(job, "seeds", None, head.training_rows(seeds or named(labels)))
    selected = _selected(job, base.learner, rows)
    if selected:
        everything = head.training_rows([*seeds, *selected[0]])
    ours = _one(job, "version", version, everything)
    notes = (*(() if seeds else (NO_SEEDS,)), *base.notes, *([selected[1]] if selected else ()), *ours.notes)
    compared = paired(base.predicted[0], ours.predicted[0], job.test_rows)
    text = comparison(
        ours.learner.student, base.evaluation, ours.evaluation, ours.picture, paired=compared,
        slices=head.weakest(ours.predicted, job.test_rows),
    )  # fmt: skip
    return StudentReport(
        students=(base.learner.student, ours.learner.student), evaluations=(base.evaluation, ours.evaluation),
        text="\n".join([text, *(["", *notes] if notes else [])]), notes=notes,
        confusion=(base.picture, ours.picture), gain=ours.evaluation.accuracy - base.evaluation.accuracy,
        validation=ours.validation, paired=compared,
    )  # fmt: skip


def learn(lesson: Lesson, home: Home, known: Callable[[str], Student | None], say: Say) -> Learner:
    """The lesson's student. `known` finds one by id: if its weights lie in the home, nothing is trained again.

    Raises GraftError as `students.fit.fit`.
    """
    encoder = find_encoder(lesson.settings.encoder)
    name = lesson.student_id(encoder)
    found = known(name)
    if found is not None and (home.student(name) / "classifier.json").is_file():
        say(f"{name} has been trained before")
        return Learner(home, found)
    say(f"training on {len(lesson.rows)} rows ({lesson.what})")
    return Learner(home, _trained(lesson, encoder, home, say))


def say_timed(model: TextClassifier, texts: Sequence[str]) -> tuple[Predicted, Speed]:
    """A classifier's predictions and times: all texts in batches, then a few alone, for half a second at most.

    A first text warms up the device before.
    """
    import numpy as np

    model.say(texts[:1])
    started = time.perf_counter()
    predicted = model.say(texts)
    ended = time.perf_counter()
    took = list[float]()
    for text in texts[:SINGLES]:
        before = time.perf_counter()
        model.say([text])
        took.append(time.perf_counter() - before)
        if time.perf_counter() - ended > PATIENCE_S:
            break
    p50, p95 = np.quantile(took or [0.0], (0.5, 0.95))
    seconds = max(ended - started, 1e-9)
    return predicted, Speed(
        device=model.device.type, rows=len(texts), seconds=round(seconds, 4),
        texts_per_second=round(len(texts) / seconds, 1), singles=len(took), p50_s=round(float(p50), 5),
        p95_s=round(float(p95), 5),
    )  # fmt: skip


def _trained(lesson: Lesson, encoder: Encoder, home: Home, say: Say) -> Student:
    """Train the lesson's student and write it, with thresholds if its head has some, and what training reported."""
    from graft.students.launch import train_classifier

    name = lesson.student_id(encoder)
    folder = home.student(name)
    made = train_classifier(
        lesson.rows, lesson.head.labels, lesson.settings, folder, say=say, validation=lesson.validation,
        progress=reporter(lesson.what, lesson.settings.epochs),
    )  # fmt: skip
    made.model.share_words(folder, encoder)
    if lesson.head.tuned_on_validation:
        _tune(made.model, lesson.tuning)
        made.model.save_facts(folder)
    (folder / NOTE).write_text(made.note, encoding="utf-8")
    return Student(
        id=name, dataset=lesson.dataset, version=lesson.version, trained_on=lesson.trained_on,
        settings=lesson.settings, encoder_revision=encoder.revision, train_rows=len(lesson.rows), device=made.device,
        seconds=round(made.seconds, 2), tokens_per_second=made.tokens_per_second, peak_share=made.peak_share,
        path=folder.relative_to(home.root).as_posix(), created_at=utc_now(),
    )  # fmt: skip


def _tune(model: TextClassifier, rows: Sequence[TrainRow]) -> None:
    """Choose each label's threshold on rows; the usual threshold without rows."""
    model.outputs = model.outputs.tuned(model.predict([row.text for row in rows])[1], rows)


def _selected(job: _Job, base: Learner, rows: Sequence[Given]) -> tuple[list[TrainRow], str] | None:
    """The version's training rows, and a note on the others; None if all are used."""
    if job.settings.select is None:
        return None
    each = unique(rows)
    known = base.ask([row.text for row in each])[1]
    kept, note = select_rows(each, known, job.settings.select, job.head.labels)
    job.say(note)
    return kept, note


def _one(job: _Job, trained_on: str, version: int | None, training: Sequence[TrainRow]) -> _Made:
    validation = job.validation if trained_on == "version" else ()
    lesson = Lesson(
        job.dataset, version, training, validation, job.head, job.settings, trained_on, tuning=job.validation
    )  # fmt: skip
    what, learner = lesson.what, learn(lesson, job.home, job.known, job.say)
    predicted, evaluation, checked = _judged(job, learner)
    note = (learner.folder / NOTE).read_text(encoding="utf-8") if (learner.folder / NOTE).is_file() else ""
    notes = [f"{what}: {note}"] if note else []
    if job.settings.runs > 1:
        others, broken = _other_runs(job, lesson)
        evaluation = evaluation.model_copy(update={"accuracies": (evaluation.accuracy, *others)})
        notes += [f"{what}: {_spread(evaluation.accuracies)}", *(f"{what}: {text}" for text in broken)]
    title = f"{job.dataset}, {what if version is None else f'version {version} and seeds'}"
    picture = learner.folder / "confusion.png"
    confusion_png(evaluation, picture, f"{title}: accuracy {evaluation.accuracy:.1%}")
    job.head.write_reliability(predicted, job.test_rows, learner.folder, title)
    return _Made(learner, evaluation, predicted, checked, picture, tuple(notes))


def _judged(job: _Job, learner: Learner) -> tuple[Predicted, Evaluation, Evaluation | None]:
    """The student's predictions of the test rows, and its evaluations on them and on the validation rows, if any."""
    pairs = [(row.text, job.head.true(row)) for row in job.validation]
    if not pairs:
        return *learner.judged(job.test_rows, job.test_name, job.test_ids), None
    checked, also = learner.judged(pairs, VALIDATION, job.validation_ids)
    predicted, judged = learner.judged(
        job.test_rows, job.test_name, job.test_ids, validation=(checked[1], [label for _, label in pairs])
    )
    return predicted, judged, also


def _other_runs(job: _Job, lesson: Lesson) -> tuple[list[float], list[str]]:
    """Accuracies on the test rows of trainings with the other seeds; and which trainings diverged."""
    from graft.students.fit import fit

    accuracies, broken, texts = list[float](), list[str](), [text for text, _ in job.test_rows]
    for number in range(1, job.settings.runs):
        seed = job.settings.seed + number
        settings = job.settings.model_copy(update={"seed": seed})
        try:
            fitted = fit(lesson.rows, job.head.labels, settings, validation=lesson.validation)
        except GraftError as error:
            broken.append(f"the training with seed {seed} is left out of all figures: {error.what}")
            job.say(broken[-1])
            continue
        if job.head.tuned_on_validation:
            _tune(fitted.model, lesson.tuning)
        guesses, _ = fitted.model.say(texts)
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


def _say_overlap(training: Sequence[TrainRow], test_rows: Rows, test_name: str, say: Callable[[str], None]) -> None:
    known = {" ".join(row.text.casefold().split()) for row in training}
    shared = sum(" ".join(text.casefold().split()) in known for text, _ in test_rows)
    if shared:
        say(f"{shared} of {len(test_rows)} rows of {test_name} are also training rows: the figures are too good")
