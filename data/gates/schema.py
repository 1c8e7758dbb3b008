"""The schema gate: requires the task's fields, and text that files and people can read."""

from __future__ import annotations

import re

from graft.data.gates.base import Gate, Needs
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\ufffd\ud800-\udfff]")


class SchemaGate(Gate):
    """Rules: empty, unknown_label, missing_response, control_characters (NUL, broken encodings and the like).

    A response of None has not been requested yet: an instruction is screened before its response is paid. Nor has an
    empty label been given yet: a person's text is screened before it is labelled.
    """

    cost, name = 1, "schema"

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        task = recipe.task
        self._labels = set(task.names)
        self._needs_response = task.needs_response

    def check(self, proposal: Proposal) -> GateResult:
        """See the class."""
        text, response, label = proposal.text, proposal.response, proposal.label
        if not text or text.isspace():
            return self.failed("empty", "the text is empty")
        if label and label not in self._labels:
            return self.failed("unknown_label", f"{label[:80]!r} is not a label of the task")
        if self._needs_response and response is not None and not response.strip():
            return self.failed("missing_response", "the task needs a response and there is none")
        for part in proposal.words:
            hit = _CONTROL.search(part)
            if hit:
                return self.failed("control_characters", f"holds the character U+{ord(hit[0]):04X}")
        return self.passed


KIND = SchemaGate
