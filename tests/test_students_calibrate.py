"""Calibration of probabilities and comparisons of students: invariants, and figures worked out by hand."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.data.scores.maths import accuracy_interval, as_matrix, calibration_error, paired, reliability
from graft.schemas.intervals import wilson
from graft.students.calibrate import choose_threshold, fit_temperature, scaled

few = settings(max_examples=60, deadline=None)


@st.composite
def judged(draw: st.DrawFn) -> tuple[list[list[float]], list[int]]:
    """Probabilities over two to four labels, and where the truth lies."""
    count = draw(st.integers(2, 4))
    weights = st.lists(st.floats(0, 1), min_size=count, max_size=count).filter(lambda one: sum(one) > 0.01)
    rows = draw(st.lists(weights, min_size=1, max_size=25))
    truth = [draw(st.integers(0, count - 1)) for _ in rows]
    return [[one / sum(row) for one in row] for row in rows], truth


def as_arrays(case: tuple[list[list[float]], list[int]]) -> tuple[np.ndarray, np.ndarray]:
    rows, truth = case
    return as_matrix(rows, len(rows), len(rows[0])), np.array(truth)


def error(matrix: np.ndarray, truth: np.ndarray) -> float:
    return calibration_error(reliability(matrix, matrix.argmax(axis=1) == truth))


@few
@given(judged(), st.randoms(use_true_random=False))
def test_calibration_error_is_a_share_and_no_matter_of_order(case: tuple, random: Random) -> None:
    matrix, truth = as_arrays(case)
    bins = reliability(matrix, matrix.argmax(axis=1) == truth)
    assert 0 <= calibration_error(bins) <= 1
    assert len(bins) == 15 and sum(one.rows for one in bins) == len(truth)
    assert all(one.low - 1e-9 <= one.confidence <= one.high + 1e-9 for one in bins if one.confidence is not None)
    order = list(range(len(truth)))
    random.shuffle(order)
    assert error(matrix[order], truth[order]) == pytest.approx(calibration_error(bins))
    before, after = fit_temperature(matrix, truth), fit_temperature(matrix[order], truth[order])
    assert (before is None) == (after is None)


@few
@given(st.lists(st.integers(11, 20), min_size=1, max_size=5))
def test_an_honest_student_has_no_calibration_error_and_an_overbold_one_has(twentieths: list[int]) -> None:
    top = np.repeat([n / 20 for n in twentieths], 20)
    right = np.concatenate([np.arange(20) < n for n in twentieths])  # n of 20 rows right at a confidence of n / 20
    assert calibration_error(reliability(np.column_stack([top, 1 - top]), right)) == pytest.approx(0, abs=1e-9)
    sure = np.column_stack([np.ones(len(top)), np.zeros(len(top))])
    assert calibration_error(reliability(sure, right)) == pytest.approx(1 - right.mean())


@few
@given(judged(), st.floats(0.05, 20))
def test_temperature_leaves_the_label_and_sums_to_one(case: tuple, temperature: float) -> None:
    matrix, _ = as_arrays(case)
    after = scaled(matrix, temperature)
    rows = np.arange(len(matrix))
    assert (after[rows, matrix.argmax(axis=1)] == after.max(axis=1)).all()
    assert after.sum(axis=1) == pytest.approx(1)
    assert scaled(matrix, 1.0) == pytest.approx(matrix / matrix.sum(axis=1, keepdims=True), abs=1e-9)


@few
@given(judged())
def test_fitted_temperature_is_no_worse_than_its_neighbours(case: tuple) -> None:
    matrix, truth = as_arrays(case)
    found = fit_temperature(matrix, truth)
    if found is None:
        assert (matrix.argmax(axis=1) == truth).all()
        return
    assert 0.05 <= found <= 20

    def loss(temperature: float) -> float:
        return float(-np.log(scaled(matrix, temperature)[np.arange(len(truth)), truth] + 1e-300).mean())

    assert loss(found) <= min(loss(max(0.05, found * 0.9)), loss(min(20, found * 1.1)), loss(1.0)) + 1e-6


def test_temperature_finds_what_made_the_probabilities_too_sure() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(size=(4000, 3)) * 1.5
    honest = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = np.array([random.choice(3, p=row) for row in honest])
    bold = scaled(honest, 1 / 3)
    found = fit_temperature(bold, truth)
    assert found == pytest.approx(3, rel=0.1)
    assert error(scaled(bold, found), truth) < 0.03 < 0.15 < error(bold, truth)
    assert fit_temperature(honest[:0], truth[:0]) is None


@few
@given(st.integers(1, 400).flatmap(lambda rows: st.tuples(st.integers(0, rows), st.just(rows))))
def test_interval_holds_the_accuracy(case: tuple[int, int]) -> None:
    right, rows = case
    low, high = accuracy_interval(right, rows)
    assert 0 <= low <= right / rows <= high <= 1
    assert accuracy_interval(right, rows) == (low, high)


def test_interval_is_as_wide_as_in_theory() -> None:
    low, high = accuracy_interval(300, 400)
    spread = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert (low, high) == (pytest.approx(0.75 - spread, abs=0.006), pytest.approx(0.75 + spread, abs=0.006))
    assert accuracy_interval(7, 7) == wilson(7, 7)


letters = st.sampled_from("ab")


@few
@given(st.lists(st.tuples(letters, letters, letters), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_paired_swaps_with_its_arguments_and_not_with_the_rows(
    triples: list[tuple[str, str, str]], random: Random
) -> None:
    def of(triples: list[tuple[str, str, str]]) -> tuple[list[str], list[str], list[tuple[str, str]]]:
        return [a for a, _, _ in triples], [b for _, b, _ in triples], [("text", true) for _, _, true in triples]

    a, b, rows = of(triples)
    forth, back = paired(a, b, rows), paired(b, a, rows)
    assert (forth.better, forth.worse, forth.p_value) == (back.worse, back.better, back.p_value)
    assert forth.difference == -back.difference
    assert -1 <= forth.low <= forth.difference <= forth.high <= 1
    assert 0 < forth.p_value <= 1
    shuffled = list(triples)
    random.shuffle(shuffled)
    assert paired(*of(shuffled)) == forth


def test_paired_by_hand_and_by_scipy() -> None:
    from scipy.stats import binomtest

    rows = [("t", "a")] * 60
    first = ["b"] * 12 + ["a"] * 3 + ["a"] * 45
    second = ["a"] * 12 + ["b"] * 3 + ["a"] * 45
    got = paired(first, second, rows)
    assert (got.better, got.worse, got.difference) == (12, 3, 0.15)
    assert got.p_value == pytest.approx(binomtest(3, 15).pvalue)
    assert 0 < got.low < 0.15 < got.high
    assert paired(first, first, rows).p_value == 1.0
    with pytest.raises(ValueError, match="no row"):
        paired([], [], [])


@few
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=25))
def test_threshold_has_the_largest_f1(pairs: list[tuple[float, bool]]) -> None:
    scores, positive = np.array([score for score, _ in pairs]), np.array([flag for _, flag in pairs])
    chosen = choose_threshold(scores, positive)
    if chosen is None:
        assert len(set(positive.tolist())) == 1
        return

    def f1(cut: float) -> float:
        guess = scores > cut
        return 2 * int((guess & positive).sum()) / (int(guess.sum()) + int(positive.sum()))

    assert f1(chosen) == max(f1(cut) for cut in [-1.0, *scores.tolist()])


def test_threshold_lies_midway() -> None:
    assert choose_threshold(np.array([0.9, 0.8, 0.4, 0.1]), np.array([True, True, False, False])) == pytest.approx(0.6)


def test_probabilities_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="not 2 rows of 3 labels"):
        as_matrix([[0.5, 0.5], [1.0, 0.0]], 2, 3)
