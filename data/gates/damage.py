"""The damage gate: rejects text with a broken encoding, or with characters that no writer types."""

from __future__ import annotations

import re

from pydantic import Field

from graft.data.gates.base import Gate
from graft.schemas.base import Value
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal

_BROKEN = re.compile(r"\ufffd|[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_TURNED = re.compile(r"[\u202a-\u202e\u2066-\u2069]")
SEEN_CHARS = 20_000


class Settings(Value):
    """Fields under `gates`."""

    damage: bool = Field(default=True, description="reject text of a broken encoding: cafÃ©, U+FFFD, NUL bytes")


class DamageGate(Gate):
    """Rules: broken_encoding (U+FFFD, half a surrogate pair, cafÃ©), control_character, turned (bidirectional
    overrides, which display a text in another order).
    """

    Settings, cost, name = Settings, 3, "damage"

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """As the recipe sets."""
        return recipe.gates.of(Settings).damage

    def check(self, proposal: Proposal) -> GateResult:
        """See the class."""
        for part in proposal.parts:
            hit = _CONTROL.search(part)
            if hit:
                return self.failed("control_character", f"holds U+{ord(hit[0]):04X} at character {hit.start()}")
            if part.isascii():
                continue
            hit = _BROKEN.search(part)
            if hit or _garbled(part):
                return self.failed("broken_encoding", "was decoded with the wrong encoding")
            if _TURNED.search(part):
                return self.failed("turned", "holds characters that override the writing direction")
        return self.passed


KIND = DamageGate


def _garbled(text: str) -> bool:
    from ftfy.badness import is_bad

    return bool(is_bad(text[:SEEN_CHARS]))
