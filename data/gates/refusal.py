"""The refusal gate: rejects a text that is a model's refusal, in English or one of eleven other languages."""

from __future__ import annotations

from pydantic import Field

from graft.data.gates.base import Gate, Needs
from graft.schemas.base import Value
from graft.schemas.recipe import Recipe
from graft.schemas.refusals import refusal_of
from graft.schemas.rows import GateResult, Proposal


class Settings(Value):
    """Fields under `gates`."""

    refusals: bool = Field(default=True, description="reject a text that is a model's refusal")


class RefusalGate(Gate):
    """Rule `refusal`. Of a row with a label only the text is checked: its response may be a refusal on purpose."""

    Settings, cost, name = Settings, 14, "refusal"

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        self._responses = not recipe.task.labelled

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """As the recipe sets."""
        return recipe.gates.of(Settings).refusals

    def check(self, proposal: Proposal) -> GateResult:
        """See the class."""
        for part in (proposal.text, proposal.response if self._responses else None):
            if part and refusal_of(part):
                return self.failed("refusal", "is a model's refusal")
        return self.passed


KIND = RefusalGate
