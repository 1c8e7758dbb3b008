"""The refusal gate: what the model wrote is its refusal, not the text that was asked for. English only."""

from __future__ import annotations

from graft.data.gates.base import failed, passed
from graft.schemas.recipe import Recipe
from graft.schemas.refusals import refusal_of
from graft.schemas.rows import GateResult


class RefusalGate:
    """Rule `refusal`. Of a row with a label only the text is looked at: its response may be a refusal on purpose."""

    name = "refusal"

    def __init__(self, recipe: Recipe) -> None:
        self._responses = not recipe.task.labelled
        self._passed = passed(self.name)

    def check(self, text: str, response: str | None, label: str) -> GateResult:
        """See the class."""
        for part in (text, response if self._responses else None):
            if part and refusal_of(part):
                return failed(self.name, "refusal", "is a model's refusal")
        return self._passed
