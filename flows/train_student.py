"""The flow that trains a student on a version and, beside it, a baseline on the seeds only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from data.lake import Lake
from data.seeds import load_labelled
from data.versions import rows as version_rows
from data.versions import version
from flows import artifacts
from schemas.errors import GraftError, NotFound
from schemas.home import Home
from schemas.load import resolve_path
from schemas.recipe import Recipe
from schemas.tasks import labels_of
from students.train import StudentReport, as_one_text
from students.train import train_student as train_both


@flow(name="train_student")
def train_student(ref: str, test: str | None = None, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train on a version (`name` or `name@3`), evaluate on a held-out file, store student and evaluation.

    `test` is a labelled file; left out, the recipe's own (student.test). `overrides` are StudentSettings fields.
    Returns the report as a plain dict; `text` is for people.
    """
    report = train_version(ref, test=test, overrides=overrides)
    return {
        "students": [student.model_dump(mode="json") for student in report.students],
        "evaluations": [evaluation.model_dump(mode="json") for evaluation in report.evaluations],
        "confusion": [str(path) for path in report.confusion],
        "gain": report.gain,
        "text": report.text,
    }


def train_version(ref: str, *, test: str | None = None, overrides: dict[str, Any] | None = None) -> StudentReport:
    """The same without Prefect, for notebooks."""
    home = Home.find()
    with Lake.open(home) as lake:
        found = version(lake, ref)
        run = lake.run(found.run_id)
        if run is None:
            raise NotFound(f"the run of {found.ref} is not in the lake", where=found.run_id)
        recipe = Recipe.model_validate(run.recipe)
        if recipe.task.kind == "instruction":
            raise GraftError(
                "an instruction student is not in this version: classifiers are", where=found.ref,
                fix="export the rows (graft export) and train elsewhere",
            )  # fmt: skip
        settings = recipe.student.model_validate({**recipe.student.model_dump(), **(overrides or {})})
        labels = [label.name for label in labels_of(recipe.task)]
        rows = version_rows(lake, found).to_pylist()
        report = train_both(
            rows=_pairs(rows, "train"),
            seeds=[(as_one_text(seed.text, seed.response), seed.label) for seed in lake.seeds(run.id)],
            test_rows=_test_rows(test, settings, run.recipe_file, labels, rows),
            test_name=test or settings.test or f"{found.ref} test split (synthetic)",
            labels=labels, settings=settings, home=home, dataset=found.dataset, version=found.version,
            say=artifacts.say,
            validation=_pairs(rows, "validation"),
        )  # fmt: skip
        for student in report.students:
            lake.save_student(student)
        for evaluation in (*report.evaluations, report.validation):
            if evaluation is not None:
                lake.save_evaluation(evaluation)
        return report


def _test_rows(
    test: str | None, settings: Any, recipe_file: str, labels: list[str], rows: list[dict[str, Any]]
) -> list[tuple[str, str]]:
    if test:
        return load_labelled(Path(test), settings.text_field, settings.label_field, labels)
    if settings.test:
        file = resolve_path(recipe_file, settings.test)
        return load_labelled(file, settings.text_field, settings.label_field, labels)
    return _pairs(rows, "test")


def _pairs(rows: list[dict[str, Any]], split: str) -> list[tuple[str, str]]:
    """(text, label) of a split; a guard's response belongs to what is classified."""
    return [(as_one_text(row["text"], row["response"]), row["label"]) for row in rows if row["split"] == split]
