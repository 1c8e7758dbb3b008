"""Unwanted pieces of a text and their placeholders, shared by the gates for personal data and secrets."""

from __future__ import annotations

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

ROUNDS = 5
"""Rounds, enough for a text in which removing one piece joins two others."""


class Span(NamedTuple):
    """A find: its kind and its place in the text, in characters, `end` not included."""

    kind: str
    start: int
    end: int


Finder = Callable[[str], Sequence[Span]]


def disjoint(found: Iterable[Span]) -> list[Span]:
    """The finds in the text's order; of two that overlap the one that comes first in `found` stays."""
    kept: list[Span] = []
    starts: list[int] = []
    for span in found:
        place = bisect(starts, span.start)
        free = place == 0 or kept[place - 1].end <= span.start
        if free and (place == len(kept) or span.end <= starts[place]):
            kept.insert(place, span)
            starts.insert(place, span.start)
    return kept


def redacted(text: str, find: Finder) -> tuple[str, Counter[str]]:
    """The text with `<KIND>` in place of each find, and counts by kind; nothing is found in it any more."""
    count: Counter[str] = Counter()
    for _ in range(ROUNDS):
        spans = find(text)
        if not spans:
            return text, count
        count.update(span.kind for span in spans)
        ends = [0, *(span.end for span in spans)]
        stays = [text[end : span.start] + f"<{span.kind.upper()}>" for end, span in zip(ends, spans, strict=False)]
        text = "".join(stays) + text[ends[-1] :]
    return ("", count) if find(text) else (text, count)


def counted(count: Counter[str]) -> str:
    """`2 email, 1 phone`: kinds and counts, never the finds."""
    return ", ".join(f"{number} {kind}" for kind, number in sorted(count.items()))


def place(span: Span) -> str:
    """A find's place, for a gate's detail."""
    return f"{span.kind} at characters {span.start} to {span.end}"
