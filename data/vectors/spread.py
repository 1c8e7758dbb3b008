"""Facility location: the texts that represent all others best (Mirzasoleiman et al. 2013, greedy with lazy bounds)."""

from __future__ import annotations

import heapq
import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPRESENTED = 2_000
"""Texts that the chosen ones have to represent: a sample, so that time and memory grow with the texts, not squared."""
BLOCK = 4_096


def spread(vectors: NDArray[np.floating[Any]], most: int, seed: int) -> list[int]:
    """The places of `most` rows, in the order in which each adds most; equal gains go to the earlier row.

    A row's value is the sum, over a sample of REPRESENTED rows, of how much nearer it is than the chosen ones.

    Args:
        vectors: unit vectors, n x d
        most: rows to choose
        seed: decides the sample
    """
    count = len(vectors)
    if count <= most:
        return list(range(count))
    others = sorted(random.Random(f"spread-{seed}").sample(range(count), min(REPRESENTED, count)))
    shown = np.asarray(vectors[others], dtype=np.float32)
    near = np.empty((count, len(others)), dtype=np.float32)
    for begin in range(0, count, BLOCK):
        near[begin : begin + BLOCK] = np.asarray(vectors[begin : begin + BLOCK], dtype=np.float32) @ shown.T
    np.maximum(near, 0.0, out=near)
    best = np.zeros(len(others), dtype=np.float32)
    bounds = [(-float(gain), place) for place, gain in enumerate(near.sum(axis=1, dtype=np.float64))]
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
