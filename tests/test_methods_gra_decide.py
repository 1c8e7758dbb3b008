"""The decision rule: the paper's own case, its bounds, and that asking fewer reviewers never changes a decision."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from graft.agents.methods.steps.panel import decide, mean_of, settled, spread_of

CASE_1 = [[9, 10, 10, 10, 10, 10], [9, 9, 10, 10, 10, 10], [6, 4, 5, 4, 5, 3]]


def test_the_papers_case_1_is_disputed() -> None:
    means = [sum(scores) / 6 for scores in CASE_1]
    assert [round(mean, 3) for mean in means] == [9.833, 9.667, 4.5]
    assert mean_of(means) == pytest.approx(8.0)
    assert round(spread_of(means), 4) == 2.4758
    assert decide(means, 8.0, 1.5) == "adjudicate"


@pytest.mark.parametrize(
    ("means", "outcome"),
    [
        ([9.0, 8.0, 7.0], "accept"),  # the mean is exactly tau: inclusive
        ([8.0, 8.0, 7.99], "reject"),
        ([10.0, 7.0], "accept"),  # the spread is exactly delta: inclusive
        ([10.0, 6.98], "adjudicate"),
        ([10.0, 10.0, 3.0], "reject"),  # disagreement below tau is never adjudicated
        ([23 / 3, 25 / 3, 8.0], "accept"),  # thirds do not add up to 24 in floats
    ],
)
def test_bounds(means: list[float], outcome: str) -> None:
    if means == [10.0, 6.98]:
        assert spread_of(means) > 1.5
    assert decide(means, 8.0, 1.5) == outcome


def test_one_low_review_settles_a_committee_and_a_good_one_does_not() -> None:
    assert settled([3.9], 2, 8.0, 1.5)
    assert not settled([4.0], 2, 8.0, 1.5), "10 and 10 would still bring the mean to 8"
    assert not settled([10.0, 10.0], 1, 8.0, 1.5), "a 4 would make it a dispute"
    assert settled([9.0], 1, 4.0, 5.0), "0 and 10 both leave it accepted"
    assert not settled([], 3, 0.0, 10.0), "a committee of which nobody answered has decided nothing"


sixths = st.integers(0, 60).map(lambda total: total / 6)
answers = st.lists(st.one_of(st.none(), sixths, st.floats(0, 10)), min_size=1, max_size=6)


@settings(max_examples=600, deadline=None)
@given(
    answers=answers,
    tau=st.one_of(st.integers(0, 20).map(lambda half: half / 2), st.floats(0, 10)),
    delta=st.one_of(st.integers(0, 20).map(lambda half: half / 2), st.floats(0, 10)),
)
@example(answers=[9.0, 8.0, 7.0], tau=8.0, delta=1.5)
@example(answers=[4.0, 10.0, 10.0], tau=8.0, delta=1.5)
@example(answers=[9.0, 0.0], tau=4.5, delta=4.5)
def test_stopping_early_never_changes_the_decision(answers: list[float | None], tau: float, delta: float) -> None:
    """`None` stands for a judge that failed: with early exit it may not have been called."""
    everyone = [answer for answer in answers if answer is not None]
    so_far: list[float] = []
    for place, answer in enumerate(answers):
        so_far += [] if answer is None else [answer]
        if settled(so_far, len(answers) - place - 1, tau, delta):
            break
    assert bool(so_far) == bool(everyone)
    if everyone:
        assert decide(so_far, tau, delta) == decide(everyone, tau, delta)
