"""Near duplicates: Jaccard similarity of word shingles, found by MinHash LSH and then verified.

A shingle is a word or two neighbouring words, folded. rensa (Rust) computes the MinHash; it was measured against
datasketch on this job, see docs/speed.md. Its index takes 0.85 kB a row, `Bands` 0.2. Either only proposes neighbours:
the similarity that decides is computed here from the shingles.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from itertools import pairwise
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from graft.data.gates.shared.folding import words

PERMUTATIONS = 32
MISS = 0.02
"""Share of true neighbours, just at the threshold, that LSH may miss (of more similar ones far less)."""
SKETCH = 128
"""Shingle hashes kept of a row: texts of up to about 64 words are compared exactly, longer ones estimated."""

LEAST_MERGED = 2_048
"""Rows that are merged at once, at least."""

Sketch = NDArray[np.uint32]


class NearIndex:
    """Rows searchable for near duplicates. 0.4 kB per row; the same rows in the same order give the same answers."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._bands = Bands(bands_of(threshold))
        self._ids: list[str] = []
        self._sketches: list[bytes] = []

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, row_id: str, text: str) -> None:
        """Register a row. A text without a word has no shingles and is left out."""
        shingles = shingles_of(text)
        if shingles:
            self._bands.add(len(self._ids), self._bands.keys_of(shingles))
            self._ids.append(row_id)
            self._sketches.append(sketch_from(shingles).tobytes())

    def find(self, text: str) -> tuple[str, float]:
        """(id, Jaccard) of the nearest row at or above the threshold, the earliest of equals; ("", 0.0) for none."""
        shingles = shingles_of(text) if self._ids else []
        if not shingles:
            return "", 0.0
        mine = sketch_from(shingles)
        best, found = 0.0, -1
        for row in self._bands.find(self._bands.keys_of(shingles)):
            score = jaccard_of(mine, np.frombuffer(self._sketches[row], dtype=np.uint32))
            if score > best:
                best, found = score, row
        return (self._ids[found], best) if found >= 0 and best >= self._threshold - 1e-9 else ("", 0.0)


class Bands:
    """Rows by the bands of their MinHash. New rows are in a dict; it is merged into sorted arrays when it has grown to
    an eighth of all rows, so that a merge is rare and the arrays hold nearly all.
    """

    def __init__(self, count: int) -> None:
        self._width = PERMUTATIONS // count
        self._keys, self._rows = array("q"), array("I")
        self._recent: dict[int, list[int]] = {}
        self._added = 0

    def keys_of(self, shingles: list[str]) -> list[int]:
        """A hash of each band of the shingles' MinHash: 64 bits, equal in this process."""
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=42)
        sketch.update(shingles)
        values = sketch.digest()
        return [hash((at, *values[at : at + self._width])) for at in range(0, PERMUTATIONS, self._width)]

    def add(self, row: int, keys: list[int]) -> None:
        """Register a row; rows are numbered from 0."""
        for key in keys:
            self._recent.setdefault(key, []).append(row)
        self._added += 1
        if self._added >= max(LEAST_MERGED, row // 8):
            self._merge()

    def find(self, keys: list[int]) -> list[int]:
        """The rows with a band in common, in order."""
        found, sorted_keys = set[int](), self._keys
        for key in keys:
            found.update(self._recent.get(key, ()))
            begin = bisect_left(sorted_keys, key)
            if begin < len(sorted_keys) and sorted_keys[begin] == key:
                found.update(self._rows[begin : bisect_right(sorted_keys, key, begin)])
        return sorted(found)

    def _merge(self) -> None:
        self._keys.extend(key for key, some in self._recent.items() for _ in some)
        self._rows.extend(row for some in self._recent.values() for row in some)
        keys, rows = np.frombuffer(self._keys, dtype=np.int64), np.frombuffer(self._rows, dtype=np.uint32)
        order = np.argsort(keys, kind="stable")
        self._keys, self._rows = array("q", keys[order].tobytes()), array("I", rows[order].tobytes())
        self._recent, self._added = {}, 0


def shingles_of(text: str) -> list[str]:
    """The text's different words and pairs of neighbouring words, sorted."""
    tokens = words(text)
    return sorted({*tokens, *map(" ".join, pairwise(tokens))})


def jaccard(one: str, other: str) -> float:
    """Jaccard similarity of two texts' shingles, 0 to 1: the gate estimates it for very long texts."""
    a, b = set(shingles_of(one)), set(shingles_of(other))
    return len(a & b) / len(a | b) if a or b else 1.0


def bands_of(threshold: float) -> int:
    """The fewest bands (powers of two up to PERMUTATIONS) that miss at most MISS of pairs at the threshold."""
    for bands in (4, 8, 16):
        if (1 - threshold ** (PERMUTATIONS // bands)) ** bands <= MISS:
            return bands
    return PERMUTATIONS


def sketch_of(text: str) -> Sketch:
    """The text's shingles as sorted hashes of 32 bits, SKETCH of them at most: enough to compare it with another."""
    return sketch_from(shingles_of(text))


def sketch_from(shingles: list[str]) -> Sketch:
    """The SKETCH smallest shingle hashes, sorted (a bottom-k sketch)."""
    hashes = sorted({crc32(shingle.encode("utf-8", "surrogatepass")) for shingle in shingles})
    return np.array(hashes[:SKETCH], dtype=np.uint32)


def jaccard_of(one: Sketch, other: Sketch) -> float:
    """Jaccard similarity of two sketched texts, 0 to 1.

    Exact if both sketches hold all their shingles, else the bottom-k estimate over their union.
    """
    union = np.union1d(one, other)
    if len(one) == SKETCH or len(other) == SKETCH:
        union = union[:SKETCH]
        shared = np.intersect1d(np.intersect1d(one, other, assume_unique=True), union, assume_unique=True)
    else:
        shared = np.intersect1d(one, other, assume_unique=True)
    return len(shared) / len(union) if len(union) else math.nan
