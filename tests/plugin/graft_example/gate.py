"""A gate: no text with more exclamation marks than the recipe allows."""

from pydantic import Field

from graft.data.gates import Gate, Needs
from graft.schemas.base import Value
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal


class CalmSettings(Value):
    """Fields of the block `gates` in a recipe."""

    exclamations: int | None = Field(default=None, ge=0, description="most exclamation marks; null: the gate is off")


class CalmGate(Gate):
    """Raise `version` when the rule changes; `cost` is in microseconds: cheap gates run first."""

    Settings, name, cost, version = CalmSettings, "calm", 1, 1

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        self._most = recipe.gates.of(CalmSettings).exclamations or 0

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """Return True if the recipe sets a limit."""
        return recipe.gates.of(CalmSettings).exclamations is not None

    def check(self, proposal: Proposal) -> GateResult:
        """The row's result; a failure names its rule and its score."""
        found = proposal.text.count("!")
        return self.failed("shouting", f"{found} exclamation marks", found) if found > self._most else self.passed


KIND = CalmGate
