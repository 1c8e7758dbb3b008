"""More rows of a dataset: a raised target, whose run takes the calls of the run that it extends from the journal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.agents.methods import method_of
from graft.data.lake import Lake
from graft.data.versions import plain_rows, published_texts, version, versions
from graft.flows.engine import flow_run
from graft.flows.plan import read_recipe
from graft.schemas.datasets import Run
from graft.schemas.errors import GraftError
from graft.schemas.home import Home
from graft.schemas.load import load_recipe
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed


def read_more(name: str, overrides: Mapping[str, Any], more: int | None, home: Home) -> tuple[Path, Recipe, list[Seed]]:
    """Read a recipe; `more` raises its target to the rows of the dataset's latest version and so many more.

    The rows are spread over labels as the recipe's target is. Raises InputInvalid, and GraftError if it has no target.
    """
    found = file, recipe, _ = read_recipe(name, overrides)
    if more is None:
        return found
    wanted = method_of(recipe).wanted(recipe)
    if not sum(wanted.values()):
        fix = "its texts decide how many rows there are: give it more texts"
        raise GraftError("this recipe has no target of rows", where=str(file), fix=fix)
    with Lake.open(home) as lake:
        held = versions(lake, recipe.name)
        rows = version(lake, recipe.name).rows if held else 0
    return read_recipe(name, {**overrides, "target.labels": spread(rows + more, wanted)})


def is_trial(loaded: Recipe, file: Path) -> bool:
    """True for a run that a person starts with a lower target than the recipe's file has; no schedule is one."""
    return flow_run() is None and loaded.target.rows_per_label < load_recipe(file).target.rows_per_label


def spread(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Whole shares of `total` in proportion to `weights`, which sum up to it."""
    whole = sum(weights.values())
    shares = {label: total * weight // whole for label, weight in weights.items()}
    largest = sorted(weights, key=lambda label: -(total * weights[label] % whole))
    for label in largest[: total - sum(shares.values())]:
        shares[label] += 1
    return shares


def published(lake: Lake, recipe: Recipe, run: Run) -> list[tuple[str, str, str]]:
    """The texts that no row may repeat: all published texts, or for a loop's round those of the version it extends.

    A run that only raises the target of earlier ones repeats their rows.
    """
    if recipe.steering is not None:
        before = plain_rows(lake, version(lake, f"{recipe.name}@{recipe.steering.after}"))
        return [(row["id"], row["text"], row["label"]) for row in before]
    if method_of(recipe).traits(recipe).repeats_published:
        return []
    extended = [one.id for one in lake.runs() if one.dataset == run.dataset and _extends(run, one)]
    return published_texts(lake, recipe.name, {run.id, *extended})


def _extends(run: Run, before: Run) -> bool:
    """True if the recipes differ in target and limits alone, and the target was raised and is lower for no label."""

    def rest(one: Run) -> dict[str, Any]:
        left_out = ("target", "limits", "student", "improve", "description", "review")
        return {name: value for name, value in one.recipe.items() if name not in left_out}

    def wanted(one: Run) -> dict[str, int]:
        target = one.recipe.get("target", {})
        return {name: target.get("labels", {}).get(name, target.get("rows_per_label", 0)) for name in one.task.names}

    if before.id == run.id or rest(before) != rest(run):
        return False
    least, now = wanted(before), wanted(run)
    return sum(now.values()) > sum(least.values()) and all(now.get(label, 0) >= count for label, count in least.items())
