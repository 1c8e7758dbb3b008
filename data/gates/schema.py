"""The schema gate: the row holds what its task needs, and nothing that a file or a person cannot read."""

from __future__ import annotations

import re

from graft.data.gates.base import failed, passed
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\ufffd\ud800-\udfff]")


class SchemaGate:
    """Rules: empty, unknown_label, missing_response, control_characters (NUL, broken encodings and the like).

    A response of None is one that has not been asked for yet: an instruction is screened before its response is paid.
    """

    name = "schema"

    def __init__(self, recipe: Recipe) -> None:
        task = recipe.task
        self._labels = set(task.names)
        self._needs_response = task.needs_response
        self._passed = passed(self.name)

    def check(self, text: str, response: str | None, label: str) -> GateResult:
        """See the class."""
        if not text or text.isspace():
            return failed(self.name, "empty", "the text is empty")
        if label not in self._labels:
            return failed(self.name, "unknown_label", f"{label[:80]!r} is not a label of the task")
        if self._needs_response and response is not None and not response.strip():
            return failed(self.name, "missing_response", "the task needs a response and there is none")
        for part in (text, response):
            hit = _CONTROL.search(part) if part else None
            if hit:
                return failed(self.name, "control_characters", f"holds the character U+{ord(hit[0]):04X}")
        return self._passed
