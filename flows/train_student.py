"""The flow that trains a student on a version and, beside it, a baseline on the seeds only.

The version's task says which kind of student learns it: a classifier, or an instruction student
(`flows.train_instruct`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow

from graft.data.lake import Lake
from graft.data.seeds import load_labelled
from graft.data.test_files import register_file
from graft.data.versions import rows as version_rows
from graft.data.versions import version
from graft.flows import artifacts, teacher
from graft.flows.student_labels import soft_labels
from graft.flows.waiting import finished
from graft.schemas.datasets import DatasetVersion, Run
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home
from graft.schemas.load import resolve_path
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed
from graft.schemas.students import Evaluation, StudentSettings
from graft.students.rows import TrainRow
from graft.students.train import StudentReport, as_one_text
from graft.students.train import train_student as train_both


@flow(name="train_student")
def train_student(ref: str, test: str | None = None, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train on a version (`name` or `name@3`), evaluate on a held-out file, store student and evaluation.

    `test` is a labelled file; left out, the recipe's own (student.test). `overrides` are StudentSettings fields.
    Returns the report as a plain dict; `text` is for people. Of an instruction student it has no `confusion` and
    `gain`, and its evaluations are InstructEvaluations.
    """
    home = Home.find()
    with Lake.open(home) as lake:
        found, run, recipe, settings = _opened(lake, ref, overrides)
        trainer = TRAINERS.get(recipe.task.student)
        if trainer is None:
            known = ", ".join(TRAINERS)
            raise GraftError(f"no kind of student {recipe.task.student!r}", where=found.ref, fix=f"one of: {known}")
        return trainer(lake, found, run, recipe, settings, home, test)


def train_version(ref: str, *, test: str | None = None, overrides: dict[str, Any] | None = None) -> StudentReport:
    """The same without Prefect, for notebooks: classifiers only."""
    home = Home.find()
    with Lake.open(home) as lake:
        found, run, recipe, settings = _opened(lake, ref, overrides)
        if recipe.task.student != CLASSIFIER:
            raise GraftError(
                f"this version trains a student of the kind {recipe.task.student}, not a classifier",
                where=found.ref, fix="graft train",
            )  # fmt: skip
        return _train(lake, found, run, recipe, settings, home, test)


def _opened(
    lake: Lake, ref: str, overrides: dict[str, Any] | None
) -> tuple[DatasetVersion, Run, Recipe, StudentSettings]:
    """The version, the run that made it, its recipe, and the settings to train with."""
    found = version(lake, ref)
    run = lake.run(found.run_id)
    if run is None:
        raise NotFound(f"the run of {found.ref} is not in the lake", where=found.run_id)
    recipe = Recipe.stored(run.recipe)
    settings = recipe.student.model_validate({**recipe.student.model_dump(), **(overrides or {})})
    return found, run, recipe, settings


def _classifier(
    lake: Lake, found: DatasetVersion, run: Run, recipe: Recipe, settings: StudentSettings, home: Home,
    test: str | None,
) -> dict[str, Any]:  # fmt: skip
    report = _train(lake, found, run, recipe, settings, home, test)
    return {
        "students": [student.model_dump(mode="json") for student in report.students],
        "evaluations": [evaluation.model_dump(mode="json") for evaluation in report.evaluations],
        "confusion": [str(path) for path in report.confusion],
        "gain": report.gain,
        "notes": list(report.notes),
        "text": report.text,
    }


def _instruct(
    lake: Lake, found: DatasetVersion, run: Run, recipe: Recipe, settings: StudentSettings, home: Home,
    test: str | None,
) -> dict[str, Any]:  # fmt: skip
    from graft.flows.train_instruct import train_instruct

    if test:
        raise GraftError(
            "an instruction student is judged on the version's own rows: it takes no test file",
            where="--test", fix="leave it out",
        )  # fmt: skip
    return train_instruct(lake, found, run, recipe, settings, home, artifacts.say)


CLASSIFIER = "classifier"
TRAINERS: dict[str, Callable[..., dict[str, Any]]] = {CLASSIFIER: _classifier, "instruct": _instruct}
"""Kind of student, as a task names it (`Task.student`), to what trains it on a version."""


