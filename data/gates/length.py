"""The length gate: bounds the length of texts (recipe: gates.min_chars, gates.max_chars).

It runs before all others, so that `max_chars` bounds the cost of the others.
"""

from __future__ import annotations

from types import MappingProxyType

from pydantic import Field, model_validator

from graft.data.gates.base import Gate, Needs
from graft.schemas.base import Value
from graft.schemas.problems import field_error
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal


class Settings(Value):
    """Fields under `gates`."""

    min_chars: int = Field(default=8, ge=0)
    max_chars: int = Field(default=4_000, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Settings:
        if self.min_chars > self.max_chars:
            raise field_error(
                ("min_chars",), "min_chars is larger than max_chars", "make min_chars the smaller of the two"
            )
        return self


class LengthGate(Gate):
    """Rules: too_short, too_long, response_too_long. The score is the length in characters.

    Outer space counts towards the upper bound, as the other gates read it, and not towards the lower one. An empty text
    is left to the schema gate.
    """

    Settings, cost, name = Settings, 0, "length"
    people, off = False, MappingProxyType({"min_chars": 1, "max_chars": 100_000})

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        self._least, self._most = recipe.gates.of(Settings).min_chars, self.longest(recipe)

    @classmethod
    def longest(cls, recipe: Recipe) -> int:
        """As the recipe sets."""
        return recipe.gates.of(Settings).max_chars

    def check(self, proposal: Proposal) -> GateResult:
        """See the class. A response may be short (a number answers some questions), but not too long."""
        lengths = (("too_long", len(proposal.text)), ("response_too_long", len(proposal.response or "")))
        for rule, length in lengths:
            if length > self._most:
                return self.failed(rule, f"{length} characters, at most {self._most} allowed", length)
        length = len(proposal.text.strip())
        if 0 < length < self._least:
            return self.failed("too_short", f"{length} characters, at least {self._least} required", length)
        return self.passed


KIND = LengthGate
