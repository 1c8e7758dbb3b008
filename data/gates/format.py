"""The format gate: requires the language's script and rejects leftovers of prompts and chat formats."""

from __future__ import annotations

import re
import unicodedata

from graft.data.gates.base import Gate, Needs
from graft.data.gates.shared.scripts import SCRIPTS
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal

_LETTER = re.compile(r"[^\W\d_]")
_TOKENS = re.compile(
    r"<\|[\w ]{1,40}\|>|</?s>|<(?:bos|eos|pad|unk)>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>", re.IGNORECASE
)
_FIELDS = (
    "text", "message", "label", "category", "class", "intent", "example", "input", "output", "instruction", "response",
    "keywords", "domain", "question", "answer", "customer", "user", "assistant",
)  # fmt: skip
_FIELD = re.compile(rf"\A[\W_]{{0,12}}+(?:{'|'.join(_FIELDS)})(?: \d{{1,3}})?[*_\"']*+\s?[:=]", re.IGNORECASE)
_LATER_FIELD = re.compile(
    rf"\n[\W_]{{0,12}}+(?:{'|'.join(_FIELDS)})(?: \d{{1,3}})?[*_\"']*+\s?:|\b(?:Label|Category|Intent):"
)
SCRIPT_SHARE = 0.5
"""Share of the letters (of the first 80) that must be of the language's script."""


class FormatGate(Gate):
    """Rules: no_letters, model_token, json, field_name (such as `Label:`), script.

    If a text may hold code, fields and JSON of its own (`Task.free_form`), only its start is checked.
    A language that is not in the table is not checked for its script.
    """

    cost, name = 2, "format"

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        self._whole = not recipe.task.free_form
        self._script = re.compile(SCRIPTS.get(recipe.task.language, ""))
        self._latin = self._script.pattern in ("LATIN", "")

    def check(self, proposal: Proposal) -> GateResult:
        """See the class."""
        text = proposal.text
        if not _LETTER.search(text):
            return self.failed("no_letters", "holds only digits, punctuation or symbols")
        for part in proposal.parts:
            token = _TOKENS.search(part)
            if token:
                return self.failed("model_token", f"holds a model's control token: {token[0]}")
        if _is_json(text.strip()):
            return self.failed("json", "is JSON, not a text")
        name = _FIELD.match(text) or (_LATER_FIELD.search(text) if self._whole else None)
        if name:
            return self.failed("field_name", f"holds a field name of the prompt: {name[0].strip()[:40]!r}")
        share = 1.0 if text.isascii() and self._latin else self._share(text)
        if share < SCRIPT_SHARE:
            detail = f"only {share:.0%} of the letters are of the task's script"
            return self.failed("script", detail, round(share, 3))
        return self.passed

    def _share(self, text: str) -> float:
        letters = _LETTER.findall(text[:400])[:80]
        if not letters:
            return 1.0
        return sum(bool(self._script.match(unicodedata.name(letter, ""))) for letter in letters) / len(letters)


KIND = FormatGate


def _is_json(text: str) -> bool:
    braces = text[0] + text[-1] in ("{}", "[]")
    return braces or (text[0] in "{[" and '"' in text[:20]) or text.startswith("```json")
