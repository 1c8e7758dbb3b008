"""The leak gates: a text must not say its own label, and must not repeat our prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence

from graft.data.gates.base import failed, passed, words
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult

FRAGMENT_WORDS = 8
"""So many words in a row, shared with a fixed sentence of a prompt, are no accident."""


class LabelLeakGate:
    """Rejects a text that gives its label away in words that no person would write (rule `label_name`).

    A message about a refund says "refund", so a plain word that is also a label is no leak. A leak is: the text *is*
    the label's name; it starts with the name and a colon, dash or arrow (`Refund: where is …`); it holds the name as
    an identifier (`card_arrival`, `card-arrival`, `cardArrival`); or it holds a name of several words verbatim
    (`card arrival`). The domains of instructions are not what a student predicts: there only the first two count.
    The recipe turns the gate off with gates.label_leak: false. Labels of one hyphenated everyday word (`check-in`)
    are a reason to.
    """

    name = "label_leak"

    def __init__(self, recipe: Recipe) -> None:
        strict = recipe.task.labelled
        self._folded = {label.name: words(label.name) for label in recipe.task.categories}
        self._patterns = {label.name: _pattern(label.name, strict) for label in recipe.task.categories}
        self._passed = passed(self.name)

    def check(self, text: str, response: str | None, label: str) -> GateResult:
        """See the class."""
        pattern = self._patterns.get(label)
        if pattern is None:
            return self._passed
        hit = pattern.search(text)
        if hit:
            return failed(self.name, "label_name", f"gives its label away: {hit[0].strip()[:60]!r}")
        if len(text) <= 2 * len(label) + 20 and words(text) == self._folded[label]:
            return failed(self.name, "label_name", f"is only the name of its label: {text.strip()[:60]!r}")
        return self._passed


def _pattern(name: str, strict: bool) -> re.Pattern[str]:
    parts = [re.escape(part) for part in re.split(r"[\W_]+|(?<=[a-z])(?=[A-Z])", name) if part]
    spelled = r"[\s_-]{0,3}".join(parts) or re.escape(name)
    rules = [rf"\A[\W_]{{0,12}}{spelled}[\W_]{{0,5}}?\s{{0,5}}(?::|->|→|=|\s[-–—]\s)"]
    if strict and len(parts) > 1:
        rules.append(rf"(?<!\w){r'(?:[ _-]|(?-i:(?=[A-Z])))'.join(parts)}(?!\w)")
    return re.compile("|".join(rules), re.IGNORECASE)


class PromptLeakGate:
    """Rejects a text or response that repeats 8 or more words in a row of a prompt's fixed sentences.

    The rule is `prompt_fragment`, the score the length of the longest repeated run in words.
    """

    name = "prompt_leak"

    def __init__(self, fragments: Sequence[str]) -> None:
        self._runs = {run for fragment in fragments for run in _runs(words(fragment))}
        self._passed = passed(self.name)

    def check(self, text: str, response: str | None, label: str) -> GateResult:
        """See the class."""
        for part in (text, response):
            if not part or not self._runs:
                continue
            longest, current, start, at = 0, 0, 0, 0
            said = words(part)
            for index, run in enumerate(_runs(said)):
                current = current + 1 if run in self._runs else 0
                if current > longest:
                    longest, at = current, index
            if longest:
                start, end = at - longest + 1, at + FRAGMENT_WORDS
                detail = f"repeats our prompt: '{' '.join(said[start:end])[:100]}'"
                return failed(self.name, "prompt_fragment", detail, float(end - start))
        return self._passed


def _runs(said: list[str]) -> list[tuple[str, ...]]:
    return [tuple(said[index : index + FRAGMENT_WORDS]) for index in range(len(said) - FRAGMENT_WORDS + 1)]
