"""What a student learns from: texts, each with a label and, where judges gave one, a distribution over the labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class TrainRow:
    """One row. `soft` is a probability for each label in the labels' order, summing to 1; None: only `label` counts."""

    text: str
    label: str
    soft: tuple[float, ...] | None = None

    @property
    def pair(self) -> tuple[str, str]:
        """(text, label)."""
        return self.text, self.label

    @property
    def order(self) -> tuple[str, str, tuple[float, ...]]:
        """What rows are sorted by, so that the order in which they came does not matter."""
        return self.text, self.label, self.soft or ()


Given = TrainRow | tuple[str, str]
"""A row as it may be handed over: whole, or a (text, label) pair."""


def as_rows(rows: Iterable[Given]) -> list[TrainRow]:
    """Pairs become rows without a soft label."""
    return [row if isinstance(row, TrainRow) else TrainRow(*row) for row in rows]


def unique(rows: Iterable[Given]) -> list[TrainRow]:
    """Every text and label once, in the order of their first places, with a soft label if one of them has one."""
    found: dict[tuple[str, str], TrainRow] = {}
    for row in as_rows(rows):
        known = found.setdefault(row.pair, row)
        if known.soft is None and row.soft is not None:
            found[row.pair] = replace(known, soft=row.soft)
    return list(found.values())


def distribution(shares: Mapping[str, object], labels: Sequence[str]) -> tuple[float, ...] | None:
    """Shares of labels as probabilities in the labels' order, summing to 1; None where they are no distribution.

    A label without a share has 0; of two labels, one share that is a probability tells the other (a guard's score).
    None where there is no share, one is of an unknown label, negative or no number, or all are 0.
    """
    values = {name: float(share) for name, share in shares.items() if isinstance(share, int | float)}
    if len(values) < len(shares) or not set(values) <= set(labels):
        return None
    if len(labels) == 2 and len(values) == 1:
        (name, share), *_ = values.items()
        values |= {other: 1 - share for other in labels if other != name}
    total = sum(values.values())
    if not (math.isfinite(total) and total > 0) or min(values.values()) < 0:
        return None
    return tuple(values.get(label, 0.0) / total for label in labels)
