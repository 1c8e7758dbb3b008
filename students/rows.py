"""Training rows of a student: texts with one label or several and, if judges gave one, a distribution over them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class TrainRow:
    """One row. `soft` has a probability for each label, in the labels' order, summing to 1; None: only `label` counts.

    `labels` are all true labels, for a student with several labels per text; empty: just `label`.
    """

    text: str
    label: str
    soft: tuple[float, ...] | None = None
    labels: tuple[str, ...] = ()

    @property
    def pair(self) -> tuple[str, str]:
        """(text, label)."""
        return self.text, self.label

    @property
    def every(self) -> tuple[str, ...]:
        """All true labels: at least one."""
        return self.labels or (self.label,)

    @property
    def order(self) -> tuple[str, str, tuple[float, ...], tuple[str, ...]]:
        """Sort key, so that the order of the input does not matter."""
        return self.text, self.label, self.soft or (), self.labels


Given = TrainRow | tuple[str, str]
"""A row as callers may pass it: whole, or a (text, label) pair."""


def as_one_text(text: str, response: str | None) -> str:
    """The input of a classifier: the row's text, and below it the response, if there is one."""
    return f"{text}\n\n{response}" if response else text


def as_rows(rows: Iterable[Given]) -> list[TrainRow]:
    """Pairs become rows without a soft label."""
    return [row if isinstance(row, TrainRow) else TrainRow(*row) for row in rows]


def unique(rows: Iterable[Given]) -> list[TrainRow]:
    """Every text and label once, in order of first occurrence, with soft label and labels if one of the rows has
    them."""
    found: dict[tuple[str, str], TrainRow] = {}
    for row in as_rows(rows):
        known = found.setdefault(row.pair, row)
        if known.soft is None and row.soft is not None:
            known = found[row.pair] = replace(known, soft=row.soft)
        if row.labels != known.labels:
            found[row.pair] = replace(known, labels=tuple(dict.fromkeys((*known.every, *row.every))))
    return list(found.values())


def distribution(shares: Mapping[str, object], labels: Sequence[str]) -> tuple[float, ...] | None:
    """Shares of labels as probabilities in the labels' order, summing to 1; None if they are no distribution.

    A label without a share has 0; of two labels, one share that is a probability determines the other (a guard's
    score). None if there is no share, one is of an unknown label, negative or no number, or all are 0.
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
