"""Methods, one a module, loaded by name (`schemas.kinds.METHODS`). To add one: write its module and its prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graft.agents.methods.base import (
    Bounds,
    Calls,
    Context,
    Drawn,
    Method,
    Place,
    Prepared,
    Query,
    Retrieve,
    Screen,
    TextSource,
    Traits,
)
from graft.agents.roles.asking import Ask
from graft.agents.roles.prompting import fragments
from graft.schemas.datasets import Run
from graft.schemas.kinds import METHODS
from graft.schemas.recipe import Recipe
from graft.schemas.sections import Section

__all__ = [
    "Ask", "Bounds", "Calls", "Context", "Drawn", "Method", "Place", "Prepared", "Query", "Retrieve", "Screen",
    "TextSource", "Traits", "fragments_of", "method_of", "report_of",
]  # fmt: skip


def method_of(recipe: Recipe) -> Method[Any]:
    """The method that the recipe names. Raises NotFound if it belongs to a plugin that is not installed."""
    found: Method[Any] = METHODS.get(recipe.method.kind)
    return found


def fragments_of(recipe: Recipe) -> tuple[str, ...]:
    """The fixed sentences of the prompts and of the rubric that the recipe's rows can meet."""
    method = method_of(recipe)
    own = method.own_prompts(recipe)
    return fragments(method.all_prompts(recipe), recipe.criteria, tuple(recipe.prompts.items()), own)


def report_of(run: Run, query: Query) -> Section | None:
    """The method's own figures of a run; None also if the method is not installed any more."""
    method = run.recipe.get("method")
    kind = method.get("kind") if isinstance(method, Mapping) else None
    if kind not in METHODS.names:
        return None
    found: Section | None = METHODS.get(kind).report(query, run.id, run.counts)
    return found
