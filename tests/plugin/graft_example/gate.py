"""A gate: no judge of an accepted row may have scored it below a threshold."""

from pydantic import Field

from graft.data.gates import Gate, Needs
from graft.schemas.base import Value
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal


class HarshSettings(Value):
    """Fields of the block `gates` in a recipe."""

    harsh_below: float = Field(default=0.0, ge=0, le=10, description="least mean of every judge; 0: the gate is off")


class HarshGate(Gate):
    """Raise `version` when the rule changes; `cost` is in microseconds: cheap gates run first."""

    Settings, name, cost, version, reviewed = HarshSettings, "harsh", 1, 1, True

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        self._least = recipe.gates.of(HarshSettings).harsh_below

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """Return True if the recipe sets a threshold."""
        return recipe.gates.of(HarshSettings).harsh_below > 0

    def check(self, proposal: Proposal) -> GateResult:
        """The row's result; a failure names its rule and its score."""
        means = [one.mean for one in proposal.reviews if one.stage == "content" and one.mean is not None]
        if means and min(means) < self._least:
            return self.failed("harsh_review", "a judge found it poor", min(means))
        return self.passed


KIND = HarshGate
