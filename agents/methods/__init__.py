"""Methods, one a module, loaded by name (`schemas.kinds.METHODS`). To add one: write its module and its prompts."""

from __future__ import annotations

from typing import Any

from graft.agents.methods.base import Calls, Context, Drawn, Method, Place, Prepared, Screen, Traits
from graft.agents.roles.asking import Ask
from graft.schemas.kinds import METHODS
from graft.schemas.recipe import Recipe

__all__ = ["Ask", "Calls", "Context", "Drawn", "Method", "Place", "Prepared", "Screen", "Traits", "method_of"]


def method_of(recipe: Recipe) -> Method[Any]:
    """The method that the recipe names. Raises NotFound where it belongs to a plugin that is not there."""
    found: Method[Any] = METHODS.get(recipe.method.kind)
    return found
