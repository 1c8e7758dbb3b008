"""The prompt gate: rejects a text that repeats a piece of our prompt."""

from __future__ import annotations

from types import MappingProxyType

from pydantic import Field

from graft.data.gates.base import Gate, Needs
from graft.data.gates.shared.folding import words
from graft.schemas.base import Value
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal
from graft.schemas.steering import NOTATION

FRAGMENT_WORDS = 8
"""This many consecutive words shared with a fixed sentence of a prompt are no accident."""


class Settings(Value):
    """Fields under `gates`."""

    prompt_leak: bool = Field(default=True, description="reject a text that repeats a piece of our prompt")


class PromptLeakGate(Gate):
    """Rejects a text or response that repeats 8 or more words in a row of a prompt's fixed sentences.

    In a steered round also one that repeats the notation of a mistake. The rule is `prompt_fragment`, the score the
    length of the longest repeated run in words; 1 for the notation.
    """

    Settings, cost, name = Settings, 6, "prompt_leak"
    people, off = False, MappingProxyType({"prompt_leak": False})

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        self._notation = NOTATION if recipe.steering else ()
        self._runs = {run for fragment in needs.fragments for run in _runs(words(fragment))}

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """As the recipe sets."""
        return recipe.gates.of(Settings).prompt_leak

    def check(self, proposal: Proposal) -> GateResult:
        """See the class."""
        for part in proposal.parts if self._notation else ():
            if copied := next((mark for mark in self._notation if mark in f"{part.casefold()} "), ""):
                return self.failed("prompt_fragment", f"repeats our prompt: '{copied.strip()}'", 1.0)
        for part in proposal.parts if self._runs else ():
            longest, current, start, at = 0, 0, 0, 0
            spoken = words(part)
            for index, run in enumerate(_runs(spoken)):
                current = current + 1 if run in self._runs else 0
                if current > longest:
                    longest, at = current, index
            if longest:
                start, end = at - longest + 1, at + FRAGMENT_WORDS
                detail = f"repeats our prompt: '{' '.join(spoken[start:end])[:100]}'"
                return self.failed("prompt_fragment", detail, float(end - start))
        return self.passed


KIND = PromptLeakGate


def _runs(spoken: list[str]) -> list[tuple[str, ...]]:
    return [tuple(spoken[index : index + FRAGMENT_WORDS]) for index in range(len(spoken) - FRAGMENT_WORDS + 1)]
