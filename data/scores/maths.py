"""Statistics of a student's answers: calibration bins, quarters by length, intervals, paired tests.

Probabilities have the shape (rows, labels), in the order of the labels. No figure depends on the order of the rows,
except for the last digits of sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graft.schemas.intervals import of_accuracy

Matrix = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]
Rows = Sequence[tuple[str, str]]
"""(text, label) pairs."""

BINS = 15
RESAMPLES = 2000
SEED = 20240


@dataclass(frozen=True)
class Bin:
    """Rows whose top probability is in one interval; `confidence` is its mean. Both shares are None without rows."""

    low: float
    high: float
    rows: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Paired:
    """Student b against student a on the same rows.

    `better` counts the rows for which only b is right, `worse` those for which only a is; `p_value` is McNemar's exact
    two-sided p. `difference` is b's accuracy minus a's (-1 to 1), `low` and `high` its 95% bootstrap interval.
    """

    better: int
    worse: int
    p_value: float
    difference: float
    low: float
    high: float


def as_matrix(probabilities: Sequence[Sequence[float]] | npt.NDArray[np.float32], rows: int, labels: int) -> Matrix:
    """Return the probabilities as an array of shape (rows, labels), clipped to 0 and 1.

    Raises ValueError for another shape.
    """
    matrix = np.asarray(probabilities, dtype=np.float64)
    if matrix.shape != (rows, labels):
        raise ValueError(f"probabilities are {matrix.shape}, not {rows} rows of {labels} labels")
    return np.clip(matrix, 0.0, 1.0)


def reliability(probabilities: Matrix, right: Truths, bins: int = BINS) -> tuple[Bin, ...]:
    """Return confidence and accuracy in bins of equal width over the top probability (shape (rows, labels))."""
    top = probabilities.max(axis=1)
    place = np.minimum((top * bins).astype(np.int64), bins - 1)
    rows = np.bincount(place, minlength=bins)
    sure = np.bincount(place, weights=top, minlength=bins)
    hits = np.bincount(place, weights=right.astype(np.float64), minlength=bins)
    return tuple(
        Bin(n / bins, (n + 1) / bins, int(count), _mean(sure[n], int(count)), _mean(hits[n], int(count)))
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


def quarters(lengths: Sequence[int] | npt.NDArray[np.int64]) -> Places:
    """Return the quarter of each text by its length in characters, 0 (shortest) to 3; equal lengths share a quarter."""
    length = np.asarray(lengths)
    return np.searchsorted(np.quantile(length, (0.25, 0.5, 0.75)), length).astype(np.int64)


def length_name(lengths: npt.NDArray[np.int64]) -> str:
    """Return the name of a quarter: its shortest to its longest length."""
    return f"{lengths.min()} to {lengths.max()} characters"


def accuracy_interval(right: int, rows: int) -> tuple[float, float]:
    """Return the 95% bootstrap interval of an accuracy, from 2,000 seeded resamples.

    Resampling rows of which `right` are right is a binomial draw, so each resample is one number. Wilson's interval
    stands in if all rows are right, or none.
    """
    draws = np.random.default_rng(SEED).binomial(rows, right / rows, RESAMPLES)
    low, high = np.quantile(draws / rows, (0.025, 0.975))
    return of_accuracy((float(low), float(high)), right / rows, rows)


def paired(predicted_a: Sequence[str], predicted_b: Sequence[str], rows: Rows) -> Paired:
    """Test whether b is better than a on the same (text, label) rows.

    Raises ValueError if there are no rows or a prediction is missing.
    """
    if not rows:
        raise ValueError("there is no row to compare on")
    better = worse = 0
    for a, b, (_, label) in zip(predicted_a, predicted_b, rows, strict=True):
        better += b == label != a
        worse += a == label != b
    return paired_counts(better, worse, len(rows))


def paired_counts(better: int, worse: int, count: int) -> Paired:
    """Return the paired test from counts: rows that only b has right, that only a has right, all rows (at least 1)."""
    shares = [better / count, worse / count, (count - better - worse) / count]
    draws = np.random.default_rng(SEED).multinomial(count, shares, RESAMPLES)
    low, high = np.quantile((draws[:, 0] - draws[:, 1]) / count, (0.025, 0.975))
    return Paired(better, worse, _mcnemar(better, worse), (better - worse) / count, float(low), float(high))


def _mcnemar(better: int, worse: int) -> float:
    """McNemar's exact two-sided p: the probability that fair coins, one per discordant row, fall as unevenly."""
    coins, few = better + worse, min(better, worse)
    ways, term = 0, 1
    for heads in range(few + 1):
        ways += term
        term = term * (coins - heads) // (heads + 1)
    return min(1.0, float(2 * ways / 2**coins))


def _mean(total: float, count: int) -> float | None:
    return min(1.0, float(total) / count) if count else None
