"""The label gate: rejects a text that contains its own label."""

from __future__ import annotations

import re
from types import MappingProxyType

from pydantic import Field

from graft.data.gates.base import Gate, Needs
from graft.data.gates.shared.folding import words
from graft.schemas.base import Value
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal


class Settings(Value):
    """Fields under `gates`."""

    label_leak: bool = Field(default=True, description="reject a text that contains its own label's name")


class LabelLeakGate(Gate):
    """Rejects a text that gives its label away in words that no person would write (rule `label_name`).

    Messages about refunds contain "refund", so a plain word that is also a label is no leak. Leaks: the text *is* the
    label's name; it starts with the name and a colon, dash or arrow (`Refund: where is …`); it holds the name as
    an identifier (`card_arrival`, `card-arrival`, `cardArrival`); or it holds a name of several words verbatim
    (`card arrival`). A student does not predict the domains of instructions: there only the first two count.
    The recipe turns the gate off with gates.label_leak: false. Labels of one hyphenated everyday word (`check-in`)
    are a reason to.
    """

    Settings, cost, name = Settings, 5, "label_leak"
    people, off = False, MappingProxyType({"label_leak": False})

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        strict = recipe.task.labelled
        self._folded = {label.name: words(label.name) for label in recipe.task.categories}
        self._patterns = {label.name: _pattern(label.name, strict) for label in recipe.task.categories}

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """As the recipe sets."""
        return recipe.gates.of(Settings).label_leak

    def check(self, proposal: Proposal) -> GateResult:
        """See the class."""
        text, label = proposal.text, proposal.label
        pattern = self._patterns.get(label)
        if pattern is None:
            return self.passed
        hit = pattern.search(text)
        if hit:
            return self.failed("label_name", f"contains its label: {hit[0].strip()[:60]!r}")
        if len(text) <= 2 * len(label) + 20 and words(text) == self._folded[label]:
            return self.failed("label_name", f"is only the name of its label: {text.strip()[:60]!r}")
        return self.passed


KIND = LabelLeakGate


def _pattern(name: str, strict: bool) -> re.Pattern[str]:
    parts = [re.escape(part) for part in re.split(r"[\W_]+|(?<=[a-z])(?=[A-Z])", name) if part]
    spelled = r"[\s_-]{0,3}".join(parts) or re.escape(name)
    rules = [rf"\A[\W_]{{0,12}}{spelled}[\W_]{{0,5}}?\s{{0,5}}(?::|->|→|=|\s[-–—]\s)"]
    if strict and len(parts) > 1:
        rules.append(rf"(?<!\w){r'(?:[ _-]|(?-i:(?=[A-Z])))'.join(parts)}(?!\w)")
    return re.compile("|".join(rules), re.IGNORECASE)
