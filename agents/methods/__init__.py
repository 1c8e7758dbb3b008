"""Methods by name. To add one: write its module, and enter it in METHODS and in schemas/methods.py.

A method's module is imported when it is asked for, because roles import `agents.methods.base`.
"""

from __future__ import annotations

from collections.abc import Callable

from agents.methods.base import Ask, Context, Method, Screen
from agents.methods.draw import Roles, draw_roles, make_slot, reviewer_count, sharing
from schemas.errors import GraftError
from schemas.recipe import Recipe
from schemas.tasks import GuardTask

__all__ = [
    "METHODS", "Ask", "Context", "Method", "Roles", "Screen",
    "draw_roles", "make_slot", "method_of", "reviewer_count", "sharing",
]  # fmt: skip


def _gra() -> Method:
    from agents.methods.gra import Gra

    return Gra()


METHODS: dict[str, Callable[[], Method]] = {"gra": _gra}


def method_of(recipe: Recipe) -> Method:
    """The method that the recipe names. Raises GraftError for what this version does not have."""
    kind = recipe.method.kind
    if kind not in METHODS:
        raise GraftError(f"method {kind!r} is not in this version", where="method.kind", fix="use kind: gra")
    if isinstance(recipe.task, GuardTask) and recipe.task.with_response:
        raise GraftError(
            "guard rows with a response are not in this version", where="task.with_response",
            fix="set with_response: false: rows hold the prompt alone",
        )  # fmt: skip
    return METHODS[kind]()
