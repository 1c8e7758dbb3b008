"""Contamination: a row must not repeat a text of a file that students are judged on.

The texts themselves are not kept. A held-out text is known by three things: a hash of its folded words, its shingle
sketch (`data.gates.near`), and hashes of its runs of GRAM_WORDS words. The sketches of all of them lie in one sorted
array, so a look-up is exact for short texts and overlooks none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from graft.data.gates.base import failed, normalise, passed, words
from graft.data.gates.near import jaccard_of, sketch_of
from graft.schemas.rows import GateResult

GRAM_WORDS = 13
"""Words of a run: the length at which models' makers commonly call a shared run contamination."""
CONTAINED = 0.5
"""Share of a text's runs that another text holds, from which on it counts as repeated."""
LOOKED_AT = 16
"""Held-out texts, those that share most of a sketch, whose similarity is computed."""

Hashes = NDArray[np.int64]


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
        """What is kept of a text; `file` is a name for people, of which the last part is kept."""
        return cls(Path(file).name, row, text_hash(text), tuple(map(int, sketch_of(text))), _grams(text))

    @property
    def place(self) -> str:
        """Where the text stands, for people: `held_out.jsonl:17`."""
        return f"{self.file}:{self.row}"


class ContaminationGate:
    """Rejects what repeats a held-out text: rules `contamination_exact` and `contamination_near`.

    Near is a Jaccard similarity of shingles at or above `threshold`, or, where one of the two has GRAM_WORDS words or
    more, half of its runs of so many words in the other. The neighbour is a file and row, never a text.
    """

    name = "contamination"

    def __init__(self, texts: Sequence[TestText], threshold: float) -> None:
        self._texts, self._threshold = texts, threshold
        self._exact = {text.text_hash: index for index, text in reversed(list(enumerate(texts)))}
        self._sketches = _Postings([text.sketch for text in texts])
        self._grams = _Postings([text.grams for text in texts])
        self._passed = passed(self.name)

    def check(self, text: str, response: str | None, label: str) -> GateResult:
        """Looks at the text and, where there is one, at the response."""
        for part in (text, response):
            hit = self._hit(part) if part else None
            if hit is not None:
                return hit
        return self._passed

    def _hit(self, text: str) -> GateResult | None:
        index = self._exact.get(text_hash(text)) if normalise(text) else None
        if index is not None:
            place = self._texts[index].place
            return failed(self.name, "contamination_exact", f"says the same as the held-out {place}", 1.0, place)
        for score, index, how in (self._similar(text), self._contained(text)):
            if index is not None:
                place = self._texts[index].place
                detail = f"nearly says the same as the held-out {place}: {how} {score:.2f}"
                return failed(self.name, "contamination_near", detail, round(score, 4), place)
        return None

    def _similar(self, text: str) -> tuple[float, int | None, str]:
        mine = sketch_of(text)
        shared = self._sketches.shared(mine)
        best, found = 0.0, None
        for index in np.argsort(-shared, kind="stable")[:LOOKED_AT]:
            if shared[index]:
                score = jaccard_of(mine, np.array(self._texts[index].sketch, dtype=np.uint32))
                if score > best:
                    best, found = score, int(index)
        return best, found if best >= self._threshold - 1e-9 else None, "Jaccard"

    def _contained(self, text: str) -> tuple[float, int | None, str]:
        how = f"share of runs of {GRAM_WORDS} words"
        mine = _grams(text)
        shared = self._grams.shared(mine)
        if not shared.any():
            return 0.0, None, how
        shares = shared / np.maximum(np.minimum(self._grams.sizes, len(mine)), 1)
        best = int(np.argmax(shares))
        return float(shares[best]), best if shares[best] >= CONTAINED else None, how


class _Postings:
    """Which of the given sets hold a hash, for all hashes at once."""

    def __init__(self, sets: Sequence[Sequence[int]]) -> None:
        self.sizes: Hashes = np.array([len(one) for one in sets], dtype=np.int64)
        hashes = np.array([each for one in sets for each in one], dtype=np.int64)
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._owners = hashes[order], np.repeat(np.arange(len(sets)), self.sizes)[order]

    def shared(self, hashes: Sequence[int] | NDArray[np.uint32]) -> Hashes:
        """Of every set, how many of the hashes it holds."""
        wanted = np.asarray(hashes, dtype=np.int64)
        starts = np.searchsorted(self._hashes, wanted, side="left")
        ends = np.searchsorted(self._hashes, wanted, side="right")
        owners = [self._owners[start:end] for start, end in zip(starts, ends, strict=True) if end > start]
        if not owners:
            return np.zeros(len(self.sizes), dtype=np.int64)
        return np.bincount(np.concatenate(owners), minlength=len(self.sizes)).astype(np.int64)


def text_hash(text: str) -> str:
    """32 hex digits that texts share which differ in case, punctuation, spacing or Unicode form alone."""
    return hashlib.blake2b(normalise(text).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _grams(text: str) -> tuple[int, ...]:
    """Hashes (63 bits) of the different runs of GRAM_WORDS words, sorted; none where the text is shorter."""
    said = words(text)
    runs = {" ".join(said[at : at + GRAM_WORDS]) for at in range(len(said) - GRAM_WORDS + 1)}
    return tuple(sorted(_number(run) for run in runs))


def _number(run: str) -> int:
    digest = hashlib.blake2b(run.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
