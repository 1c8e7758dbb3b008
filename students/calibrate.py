"""Calibrates a student's probabilities: temperature and thresholds.

Plain numpy on plain numbers: probabilities are one list a row, in the order of the labels; truths are places in it.
No figure depends on the order of the rows (but for the last digits of sums). Bins, intervals and paired tests are
`data.scores.maths`, so that later figures are computed as at evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from graft.data.scores.maths import Matrix, Places, Truths

COLDEST, HOTTEST = 0.05, 20.0
"""Bounds of a fitted temperature."""
_TINY = 1e-12
_GOLDEN = (math.sqrt(5) - 1) / 2


def fit_temperature(probabilities: Matrix, truth: Places) -> float | None:
    """The temperature (0.05 to 20) with the smallest log loss. Above 1: the student was overconfident.

    None without rows, or if every row is right: then the loss falls without end as the temperature falls.
    """
    if not len(truth) or bool((probabilities.argmax(axis=1) == truth).all()):
        return None
    logits, rows = np.log(np.maximum(probabilities, _TINY)), np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        shifted = logits / math.exp(log_temperature)
        shifted -= shifted.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[rows, truth]))

    return math.exp(_smallest(loss, math.log(COLDEST), math.log(HOTTEST)))


def scaled(probabilities: Matrix, temperature: float) -> Matrix:
    """The probabilities with their logits divided by the temperature. Which label is on top stays."""
    shifted = np.log(np.maximum(probabilities, _TINY)) / temperature
    raised: Matrix = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    raised /= raised.sum(axis=1, keepdims=True)
    return raised


def choose_threshold(scores: Matrix, positive: Truths) -> float | None:
    """The score above which calling a row positive gives the largest F1; of equal ones the nearest to 0.5.

    It lies midway between two scores. None if the rows are of one class only.
    """
    if bool(positive.all()) or not bool(positive.any()):
        return None
    order = np.argsort(-scores)
    ranked, hits = scores[order], np.cumsum(positive[order])
    lasts = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True))  # equal scores go together
    f1 = 2 * hits[lasts] / (lasts + 1 + hits[-1])
    cuts = (ranked[lasts] + np.append(ranked[1:], 0.0)[lasts]) / 2
    cuts = np.minimum(cuts, np.nextafter(ranked[lasts], -1.0))
    best = cuts[f1 == f1.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def _smallest(loss: Callable[[float], float], low: float, high: float) -> float:
    """Minimum of a unimodal function, by golden section, to about 1e-9."""
    inner, outer = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    left, right = loss(inner), loss(outer)
    while high - low > 1e-9:
        if left <= right:
            high, outer, right = outer, inner, left
            inner = high - _GOLDEN * (high - low)
            left = loss(inner)
        else:
            low, inner, left = inner, outer, right
            outer = low + _GOLDEN * (high - low)
            right = loss(outer)
    return (low + high) / 2
