"""The toxicity gate: a guard student reads each text. The flow hands in how to ask it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from data.gates.base import failed, passed
from schemas.rows import GateResult

Scorer = Callable[[Sequence[str]], Sequence[float]]
"""Texts to the probability that each is harmful."""


class ToxicityGate:
    """Rule `toxic`; the score is the probability of harm. Text and response are read one after the other."""

    name = "toxicity"

    def __init__(self, score: Scorer, max_probability: float) -> None:
        self._score, self._most = score, max_probability
        self._passed = passed(self.name)

    def check(self, text: str, response: str | None, label: str) -> GateResult:
        """See the class."""
        parts = [text, response] if response else [text]
        worst = max(self._score(parts))
        if worst > self._most:
            return failed(self.name, "toxic", f"the guard calls it harmful: {worst:.0%}", round(float(worst), 4))
        return self._passed
