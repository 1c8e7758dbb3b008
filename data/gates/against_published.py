"""The gate against earlier versions: rejects a row that repeats a published row of the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from graft.data.gates.base import Gate, Needs
from graft.data.gates.shared.repeats import repeats
from graft.schemas.base import Value
from graft.schemas.recipe import Recipe


class Settings(Value):
    """Fields under `gates`."""

    against_published: bool = True


class AgainstPublished(Gate):
    """Exact and near duplicates of published rows, as the gates `exact_published` and `near_published`."""

    Settings, cost, published, off = Settings, 51, True, MappingProxyType({"against_published": False})

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """As the recipe sets."""
        return recipe.gates.of(Settings).against_published

    @classmethod
    def make(cls, recipe: Recipe, needs: Needs) -> Sequence[Gate]:
        """Both gates."""
        return repeats(recipe, needs, "published", ((row_id, text) for row_id, text, _ in needs.published))


KIND = AgainstPublished
