"""What a provider allows a minute, of requests or of tokens: at most so much in any window of 60 seconds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

WINDOW_S = 60.0


@dataclass(slots=True, eq=False)
class Taken:
    """What one call took of a window, and when."""

    at: float
    amount: float
    counts: bool = True


class Window:
    """At most `most` in any `seconds`, by a clock that never goes back (time.monotonic).

    What a call may take at most is taken when it is sent and corrected when it is known. A call that alone is larger
    than the whole window waits until the window is empty: waiting is never an error.
    """

    def __init__(self, most: float, seconds: float = WINDOW_S) -> None:
        self.most, self.seconds = most, seconds
        self._taken: deque[Taken] = deque()
        self._sum = 0.0

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until so much may be taken; 0 where it may be now."""
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
        """Take it, whether or not there is room."""
        taken = Taken(now, amount)
        self._taken.append(taken)
        self._sum += amount
        return taken

    def correct(self, taken: Taken, amount: float) -> None:
        """What was really taken, once it is known."""
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
