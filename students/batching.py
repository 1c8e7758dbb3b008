"""Order of training rows: shuffled in every pass, the same on every rerun. Imports nothing heavy."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence

from graft.schemas.students import StudentSettings
from graft.students.rows import TrainRow

CHUNK = 50
"""Steps whose rows are sorted by length together (`group_lengths`); these rows are drawn anew each pass."""

Step = list[list[TrainRow]]
"""The batches whose gradients make one step."""


def in_steps(
    rows: Sequence[TrainRow], size: int, settings: StudentSettings, lengths: Mapping[str, int], skipped: int = 0
) -> Iterator[Step]:
    """Endless steps of `settings.accumulate` batches of at most `size` rows, after `skipped` passes.

    Every row comes once in each pass, in another order each time. With `settings.group_lengths` the rows of some steps,
    drawn at random, form batches of similar length (tokens, by text), which are shuffled again.
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
    """One pass in batches of similar length, in random order."""
    found: list[list[TrainRow]] = []
    for chunk in _cut(order, CHUNK * size * settings.accumulate):
        batches = _cut(sorted(chunk, key=lambda row: lengths[row.text]), size)
        rng.shuffle(batches)
        found += batches
    return found
