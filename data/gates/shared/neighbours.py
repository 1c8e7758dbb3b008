"""Neighbours among many rows: by the cosine of embeddings through an approximate index (usearch), and by shingles.

Below EXACT_BELOW rows every pair is compared (`semantic`). Above, an HNSW index proposes neighbours and the
cosine that decides is computed from the vectors. Rows are ordered first, equal vectors put together and the index built
by one thread, so a result follows from the rows alone, not from their order. Measured in docs/rescreen.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graft.data.gates.shared.folding import normalise
from graft.data.gates.shared.near import NearIndex, jaccard_of, shingles_of, sketch_from
from graft.data.gates.shared.semantic import ROUNDING, clusters, drop_semantic_duplicates

EXACT_BELOW = 50_000
"""Rows up to which every pair is compared: at 100,000 that still took less time than an index (docs/rescreen.md)."""
FIRST_COUNT = 16
"""Neighbours requested for a row; four times as many, up to MOST, while all of them are near enough."""
MOST = 64
BLOCK = 4096
CONNECTIVITY, EXPANSION_ADD, EXPANSION_SEARCH = 16, 128, 96

Vectors = NDArray[np.floating]
Places = NDArray[np.int64]
Say = Callable[[str], None]
Storage = Literal["f32", "f16", "i8"]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of rows by their places, `left` before `right`, in that order, each with its cosine."""

    left: Places
    right: Places
    cosine: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.left)


def _quiet(line: str) -> None:
    """Reports nothing."""


def near_pairs(
    vectors: Vectors,
    min_cosine: float,
    *,
    exact_below: int = EXACT_BELOW,
    storage: Storage = "f16",
    threads: int = 0,
    say: Say = _quiet,
) -> Pairs:
    """Pairs of rows whose cosine is at or above `min_cosine`: all of them below `exact_below` rows, else nearly all.

    Rows need not have length 1, and a row of zeros has no pair. Equal rows are a pair with the first of them only, so
    that a text that occurs 100,000 times makes 100,000 pairs. `storage` is the index's number type (f16: about 1 kB a
    row of 384), `threads` those that search it, 0 for all cores. Raises ValueError for values not finite.
    """
    first, same_as = _distinct(vectors)
    left = right = np.empty(0, dtype=np.int64)
    if len(first) <= exact_below:
        parts = list(_exact_pairs(vectors, first, min_cosine))
    else:
        parts = list(_indexed_pairs(vectors, first, min_cosine, storage, threads, say))
    if parts:
        left, right = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
        code = np.unique(np.minimum(left, right) * len(vectors) + np.maximum(left, right))
        left, right = np.divmod(code, len(vectors))
    copies = np.flatnonzero((same_as != np.arange(len(vectors))) & (same_as >= 0))
    left, right = np.concatenate([left, same_as[copies]]), np.concatenate([right, copies])
    order = np.lexsort((right, left))
    left, right = left[order].astype(np.int64), right[order].astype(np.int64)
    return Pairs(left, right, _cosines(vectors, left, right))


def clusters_of(
    ids: Sequence[str],
    vectors: Vectors,
    min_cosine: float,
    *,
    exact_below: int = EXACT_BELOW,
    storage: Storage = "f16",
    threads: int = 0,
    say: Say = _quiet,
) -> dict[str, str]:
    """Connected components over pairs with cosine >= `min_cosine`: each id to the smallest id of its cluster.

    Raises ValueError for repeated ids, wrong shapes or values not finite.
    """
    if len(ids) <= exact_below:
        return clusters(ids, vectors, min_cosine)
    order = _by_id(ids, vectors)
    found = near_pairs(
        vectors[order], min_cosine, exact_below=exact_below, storage=storage, threads=threads, say=say
    )  # fmt: skip
    return _components([ids[place] for place in order], found.left, found.right)


