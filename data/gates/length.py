"""The length gate: not too short, not too long (recipe: gates.min_chars, gates.max_chars).

It runs before all others, so that what any of them costs is bounded by `max_chars`.
"""

from __future__ import annotations

from graft.data.gates.base import failed, passed
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult


class LengthGate:
    """Rules: too_short, too_long, response_too_long. The score is the length in characters.

    Outer space counts towards the upper bound, as the other gates read it, and not towards the lower one. An empty text
    is left to the schema gate.
    """

    name = "length"

    def __init__(self, recipe: Recipe) -> None:
        self._least, self._most = recipe.gates.min_chars, recipe.gates.max_chars
        self._passed = passed(self.name)

    def check(self, text: str, response: str | None, label: str) -> GateResult:
        """See the class. A response may be short (a number answers some questions), but not too long."""
        for rule, length in (("too_long", len(text)), ("response_too_long", len(response or ""))):
            if length > self._most:
                return failed(self.name, rule, f"{length} characters, at most {self._most} wanted", length)
        length = len(text.strip())
        if 0 < length < self._least:
            return failed(self.name, "too_short", f"{length} characters, at least {self._least} wanted", length)
        return self._passed
