"""Formats for taggers: CoNLL's BIO lines, spaCy's entities by offset, GLiNER's entities by token."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from graft.data.export.formats.base import Format, Source, row_columns

TOKEN = re.compile(r"\w+|[^\w\s]")
"""A word, or one character of punctuation."""

Line = dict[str, Any]


def _tokens(text: str) -> list[tuple[int, int]]:
    return [hit.span() for hit in TOKEN.finditer(text)]


def _entities(row: Line) -> list[tuple[int, int, str]]:
    """Spans that do not overlap, by place; of two that do, the longer one."""
    spans = [(one["start"], one["end"], str(one["type"])) for one in row["data"].get("spans", ())]
    taken: list[tuple[int, int, str]] = []
    for start, end, kind in sorted(spans, key=lambda one: (one[0] - one[1], one[0])):
        if all(end <= one[0] or one[1] <= start for one in taken):
            taken.append((start, end, kind))
    return sorted(taken)


def _by_token(tokens: Sequence[tuple[int, int]], row: Line) -> Iterator[tuple[int, int, str]]:
    """First token, last token and type of each entity; a token that an entity cuts belongs to it."""
    for start, end, kind in _entities(row):
        inside = [place for place, (a, b) in enumerate(tokens) if a < end and start < b]
        if inside:
            yield inside[0], inside[-1], kind


def _conll(source: Source) -> Callable[[Line], str]:
    def lines(row: Line) -> str:
        text, tokens = row["text"], _tokens(row["text"])
        tags = ["O"] * len(tokens)
        for first, last, kind in _by_token(tokens, row):
            name = "_".join(kind.split())
            for place in range(first, last + 1):
                tags[place] = tags[place] if tags[place] != "O" else f"{'B' if place == first else 'I'}-{name}"
        return "".join(f"{text[a:b]}\t{tag}\n" for (a, b), tag in zip(tokens, tags, strict=True)) + "\n"

    return lines


def _spacy(source: Source) -> Callable[[Line], str]:
    return lambda row: _json({"text": row["text"], "entities": [list(one) for one in _entities(row)]})


def _gliner(source: Source) -> Callable[[Line], str]:
    def line(row: Line) -> str:
        tokens = _tokens(row["text"])
        words = [row["text"][a:b] for a, b in tokens]
        return _json({"tokenized_text": words, "ner": [list(one) for one in _by_token(tokens, row)]})

    return line


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


_FLAT = "Of two spans that overlap the longer one is written."
KINDS = (
    Format("conll", "token and BIO tag a line, an empty line after each row", "jsonl", row_columns, suffix="conll",
           lines=_conll, compressions=("none",), column="spans",
           notes=(_FLAT, "A token is a word or one character of punctuation; blanks in a type are written as _.")),
    Format("spacy", "`text`, `entities` as [start, end, type]: spaCy's training data", "jsonl", row_columns,
           lines=_spacy, compressions=("none",), column="spans", notes=(_FLAT,)),
    Format("gliner", "`tokenized_text`, `ner` as [first token, last token, type]: GLiNER", "jsonl", row_columns,
           lines=_gliner, compressions=("none",), column="spans", notes=(_FLAT,)),
)  # fmt: skip