def _train(
    lake: Lake, found: DatasetVersion, run: Run, recipe: Recipe, settings: StudentSettings, home: Home,
    test: str | None,
) -> StudentReport:  # fmt: skip
    """Both classifiers, stored with their evaluations, and the teachers beside them where the settings ask for some."""
    labels = recipe.task.names
    rows = version_rows(lake, found).to_pylist()
    wants_soft = settings.soft_weight or settings.multi_label is not None or settings.select is not None
    soft = soft_labels(lake, found, labels) if wants_soft else {}
    seeds = lake.seeds(run.id)
    test_rows = _test_rows(lake, found.dataset, test, settings, run.recipe_file, labels, rows)
    own = not (test or settings.test)  # the version's own test split is what both are judged on
    report = train_both(
        rows=_training(rows, "train", soft),
        seeds=[(as_one_text(seed.text, seed.response), seed.label) for seed in seeds],
        test_rows=test_rows,
        test_name=test or settings.test or f"{found.ref} test split (synthetic)",
        labels=labels, settings=settings, home=home, dataset=found.dataset, version=found.version,
        say=artifacts.say,
        validation=_training(rows, "validation", soft),
        test_ids=_ids(rows, "test") if own else [], validation_ids=_ids(rows, "validation"),
    )  # fmt: skip
    for student in report.students:
        lake.save_student(student)
    _save(lake, [*report.evaluations, *([report.validation] if report.validation else [])])
    if settings.teacher_rows:
        report = _with_teachers(report, recipe, seeds, test_rows, settings, home)
        _save(lake, report.evaluations)
    return report


def _save(lake: Lake, evaluations: Sequence[Evaluation]) -> None:
    for evaluation in evaluations:
        lake.save_evaluation(evaluation)


def _with_teachers(
    report: StudentReport, recipe: Recipe, seeds: Sequence[Seed], test_rows: list[tuple[str, str]],
    settings: StudentSettings, home: Home,
) -> StudentReport:  # fmt: skip
    """The report with the teachers' scores on the version's evaluation; where none can be asked, a note says why."""
    from graft.students.predict import Predictor

    def predict(texts: Sequence[str]) -> list[str]:
        return [answer.label for answer in Predictor.open(home.student(report.students[-1].id)).predict(texts)]

    if settings.multi_label is not None:
        return _noted(report, "no teacher was asked: it names one label, and these texts may have several")
    try:
        scores = finished(
            teacher.teacher_scores(
                recipe, seeds, test_rows, rows=settings.teacher_rows, home=home, seed=settings.seed, predict=predict,
                say=artifacts.say,
            )
        )  # fmt: skip
    except GraftError as error:
        return _noted(report, f"no teacher was asked: {error.what}")
    if not scores:
        return _noted(report, "no teacher was asked: none of the recipe's models can be, within its limits")
    *others, judged = report.evaluations
    evaluations = (*others, judged.model_copy(update={"teachers": scores}))
    return replace(report, evaluations=evaluations, text=f"{report.text}\n\n{teacher.table(scores)}")


def _noted(report: StudentReport, note: str) -> StudentReport:
    artifacts.say(note)
    return replace(report, notes=(*report.notes, note), text=f"{report.text}\n\n{note}")


def _test_rows(
    lake: Lake, dataset: str, test: str | None, settings: StudentSettings, recipe_file: str, labels: list[str],
    rows: list[dict[str, Any]],
) -> list[tuple[str, str]]:  # fmt: skip
    """The rows of the test file, which is registered so that no later row may repeat one; else the test split's."""
    if not test and not settings.test:
        return _pairs(rows, "test")
    file = Path(test) if test else resolve_path(recipe_file, settings.test or "")
    several = settings.multi_label is not None
    held_out = load_labelled(file, settings.text_field, settings.label_field, labels, several=several)
    register_file(lake, dataset, file, settings.text_field)
    return held_out


def _pairs(rows: list[dict[str, Any]], split: str) -> list[tuple[str, str]]:
    """(text, label) of a split; a guard's response belongs to what is classified."""
    return [(as_one_text(row["text"], row["response"]), row["label"]) for row in rows if row["split"] == split]


def _ids(rows: list[dict[str, Any]], split: str) -> list[str]:
    return [row["id"] for row in rows if row["split"] == split]


def _training(rows: list[dict[str, Any]], split: str, soft: dict[str, tuple[float, ...]]) -> list[TrainRow]:
    """The rows of a split with their soft labels, where there are any."""
    return [
        TrainRow(as_one_text(row["text"], row["response"]), row["label"], soft.get(row["id"]))
        for row in rows
        if row["split"] == split
    ]
