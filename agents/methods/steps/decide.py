"""GRA's decision rule (section 3, arXiv 2504.12322), and when its outcome is settled early. Pure functions.

The spread is the population standard deviation over the reviewers' means: the paper's case 1 prints 2.4758, which only
that gives. Both bounds are inclusive; a tolerance of 1e-9 keeps float rounding from moving a row over a bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Outcome = Literal["reject", "accept", "adjudicate"]
TOLERANCE = 1e-9
HIGHEST = 10.0


def mean_of(values: Sequence[float]) -> float:
    """Arithmetic mean, correctly rounded in its sum. Raises ZeroDivisionError for no values."""
    return math.fsum(values) / len(values)


def spread_of(values: Sequence[float]) -> float:
    """Population standard deviation (ddof 0). Raises ZeroDivisionError for no values."""
    middle = mean_of(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / len(values))


def passes(mean: float, tau: float) -> bool:
    """Return True if a mean reaches tau (inclusive)."""
    return mean >= tau - TOLERANCE


def decide(means: Sequence[float], tau: float, delta: float) -> Outcome:
    """Reject a mean below tau, accept means that agree, else adjudicate. `means`: one or more, each in 0..10."""
    if not passes(mean_of(means), tau):
        return "reject"
    return "accept" if spread_of(means) <= delta + TOLERANCE else "adjudicate"


def settled(means_so_far: Sequence[float], remaining: int, tau: float, delta: float) -> bool:
    """Return True if the remaining reviewers can no longer change the outcome of `decide`.

    Any of the remaining may also fail, so every number of further answers is checked. Rejection: the mean cannot
    reach tau any more even with tens. Acceptance: mean and spread keep their bounds at every corner of [0, 10]; the
    mean is linear and the spread convex, so what holds at the corners holds between them. A dispute is never settled
    early: the adjudicator reads all reviews.
    """
    if not means_so_far:
        return False
    if remaining <= 0:
        return True
    if not passes(mean_of([*means_so_far, *[HIGHEST] * remaining]), tau):
        return True
    if not passes(mean_of([*means_so_far, *[0.0] * remaining]), tau):
        return False
    return all(
        spread_of([*means_so_far, *[0.0] * zeros, *[HIGHEST] * (answers - zeros)]) <= delta
        for answers in range(remaining + 1)
        for zeros in range(answers + 1)
    )
