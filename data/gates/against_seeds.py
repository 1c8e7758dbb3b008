"""The gate against seeds: rejects a row that repeats a person's row."""

from __future__ import annotations

from collections.abc import Sequence

from graft.data.gates.base import Gate, Needs
from graft.data.gates.shared.repeats import repeats
from graft.schemas.base import Value
from graft.schemas.recipe import Recipe


class Settings(Value):
    """Fields under `gates`."""

    against_seeds: bool = True


class AgainstSeeds(Gate):
    """Exact and near duplicates of seeds, as the gates `exact_seed` and `near_seed`."""

    Settings, cost = Settings, 50

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """As the recipe sets."""
        return recipe.gates.of(Settings).against_seeds

    @classmethod
    def make(cls, recipe: Recipe, needs: Needs) -> Sequence[Gate]:
        """Both gates."""
        return repeats(recipe, needs, "seed", ((seed.id, seed.text) for seed in needs.seeds))


KIND = AgainstSeeds
