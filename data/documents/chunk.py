"""Cut a document into passages that end with a sentence and overlap by whole sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator

from graft.schemas.documents import UNSPACED, ChunkSettings, Document, Passage, Span

VERSION = 1
"""Raise it if sentences or passages change: runs with documents get new ids."""

_ENDS = re.compile(
    r"(?<![.!?…])[.!?…]++[\"'”’»)\]]*+(?=\s)|[。！？｡]++[」』”’）]*+|\n[ \t]*+\n"
    r"|\n(?=[ \t]*+(?:[-*•|]|#{1,6}|\d{1,3}[.)])[ \t])"
)
_WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]{{1,40}}|(?:[^\w\s]\s*+){{40}}")
"""A word: a letter of a script without spaces, up to 40 other letters and digits, or 40 signs: few words are short."""
_OPENS = re.compile(r"[\s\"'“‘(\[]")
_NO_END = frozenset({
    "dr", "mr", "mrs", "ms", "prof", "st", "vs", "fig", "figs", "eq", "eqs", "ref", "refs", "sec", "no", "nos", "vol",
    "pp", "al", "approx", "ca", "cf", "e.g", "i.e", "z.b", "bzw", "usw", "etc", "inc", "ltd", "co", "jr", "sr",
    "dept", "resp", "tab", "ch", "ed", "eds",
})  # fmt: skip
"""Words whose point ends no sentence, unless a new line follows."""


def passages(document: Document, settings: ChunkSettings) -> list[Passage]:
    """The passages of a document in its order; none without a letter or digit.

    Each sentence is in at least one passage. A sentence longer than a passage is cut between words.
    """
    text = document.text
    pieces = [piece for span in sentences(text) for piece in _cut(text, span, settings.words)]
    sizes = [max(1, words(text, piece)) for piece in pieces]
    found, begin = list[Passage](), 0
    while begin < len(pieces):
        end, total = begin, 0
        while end < len(pieces) and (end == begin or total + sizes[end] <= settings.words):
            total += sizes[end]
            end += 1
        passage = document.passage(pieces[begin].start, pieces[end - 1].end)
        if any(char.isalnum() for char in passage.text):
            found.append(passage)
        if end == len(pieces):
            break
        room = min(settings.overlap, settings.words - sizes[end])
        after, begin = begin, end
        while begin - 1 > after and sizes[begin - 1] <= room:
            begin -= 1
            room -= sizes[begin]
    return found


def words(text: str, span: Span) -> int:
    """The number of words in a span."""
    return sum(1 for _ in _WORD.finditer(text, span.start, span.end))


def sentences(text: str) -> Iterator[Span]:
    """The sentences of a text in order, without the whitespace around them. A blank line ends a sentence too, and so
    does the beginning of a list's item, a table's row or a heading.
    """
    start = 0
    for end in _ENDS.finditer(text):
        if end[0].startswith(".") and _goes_on(text, end.start(), end.end()):
            continue
        if span := _trimmed(text, start, end.end()):
            yield span
        start = end.end()
    if span := _trimmed(text, start, len(text)):
        yield span


def _goes_on(text: str, point: int, end: int) -> bool:
    """Return True if a point belongs to an abbreviation, an initial or a list's number, or a small letter follows."""
    seen = text[max(0, point - 20) : point]
    word = _OPENS.split(seen)[-1].casefold()
    after = text[end : end + 2].strip()
    if after and after[0].islower():
        return True
    starts_line = not seen[: len(seen) - len(word)].rpartition("\n")[2].strip()
    return word in _NO_END or (len(word) == 1 and word.isalpha()) or (word.isdigit() and starts_line)


def _trimmed(text: str, start: int, end: int) -> Span | None:
    piece = text[start:end]
    begin = start + len(piece) - len(piece.lstrip())
    return Span(begin, begin + len(piece.strip())) if piece.strip() else None


def _cut(text: str, span: Span, most: int) -> Iterator[Span]:
    """The span, cut before every `most`-th word."""
    start = span.start
    for place, word in enumerate(_WORD.finditer(text, span.start, span.end)):
        if place and place % most == 0:
            if piece := _trimmed(text, start, word.start()):
                yield piece
            start = word.start()
    if piece := _trimmed(text, start, span.end):
        yield piece
