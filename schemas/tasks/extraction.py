"""Extraction: texts with typed spans, such as names or adverse events. Offsets are verified against the text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import orjson
from pydantic import Field, field_validator

from graft.schemas.display import Part, View, marked
from graft.schemas.documents import find_quote
from graft.schemas.forms import FormField, quoted, unquoted
from graft.schemas.tasks.base import DomainTask, Fault, Label, Words, from_json, no_repeats

SHOWN = 60
"""Characters quoted of a text in a fault."""
MOST = 2_000
"""Most spans of a row."""
HINT = "one a line, as type: words; with @ and the place of its first character where the words occur more than once"
_TYPE_ENDS = re.compile(r": ")
_WORDS_END = re.compile(r" @\d| \{")
_PLACE = re.compile(r"@(\d{1,9})")


class ExtractionTask(DomainTask):
    """Texts with typed spans in the column `spans`: start, end (exclusive) and type, in code points of the text."""

    kind: Literal["extraction"] = "extraction"
    types: tuple[Label, ...] = Field(default=(), description="types of span; left out: any type")
    text: str = Field(default="a short text", description="what one text is, such as: a sentence of a case report")
    overlap: bool = Field(default=False, description="whether spans may overlap")
    empty: bool = Field(default=True, description="whether a text may have no span")

    hub_category: ClassVar[str] = "token-classification"
    student: ClassVar[str] = ""
    columns: ClassVar[tuple[str, ...]] = ("spans",)
    needed: ClassVar[tuple[str, ...]] = ("spans",)
    checked: ClassVar[bool] = True

    _types = field_validator("types")(no_repeats)

    @property
    def noun(self) -> str:
        """The recipe's `text`."""
        return self.text

    def settle(self, row: Words, before: str | None = None) -> dict[str, Any]:
        """Spans with offsets, by place, without repeats. A span that holds `text` in place of offsets is located.

        Its words are looked up as they are, as whole words if they occur as such, and each occurrence becomes a span;
        words that only occur in other case, blanks or quotation marks become one. Where spans may not overlap, longer
        words come first and an occurrence within an earlier span is left out. `text` is kept only where it cannot be
        found, or differs from the words at its offsets. A declared type is written as declared, whatever its case.
        """
        given = from_json(row.data.get("spans"))
        if not isinstance(given, list) or len(given) > MOST or not all(isinstance(span, Mapping) for span in given):
            return dict(row.data)
        placed: list[dict[str, Any]] = []
        loose: list[dict[str, Any]] = []
        odd: list[dict[str, Any]] = []
        for span in given:
            made = self._moved(span, row.text, before)
            words, there = made.get("text"), _words(row.text, made)
            if isinstance(words, str) and words.strip() and "start" not in made and "end" not in made:
                loose.append(made)
            elif there is not None and words in (None, there):
                placed.append({name: value for name, value in made.items() if name != "text"})
            else:
                odd.append(made)
        self._locate(row.text, loose, placed, odd)
        unique = {orjson.dumps(span, option=orjson.OPT_SORT_KEYS): span for span in placed}.values()
        settled = sorted(unique, key=lambda one: (one["start"], -one["end"], str(one.get("type"))))
        return {**row.data, "spans": [*settled, *odd]}

    def _moved(self, span: Mapping[str, Any], text: str, before: str | None) -> dict[str, Any]:
        """The span with its declared type; without offsets but with its words if they are of another text."""
        made = {**span}
        if isinstance(made.get("type"), str):
            names = {_folded(one.name): one.name for one in self.types}
            made["type"] = names.get(_folded(made["type"]), made["type"].strip())
        if before is None or before == text or (words := _words(before, made)) is None:
            return made
        return {**{name: value for name, value in made.items() if name not in ("start", "end")}, "text": words}

    def _locate(self, text: str, loose: list[dict[str, Any]], placed: list[dict[str, Any]], odd: list[Any]) -> None:
        """Add each occurrence of the loose spans' words to `placed`; those without any to `odd`."""
        taken = bytearray(len(text))
        for span in placed:
            taken[span["start"] : span["end"]] = b"\1" * (span["end"] - span["start"])
        for span in sorted(loose, key=lambda one: -len(one["text"])):
            rest, found = {name: value for name, value in span.items() if name != "text"}, False
            for start, end in _occurrences(text, span["text"].strip()):
                found = True
                if (self.overlap or not any(taken[start:end])) and len(placed) <= MOST:
                    placed.append({"start": start, "end": end, **rest})
                    taken[start:end] = b"\1" * (end - start)
            odd += [] if found else [span]

    def faults(self, row: Words) -> tuple[Fault, ...]:
        """Each span has a type of the task, and offsets within the text that hold its words."""
        given = row.data.get("spans")
        if not isinstance(given, list):
            return (Fault("no_spans", "the row has no spans: an empty list states that there are none"),)
        if len(given) > MOST:
            return (Fault("too_many_spans", f"the row has more than {MOST:,} spans"),)
        if not given and not self.empty:
            return (Fault("no_spans", "the text has no span, and the task asks for one"),)
        wrong = [fault for number, span in enumerate(given, 1) if (fault := self._fault(number, span, row.text))]
        if wrong or self.overlap:
            return tuple(wrong)
        ordered = sorted(range(len(given)), key=lambda place: given[place]["start"])
        for a, b in pairwise(ordered):
            if _meet((given[a]["start"], given[a]["end"]), given[b]):
                one, other = (f"{place + 1} ({row.text[given[place]['start']:given[place]['end']][:SHOWN]!r})"
                              for place in (a, b))  # fmt: skip
                return (Fault("span_overlap", f"span {other} overlaps span {one}; the task allows no overlap"),)
        return ()

    def _fault(self, number: int, span: Any, text: str) -> Fault | None:
        here = f"span {number}:"
        kind = span.get("type") if isinstance(span, Mapping) else None
        if not isinstance(kind, str) or not kind.strip():
            return Fault("span_type", f"{here} has no type")
        if self.types and kind not in {one.name for one in self.types}:
            return Fault("span_type", f"{here} {kind[:SHOWN]!r} is not a type of the task")
        words, start, end = span.get("text"), span.get("start"), span.get("end")
        if start is None and end is None:
            if isinstance(words, str) and words.strip():
                return Fault("span_text", f"{here} {words[:SHOWN]!r} does not occur in the text")
            return Fault("span_offsets", f"{here} has neither offsets nor words")
        there = _words(text, span)
        if there is None:
            detail = f"{here} offsets {start}–{end} are not within the text of {len(text)} characters"
            return Fault("span_offsets", detail)
        if words is not None and words != there:
            detail = f"{here} offsets {start}–{end} hold {there[:SHOWN]!r}, not {str(words)[:SHOWN]!r}"
            return Fault("span_text", detail)
        if there != there.strip():
            return Fault("span_blank", f"{here} {there[:SHOWN]!r} begins or ends with a blank")
        return None

    def view(self, row: Words) -> View:
        """The text with its spans marked."""
        spans = row.data.get("spans")
        sound = [span for span in spans if isinstance(span, Mapping)] if isinstance(spans, list) else []
        return self._view(row, Part(marked(row.text, sound)), shown=("spans",) if sound or spans == [] else ())

    def form(self, row: Words) -> tuple[FormField, ...]:
        """The spans, one a line."""
        return (FormField("spans", "spans", "\n".join(_lines(row)), HINT),)

    def of_form(self, values: Mapping[str, str], row: Words) -> dict[str, Any]:
        """Spans read from their lines; words without a place are located in the text."""
        if "spans" not in values:
            return self.settle(row)
        lines = [(number, line) for number, line in enumerate(values["spans"].splitlines(), 1) if line.strip()]
        spans = [_read(number, line) for number, line in lines]
        return self.settle(Words(row.text, data={**row.data, "spans": spans}))

    def measures(self, row: Words) -> Mapping[str, Sequence[float | str]]:
        """Spans a row, their length in characters, their types."""
        spans = [span for span in row.data.get("spans") or () if _words(row.text, span) is not None]
        return {
            "spans a row": [len(spans)],
            "characters a span": [span["end"] - span["start"] for span in spans],
            "type": [str(span["type"]) for span in spans],
        }


