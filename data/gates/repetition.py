"""The repetition gate: a model that went round in circles, or leaned on one key."""

from __future__ import annotations

import re

from graft.data.gates.base import failed, passed, words
from graft.schemas.gates import RepetitionSettings
from graft.schemas.rows import GateResult

LEAST_WORDS = 12
"""Shorter texts repeat themselves for reasons of their own ("no, no, no")."""
GRAM = 3
_RUN = re.compile(r"([^\s\d]{1,4}?)\1{15,}")
_RULE = re.compile(r"[-=_*.#~|:+]+")


class RepetitionGate:
    """Rules: repeated (the score is the share of the text's word trigrams that occurred before in it), long_run."""

    name = "repetition"

    def __init__(self, settings: RepetitionSettings) -> None:
        self._most = settings.max_share
        self._passed = passed(self.name)

    def check(self, text: str, response: str | None, label: str) -> GateResult:
        """See the class."""
        for part in (text, response):
            if not part:
                continue
            run = _RUN.search(part)
            if run and not _RULE.fullmatch(run[1]):
                return failed(
                    self.name, "long_run", f"the same sign or few signs over {len(run[0])} characters", len(run[0])
                )
            share = repeated_share(part)
            if share >= self._most:
                return failed(self.name, "repeated", f"{share:.0%} of its word trigrams repeat", round(share, 4))
        return self._passed


def repeated_share(text: str) -> float:
    """The share of a text's word trigrams that occurred in it before; 0 under LEAST_WORDS words."""
    if len(text) < 2 * LEAST_WORDS - 1 and text.isascii():
        return 0.0
    said = words(text)
    if len(said) < LEAST_WORDS:
        return 0.0
    grams = [tuple(said[place : place + GRAM]) for place in range(len(said) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams)
