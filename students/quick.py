"""A quick student: logistic regression on frozen sentence vectors, in milliseconds, for a verdict before a run.

It learns from the label names too, as the trained student does. No scikit-learn: importing it takes a second, and a
verdict must not depend on what is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.data.scores.maths import RESAMPLES, SEED
from graft.students.folds import STRENGTH

Matrix = NDArray[np.float32]
Shares = NDArray[np.float64]

STEPS = 300
CLOSE = 1e-3
"""The gradient's norm a row at which the fit ends."""
FOLDS = 5
LEAST_TOLD_APART = 10
"""Fewest texts of each side for an AUC."""
DRAWS = 3
"""Random draws averaged for one point of a learning curve."""


@dataclass(frozen=True)
class Rows:
    """Training rows: unit vectors, shape (n, d), and a label each; an empty label leaves its row out."""

    vectors: Matrix
    labels: tuple[str, ...]

    def __add__(self, other: Rows) -> Rows:
        if not other.labels:
            return self
        return Rows(np.concatenate([self.vectors, other.vectors]), self.labels + other.labels)

    def at(self, places: NDArray[np.int64]) -> Rows:
        """The rows at these places."""
        return Rows(self.vectors[places], tuple(self.labels[place] for place in places))

    @property
    def labelled(self) -> Rows:
        """The rows that have a label."""
        return self.at(np.array([place for place, label in enumerate(self.labels) if label], dtype=np.int64))


@dataclass(frozen=True)
class Known:
    """Rows with a person's labels, on which students are compared. `folds` has each row's fold, from 0."""

    rows: Rows
    folds: NDArray[np.int64]

    def right(self, fixed: Rows, crossed: Sequence[str] = (), most: int | None = None, draw: int = 0) -> Shares:
        """1.0 for each row that a quick student labels correctly, else 0.0.

        Args:
            fixed: what every student learns from
            crossed: a label for each known row (empty: none): rows of the other folds join `fixed`
            most: of these at most that many, drawn by `draw`
        """
        truth = np.array(self.rows.labels, dtype=object)
        if not crossed:
            return np.asarray(predicted(fixed, self.rows.vectors) == truth, dtype=np.float64)
        joined, result = Rows(self.rows.vectors, tuple(crossed)), np.zeros(len(truth))
        for fold in np.unique(self.folds):
            held, others = np.flatnonzero(self.folds == fold), np.flatnonzero(self.folds != fold)
            if most is not None:
                others = np.random.default_rng([draw, int(fold)]).permutation(others)[:most]
            guesses = predicted(fixed + joined.at(others).labelled, self.rows.vectors[held])
            result[held] = guesses == truth[held]
        return result

    @property
    def most_crossed(self) -> int:
        """Known rows that every fold's student can learn from."""
        return len(self.folds) - int(np.bincount(self.folds).max())


def predicted(rows: Rows, vectors: Matrix) -> NDArray[np.object_]:
    """The label of each vector, by a student of these rows; empty labels if there is nothing to learn from."""
    names = sorted(set(rows.labels))
    if not names:
        return np.full(len(vectors), "", dtype=object)
    places = _scores(rows, names, vectors).argmax(axis=1)
    return np.array([names[place] for place in places], dtype=object)


def margins(rows: Rows, vectors: Matrix) -> Shares:
    """How sure a student of these rows is of each vector: the lead of the likeliest label's probability (0 to 1).

    Zeros for rows of fewer than two labels, by which all vectors are alike.
    """
    names = sorted(set(rows.labels))
    if len(names) < 2:
        return np.zeros(len(vectors))
    logits = _scores(rows, names, vectors)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    first, second = np.sort(shares / shares.sum(axis=1, keepdims=True), axis=1)[:, :-3:-1].T
    return np.asarray(first - second, dtype=np.float64)


def gain_interval(gains: Shares) -> tuple[float, float]:
    """95% interval of the mean of paired differences (-1 to 1), by a bootstrap of rows.

    One row each way joins them (as Agresti and Min 2005 do for paired shares): else a few rows that agree, such as
    seeds, would give an interval without width.
    """
    values, counts = np.unique(np.round([*gains, -1.0, 1.0], 9), return_counts=True)
    rows = int(counts.sum())
    draws = np.random.default_rng(SEED).multinomial(rows, counts / rows, RESAMPLES)
    low, high = np.quantile(draws @ values / rows, (0.025, 0.975))
    return float(low), float(high)