KIND = ExtractionTask


def _folded(kind: str) -> str:
    return " ".join(kind.casefold().replace("_", " ").split())


def _words(text: str, span: Any) -> str | None:
    """The words at a span's offsets; None if these are not within the text."""
    start, end = (span.get("start"), span.get("end")) if isinstance(span, Mapping) else (None, None)
    if not isinstance(start, int) or not isinstance(end, int) or isinstance(start, bool) or isinstance(end, bool):
        return None
    return text[start:end] if 0 <= start < end <= len(text) else None


def _meet(place: tuple[int, int], span: Mapping[str, Any]) -> bool:
    return bool(place[0] < span["end"] and span["start"] < place[1])


def _occurrences(text: str, words: str) -> Iterator[tuple[int, int]]:
    """Where words occur, as whole words if they do so anywhere; else the first place but for case, blanks, quotes."""
    every, start = [], text.find(words)
    while start >= 0:
        every.append((start, start + len(words)))
        start = text.find(words, start + len(words))
    whole = [place for place in every if _bounded(text, *place)]
    yield from whole or every
    if not every and (quote := find_quote(words, text)) is not None:
        yield quote.start, quote.end


def _bounded(text: str, start: int, end: int) -> bool:
    """True if no letter or digit continues the words at either end."""
    before = start > 0 and text[start - 1].isalnum() and text[start].isalnum()
    return not before and not (end < len(text) and text[end].isalnum() and text[end - 1].isalnum())


def _lines(row: Words) -> Iterator[str]:
    for span in row.data.get("spans") or ():
        words = _words(row.text, span)
        if words is None:
            words = str(span.get("text") or "") if isinstance(span, Mapping) else ""
        more = {name: value for name, value in span.items() if name not in ("start", "end", "type", "text")}
        several = "start" in span and [*_occurrences(row.text, words)] != [(span["start"], span["end"])]
        yield (f"{quoted(str(span.get('type', '')))}: {quoted(words)}" + (f" @{span['start']}" if several else "")
               + (f" {orjson.dumps(more).decode()}" if more else ""))  # fmt: skip


def _read(number: int, line: str) -> dict[str, Any]:
    """The span of a line of the form. Raises ValueError."""
    kind, rest = unquoted(line, _TYPE_ENDS)
    if not rest.lstrip().startswith(":"):
        raise ValueError(f"line {number}: {line[:SHOWN]!r} is not of the form type: words")
    words, rest = unquoted(rest.lstrip()[1:], _WORDS_END)
    place = _PLACE.match(rest.strip())
    more = rest.strip()[place.end() :].strip() if place else rest.strip()
    found = orjson.loads(more) if more else {}
    if not isinstance(found, dict):
        raise ValueError(f"line {number}: {more[:SHOWN]!r} is not an object")
    where = {"start": int(place[1]), "end": int(place[1]) + len(words)} if place else {}
    return {**where, "type": kind, "text": words, **found}
