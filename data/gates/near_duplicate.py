"""The gate against the run's own rows: of rows with the same or nearly the same text, one stays."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from graft.data.gates.base import Gate, Needs
from graft.data.gates.shared.repeats import repeats
from graft.schemas.base import Value
from graft.schemas.recipe import Recipe


class Settings(Value):
    """Fields under `gates`. Every gate that compares texts by words reads this threshold."""

    near_duplicate: float = Field(default=0.8, gt=0, le=1, description="Jaccard of word shingles, at or above: reject")


class NearDuplicate(Gate):
    """Exact and near duplicates within the run, as the gates `exact_run` and `near_run`."""

    Settings, cost, scope = Settings, 52, "run"

    @classmethod
    def make(cls, recipe: Recipe, needs: Needs) -> Sequence[Gate]:
        """Both gates, without registered rows."""
        return repeats(recipe, needs, "run")


KIND = NearDuplicate