def told_apart(real: Matrix, generated: Matrix, seed: int) -> float | None:
    """AUC of a cross-validated classifier of real against generated texts: 0.5 if it cannot tell, 1 if it always can.

    None if there are too few of either.
    """
    if min(len(real), len(generated)) < LEAST_TOLD_APART:
        return None
    rows = Rows(np.concatenate([real, generated]), ("real",) * len(real) + ("generated",) * len(generated))
    folds, scores = dealt(rows.labels, FOLDS, seed), np.zeros(len(rows.labels))
    for fold in range(FOLDS):
        held = np.flatnonzero(folds == fold)
        both = _scores(rows.at(np.flatnonzero(folds != fold)), ["generated", "real"], rows.vectors[held])
        scores[held] = both[:, 0] - both[:, 1]
    pairs = scores[len(real) :, None] - scores[None, : len(real)]
    return float((pairs > 0).mean() + (pairs == 0).mean() / 2)


def dealt(labels: Sequence[str], folds: int, seed: int) -> NDArray[np.int64]:
    """A fold for each row, stratified by label."""
    order = np.random.default_rng(seed).permutation(len(labels))
    result = np.zeros(len(labels), dtype=np.int64)
    for turn, place in enumerate(sorted(order, key=lambda place: labels[place])):
        result[place] = turn % folds
    return result


def curve(known: Known, fixed: Rows, sizes: Sequence[int]) -> dict[int, Shares]:
    """For each number of labels by hand up to `known.most_crossed`: each row's share of students that have it right."""
    draws = {size: DRAWS if size < known.most_crossed else 1 for size in sizes if 0 < size <= known.most_crossed}
    return {
        size: np.mean([known.right(fixed, known.rows.labels, size, draw) for draw in range(count)], axis=0)
        for size, count in draws.items()
    }


def extrapolated(points: dict[int, float], size: int) -> float:
    """Accuracy at `size` labels from the least-squares curve a - b / sqrt(n), at most 1; b is not negative."""
    sizes = np.array(sorted(points))
    design = np.stack([np.ones(len(sizes)), -1 / np.sqrt(sizes)], axis=1)
    values = np.array([points[n] for n in sizes])
    a, b = np.linalg.lstsq(design, values, rcond=None)[0]
    return float(min(1.0, a - b / np.sqrt(size))) if b > 0 else float(values[-1])


def _scores(rows: Rows, names: Sequence[str], vectors: Matrix) -> Shares:
    """Log-odds of each name, shape (len(vectors), len(names)), by multinomial logistic regression.

    The loss is scikit-learn's with C = STRENGTH: the intercept is not penalised. Nesterov's gradient method on centred
    vectors, whose step follows from the largest eigenvalue.
    """
    place = {name: at for at, name in enumerate(names)}
    mean = rows.vectors.mean(axis=0)
    inputs = (rows.vectors - mean).astype(np.float64)
    wanted = np.zeros((len(inputs), len(names)))
    wanted[np.arange(len(inputs)), [place[label] for label in rows.labels]] = 1.0
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)
    ridge = np.full((inputs.shape[1], 1), 1 / STRENGTH)
    ridge[-1] = 0.0
    smaller = inputs @ inputs.T if len(inputs) < inputs.shape[1] else inputs.T @ inputs
    step = 1 / (0.5 * float(np.linalg.norm(smaller, 2)) + 1 / STRENGTH)
    weights = ahead = np.zeros((inputs.shape[1], len(names)))
    for turn in range(STEPS):
        logits = inputs @ ahead
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        slope = inputs.T @ (shares - wanted) + ridge * ahead
        before, weights = weights, ahead - step * slope
        ahead = weights + turn / (turn + 3) * (weights - before)
        if np.linalg.norm(slope) < CLOSE * len(inputs):
            break
    return np.asarray((vectors - mean) @ weights[:-1] + weights[-1], dtype=np.float64)
