"""Sliding-window rate limit: a maximum of requests or tokens in any 60 seconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

WINDOW_S = 60.0


@dataclass(slots=True, eq=False)
class Taken:
    """One call's share of a window, with its time."""

    at: float
    amount: float
    counts: bool = True


class Window:
    """At most `most` units in any `seconds`, by the monotonic clock.

    A call takes its upper bound when it is sent, and is corrected once its usage is known. A call larger than the whole
    window waits until the window is empty; waiting is never an error.
    """

    def __init__(self, most: float, seconds: float = WINDOW_S) -> None:
        self.most, self.seconds = most, seconds
        self._taken: deque[Taken] = deque()
        self._sum = 0.0

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until the amount fits; 0 if it fits now."""
        self._forget(now)
        over = self._sum + min(amount, self.most) - self.most
        if over <= 1e-9:
            return 0.0
        for taken in self._taken:
            over -= taken.amount
            if over <= 1e-9:
                return max(0.0, taken.at + self.seconds - now)
        return self.seconds

    def take(self, amount: float, now: float) -> Taken:
        """Take the amount, whether or not there is room."""
        taken = Taken(now, amount)
        self._taken.append(taken)
        self._sum += amount
        return taken

    def correct(self, taken: Taken, amount: float) -> None:
        """Replace an upper bound by the actual amount."""
        if taken.counts:
            self._sum += amount - taken.amount
            taken.amount = amount

    def _forget(self, now: float) -> None:
        while self._taken and self._taken[0].at <= now - self.seconds:
            old = self._taken.popleft()
            old.counts = False
            self._sum -= old.amount
        if not self._taken:
            self._sum = 0.0
