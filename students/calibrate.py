"""How far a student's probabilities and accuracy can be trusted: calibration, thresholds, intervals, paired tests.

Plain numpy on plain numbers: probabilities are one list a row, in the order of the labels; truths are places in it.
No figure depends on the order of the rows (but for the last digits of sums).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]
Rows = Sequence[tuple[str, str]]
"""(text, label) pairs."""

BINS = 15
RESAMPLES = 2000
SEED = 20240
COLDEST, HOTTEST = 0.05, 20.0
"""Bounds of a fitted temperature."""
_TINY = 1e-12
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Bin:
    """Rows whose top probability lies in one stretch; `confidence` is its mean. Both shares are None without rows."""

    low: float
    high: float
    rows: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Paired:
    """Student b against student a on the same rows.

    `better` counts the rows where only b is right, `worse` those where only a is; `p_value` is McNemar's exact
    two-sided one. `difference` is b's accuracy less a's (-1 to 1), `low` and `high` its 95% bootstrap interval.
    """

    better: int
    worse: int
    p_value: float
    difference: float
    low: float
    high: float


def as_matrix(probabilities: Sequence[Sequence[float]], rows: int, labels: int) -> Matrix:
    """The probabilities as an array, held within 0 and 1. Raises ValueError where they are not rows × labels."""
    matrix = np.asarray(probabilities, dtype=np.float64)
    if matrix.shape != (rows, labels):
        raise ValueError(f"probabilities are {matrix.shape}, not {rows} rows of {labels} labels")
    return np.clip(matrix, 0.0, 1.0)


def reliability(probabilities: Matrix, right: Truths) -> tuple[Bin, ...]:
    """The 15 bins of equal width of the top probability: how sure the student was, and how often it was right."""
    top = probabilities.max(axis=1)
    place = np.minimum((top * BINS).astype(np.int64), BINS - 1)
    rows = np.bincount(place, minlength=BINS)
    sure = np.bincount(place, weights=top, minlength=BINS)
    hits = np.bincount(place, weights=right.astype(np.float64), minlength=BINS)
    return tuple(
        Bin(n / BINS, (n + 1) / BINS, int(count), _mean(sure[n], int(count)), _mean(hits[n], int(count)))
        for n, count in enumerate(rows)
    )


def calibration_error(bins: Sequence[Bin]) -> float:
    """Mean distance of confidence and accuracy over the bins, each weighed by its rows: 0 (honest) to 1."""
    rows = sum(one.rows for one in bins)
    gaps = (
        one.rows * abs(one.confidence - one.accuracy)
        for one in bins
        if one.confidence is not None and one.accuracy is not None
    )
    return math.fsum(gaps) / rows


def fit_temperature(probabilities: Matrix, truth: Places) -> float | None:
    """The temperature (0.05 to 20) with the smallest log loss. Above 1: the student was too sure.

    None without rows, or where every row is right: then ever more certainty fits ever better, and nothing is learned.
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

    It lies midway between two scores. None where the rows are of one class only.
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


def accuracy_interval(right: int, rows: int) -> tuple[float, float]:
    """95% bootstrap interval of an accuracy, from 2,000 seeded resamples.

    Rows drawn with replacement, `right` of `rows` being right, are a binomial draw: so each resample is one number.
    It has no width where all rows are right, or none.
    """
    draws = np.random.default_rng(SEED).binomial(rows, right / rows, RESAMPLES)
    low, high = np.quantile(draws / rows, (0.025, 0.975))
    return float(low), float(high)


def paired(predicted_a: Sequence[str], predicted_b: Sequence[str], rows: Rows) -> Paired:
    """Whether b is better than a on the same (text, label) rows, or by chance only.

    Raises ValueError without rows, or where a prediction is missing.
    """
    if not rows:
        raise ValueError("there is no row to compare on")
    better = worse = 0
    for a, b, (_, label) in zip(predicted_a, predicted_b, rows, strict=True):
        better += b == label != a
        worse += a == label != b
    count = len(rows)
    shares = [better / count, worse / count, (count - better - worse) / count]
    draws = np.random.default_rng(SEED).multinomial(count, shares, RESAMPLES)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / count, (0.025, 0.975))
    return Paired(better, worse, _mcnemar(better, worse), (better - worse) / count, float(low), float(high))


def _mcnemar(better: int, worse: int) -> float:
    """Two-sided chance that fair coins, one a row that only one student has right, fall as unevenly as this."""
    coins, few = better + worse, min(better, worse)
    ways, term = 0, 1
    for heads in range(few + 1):
        ways += term
        term = term * (coins - heads) // (heads + 1)
    return min(1.0, float(2 * ways / 2**coins))


def _mean(total: float, count: int) -> float | None:
    return min(1.0, float(total) / count) if count else None


def _smallest(loss: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is smallest, by golden section, to about 1e-9."""
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
