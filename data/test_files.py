"""Registers a recipe's held-out files in the lake before any row is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graft.data.seeds import load_texts
from graft.schemas.load import resolve_path
from graft.schemas.recipe import Recipe

if TYPE_CHECKING:
    from graft.data.lake import Lake


def register_evaluation_files(lake: Lake, recipe: Recipe, recipe_file: str | Path) -> list[str]:
    """Registers the recipe's own held-out files: `student.test` and `improve.steer_on`. Returns their names.

    From then on rows that repeat one of their texts are rejected. Raises InputInvalid if a file is unreadable.
    """
    named = [given for given in (recipe.student.test, recipe.improve.steer_on) if given]
    for given in named:
        register_file(lake, recipe.name, resolve_path(recipe_file, given), recipe.student.text_field)
    return named


def register_file(lake: Lake, dataset: str, path: Path, text_field: str) -> bool:
    """Registers one held-out file for a dataset. False: it was registered. Raises InputInvalid if it is unreadable."""
    return lake.register_test_file(dataset, path.name, load_texts(path, text_field))
