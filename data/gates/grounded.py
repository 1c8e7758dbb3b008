"""The grounding gate: quotes of a row occur in the passage that the row rests on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import Field

from graft.data.gates.base import Gate, Needs
from graft.schemas.base import Value
from graft.schemas.documents import UNSPACED, find_quote, sources_of
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal

SHOWN = 80
"""Characters of a quote in a reason."""
_WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]{{4,}}|\d+")


class Settings(Value):
    """Fields under `gates`."""

    grounded: bool = Field(
        default=True, description="with seeds.documents: quotes and spans have to occur in the row's passage"
    )
    passage_words: float = Field(
        default=0.0, ge=0, le=1,
        description="least share of the words of the response (else the text) found in the passage: words only, "
        "no check of meaning; 0: off",
    )  # fmt: skip


class GroundedGate(Gate):
    """Rules: no_passage, quote_not_found, span_not_found, words_not_found.

    A quote is `evidence` of a row's data (one or a list), a span the part of its text that one of `spans` marks. Case,
    whitespace and the shape of quotation marks do not matter. A row without any of these passes, unless `passage_words`
    is set; its score is that share. Words are those of four letters or more, numbers, and single letters of scripts
    without spaces.
    """

    Settings, cost, name = Settings, 8, "grounded"
    people, off = False, MappingProxyType({"grounded": False})

    def __init__(self, recipe: Recipe, needs: Needs) -> None:
        super().__init__(recipe, needs)
        self._documents, self._least = needs.documents, recipe.gates.of(Settings).passage_words

    @classmethod
    def enabled(cls, recipe: Recipe) -> bool:
        """If the recipe has documents."""
        return recipe.seeds.documents is not None and recipe.gates.of(Settings).grounded

    @classmethod
    def make(cls, recipe: Recipe, needs: Needs) -> Sequence[Gate]:
        """None without the documents' texts."""
        return (cls(recipe, needs),) if needs.documents else ()

    def check(self, proposal: Proposal) -> GateResult:
        """See the class."""
        quotes, spans = _quotes(proposal.data), _spans(proposal)
        if not (quotes or spans or self._least):
            return self.passed
        passages = self._passages(proposal.data)
        if not passages:
            return self.failed("no_passage", "the row names no passage of the run's documents")
        place = ", ".join(f"{one.get('document')} {one['start']} to {one['end']}" for one, _ in passages)
        for rule, pieces in (("quote_not_found", quotes), ("span_not_found", spans)):
            for piece in pieces:
                if not any(find_quote(piece, text) for _, text in passages):
                    shown = " ".join(piece.split())
                    shown = shown if len(shown) <= SHOWN else shown[: SHOWN - 1] + "…"
                    return self.failed(rule, f"'{shown}' does not occur in its passage ({place})")
        share = _share(proposal.response or proposal.text, [text for _, text in passages])
        if self._least and share < self._least:
            detail = f"the passage has {share:.0%} of its words, at least {self._least:.0%} required"
            return self.failed("words_not_found", detail, share)
        return self.passed

    def _passages(self, data: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
        found = [(one, self._documents.get(one["hash"], "")[one["start"] : one["end"]]) for one in sources_of(data)]
        return [(one, text) for one, text in found if text]


KIND = GroundedGate


def _quotes(data: Mapping[str, Any]) -> list[str]:
    given = data.get("evidence")
    return [one for one in (given if isinstance(given, list | tuple) else [given]) if isinstance(one, str) and one]


def _spans(proposal: Proposal) -> list[str]:
    given = proposal.data.get("spans")
    listed = [one for one in given if isinstance(one, Mapping)] if isinstance(given, list | tuple) else []
    places = [(one.get("start"), one.get("end")) for one in listed]
    return [
        proposal.text[start:end] for start, end in places
        if isinstance(start, int) and isinstance(end, int) and 0 <= start < end
    ]  # fmt: skip


def _share(text: str, passages: Sequence[str]) -> float:
    """The share of a text's distinct words that a passage has; 1 for a text without any."""
    wanted = set(_WORD.findall(text.casefold()))
    have = {word for passage in passages for word in _WORD.findall(passage.casefold())}
    return len(wanted & have) / len(wanted) if wanted else 1.0
