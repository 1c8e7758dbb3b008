"""The flow that trains a student on a version and, beside it, a baseline on the seeds only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from prefect import flow

from data.lake import Lake
from data.seeds import load_labelled
from data.versions import rows as version_rows
from data.versions import version
from flows import artifacts
from schemas.datasets import DatasetVersion
from schemas.errors import GraftError, NotFound
from schemas.home import Home
from schemas.load import resolve_path
from schemas.recipe import Recipe
from schemas.tasks import labels_of
from students.rows import TrainRow, distribution
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
        "notes": list(report.notes),
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
        soft = _soft_labels(lake, found, labels) if settings.soft_weight else {}
        report = train_both(
            rows=_training(rows, "train", soft),
            seeds=[(as_one_text(seed.text, seed.response), seed.label) for seed in lake.seeds(run.id)],
            test_rows=_test_rows(test, settings, run.recipe_file, labels, rows),
            test_name=test or settings.test or f"{found.ref} test split (synthetic)",
            labels=labels, settings=settings, home=home, dataset=found.dataset, version=found.version,
            say=artifacts.say,
            validation=_training(rows, "validation", soft),
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


def _training(rows: list[dict[str, Any]], split: str, soft: dict[str, tuple[float, ...]]) -> list[TrainRow]:
    """The rows of a split with their soft labels, where there are any."""
    return [
        TrainRow(as_one_text(row["text"], row["response"]), row["label"], soft.get(row["id"]))
        for row in rows
        if row["split"] == split
    ]


def _soft_labels(lake: Lake, found: DatasetVersion, labels: list[str]) -> dict[str, tuple[float, ...]]:
    """Row id to what its judges' probabilities say of the labels; what is no distribution is left out, and said."""
    query = """
        SELECT r.id, c.soft_label FROM lake.version_rows r
        JOIN lake.candidates c ON c.run_id = r.run_id AND c.candidate_id = r.candidate_id
        WHERE r.dataset = ? AND r.version = ?"""
    given = lake.sql(query, [found.dataset, found.version]).to_pylist()
    judged = {str(row["id"]): shares for row in given if (shares := orjson.loads(row["soft_label"] or "{}"))}
    soft = {name: each for name, shares in judged.items() if (each := distribution(shares, labels)) is not None}
    if len(soft) < len(judged):
        artifacts.say(f"{len(judged) - len(soft)} rows' soft labels are no distributions over the labels: left out")
    return soft
