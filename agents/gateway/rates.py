"""Sliding-window rate limits: a maximum of requests and tokens in any 60 seconds."""

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


class Rates:
    """Windows of one model's requests and tokens, each None if unlimited."""

    def __init__(self, seconds: float = WINDOW_S) -> None:
        self._seconds = seconds
        self._requests: Window | None = None
        self._tokens: Window | None = None
        self.limited = False

    def allow(self, requests: int | None, tokens: int | None) -> None:
        """Set the maxima; what is taken already still counts."""
        self._requests, self._tokens = self._window(self._requests, requests), self._window(self._tokens, tokens)
        self.limited = requests is not None or tokens is not None

    def _window(self, window: Window | None, most: int | None) -> Window | None:
        if most is None:
            return None
        if window is None:
            return Window(most, self._seconds)
        window.most = most
        return window

    def wait_s(self, tokens: int, now: float) -> float:
        """Seconds until one request of so many tokens fits; 0 if it fits now."""
        wait_s = self._requests.wait_s(1, now) if self._requests is not None else 0.0
        return max(wait_s, self._tokens.wait_s(tokens, now)) if self._tokens is not None else wait_s

    def take(self, tokens: int, now: float) -> Taken | None:
        """Take one request; returns its tokens' share, if they are limited."""
        if self._requests is not None:
            self._requests.take(1, now)
        return None if self._tokens is None else self._tokens.take(tokens, now)

    def correct(self, taken: Taken | None, tokens: int | None) -> None:
        """Replace the tokens taken by the actual number, if it is known."""
        if tokens is not None and taken is not None and self._tokens is not None:
            self._tokens.correct(taken, tokens)
