"""Steering policies, and the controller that merges their wishes into the next round's steering.

A policy is a module of this folder, or a plugin; `schemas.kinds.POLICIES` finds it by name. Policies that each moved
the mixture of labels on their own would undo each other: their weights are averaged here, every label keeps a floor,
and shares become whole rows that add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from graft.schemas.kinds import POLICIES
from graft.schemas.steering import ImproveSettings, Steering, SteerRow
from graft.students.steer.base import AnsweredRow, Evidence, OnResponses, Policy, SteeringRow, Wish, steered_kind

__all__ = [
    "AnsweredRow", "Decided", "Evidence", "OnResponses", "Policy", "SteeringRow", "Wish", "decide", "rows_of",
    "shares_of", "steered_kind",
]  # fmt: skip


@dataclass(frozen=True)
class Decided:
    """The next round: its steering, the requested rows of each label, each policy's weights and its sentence.

    `left_out`: texts of rows that the next student does not learn from.
    """

    steering: Steering
    wanted: dict[str, int]
    weights: dict[str, Mapping[str, float]]
    summaries: tuple[str, ...]
    left_out: frozenset[str] = frozenset()


async def decide(
    evidence: Evidence, settings: ImproveSettings, *, rows: int, after: int,
    before: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> Decided:  # fmt: skip
    """Call every policy of the loop and merge their wishes.

    `rows` over all labels; `after`: the version so far; `before`: each policy's weights of the last decision.
    """
    wishes = {
        name: await POLICIES.get(name)(replace(evidence, weights=before.get(name, {}))) for name in settings.policies
    }
    weights = shares_of([wish.weights for wish in wishes.values()], evidence.labels, settings.least_share)
    steering = Steering(
        round=evidence.round + 1, after=after,
        exemplars=_once([row for wish in wishes.values() for row in wish.exemplars]),
        report=next((wish.report for wish in wishes.values() if wish.report), ()),
        learner=evidence.student if any(wish.medium for wish in wishes.values()) else "",
        concepts=_merged([wish.concepts for wish in wishes.values()]),
        partners=_merged([wish.partners for wish in wishes.values()]),
    )  # fmt: skip
    summaries = tuple(f"{name}: {wish.summary}" for name, wish in wishes.items())
    own = {name: wish.weights for name, wish in wishes.items()}
    left_out = frozenset[str]().union(*(wish.left_out for wish in wishes.values()))
    return Decided(steering, rows_of(weights, rows), own, summaries, left_out)


def _once(rows: Sequence[SteerRow]) -> tuple[SteerRow, ...]:
    """Every row once, mistakes first."""
    found: dict[tuple[str, str], SteerRow] = {}
    for row in sorted(rows, key=lambda row: not row.taken_for):
        found.setdefault((row.text, row.label), row)
    return tuple(found.values())


def _merged(found: Sequence[Mapping[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    """Every label's entries of all policies, each once, in the policies' order."""
    merged: dict[str, dict[str, None]] = {}
    for one in found:
        for label, entries in one.items():
            merged.setdefault(label, {}).update(dict.fromkeys(entries))
    return {label: tuple(entries) for label, entries in merged.items()}


def shares_of(wishes: Sequence[Mapping[str, float]], labels: Sequence[str], least_share: float) -> dict[str, float]:
    """Each label's share of the next rows, summing to 1; at least `least_share` of an even one.

    `wishes` are weights by label, of any scale, not negative; empty weights, and missing labels, count as even.
    """
    even = 1 / len(labels)
    total = dict.fromkeys(labels, 0.0)
    weighing = [wish for wish in wishes if sum(wish.get(label, 0.0) for label in labels) > 0] or [
        dict.fromkeys(labels, 1.0)
    ]
    for wish in weighing:
        whole = sum(wish.get(label, 0.0) for label in labels)
        for label in labels:
            total[label] += wish.get(label, 0.0) / whole / len(weighing)
    return {label: least_share * even + (1 - least_share) * total[label] for label in labels}


def rows_of(shares: Mapping[str, float], rows: int) -> dict[str, int]:
    """Shares that sum to 1 as whole rows that add up to `rows`, by largest remainder."""
    exact = {label: share * rows for label, share in shares.items()}
    whole = {label: int(value) for label, value in exact.items()}
    order = sorted(exact, key=lambda label: (whole[label] - exact[label], label))
    for label in order[: rows - sum(whole.values())]:
        whole[label] += 1
    return whole
