"""Documents that rows rest on: a document, its passages, and where a quote occurs in a text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from graft.schemas.base import Value, stable_hash
from graft.schemas.problems import field_error


class ChunkSettings(Value):
    """Size of passages. They end with a sentence; the next one repeats the last sentences of the one before."""

    words: int = Field(
        default=200, ge=5, le=10_000, description="words of a passage, at most (a Chinese or Thai letter counts as one)"
    )
    overlap: int = Field(default=40, ge=0, description="words that a passage repeats of the one before, at most")

    @model_validator(mode="after")
    def _smaller(self) -> ChunkSettings:
        if self.overlap > self.words // 2:
            what = f"overlap {self.overlap} is more than half of words {self.words}"
            raise field_error(("overlap",), what, f"set overlap to {self.words // 5}, or raise words")
        return self


class DocumentSettings(Value):
    """Documents that rows rest on. A bare string is the path."""

    path: str | tuple[str, ...] = Field(description="file or folder, or a list of them, relative to the recipe")
    glob: str = Field(default="**/*", min_length=1, description="files of a folder, such as **/*.pdf; ** is any depth")
    chunk: ChunkSettings = ChunkSettings()
    index: Literal["bm25", "encoder", "none"] = Field(
        default="bm25", description="how passages are found by a query: by words, by meaning, or not at all"
    )
    encoding: str | None = Field(default=None, description="of text files; null: detected")
    licence: str = Field(default="", description="licence of the documents, for the card")

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, given: Any) -> Any:
        return {"path": given} if isinstance(given, str | list | tuple) else given

    @property
    def paths(self) -> tuple[str, ...]:
        """The files and folders."""
        return (self.path,) if isinstance(self.path, str) else self.path


class Document(Value):
    """A file's text as a run used it. Offsets everywhere count Unicode code points of `text`."""

    name: str = Field(description="path below the recipe's folder of documents, with /")
    file: str = Field(description="path as people find it: relative to the recipe's folder")
    hash: str = Field(description="of the text")
    text: str = Field(repr=False)
    licence: str = ""

    @classmethod
    def of(cls, name: str, file: str, text: str, licence: str = "") -> Document:
        """A document whose hash is its text's."""
        return cls(name=name, file=file, hash="d_" + stable_hash(text), text=text, licence=licence)

    def passage(self, start: int, end: int) -> Passage:
        """The passage from `start` to `end` (exclusive)."""
        name = "p_" + stable_hash(self.hash, start, end)
        return Passage(
            id=name, document=self.name, file=self.file, start=start, end=end, text=self.text[start:end], hash=self.hash
        )


class Passage(Value):
    """A piece of a document that a row can rest on: `text` is the document's text from `start` to `end`."""

    id: str = Field(description="hash of the document's hash and the span")
    document: str = Field(description="name of the document")
    file: str
    start: int = Field(ge=0, description="first code point in the document's text")
    end: int = Field(ge=0, description="code point after the last one")
    text: str
    hash: str = Field(description="the document's hash")

    @property
    def source(self) -> dict[str, Any]:
        """The value of a row's `data["source"]`."""
        return {"document": self.document, "start": self.start, "end": self.end, "hash": self.hash}


def sources_of(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The passages that a row rests on: `data["source"]`, which it was drawn with, then `data["sources"]`, which were
    found for it. Malformed ones are left out.
    """
    found = data.get("sources")
    return [
        one for one in (data.get("source"), *(found if isinstance(found, list | tuple) else ()))
        if isinstance(one, Mapping) and isinstance(one.get("hash"), str)
        and all(isinstance(one.get(name), int) for name in ("start", "end"))
    ]  # fmt: skip


def document_of(data: Mapping[str, Any]) -> str:
    """The hash of the document that a row was drawn from; empty if there is none. Its rows are in one split."""
    return next((str(one["hash"]) for one in sources_of(data) if one is data.get("source")), "")


class Span(NamedTuple):
    """Code points of a text, `end` exclusive."""

    start: int
    end: int


_SAME = str.maketrans({
    "‘": "'", "’": "'", "‚": "'", "‛": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"',
    "‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "-", "−": "-",
})  # fmt: skip
_IGNORED = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")
_WRAPPING = " \"'.,;:"
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Letters of scripts without spaces between words, as a range of a regular expression."""
_JOINED = re.compile(f"[{UNSPACED}\u1100-\u11ff]")
"""Letters after which a word may end anywhere: those, and Korean ones, whose endings are joined to them."""


def find_quote(quote: str, text: str) -> Span | None:
    """Where a quote occurs in a text as whole words; None if it does not, or if it is empty.

    Case, runs of whitespace, compatibility forms (NFKD), soft hyphens and the shapes of quotation marks and dashes do
    not matter, nor do quotation marks and points around the quote. Every word does.
    """
    plain = quote.strip()
    if any(map(str.isalnum, plain)) and (exact := _whole(plain, text)):  # as most quotes are
        return exact
    wanted = _folded(quote)[0].strip(_WRAPPING)
    if not wanted:
        return None
    folded, places = _folded(text)
    found = _whole(wanted, folded)
    return found and Span(places[found.start], places[found.end - 1] + 1)


def _whole(wanted: str, text: str) -> Span | None:
    """The first place of a string in a text that begins and ends between words."""
    begin = text.find(wanted)
    while begin >= 0:
        end = begin + len(wanted)
        if not (_inside_word(text, begin) or _inside_word(text, end)):
            return Span(begin, end)
        begin = text.find(wanted, begin + 1)
    return None


def _inside_word(text: str, place: int) -> bool:
    """Return True if a place lies between two characters of one word."""
    if not 0 < place < len(text):
        return False
    before, after = text[place - 1], text[place]
    if unicodedata.combining(after) and not before.isspace():
        return True
    return before.isalnum() and after.isalnum() and not (_JOINED.match(before) or _JOINED.match(after))


@lru_cache(maxsize=64)
def _folded(text: str) -> tuple[str, Sequence[int]]:
    """The text as it is compared, and the code point of `text` that each of its characters is from."""
    made: list[str] = []
    places: list[int] = []
    for place, char in enumerate(text):
        if char.isspace():
            if made and made[-1] != " ":
                made.append(" ")
                places.append(place)
        elif not _IGNORED.match(char):
            for one in unicodedata.normalize("NFKD", char).translate(_SAME).casefold():
                made.append(one)
                places.append(place)
    if made and made[-1] == " ":
        del made[-1], places[-1]
    return "".join(made), places
