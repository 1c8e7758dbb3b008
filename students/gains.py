"""Gains of quick students over one of the seeds alone, for the verdict of `graft teacher`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graft.schemas.verdict import AN_HOUR, BY_HAND, Gain, Policy, Way
from graft.students.quick import Known, Rows, Shares, curve, extrapolated, gain_interval

LEAST_CURVE = 20
"""Known rows below which no learning curve is drawn."""


@dataclass(frozen=True)
class Material:
    """Rows of one verdict, as vectors.

    Args:
        known: rows with a person's labels
        fixed: what every student learns from: label names, and the seeds unless these are the known rows
        seeds_are_known: True if the known rows are the seeds: each fold's student learns from the others
        guesses: the best judge's label of each known row, empty where it gave none
        pilot: generated rows with their intended labels
        relabelled: the best judge's label of each of them
        own: the user's texts with the best judge's labels
    """

    known: Known
    fixed: Rows
    seeds_are_known: bool
    guesses: tuple[str, ...]
    pilot: Rows
    relabelled: tuple[str, ...]
    own: Rows

    @property
    def crossed(self) -> tuple[str, ...]:
        """Labels of known rows that every student learns from, if it was not tested on them."""
        return self.known.rows.labels if self.seeds_are_known else ()

    def policies(self) -> dict[Policy, Rows]:
        """The pilot's rows under each label policy, without a policy that leaves none."""
        intended = self.pilot.labels
        agreeing = tuple(a if a == b else "" for a, b in zip(intended, self.relabelled, strict=True))
        of: dict[Policy, tuple[str, ...]] = {
            "intended": intended, "relabelled": self.relabelled, "agreeing": agreeing,
        }  # fmt: skip
        made = {policy: Rows(self.pilot.vectors, labels).labelled for policy, labels in of.items()}
        return {policy: rows for policy, rows in made.items() if rows.labels}


def base_of(made: Material) -> Shares:
    """1.0 for each known row that the quick student of the seeds alone has right."""
    return made.known.right(made.fixed, made.crossed)


def gains_of(made: Material, base: Shares) -> tuple[Gain, ...]:
    """The gain of every way that there is material for."""
    found, policies = list[Gain](), made.policies()
    for policy, rows in policies.items():
        right = made.known.right(made.fixed + rows, made.crossed)
        found.append(_gain("generate", len(rows.labels), right, base, policy))
    count, fixed, crossed = _labelled(made)
    if count:
        found.append(_gain("label", count, made.known.right(fixed, crossed), base))
        for policy, rows in policies.items():
            right = made.known.right(fixed + rows, crossed)
            found.append(_gain("both", count + len(rows.labels), right, base, policy))
    return (*found, *_by_hand(made, base))


def _labelled(made: Material) -> tuple[int, Rows, Sequence[str]]:
    """Texts labelled by the judge: their number, and what the students learn from."""
    own = made.own.labelled
    if own.labels:
        return len(own.labels), made.fixed + own, made.crossed
    if made.seeds_are_known or not any(made.guesses):
        return 0, made.fixed, ()
    share = made.known.most_crossed / len(made.guesses)
    return max(1, round(share * sum(map(bool, made.guesses)))), made.fixed, made.guesses


def _by_hand(made: Material, base: Shares) -> list[Gain]:
    """Labels by hand: BY_HAND and AN_HOUR of them, measured if there are so many known rows, else extrapolated.

    If there are fewer than BY_HAND, all of them are measured too.
    """
    most = made.known.most_crossed
    if made.seeds_are_known or len(base) < LEAST_CURVE:
        return []
    points = curve(made.known, made.fixed, sorted({most // 4, most // 2, most, BY_HAND, AN_HOUR}))
    means = {size: float(right.mean()) for size, right in points.items()}
    largest = _gain("hand", most, points[most], base)
    found = []
    for size in sorted({min(BY_HAND, most), BY_HAND, AN_HOUR}):
        if size in points:
            found.append(_gain("hand", size, points[size], base))
            continue
        accuracy = extrapolated(means, size)
        moved = accuracy - largest.accuracy
        figures = {
            "rows": size, "accuracy": accuracy, "gain": largest.gain + moved, "low": largest.low + moved,
            "high": largest.high + moved, "extrapolated": True,
        }  # fmt: skip
        found.append(largest.model_copy(update=figures))
    return found


def _gain(way: Way, rows: int, right: Shares, base: Shares, policy: Policy | None = None) -> Gain:
    difference = right - base
    low, high = gain_interval(difference)
    return Gain(
        way=way, policy=policy, rows=rows, accuracy=float(np.mean(right)), gain=float(np.mean(difference)), low=low,
        high=high,
    )  # fmt: skip
