"""The length gate: not too short, not too long (recipe: gates.min_chars, gates.max_chars)."""

from __future__ import annotations

from data.gates.base import failed, passed
from schemas.recipe import Recipe
from schemas.rows import GateResult


class LengthGate:
    """Rules: too_short, too_long, response_too_long. The score is the length in characters, outer space not counted."""

    name = "length"

    def __init__(self, recipe: Recipe) -> None:
        self._least, self._most = recipe.gates.min_chars, recipe.gates.max_chars
        self._passed = passed(self.name)

    def check(self, text: str, response: str | None, label: str) -> GateResult:
        """See the class. A response may be short (a number answers some questions), but not too long."""
        length = len(text.strip())
        if length < self._least:
            return failed(self.name, "too_short", f"{length} characters, at least {self._least} wanted", length)
        if length > self._most:
            return failed(self.name, "too_long", f"{length} characters, at most {self._most} wanted", length)
        answer = len(response.strip()) if response else 0
        if answer > self._most:
            return failed(self.name, "response_too_long", f"{answer} characters, at most {self._most} wanted", answer)
        return self._passed
