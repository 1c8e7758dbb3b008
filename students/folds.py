"""Out-of-fold probabilities: a logistic regression on embeddings judges each row without having seen it."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_TRAINED = 30_000
"""Most rows that one fold's classifier learns from, each label's share of them: more would take minutes."""
STRENGTH = 10.0
"""scikit-learn's C on unit vectors: their values are small, so its default of 1 underfits many classes."""
ITERATIONS = 200


@dataclass(frozen=True)
class OutOfFold:
    """Judged rows (places in the given order), and the probabilities of each over `names`."""

    names: tuple[str, ...]
    rows: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    notes: tuple[str, ...] = ()


def out_of_fold(
    vectors: NDArray[np.floating],
    labels: Sequence[str],
    folds: int = 5,
    seed: int = 0,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> OutOfFold:
    """Probabilities of each row's labels from a classifier that learned from the other folds, stratified by label.

    A label with one row cannot be judged: its rows are left out, with a note. With fewer than two labels left
    nothing is judged. The same rows in the same order give the same answer. Raises ValueError if the shapes differ.
    """
    if vectors.ndim != 2 or len(vectors) != len(labels) or folds < 2:
        raise ValueError(f"{len(labels)} labels and {folds} folds over vectors of shape {vectors.shape}")
    counts = Counter(labels)
    names = tuple(sorted(name for name, count in counts.items() if count > 1))
    notes = _notes(counts, folds)
    if len(names) < 2:
        notes.append("label errors are not looked for: that takes two labels of two rows or more")
        return OutOfFold(names, np.empty(0, dtype=np.int64), np.empty((0, len(names))), tuple(notes))
    place = {name: at for at, name in enumerate(names)}
    rows = np.array([row for row, label in enumerate(labels) if label in place], dtype=np.int64)
    given = np.array([place[labels[row]] for row in rows], dtype=np.int64)
    assigned = _assigned(given, folds, seed)
    probabilities = np.zeros((len(rows), len(names)))
    for fold in sorted(set(assigned.tolist())):
        held, others = np.flatnonzero(assigned == fold), np.flatnonzero(assigned != fold)
        others = _sample(others, given, seed + fold)
        probabilities[held] = _fitted(vectors, rows, given, others, held, len(names), seed)
        say(f"learned gates: fold {fold + 1} of {folds}, {len(rows):,} rows")
    if len(rows) > MAX_TRAINED:
        notes.append(f"each fold learned from {MAX_TRAINED:,} rows at most")
    return OutOfFold(names, rows, probabilities, tuple(notes))


def _notes(counts: Counter[str], folds: int) -> list[str]:
    single = sorted(name for name, count in counts.items() if count == 1)
    few = sorted(name for name, count in counts.items() if 1 < count < folds)
    notes = []
    if single:
        notes.append(f"labels with one row are not judged: {_listed(single)}")
    if few:
        notes.append(f"labels with fewer rows than the {folds} folds are judged from little: {_listed(few)}")
    return notes


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name[:60]) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _assigned(given: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """A fold for each row: the shuffled rows of a label are dealt one by one, each label continuing after the one
    before."""
    of_label: dict[int, list[int]] = defaultdict(list)
    for row, label in enumerate(given.tolist()):
        of_label[label].append(row)
    result, at, draw = np.zeros(len(given), dtype=np.int64), 0, np.random.default_rng(seed)
    for label in sorted(of_label):
        for row in draw.permutation(of_label[label]).tolist():
            result[row] = at % folds
            at += 1
    return result


def _sample(others: NDArray[np.int64], given: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """At most MAX_TRAINED rows, each label's share, at least one; in their order."""
    if len(others) <= MAX_TRAINED:
        return others
    shuffled = others[np.random.default_rng(seed).permutation(len(others))]
    by_label = shuffled[np.argsort(given[shuffled], kind="stable")]
    _, starts, counts = np.unique(given[by_label], return_index=True, return_counts=True)
    depth = (np.arange(len(by_label)) - np.repeat(starts, counts)) / np.repeat(counts, counts)
    return np.sort(by_label[np.argsort(depth, kind="stable")[:MAX_TRAINED]])


def _fitted(
    vectors: NDArray[np.floating],
    rows: NDArray[np.int64],
    given: NDArray[np.int64],
    others: NDArray[np.int64],
    held: NDArray[np.int64],
    classes: int,
    seed: int,
) -> NDArray[np.float64]:
    """Probabilities of the rows `held` from a classifier of the rows `others`; an unseen label gets 0."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    result = np.zeros((len(held), classes))
    seen = np.unique(given[others])
    if len(seen) < 2:
        result[:, seen] = 1.0
        return result
    model = LogisticRegression(C=STRENGTH, max_iter=ITERATIONS, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a probability a little off is no matter here
        model.fit(np.asarray(vectors[rows[others]], dtype=np.float32), given[others])
    result[:, seen] = model.predict_proba(np.asarray(vectors[rows[held]], dtype=np.float32))
    return result
