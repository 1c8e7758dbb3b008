"""In which order rows are learned from: shuffled anew in every pass, the same on every rerun. Loads nothing heavy."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence

from graft.schemas.students import StudentSettings
from graft.students.rows import TrainRow

CHUNK = 50
"""Steps whose rows are sorted by length together, where that is asked for; which rows these are is drawn each pass."""

Step = list[list[TrainRow]]
"""The batches whose gradients make one step."""


def in_steps(
    rows: Sequence[TrainRow], size: int, settings: StudentSettings, lengths: Mapping[str, int], skipped: int = 0
) -> Iterator[Step]:
    """Endless steps of `settings.accumulate` batches of `size` rows; `skipped` passes are left out.

    Every row comes once in each pass, in another order each time. With `settings.group_lengths` the rows of some steps,
    drawn by chance, are parted into batches of like length (tokens, by text), and these are shuffled again.
    """
    rng, order = random.Random(settings.seed), list(rows)
    for done in itertools.count():
        rng.shuffle(order)
        batches = _grouped(order, size, settings, lengths, rng) if settings.group_lengths else _cut(order, size)
        if done >= skipped:
            for start in range(0, len(batches), settings.accumulate):
                yield batches[start : start + settings.accumulate]


def _cut(rows: Sequence[TrainRow], size: int) -> list[list[TrainRow]]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def _grouped(
    order: Sequence[TrainRow], size: int, settings: StudentSettings, lengths: Mapping[str, int], rng: random.Random
) -> list[list[TrainRow]]:
    """One pass in batches of like length, in an order that is drawn."""
    found: list[list[TrainRow]] = []
    for chunk in _cut(order, CHUNK * size * settings.accumulate):
        batches = _cut(sorted(chunk, key=lambda row: lengths[row.text]), size)
        rng.shuffle(batches)
        found += batches
    return found
