"""The toxicity gate: a guard student reads each text. The flow hands in how to ask it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from graft.data.gates.base import failed, passed
from graft.schemas.rows import GateResult

Scorer = Callable[[Sequence[str]], Sequence[float]]
"""Texts to the probability that each is harmful."""


class ToxicityGate:
    """Rule `toxic`; the score is the probability of harm. Text and response are read one after the other.

    A score that is no number counts as harmful: what could not be judged is not let in.
    """

    name = "toxicity"

    def __init__(self, score: Scorer, max_probability: float) -> None:
        self._score, self._most = score, max_probability
        self._passed = passed(self.name)

    def check(self, text: str, response: str | None, label: str) -> GateResult:
        """See the class."""
        parts = [text, response] if response else [text]
        scores = [float(score) for score in self._score(parts)]
        if not all(map(math.isfinite, scores)):
            return failed(self.name, "toxic", "the guard's score is no number")
        if max(scores) > self._most:
            return failed(self.name, "toxic", f"the guard calls it harmful: {max(scores):.0%}", round(max(scores), 4))
        return self._passed
