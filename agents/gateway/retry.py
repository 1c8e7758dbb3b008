"""The one retry policy, and the door of an endpoint: how many may be inside, and when nobody may send.

What can pass is tried again with jittered, growing waits: timeout, connection, 5xx, damaged replies. A rate limit costs
a call no try: it pauses the whole endpoint and halves its places, a burst of refusals once, and places grow back with
success. It becomes final when an endpoint has refused `retries` bursts in a row without a single success between.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque

RETRYABLE = frozenset({"timeout", "rate_limited", "server_error", "connection", "malformed", "empty", "schema_unmet"})
BASE_WAIT_S, LONGEST_WAIT_S = 0.25, 20.0
LONGEST_PAUSE_S = 300.0
"""A server that asks to wait for longer is not waited for: its calls fail as rate_limited."""

_random = random.Random()


def backoff_s(failures: int) -> float:
    """Seconds before the next try after so many failures: doubling from 0.25 to 20, times 0.5 to 1."""
    return min(LONGEST_WAIT_S, BASE_WAIT_S * 2.0 ** max(0, failures - 1)) * (0.5 + _random.random() / 2)


class Door:
    """The places at one endpoint, first come, first served. An async context manager: inside is one call."""

    def __init__(self, limit: int, retries: int) -> None:
        self._limit, self._retries = limit, retries
        self._allowed = float(limit)
        self._quick_below = float(limit)
        self._inside = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._paused_until = self._burst_at = 0.0
        self._bursts = 0

    @property
    def pause_s(self) -> float:
        """Seconds until somebody may send again; 0 while the door is open."""
        return max(0.0, self._paused_until - time.monotonic())

    @property
    def places(self) -> int:
        """Calls that may be inside now, between 1 and the model's max_concurrency."""
        return max(1, int(self._allowed))

    @property
    def crowded(self) -> bool:
        """Whether calls wait for a place."""
        return any(not place.done() for place in self._queue)

    async def __aenter__(self) -> None:
        if not self._queue and self._inside < self.places and not self.pause_s:
            self._inside += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave()  # the place was handed over in the same moment
            raise

    async def __aexit__(self, *error: object) -> None:
        self._leave()

    def succeeded(self) -> None:
        """A reply came: forget the refusals; grow back, quickly up to three quarters of where it was refused."""
        self._bursts = 0
        if self._allowed < self._limit:
            step = 1.0 if self._allowed < self._quick_below else 1.0 / self._allowed
            self._allowed = min(float(self._limit), self._allowed + step)
            self._admit()

    def refused(self, sent_at: float, retry_after: float | None) -> bool:
        """A rate limit came for what was sent at `sent_at` (time.monotonic). Whether it is worth trying again."""
        now = time.monotonic()
        if retry_after is not None and retry_after > LONGEST_PAUSE_S:
            return False
        if sent_at > self._burst_at:
            self._bursts += 1
            self._burst_at = now
            self._quick_below = 0.75 * self._inside
            self._allowed = max(1.0, min(self._allowed, self._inside) / 2)
            if self._bursts <= self._retries:
                self._pause(now + (backoff_s(self._bursts) if retry_after is None else retry_after))
        elif retry_after is not None and self._bursts <= self._retries:
            self._pause(now + retry_after)
        return self._bursts <= self._retries

    def _pause(self, until: float) -> None:
        if until > self._paused_until:
            self._paused_until = until
            asyncio.get_running_loop().call_later(until - time.monotonic() + 0.001, self._admit)

    def _leave(self) -> None:
        self._inside -= 1
        self._admit()

    def _admit(self) -> None:
        if self.pause_s:
            return
        while self._queue and self._inside < self.places:
            place = self._queue.popleft()
            if not place.done():  # done: its task was cancelled while it waited
                place.set_result(None)
                self._inside += 1
