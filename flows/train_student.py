"""The flow that trains a student on a version, of the kind that its task names, and evaluates it with a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graft.data.export.formats.base import formats_for
from graft.data.lake import Lake
from graft.data.versions import version
from graft.flows import artifacts, teacher
from graft.flows.engine import Flow, finished
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home
from graft.schemas.kinds import STUDENTS
from graft.schemas.money import local_models
from graft.schemas.recipe import Recipe
from graft.schemas.students import StudentSettings, TeacherScore
from graft.students.kinds.base import Pairs, Predict, StudentKind, Training
from graft.students.report import Report


@Flow
def train_student(
    ref: str, test: str | None = None, overrides: dict[str, Any] | None = None, reuse: bool = False
) -> dict[str, Any]:
    """Train on a version (`name` or `name@3`), evaluate, store student and evaluation.

    `test` is a labelled held-out file; left out, the recipe's own (student.test). `overrides` are StudentSettings
    fields. With `reuse`, a student that learned from the same rows with the same settings is not trained again. Returns
    the report as a plain dict, with at least the keys students, evaluations, notes, and text for people.
    """
    return train_version(ref, test=test, overrides=overrides, reuse=reuse).as_dict()


def train_version(
    ref: str, *, test: str | None = None, overrides: dict[str, Any] | None = None, reuse: bool = False
) -> Report:
    """Train without Prefect, for notebooks; returns the kind's own report."""
    home = Home.find()
    with Lake.open(home) as lake:
        found = version(lake, ref)
        run = lake.run(found.run_id)
        if run is None:
            raise NotFound(f"the run of {found.ref} is not in the lake", where=found.run_id)
        recipe = Recipe.stored(run.recipe)
        settings = StudentSettings.read({**recipe.student.model_dump(), **(overrides or {})})

        def ask_teachers(test_rows: Pairs, predict: Predict) -> tuple[tuple[TeacherScore, ...], str]:
            scores: Sequence[TeacherScore] = finished(
                teacher.teacher_scores(
                    recipe, lake.seeds(run.id), test_rows, rows=settings.teacher_rows, home=home, seed=settings.seed,
                    predict=predict, say=artifacts.say,
                )
            )  # fmt: skip
            return tuple(scores), teacher.table(scores, local_models(run.recipe))

        return kind_of(recipe).train(
            Training(lake, found, run, recipe, settings, home, artifacts.say, test, ask_teachers, reuse)
        )


def kind_of(recipe: Recipe) -> StudentKind:
    """The kind of student that a recipe's rows train. Raises GraftError if none learns such rows yet."""
    task = recipe.task
    if not task.student:
        formats = " or ".join(formats_for(task))
        what = f"no kind of student learns {task.kind} yet"
        fix = f"export the version for another trainer: graft export {recipe.name} --format {formats}"
        raise GraftError(what, where=recipe.name, fix=fix)
    kind: StudentKind = STUDENTS.get(recipe.task.student)
    return kind
