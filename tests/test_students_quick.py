"""The quick student: scikit-learn's logistic regression without scikit-learn, and figures that it is compared by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from graft.data.scores.maths import paired_counts
from graft.students.folds import STRENGTH
from graft.students.quick import Known, Matrix, Rows, curve, dealt, extrapolated, gain_interval, predicted, told_apart


def cloud(centres: int, each: int, seed: int, spread: float = 0.5) -> Rows:
    """Unit vectors around random centres, which are the same for every seed."""
    middles = np.random.default_rng(7).normal(size=(centres, 24))
    noise = np.random.default_rng(seed).normal(scale=spread, size=(centres, each, 24)) * np.sqrt(24) / 3
    vectors = (middles[:, None] + noise).reshape(-1, 24)
    labels = tuple(f"l{place}" for place in range(centres) for _ in range(each))
    return Rows((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels)


@pytest.mark.parametrize(("centres", "each"), [(2, 2), (3, 10), (10, 12)])
def test_it_is_scikit_learns_logistic_regression(centres: int, each: int) -> None:
    rows, tests = cloud(centres, each, 1), cloud(centres, 40, 2)
    model = LogisticRegression(C=STRENGTH, max_iter=2000).fit(rows.vectors, rows.labels)
    assert np.mean(predicted(rows, tests.vectors) == model.predict(tests.vectors)) > 0.97


def test_one_label_or_none_needs_no_fit() -> None:
    rows = cloud(2, 3, 1)
    assert set(predicted(rows.at(np.arange(3)), rows.vectors)) == {"l0"}
    assert set(predicted(rows.at(np.arange(0)), rows.vectors)) == {""}


def test_known_rows_are_never_judged_by_a_student_that_learned_them() -> None:
    """Every text twice with different labels: a student that saw a row would have its twin wrong."""
    rows = cloud(2, 30, 3)
    known = Known(rows, dealt(rows.labels, 5, 0))
    assert known.most_crossed == 48 and set(np.bincount(known.folds)) == {12}
    nothing = Rows(np.zeros((0, 24), dtype=np.float32), ())
    assert known.right(nothing, rows.labels).mean() > 0.8
    shuffled = tuple(np.random.default_rng(0).permutation(rows.labels))
    assert known.right(nothing, shuffled).mean() < 0.75
    points = curve(known, nothing, [8, 16, 48, 60])
    assert list(points) == [8, 16, 48] and points[8].mean() <= points[48].mean() + 0.05


def test_texts_of_one_origin_are_not_told_apart() -> None:
    def of(seed: int, shift: float = 0.0) -> Matrix:
        return (np.random.default_rng(seed).normal(size=(60, 24)) + shift).astype(np.float32)

    same, other = told_apart(of(1), of(2), 0), told_apart(of(1), of(2, 2.0), 0)
    assert same is not None and 0.3 < same < 0.7 and other is not None and other > 0.98
    assert told_apart(of(1)[:9], of(2), 0) is None


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 200))
def test_the_interval_holds_the_gain_and_has_a_width(better: int, worse: int, same: int) -> None:
    gains = np.array([1.0] * better + [-1.0] * worse + [0.0] * same)
    low, high = gain_interval(gains)
    assert low < high and low <= gains.mean() * len(gains) / (len(gains) + 2) <= high
    if len(gains) >= 100:
        usual = paired_counts(better, worse, len(gains))
        assert abs(low - usual.low) < 0.06 and abs(high - usual.high) < 0.06


def test_a_curve_goes_on_as_it_began() -> None:
    exact = {size: 0.9 - 1.2 / size**0.5 for size in (16, 32, 64)}
    assert extrapolated(exact, 150) == pytest.approx(0.9 - 1.2 / 150**0.5)
    assert extrapolated({16: 0.8, 64: 0.7}, 150) == 0.7, "labels do no harm: a falling curve is not continued"