def drop(
    ids: Sequence[str],
    vectors: Vectors,
    scores: Sequence[float],
    max_cosine: float,
    *,
    exact_below: int = EXACT_BELOW,
    storage: Storage = "f16",
    threads: int = 0,
    say: Say = _quiet,
) -> dict[str, tuple[str, float]]:
    """Greedy in order of score, highest first, ties by id: a row goes iff a row that stays is as near as `max_cosine`.

    Returns each dropped id with the kept id nearest to it and their cosine. Above `exact_below` rows the index holds
    those that stay, so that it is small where many repeat each other. Errors as `clusters_of`.
    """
    if len(ids) <= exact_below:
        return drop_semantic_duplicates(ids, vectors, scores, max_cosine)
    if len(scores) != len(ids):
        raise ValueError(f"{len(ids)} ids but {len(scores)} scores")
    _by_id(ids, vectors)
    order = np.array(sorted(range(len(ids)), key=lambda row: (-scores[row], ids[row])), dtype=np.int64)
    index, dropped = _empty(vectors.shape[1], storage), dict[str, tuple[str, float]]()
    for begin in range(0, len(order), BLOCK // 4):
        rows = order[begin : begin + BLOCK // 4]
        block = _unit(vectors, rows)
        if not np.isfinite(block).all():
            raise ValueError("an embedding is not finite")
        alive, hits = _sifted(rows, block, *_nearest_kept(index, vectors, rows, block, threads), max_cosine - ROUNDING)
        dropped |= {ids[row]: (ids[who], min(near, 1.0)) for row, who, near in hits}
        stay = [place for place in alive if block[place].any()]
        index.add(rows[stay].astype(np.uint64), block[stay], threads=1)
        _tell(say, begin // (BLOCK // 4), begin + len(rows), len(order), "compared")
    return dropped


def nearest(
    vectors: Vectors, count: int, *, exact_below: int = EXACT_BELOW, storage: Storage = "f16", threads: int = 0
) -> NDArray[np.float32]:
    """Each row's cosines to its `count` nearest other rows, highest first (n x count, fewer if there are fewer)."""
    count, rows = min(count, len(vectors) - 1), np.arange(len(vectors), dtype=np.int64)
    if count < 1:
        return np.empty((len(vectors), 0), dtype=np.float32)
    result = np.empty((len(vectors), count), dtype=np.float32)
    index = _build(vectors, rows, storage, _quiet) if len(vectors) > exact_below else None
    for begin in range(0, len(rows), BLOCK // 8):
        chosen = rows[begin : begin + BLOCK // 8]
        block = _unit(vectors, chosen)
        if index is None:
            cosines = np.concatenate(
                [block @ _unit(vectors, rows[b : b + BLOCK]).T for b in range(0, len(rows), BLOCK)], 1
            )
            cosines[np.arange(len(chosen)), chosen] = -np.inf
        else:
            keys, close = _search(index, block, count + 1, threads)
            cosines = np.where(keys == chosen[:, None], -np.inf, close)
        result[begin : begin + len(chosen)] = -np.sort(np.partition(-cosines, count - 1, axis=1)[:, :count], axis=1)
    return np.clip(result, -1.0, 1.0)


def near_clusters(ids: Sequence[str], texts: Sequence[str], threshold: float) -> dict[str, str]:
    """Connected components over texts that are equal or nearly so: each id to the smallest id of its cluster.

    Nearly is a Jaccard similarity of shingles at or above `threshold`, as in the near-duplicate gate.
    """
    order = sorted(range(len(ids)), key=lambda row: ids[row])
    owners: dict[str, int] = {}
    index, left, right = _AllNear(threshold), list[int](), list[int]()
    parent = list(range(len(ids)))
    for place, row in enumerate(order):
        text = texts[row]
        owner = owners.setdefault(normalise(text), place)
        hits = [owner] if owner != place else index.join(place, text, parent)
        for hit in hits:
            low, high = sorted((_root(parent, hit), _root(parent, place)))
            parent[high] = low
            left.append(hit)
            right.append(place)
    return {ids[row]: ids[order[_root(parent, place)]] for place, row in enumerate(order)}


def members(found: Mapping[str, str]) -> dict[str, list[str]]:
    """Clusters of two rows or more, largest first: cluster id to the ids in it, sorted."""
    groups: dict[str, list[str]] = defaultdict(list)
    for row_id, cluster in found.items():
        groups[cluster].append(row_id)
    several = {cluster: sorted(rows) for cluster, rows in groups.items() if len(rows) > 1}
    return dict(sorted(several.items(), key=lambda pair: (-len(pair[1]), pair[0])))


class _AllNear(NearIndex):
    """A near index that returns all neighbours, not only the nearest."""

    def join(self, place: int, text: str, parent: list[int]) -> list[int]:
        """Register a row by its place. Return one near row of each group in `parent`."""
        shingles = shingles_of(text)
        if not shingles:
            return []
        mine, keys = sketch_from(shingles), self._bands.keys_of(shingles)
        joined: dict[int, int] = {}
        for row in self._bands.find(keys):
            other = int(self._ids[row])
            root = _root(parent, other)
            if root not in joined:
                score = jaccard_of(mine, np.frombuffer(self._sketches[row], dtype=np.uint32))
                if score >= self._threshold - 1e-9:
                    joined[root] = other
        self._bands.add(len(self._ids), keys)
        self._ids.append(str(place))
        self._sketches.append(mine.tobytes())
        return list(joined.values())


def _root(parent: list[int], place: int) -> int:
    while parent[place] != place:
        parent[place] = parent[parent[place]]
        place = parent[place]
    return place


def _components(ids: Sequence[str], left: Places, right: Places) -> dict[str, str]:
    """Each id to the first id of its component; `ids` are in the order that first goes by."""
    parent = list(range(len(ids)))
    for one, two in zip(left.tolist(), right.tolist(), strict=True):
        low, high = sorted((_root(parent, one), _root(parent, two)))
        parent[high] = low
    return {row_id: ids[_root(parent, place)] for place, row_id in enumerate(ids)}


def _sifted(
    rows: Places, block: NDArray[np.float32], keeper: Places, cosine: NDArray[np.float32], limit: float
) -> tuple[list[int], list[tuple[int, int, float]]]:
    """Places in the block of the rows that stay; and of each other one its row, the row that it repeats, the cosine."""
    within, alive, hits = block @ block.T, list[int](), list[tuple[int, int, float]]()
    for place, row in enumerate(rows.tolist()):
        near, who = float(cosine[place]), int(keeper[place])
        if alive:
            inner = within[place, alive]
            top = int(inner.argmax())
            if float(inner[top]) > near:
                near, who = float(inner[top]), int(rows[alive[top]])
        if who >= 0 and near >= limit:
            hits.append((row, who, near))
        else:
            alive.append(place)
    return alive, hits


def _nearest_kept(
    index: Any, vectors: Vectors, rows: Places, block: NDArray[np.float32], threads: int
) -> tuple[Places, NDArray[np.float32]]:
    """For each row the nearest one in the index (-1: none) and their cosine, computed from the vectors."""
    if not len(index):
        return np.full(len(rows), -1, dtype=np.int64), np.full(len(rows), -2.0, dtype=np.float32)
    keys, _ = _search(index, block, min(4, len(index)), threads)
    left, right = np.repeat(rows, keys.shape[1]), keys.reshape(-1)
    cosines = np.where(right >= 0, _cosines(vectors, left, np.maximum(right, 0)), -2.0).reshape(keys.shape)
    top = cosines.argmax(axis=1)
    each = np.arange(len(rows))
    return keys[each, top], cosines[each, top].astype(np.float32)


def _distinct(vectors: Vectors) -> tuple[Places, Places]:
    """Places of the first of each different row, none of zeros; and for every row the place of its first equal."""
    first: dict[bytes, int] = {}
    same_as = np.empty(len(vectors), dtype=np.int64)
    for begin in range(0, len(vectors), BLOCK):
        block = np.ascontiguousarray(vectors[begin : begin + BLOCK])
        if not np.isfinite(block).all():
            raise ValueError("an embedding is not finite")
        some = np.abs(block).max(axis=1) > 0
        for offset, row in enumerate(block):
            place = begin + offset
            same_as[place] = first.setdefault(_digest(row), place) if some[offset] else -1
    return np.array(sorted(first.values()), dtype=np.int64), same_as


def _digest(row: NDArray[np.floating]) -> bytes:
    import hashlib

    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _exact_pairs(vectors: Vectors, rows: Places, min_cosine: float) -> Iterator[tuple[Places, Places]]:
    for begin in range(0, len(rows), BLOCK // 4):
        block = _unit(vectors, rows[begin : begin + BLOCK // 4])
        for other in range(begin, len(rows), BLOCK):
            cosines = block @ _unit(vectors, rows[other : other + BLOCK]).T
            left, right = np.nonzero(cosines >= min_cosine - ROUNDING)
            later = right + other > left + begin
            yield rows[left[later] + begin], rows[right[later] + other]


def _indexed_pairs(
    vectors: Vectors, rows: Places, min_cosine: float, storage: Storage, threads: int, say: Say
) -> Iterator[tuple[Places, Places]]:
    """Requests more neighbours for rows whose neighbours were all near enough."""
    index = _build(vectors, rows, storage, say)
    open_rows, count = rows, FIRST_COUNT
    while len(open_rows) and count <= MOST:
        more: list[Places] = []
        for begin in range(0, len(open_rows), BLOCK):
            chosen = open_rows[begin : begin + BLOCK]
            keys, _ = _search(index, _unit(vectors, chosen), min(count, len(rows)), threads)
            left, right = np.repeat(chosen, keys.shape[1]), keys.reshape(-1)
            known = (right >= 0) & (left != right)
            near = np.zeros(len(left), dtype=bool)
            near[known] = _cosines(vectors, left[known], right[known]) >= min_cosine - ROUNDING
            yield left[near], right[near]
            full = (near | (left == right)).reshape(keys.shape).all(axis=1)
            more.append(chosen[full])
            _tell(say, begin // BLOCK, begin + len(chosen), len(open_rows), "searched")
        open_rows, count = np.concatenate(more), count * 4


def _build(vectors: Vectors, rows: Places, storage: Storage, say: Say) -> Any:
    """The index of some rows, built by one thread: several would build a different graph each time."""
    index = _empty(vectors.shape[1], storage)
    for begin in range(0, len(rows), BLOCK):
        chosen = rows[begin : begin + BLOCK]
        index.add(chosen.astype(np.uint64), _unit(vectors, chosen), threads=1)
        _tell(say, begin // BLOCK, begin + len(chosen), len(rows), "in the index")
    return index


def _empty(dimensions: int, storage: Storage) -> Any:
    from usearch.index import Index

    return Index(
        ndim=dimensions, metric="cos", dtype=storage, connectivity=CONNECTIVITY,
        expansion_add=EXPANSION_ADD, expansion_search=EXPANSION_SEARCH,
    )  # fmt: skip


def _tell(say: Say, block: int, done: int, total: int, what: str) -> None:
    """A progress line every eight blocks."""
    if block % 8 == 7:
        say(f"neighbours: {done:,} of {total:,} rows {what}")


def _search(index: Any, block: NDArray[np.float32], count: int, threads: int) -> tuple[Places, NDArray[np.float32]]:
    """Keys (-1 if there are fewer) and cosines of the `count` nearest of each row of the block."""
    found = index.search(block, count, threads=threads)
    keys = np.asarray(found.keys).reshape(len(block), -1).astype(np.int64)
    close = 1.0 - np.asarray(found.distances, dtype=np.float32).reshape(len(block), -1)
    if hasattr(found, "counts"):
        missing = np.arange(keys.shape[1])[None, :] >= np.asarray(found.counts).reshape(-1, 1)
        keys[missing], close[missing] = -1, -1.0
    return keys, close


def _cosines(vectors: Vectors, left: Places, right: Places) -> NDArray[np.float32]:
    result = np.empty(len(left), dtype=np.float32)
    for begin in range(0, len(left), BLOCK):
        one, two = left[begin : begin + BLOCK], right[begin : begin + BLOCK]
        result[begin : begin + len(one)] = np.einsum("ij,ij->i", _unit(vectors, one), _unit(vectors, two))
    return result


def _unit(vectors: Vectors, rows: Places) -> NDArray[np.float32]:
    block = vectors[rows].astype(np.float32)
    lengths = np.linalg.norm(block, axis=1, keepdims=True)
    lengths[lengths == 0] = 1.0
    return np.asarray(block / lengths, dtype=np.float32)


def _by_id(ids: Sequence[str], vectors: Vectors) -> Places:
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise ValueError(f"{len(ids)} ids need {len(ids)} rows of embeddings, not shape {vectors.shape}")
    if len(set(ids)) != len(ids):
        raise ValueError("ids repeat")
    return np.array(sorted(range(len(ids)), key=lambda row: ids[row]), dtype=np.int64)
