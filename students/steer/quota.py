"""The one controller of counts: several policies weigh the labels, one decision comes out.

Policies that each moved the mixture on their own would undo each other. Their weights are averaged here, every label
keeps a floor, and shares become whole rows that add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def shares(wishes: Sequence[Mapping[str, float]], labels: Sequence[str], least_share: float) -> dict[str, float]:
    """Each label's share of the next rows, summing to 1; at least `least_share` of an even one.

    `wishes` are weights by label, of any scale, not negative; empty ones, and labels left out, count as even.
    """
    even = 1 / len(labels)
    total = dict.fromkeys(labels, 0.0)
    said = [wish for wish in wishes if sum(wish.get(label, 0.0) for label in labels) > 0] or [
        dict.fromkeys(labels, 1.0)
    ]
    for wish in said:
        whole = sum(wish.get(label, 0.0) for label in labels)
        for label in labels:
            total[label] += wish.get(label, 0.0) / whole / len(said)
    return {label: least_share * even + (1 - least_share) * total[label] for label in labels}


def counts(shares: Mapping[str, float], rows: int) -> dict[str, int]:
    """Shares that sum to 1 as whole rows that add up to `rows`: the largest remainders get what rounding left."""
    exact = {label: share * rows for label, share in shares.items()}
    whole = {label: int(value) for label, value in exact.items()}
    order = sorted(exact, key=lambda label: (whole[label] - exact[label], label))
    for label in order[: rows - sum(whole.values())]:
        whole[label] += 1
    return whole
