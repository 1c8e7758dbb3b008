"""Methods by name. To add one: write its module, and enter it in METHODS and in schemas/methods.py.

A method's module is imported when it is asked for, because roles import `agents.methods.base`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from graft.agents.methods.base import Ask, Context, Drawn, Method, Place, Screen
from graft.agents.methods.draw import Roles, draw_roles, gra_of, reviewer_count, sharing
from graft.schemas.errors import GraftError
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed, Slot

__all__ = [
    "METHODS", "Ask", "Context", "Drawn", "Method", "Place", "Roles", "Screen",
    "draw_roles", "gra_of", "make_slot", "method_of", "reviewer_count", "sharing",
]  # fmt: skip


def _loaded(module: str, name: str) -> Callable[[], Method]:
    def load() -> Method:
        made: Method = getattr(import_module(f"graft.agents.methods.{module}"), name)()
        return made

    return load


METHODS: dict[str, Callable[[], Method]] = {
    "gra": _loaded("gra", "Gra"),
    "promptmix": _loaded("promptmix", "PromptMix"),
    "harmaug": _loaded("harmaug", "HarmAug"),
}


def method_of(recipe: Recipe) -> Method:
    """The method that the recipe names. Raises GraftError for rows that it does not make."""
    kind = recipe.method.kind
    if recipe.task.labelled and recipe.task.needs_response and kind != "harmaug":
        raise GraftError(
            f"method {kind!r} makes no labelled rows with a response", where="task.with_response",
            fix="use method.kind: harmaug, or set with_response: false: rows hold the prompt alone",
        )  # fmt: skip
    return METHODS[kind]()


def make_slot(
    *, run_id: str, shard: int, round: int, index: int, label: str, pool: Mapping[str, Sequence[Seed]], recipe: Recipe,
    neighbours: Mapping[str, Sequence[str]] | None = None,
) -> Slot:  # fmt: skip
    """The slot at one place of a label's stream, as the recipe's method draws it from the pool's rows."""
    place = Place(run_id, shard, round, index, label)
    return method_of(recipe).make_slot(place, Drawn(recipe, pool, neighbours or {}))
