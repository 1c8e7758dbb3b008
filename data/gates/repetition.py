"""The repetition gate: rejects loops and long runs of few characters."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from graft.data.gates.base import Gate, Needs
from graft.data.gates.shared.folding import words
from graft.schemas.base import OFF, Value
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal

LEAST_WORDS = 12
"""Shorter texts may repeat themselves legitimately ("no, no, no")."""
GRAM = 3
_RUN = re.compile(r"([^\s\d]{1,4}?)\1{15,}")
_RULE = re.compile(r"[-=_*.#~|:+]+")


class RepetitionSettings(Value):
    """Settings for loops: the repeated share of a text."""

    action: Annotated[Literal["off", "reject"], OFF] = "reject"
    max_share: float = Field(default=0.5, gt=0, le=1, description="share of the text's word n-grams that repeat")


class Settings(Value):
    """Fields under `gates`."""

    repetition: RepetitionSettings = RepetitionSettings()


class RepetitionGate(Gate):
    """Rules: repeated (the score is the share of the text's word trigrams that occurred before in it), long_run."""

    Settings, cost, name = Settings, 4, "repetition"

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        self._most = recipe.gates.of(Settings).repetition.max_share

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """As the recipe sets."""
        return recipe.gates.of(Settings).repetition.action != "off"

    def check(self, proposal: Proposal) -> GateResult:
        """See the class."""
        for part in proposal.parts:
            run = _RUN.search(part)
            if run and not _RULE.fullmatch(run[1]):
                return self.failed("long_run", f"few different characters in a run of {len(run[0])}", len(run[0]))
            share = repeated_share(part)
            if share >= self._most:
                return self.failed("repeated", f"{share:.0%} of its word trigrams repeat", round(share, 4))
        return self.passed


KIND = RepetitionGate


def repeated_share(text: str) -> float:
    """The share of a text's word trigrams that occurred in it before; 0 under LEAST_WORDS words."""
    if len(text) < 2 * LEAST_WORDS - 1 and text.isascii():
        return 0.0
    tokens = words(text)
    if len(tokens) < LEAST_WORDS:
        return 0.0
    grams = [tuple(tokens[place : place + GRAM]) for place in range(len(tokens) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams)
