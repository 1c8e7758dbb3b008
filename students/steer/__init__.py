"""Steering policies, and how their wishes become one round's steering. A new policy is a file and a line here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from graft.schemas.steering import ImproveSettings, Policy, Steering
from graft.students.steer import curriculum, domain_gap, hard_negatives, quota, weakness
from graft.students.steer.base import Evidence, Judged, Wish

__all__ = ["Decided", "Evidence", "Judged", "Wish", "decide"]

POLICIES: Mapping[Policy, Callable[[Evidence], Awaitable[Wish]]] = {
    "hard_negatives": hard_negatives.wish,
    "weakness": weakness.wish,
    "domain_gap": domain_gap.wish,
    "curriculum": curriculum.wish,
}


@dataclass(frozen=True)
class Decided:
    """The next round: its steering, the rows wanted of each label, their shares, and what each policy said."""

    steering: Steering
    wanted: dict[str, int]
    weights: dict[str, float]
    said: tuple[str, ...]


async def decide(evidence: Evidence, settings: ImproveSettings, *, rows: int, after: int) -> Decided:
    """Ask every policy of the loop and settle their wishes. `rows` over all labels; `after`: the version so far."""
    wishes = {name: await POLICIES[name](evidence) for name in settings.policies}
    weights = quota.shares([wish.weights for wish in wishes.values()], evidence.labels, settings.least_share)
    exemplars = {(row.text, row.label): row for wish in wishes.values() for row in wish.exemplars}
    steering = Steering(
        round=evidence.round + 1, after=after, exemplars=tuple(exemplars.values()),
        concepts=_merged([wish.concepts for wish in wishes.values()]),
        partners=_merged([wish.partners for wish in wishes.values()]),
    )  # fmt: skip
    said = tuple(f"{name}: {wish.said}" for name, wish in wishes.items())
    return Decided(steering, quota.counts(weights, rows), weights, said)


def _merged(found: Sequence[Mapping[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    """Every label's entries of all policies, each once, in the policies' order."""
    merged: dict[str, dict[str, None]] = {}
    for one in found:
        for label, entries in one.items():
            merged.setdefault(label, {}).update(dict.fromkeys(entries))
    return {label: tuple(entries) for label, entries in merged.items()}
