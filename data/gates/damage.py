"""The damage gate: text that an encoding broke, or that holds signs which no writer means."""

from __future__ import annotations

import re

from graft.data.gates.base import failed, passed
from graft.schemas.rows import GateResult

_BROKEN = re.compile(r"\ufffd|[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]")
_TURNED = re.compile(r"[\u202a-\u202e\u2066-\u2069]")
SEEN_CHARS = 20_000


class DamageGate:
    """Rules: broken_encoding (U+FFFD, half a surrogate pair, cafÃ©), control_character, turned (bidirectional
    overrides, by which a text reads otherwise than it is).
    """

    name = "damage"

    def __init__(self) -> None:
        self._passed = passed(self.name)

    def check(self, text: str, response: str | None, label: str) -> GateResult:
        """See the class."""
        for part in (text, response):
            if not part:
                continue
            hit = _CONTROL.search(part)
            if hit:
                return failed(self.name, "control_character", f"holds U+{ord(hit[0]):04X} at character {hit.start()}")
            if part.isascii():
                continue
            hit = _BROKEN.search(part)
            if hit or _garbled(part):
                return failed(self.name, "broken_encoding", "was decoded in the wrong way somewhere")
            if _TURNED.search(part):
                return failed(self.name, "turned", "holds signs that turn the direction of writing")
        return self._passed


def _garbled(text: str) -> bool:
    from ftfy.badness import is_bad

    return bool(is_bad(text[:SEEN_CHARS]))
