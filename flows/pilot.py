"""A small run of a recipe in a scratch lake, before the real one: nothing is published, and every call is journaled.

Slots draw the same whatever the run's id is, so the real run finds a pilot's calls in the journal.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from graft.data.lake import Lake
from graft.flows.make_dataset import make_run
from graft.schemas.errors import GraftError, YieldTooLow
from graft.schemas.home import Home
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed

T = TypeVar("T")


async def run_pilot(
    recipe: Recipe, file: Path, seeds: list[Seed], home: Home, name: str, read: Callable[[Lake, dict[str, Any]], T]
) -> tuple[T, dict[str, Any]]:
    """Run a small recipe in a scratch lake.

    A poor yield is no error: the candidates are there, and `stopped` of the run says why it ended.

    Args:
        recipe: with a small target and a cap on candidates, as `Recipe.small` makes it
        file: the recipe's path, which its files are relative to
        seeds: the recipe's seeds
        home: the home whose journal and models are used
        name: of the scratch folder
        read: reads from the lake and the run's record before they are removed

    Returns:
        The result of `read`, and the run's record.
    """
    run, stopped = None, ""
    with _scratch(home, name) as scratch:
        try:
            run = (await make_run(recipe, file, seeds, scratch))["run"]
        except GraftError as error:
            if error.exit_code != YieldTooLow.exit_code:
                raise
            stopped = f"The pilot {error.what.partition(chr(10))[0]}"
        with Lake.open(scratch, read_only=True) as lake:
            run = run or lake.runs(recipe.name)[0].model_dump(mode="json")
            run["stopped"] = stopped
            return read(lake, run), run


@contextmanager
def _scratch(home: Home, name: str) -> Iterator[Home]:
    """A home for a pilot that shares journal and models with the real one; removed at the end."""
    folder = home.run(name) / "pilot"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield Home(folder, home.root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
