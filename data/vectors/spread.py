"""Choices among texts by their vectors: those that represent all others best, or those that lie farthest apart."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPRESENTED = 2_000
"""Texts that the chosen ones have to represent: a sample, so that time and memory grow with the texts, not squared."""
BLOCK = 4_096
Vectors = NDArray[np.floating[Any]]


def spread(vectors: Vectors, most: int, seed: int, held: Vectors | None = None) -> list[int]:
    """The places of `most` rows, in the order in which each adds most; equal gains go to the earlier row.

    Facility location (Mirzasoleiman et al. 2013), greedy with lazy bounds: a row's value is the sum, over a sample of
    REPRESENTED rows, of how much nearer it is than the chosen ones.

    Args:
        vectors: unit vectors, n x d
        most: rows to choose
        seed: decides the sample
        held: unit vectors of rows that are chosen already
    """
    count = len(vectors)
    if count <= most:
        return list(range(count))
    others = sorted(random.Random(f"spread-{seed}").sample(range(count), min(REPRESENTED, count)))
    shown = np.asarray(vectors[others], dtype=np.float32)
    near = _cosines(vectors, shown)
    best = np.zeros(len(others), dtype=np.float32)
    if held is not None and len(held):
        best = _cosines(held, shown).max(axis=0)
    bounds = [(-float(gain), place) for place, gain in enumerate(np.maximum(near - best, 0.0).sum(1, dtype=np.float64))]
    heapq.heapify(bounds)
    chosen: list[int] = []
    while len(chosen) < most:
        _, place = heapq.heappop(bounds)
        gain = float(np.maximum(near[place] - best, 0.0).sum(dtype=np.float64))
        if not bounds or (-gain, place) <= bounds[0]:
            chosen.append(place)
            np.maximum(best, near[place], out=best)
        else:
            heapq.heappush(bounds, (-gain, place))
    return chosen


def apart(vectors: Vectors, most: int, seed: int, held: Vectors | None = None) -> list[int]:
    """The places of `most` rows, each the farthest from all before it: k-center, greedy (Gonzalez 1985).

    The first is the one nearest to the mean, unless `held` rows come before it; equal distances go to the earlier row.
    Arguments as in `spread`; the seed decides nothing.
    """
    rows = np.asarray(vectors, dtype=np.float32)
    if len(rows) <= most:
        return list(range(len(rows)))
    near = np.full(len(rows), -np.inf, dtype=np.float32)
    if held is not None and len(held):
        near = _cosines(rows, np.asarray(held, dtype=np.float32)).max(axis=1)
    chosen: list[int] = []
    while len(chosen) < most:
        first = not chosen and not np.isfinite(near).all()
        place = int(np.argmax(rows @ rows.mean(axis=0))) if first else int(np.argmin(near))
        chosen.append(place)
        near = np.maximum(near, rows @ rows[place])
        near[place] = np.inf
    return chosen


Choose = Callable[[Vectors, int, int, Vectors | None], list[int]]
WAYS: Mapping[str, Choose] = MappingProxyType({"facility_location": spread, "k_center": apart})
"""Ways to choose, by the name that a recipe's `select.by` has."""


def _cosines(rows: Vectors, shown: Vectors) -> NDArray[np.float32]:
    """Cosines of each row to each shown one, at least 0, in blocks of memory."""
    near = np.empty((len(rows), len(shown)), dtype=np.float32)
    for begin in range(0, len(rows), BLOCK):
        near[begin : begin + BLOCK] = np.asarray(rows[begin : begin + BLOCK], dtype=np.float32) @ shown.T
    np.maximum(near, 0.0, out=near)
    return near
