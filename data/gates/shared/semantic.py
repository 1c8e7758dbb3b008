"""Duplicates in meaning, by the cosine of embeddings: GRA's de-duplication (section 1.6), and clusters for splits.

All functions work on blocks of rows, so memory stays at a few megabytes beyond the embeddings, and order the rows
before the first product, so the result does not depend on the input's order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.schemas.rows import GateResult

GATE = "semantic"
"""Gate and rule of a row with the meaning of a better one."""
BLOCK = 512
EMBED_BLOCK = 2_048
EMBEDDED_CHARS = 4_000
"""Characters of a text for the encoder, which reads 256 tokens."""
ROUNDING = 1e-6
"""Rounding error of float32 in the cosine of two equal rows."""

Matrix = NDArray[np.float32]


def embedded(
    embed: Callable[[Sequence[str]], Any], texts: Sequence[str], what: str, say: Callable[[str], None]
) -> NDArray[np.float16]:
    """Vectors (n x d) as float16: half the memory, and the cosines differ by less than 0.001."""
    parts = []
    for begin in range(0, len(texts), EMBED_BLOCK):
        some = [text[:EMBEDDED_CHARS] for text in texts[begin : begin + EMBED_BLOCK]]
        parts.append(np.asarray(embed(some), dtype=np.float16))
        if len(texts) > EMBED_BLOCK:
            say(f"embeddings: {begin + len(some):,} of {len(texts):,} {what}")
    return np.concatenate(parts)


def drop_semantic_duplicates(
    ids: Sequence[str], embeddings: NDArray[np.floating], scores: Sequence[float], max_cosine: float
) -> dict[str, tuple[str, float]]:
    """Greedy in order of score, highest first, ties by id: keep a row iff its cosine to every kept one < `max_cosine`.

    Returns each dropped id with the kept id nearest to it and their cosine. Rows of `embeddings` (n x d) need not have
    length 1; a row of zeros is like no other. Raises ValueError for repeated ids, wrong shapes or values not finite.
    """
    _check(ids, embeddings)
    if len(scores) != len(ids):
        raise ValueError(f"{len(ids)} ids but {len(scores)} scores")
    order = np.array(sorted(range(len(ids)), key=lambda row: (-scores[row], ids[row])), dtype=np.intp)
    kept = np.empty(len(ids), dtype=np.intp)
    count = 0
    dropped: dict[str, tuple[str, float]] = {}
    limit = max_cosine - ROUNDING
    for begin in range(0, len(order), BLOCK):
        rows = order[begin : begin + BLOCK]
        block = _unit(embeddings, rows)
        best, nearest = _nearest_kept(block, embeddings, kept[:count])
        within = block @ block.T
        alive: list[int] = []
        for place, row in enumerate(rows):
            cosine, neighbour = float(best[place]), int(nearest[place])
            if alive:
                inner = within[place, alive]
                top = int(inner.argmax())
                if float(inner[top]) > cosine:
                    cosine, neighbour = float(inner[top]), int(rows[alive[top]])
            if neighbour >= 0 and cosine >= limit:
                dropped[ids[row]] = (ids[neighbour], min(cosine, 1.0))
            else:
                alive.append(place)
                kept[count] = row
                count += 1
    return dropped


def _nearest_kept(
    block: Matrix, embeddings: NDArray[np.floating], kept: NDArray[np.intp]
) -> tuple[Matrix, NDArray[np.intp]]:
    best = np.full(len(block), -2.0, dtype=np.float32)
    nearest = np.full(len(block), -1, dtype=np.intp)
    for begin in range(0, len(kept), BLOCK):
        some = kept[begin : begin + BLOCK]
        cosines = block @ _unit(embeddings, some).T
        top = cosines.argmax(axis=1)
        values = cosines[np.arange(len(block)), top]
        better = values > best
        best[better], nearest[better] = values[better], some[top[better]]
    return best, nearest


def alike(neighbour: str, cosine: float) -> GateResult:
    """The failure of a row that is too near to a better one."""
    detail, score = f"cosine {cosine:.2f}", round(float(cosine), 4)
    return GateResult(gate=GATE, rule=GATE, passed=False, detail=detail, score=score, neighbour=neighbour)


def clusters(ids: Sequence[str], embeddings: NDArray[np.floating], min_cosine: float) -> dict[str, str]:
    """Connected components over pairs with cosine >= `min_cosine`: each id to the smallest id of its cluster.

    Raises ValueError as `drop_semantic_duplicates`.
    """
    _check(ids, embeddings)
    order = np.array(sorted(range(len(ids)), key=lambda row: ids[row]), dtype=np.intp)
    parent = np.arange(len(order))
    for begin in range(0, len(order), BLOCK):
        block = _unit(embeddings, order[begin : begin + BLOCK])
        for other in range(begin, len(order), BLOCK):
            cosines = block @ _unit(embeddings, order[other : other + BLOCK]).T
            left, right = np.nonzero(cosines >= min_cosine - ROUNDING)
            _join(parent, left + begin, right + other)
    return {ids[order[place]]: ids[order[_root(parent, place)]] for place in range(len(order))}


def _join(parent: NDArray[np.intp], left: NDArray[np.intp], right: NDArray[np.intp]) -> None:
    """Unite pairs; numpy filters pairs that already share a root, so dense blocks stay cheap."""
    while len(left):
        roots = parent.copy()
        while not np.array_equal(roots, roots[roots]):
            roots = roots[roots]
        parent[:] = roots
        differ = roots[left] != roots[right]
        left, right = left[differ], right[differ]
        for one, two in zip(left[:BLOCK].tolist(), right[:BLOCK].tolist(), strict=True):
            low, high = sorted((_root(parent, one), _root(parent, two)))
            parent[high] = low


def _root(parent: NDArray[np.intp], place: int) -> int:
    while parent[place] != place:
        place = int(parent[place])
    return place


def _unit(embeddings: NDArray[np.floating], rows: NDArray[np.intp]) -> Matrix:
    block = embeddings[rows].astype(np.float32)
    lengths = np.linalg.norm(block, axis=1, keepdims=True)
    lengths[lengths == 0] = 1.0
    return np.asarray(block / lengths, dtype=np.float32)


def _check(ids: Sequence[str], embeddings: NDArray[np.floating]) -> None:
    if embeddings.ndim != 2 or len(embeddings) != len(ids):
        raise ValueError(f"{len(ids)} ids need {len(ids)} rows of embeddings, not shape {embeddings.shape}")
    if len(set(ids)) != len(ids):
        raise ValueError("ids repeat")
    if not all(np.isfinite(embeddings[begin : begin + BLOCK]).all() for begin in range(0, len(embeddings), BLOCK)):
        raise ValueError("an embedding is not finite")
