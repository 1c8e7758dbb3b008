"""Progress of a training for whoever watches this process: the epoch and the seconds that are left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A training after an optimizer step. `seconds_left` is None until it can be estimated."""

    what: str
    step: int
    steps: int
    epoch: int
    epochs: int
    seconds_left: float | None

    @property
    def line(self) -> str:
        """In words: `seeds only: epoch 3 of 8, 0:12 left`."""
        line = f"{self.what}: epoch {self.epoch} of {self.epochs}"
        if self.seconds_left is None:
            return line
        minutes, seconds = divmod(int(self.seconds_left), 60)
        return f"{line}, {minutes}:{seconds:02d} left at most"


_WATCHERS: list[Callable[[Step], None]] = []


@contextmanager
def watched(watch: Callable[[Step], None]) -> Iterator[None]:
    """Call `watch` after each step of the trainings of this process, until the block ends."""
    _WATCHERS.append(watch)
    try:
        yield
    finally:
        _WATCHERS.remove(watch)


def reporter(what: str, epochs: int) -> Callable[[int, int], None] | None:
    """A callback for the steps of one training; None if nobody watches."""
    if not _WATCHERS:
        return None
    first = list[tuple[float, int]]()

    def report(step: int, steps: int) -> None:
        if not first:
            first.append((time.monotonic(), step))
        began, start = first[0]
        left = (time.monotonic() - began) / (step - start) * (steps - step) if step > start else None
        epoch = min(epochs, 1 + (step - 1) * epochs // max(1, steps))
        for watch in _WATCHERS:
            watch(Step(what, step, steps, epoch, epochs, left))

    return report
