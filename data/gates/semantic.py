"""The gate against equal meanings within a version, by the cosine of embeddings; off unless a recipe sets it."""

from __future__ import annotations

from pydantic import Field

from graft.data.gates.base import Gate, Needs, Rows, Sifted
from graft.data.gates.shared.neighbours import clusters_of, drop
from graft.data.gates.shared.semantic import GATE, alike
from graft.schemas.base import Value
from graft.schemas.recipe import Recipe


class Settings(Value):
    """Fields under `gates`."""

    semantic: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="cosine at or above which rows of a gated version are duplicates",
    )


class SemanticGate(Gate):
    """Rule `semantic`; the score is the cosine to the row that stays."""

    Settings, cost, scope, embeds, name = Settings, 20_000, "version", True, GATE

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        self._most = recipe.gates.of(Settings).semantic or 1.0

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """If the recipe sets a cosine."""
        return recipe.gates.of(Settings).semantic is not None

    def sift(self, rows: Rows) -> Sifted:
        """See the class."""
        ids = rows.ids
        hits = drop(ids, rows.vectors, rows.scores, self._most, say=rows.say)
        found = clusters_of(ids, rows.vectors, self._most, say=rows.say) if hits else {}
        return Sifted(drops=[(row_id, alike(*hit)) for row_id, hit in hits.items()], clusters=found)


KIND = SemanticGate
