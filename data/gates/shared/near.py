"""Near duplicates: Jaccard similarity of word shingles, found by MinHash LSH (rensa, in Rust) and then verified.

A shingle is a word or two neighbouring words, folded. rensa 0.5 was measured against datasketch 2.0 on this job, see
docs/recipes.md; it only proposes neighbours, and the similarity that decides is computed here from the shingles.
"""

from __future__ import annotations

import math
from itertools import pairwise
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash, RMinHashLSH

from graft.data.gates.shared.folding import words

PERMUTATIONS = 32
MISS = 0.02
"""Share of true neighbours, just at the threshold, that LSH may miss (of more similar ones far less)."""
SKETCH = 128
"""Shingle hashes kept of a row: texts of up to about 64 words are compared exactly, longer ones estimated."""

Sketch = NDArray[np.uint32]


class NearIndex:
    """Rows searchable for near duplicates. About 1 kB per row; the same rows in the same order give the same
    answers."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._lsh = RMinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, num_bands=bands_of(threshold))
        self._ids: list[str] = []
        self._sketches: list[bytes] = []

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, row_id: str, text: str) -> None:
        """Register a row. A text without a word has no shingles and is left out."""
        shingles = shingles_of(text)
        if shingles:
            self._lsh.insert(len(self._ids), minhash_of(shingles))
            self._ids.append(row_id)
            self._sketches.append(sketch_from(shingles).tobytes())

    def find(self, text: str) -> tuple[str, float]:
        """(id, Jaccard) of the nearest row at or above the threshold, the earliest of equals; ("", 0.0) for none."""
        shingles = shingles_of(text) if self._ids else []
        if not shingles:
            return "", 0.0
        mine = sketch_from(shingles)
        best, found = 0.0, -1
        for row in sorted(self._lsh.query(minhash_of(shingles))):
            score = jaccard_of(mine, np.frombuffer(self._sketches[row], dtype=np.uint32))
            if score > best:
                best, found = score, row
        return (self._ids[found], best) if found >= 0 and best >= self._threshold - 1e-9 else ("", 0.0)


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


def minhash_of(shingles: list[str]) -> RMinHash:
    """The MinHash for queries of the index."""
    sketch = RMinHash(num_perm=PERMUTATIONS, seed=42)
    sketch.update(shingles)
    return sketch


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
