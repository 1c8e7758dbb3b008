"""A gate of another distribution: no judge of an accepted row may have scored it under a threshold."""

from __future__ import annotations

from pydantic import Field

from graft.data.gates import Gate, Needs
from graft.schemas.base import Value
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal


class Settings(Value):
    """Fields under `gates`."""

    harsh_below: float = Field(default=0.0, ge=0, le=10, description="least mean of every judge; 0: the gate is off")


class HarshGate(Gate):
    """Rule `harsh_review`; the score is the lowest mean of a content review."""

    Settings, cost, version, reviewed, name = Settings, 1, 3, True, "harsh"

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """Return True if the recipe sets a threshold."""
        return recipe.gates.of(Settings).harsh_below > 0

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        self._least = recipe.gates.of(Settings).harsh_below

    def check(self, proposal: Proposal) -> GateResult:
        """See the class."""
        means = [one.mean for one in proposal.reviews if one.stage == "content" and one.mean is not None]
        if means and min(means) < self._least:
            return self.failed("harsh_review", "a judge found it poor", min(means))
        return self.passed


KIND = HarshGate
