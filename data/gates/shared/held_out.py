"""Held-out texts as hashes: the only trace that is kept of evaluation texts.

A held-out text is known by three things: a hash of its folded words, its shingle sketch (`near`), and hashes of its
runs of GRAM_WORDS words.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from graft.data.gates.shared.folding import normalise, words
from graft.data.gates.shared.near import sketch_of

GRAM_WORDS = 13
"""Words of a run: the usual length at which model makers call a shared run contamination."""


@dataclass(frozen=True, slots=True)
class TestText:
    """A held-out text as hashes. `row` counts from 1 in the file."""

    __test__ = False

    file: str
    row: int
    text_hash: str
    sketch: tuple[int, ...]
    grams: tuple[int, ...]

    @classmethod
    def of(cls, file: str, row: int, text: str) -> Self:
        """The hashes of a text; `file` is a name for people, of which the last part is kept."""
        return cls(Path(file).name, row, text_hash(text), tuple(map(int, sketch_of(text))), grams_of(text))

    @property
    def place(self) -> str:
        """The text's place, for people: `held_out.jsonl:17`."""
        return f"{self.file}:{self.row}"


def text_hash(text: str) -> str:
    """32 hex digits, equal for texts that differ only in case, punctuation, spacing or Unicode form."""
    return hashlib.blake2b(normalise(text).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def grams_of(text: str) -> tuple[int, ...]:
    """Hashes (63 bits) of the different runs of GRAM_WORDS words, sorted; none if the text is shorter."""
    tokens = words(text)
    runs = {" ".join(tokens[at : at + GRAM_WORDS]) for at in range(len(tokens) - GRAM_WORDS + 1)}
    return tuple(sorted(_number(run) for run in runs))


def _number(run: str) -> int:
    digest = hashlib.blake2b(run.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
