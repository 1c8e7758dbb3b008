"""The one limiter of an endpoint and model: how many calls may be inside, how much a minute, and when nobody may send.

All runs of a process that use an endpoint meet at one `Door`. Each is a `Tenant` with places of its own
(limits.concurrency); doors admit tenants in turn, and within a tenant, so between its shards, first come, first served.

Concurrency adapts. A burst of refusals counts once: what was inside less what was refused, but at least half, is the
ceiling, and nine tenths of it are kept; where nothing has succeeded since the burst before, half. Each success then
brings a place back, above nine tenths of the ceiling every fourth; beyond it every sixth, and ever more rarely where
the refusals come at the same level or name a wait. Once such a probe holds, the ceiling is forgotten.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from graft.agents.gateway.rates import WINDOW_S, Taken, Window
from graft.agents.gateway.retry import backoff_s

LONGEST_PAUSE_S = 300.0
"""A server that asks to wait for longer is not waited for."""
PATIENCE_S = 300.0
"""A server that has refused everything for as long is given up."""
GIVEN_UP, QUICK_BELOW = 0.9, 0.9
FIRST_PROBE, RAREST_PROBE = 6.0, 48.0
"""Successes for one place above the level that was refused, at first, and at most where it stays the same level."""
FIRST_COSTLY, RAREST_COSTLY = 20.0, 2_000.0
"""The same where the server's refusals name a wait (Retry-After)."""
LATENCIES = 200
"""Replies whose latency is remembered."""

_serial = itertools.count()


@dataclass(frozen=True)
class Terms:
    """What a tenant says of an endpoint: calls at once, and a minute's requests and tokens where they are limited."""

    limit: int
    requests: int | None = None
    tokens: int | None = None


class Tenant:
    """One run's own places, over all endpoints."""

    def __init__(self, places: int) -> None:
        self.places, self.inside = places, 0
        self.waits_at: dict[Door, None] = {}

    @property
    def free(self) -> bool:
        """Whether a further call of this run may be in flight."""
        return self.inside < self.places

    def left(self) -> None:
        """A place of this run was given back: the door where its oldest call waits goes first."""
        full = self.inside >= self.places
        self.inside -= 1
        if full and self.waits_at:
            for door in sorted(self.waits_at, key=lambda door: door.oldest(self)):
                door.admit()
                if not self.free:
                    return


@dataclass(slots=True, eq=False)
class Visit:
    """One call that is inside."""

    tenant: Tenant
    sent_at: float
    tokens: Taken | None = None


@dataclass(slots=True, eq=False)
class _Waiter:
    serial: int
    tokens: int
    place: asyncio.Future[Visit]


class Door:
    """The places at one endpoint. `enter` waits; every visit ends with `leave`."""

    def __init__(self, *, patience_s: float = PATIENCE_S, window_s: float = WINDOW_S) -> None:
        self._patience_s, self._window_s = patience_s, window_s
        self._terms: dict[Tenant, Terms] = {}
        self._limit = 0
        self._requests: Window | None = None
        self._tokens: Window | None = None
        self._allowed = self._ceiling = math.inf
        self._probe = FIRST_PROBE
        self._queues: dict[Tenant, deque[_Waiter]] = {}
        self._paused_until = self._burst_at = self._refusing_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._in_a_row, self._burst_inside = 0, 0.0
        self.inside = self.calls = self.refusals = self.bursts = 0
        self.latencies: deque[float] = deque(maxlen=LATENCIES)

    def join(self, tenant: Tenant, terms: Terms) -> None:
        """A run begins to use this endpoint. Of several runs' terms the strictest hold."""
        self._terms[tenant] = terms
        self._agree()

    def depart(self, tenant: Tenant) -> bool:
        """A run has ended. Whether nobody uses the endpoint any more."""
        self._terms.pop(tenant, None)
        if self._terms:
            self._agree()
            self.admit()
        elif self._timer is not None:
            self._timer.cancel()
        return not self._terms

    def _agree(self) -> None:
        terms = self._terms.values()
        self._limit = min(one.limit for one in terms)
        self._requests = self._window(self._requests, [one.requests for one in terms])
        self._tokens = self._window(self._tokens, [one.tokens for one in terms])

    def _window(self, window: Window | None, said: list[int | None]) -> Window | None:
        least = min((one for one in said if one is not None), default=None)
        if least is None:
            return None
        if window is None:
            return Window(least, self._window_s)
        window.most = least
        return window

    @property
    def pause_s(self) -> float:
        """Seconds until somebody may send again; 0 while the door is open."""
        return max(0.0, self._paused_until - time.monotonic())

    @property
    def places(self) -> int:
        """Calls that may be inside now, between 1 and the least max_concurrency that a run has set."""
        return max(1, int(min(self._allowed, self._limit)))

    def queued_of(self, tenant: Tenant) -> int:
        """Calls of a run that wait here."""
        return len(self._queues.get(tenant, ()))

    @property
    def limited_by(self) -> str:
        """What calls wait for here, in a few words; empty where none waits."""
        if self.pause_s:
            return "the rate limit"
        if not self._queues:
            return ""
        if self.inside >= self.places:
            return "the model's max_concurrency" if self.places >= self._limit else "the rate limit"
        return "a minute's allowance" if self._allowance_s(self._next_tokens(), time.monotonic()) else ""

    def oldest(self, tenant: Tenant) -> float:
        """A number that is smaller the longer the first call of a tenant waits here."""
        queue = self._queues.get(tenant)
        return queue[0].serial if queue else math.inf

    async def enter(self, tenant: Tenant, tokens: int = 0) -> Visit:
        """Wait for a place, for the run's own place, and for a minute's room for so many tokens. Never an error."""
        visit = self.try_enter(tenant, tokens)
        if visit is not None:
            return visit
        waiter = _Waiter(next(_serial), tokens, asyncio.get_running_loop().create_future())
        self._queues.setdefault(tenant, deque()).append(waiter)
        tenant.waits_at[self] = None
        self.admit()
        try:
            return await waiter.place
        except asyncio.CancelledError:
            if waiter.place.done() and not waiter.place.cancelled():
                self.leave(waiter.place.result())  # the place was handed over in the same moment
            else:
                self._forget(tenant, waiter)
                self.admit()
            raise

    def try_enter(self, tenant: Tenant, tokens: int = 0) -> Visit | None:
        """A place at once, or None. Nobody overtakes a call of its own run, nor one that waits for a minute's room."""
        rated = self._requests is not None or self._tokens is not None
        if (self._queues if rated else tenant in self._queues) or not tenant.free:
            return None
        now = time.monotonic()
        if self.inside >= self.places or self._paused_until > now or (rated and self._allowance_s(tokens, now)):
            return None
        return self._let_in(tenant, tokens, now)

    def leave(self, visit: Visit, tokens: int | None = None) -> None:
        """A call is over; `tokens` is what it really took, where that is known."""
        if tokens is not None and visit.tokens is not None and self._tokens is not None:
            self._tokens.correct(visit.tokens, tokens)
        self.inside -= 1
        visit.tenant.left()
        if self._queues:
            self.admit()

    def succeeded(self, latency_s: float = 0.0) -> None:
        """A reply came: forget the refusals and, where places are short, grow."""
        self.calls += 1
        self.latencies.append(latency_s)
        self._in_a_row = 0
        if self._allowed >= self._limit or self.inside < self.places:
            return
        if self._allowed < QUICK_BELOW * self._ceiling:
            step = 1.0
        else:
            step = 0.25 if self._allowed < self._ceiling else 1.0 / self._probe
        self._allowed += step
        if self._allowed >= self._ceiling + 1.5:
            self._ceiling = math.inf
        self.admit()

    def refused(self, sent_at: float, retry_after: float | None) -> bool:
        """A rate limit came for what was sent at `sent_at` (time.monotonic). Whether it is worth trying again."""
        now = time.monotonic()
        self.refusals += 1
        if retry_after is not None and retry_after > LONGEST_PAUSE_S:
            return False
        if sent_at > self._burst_at:
            self._begin_burst(now, retry_after)
            if self._in_a_row > 1:  # it refuses whatever it is sent: ever less often, however short its own wait
                self._pause(now + backoff_s(self._in_a_row - 1))
        if retry_after is not None:
            self._pause(now + retry_after)
        if self._in_a_row <= 1 and self._allowed <= self._ceiling:  # one more of this burst that found no place there
            self._ceiling = max(1.0, self._burst_inside / 2, self._ceiling - 1)
            self._allowed = max(1.0, GIVEN_UP * self._ceiling)
        return now - self._refusing_since <= self._patience_s

    def _begin_burst(self, now: float, retry_after: float | None) -> None:
        """The first refusal of a burst; those of calls that were sent before now belong to it."""
        self._burst_at = now
        self._in_a_row += 1
        self.bursts += 1
        inside = min(self._allowed, self.inside)
        if self._in_a_row > 1:
            self._allowed = max(1.0, inside / 2)
            return
        first, rarest = (FIRST_COSTLY, RAREST_COSTLY) if retry_after else (FIRST_PROBE, RAREST_PROBE)
        same = abs(inside - self._ceiling) <= (0.25 * inside if retry_after else 1.5)
        self._probe = min(rarest, max(first, (4 if retry_after else 2) * self._probe)) if same else first
        self._refusing_since = now
        self._burst_inside = self._ceiling = self._allowed = inside

    def admit(self) -> None:
        """Let in whoever may enter now, tenants in turn; come back when time alone will open the door."""
        now = time.monotonic()
        if self._paused_until > now:
            self._look_again(self._paused_until - now)
            return
        while self._queues and self.inside < self.places:
            tenant = next((one for one in self._queues if one.free), None)
            if tenant is None:
                return
            wait_s = self._allowance_s(self._queues[tenant][0].tokens, now)
            if wait_s:
                self._look_again(wait_s)
                return
            waiter = self._queues[tenant][0]
            self._forget(tenant, waiter)
            if tenant in self._queues:
                self._queues[tenant] = self._queues.pop(tenant)  # behind the others
            if not waiter.place.done():
                waiter.place.set_result(self._let_in(tenant, waiter.tokens, now))

    def _let_in(self, tenant: Tenant, tokens: int, now: float) -> Visit:
        self.inside += 1
        tenant.inside += 1
        if self._requests is not None:
            self._requests.take(1, now)
        return Visit(tenant, now, None if self._tokens is None else self._tokens.take(tokens, now))

    def _forget(self, tenant: Tenant, waiter: _Waiter) -> None:
        queue = self._queues.get(tenant)
        if queue is not None:
            if queue[0] is waiter:
                queue.popleft()
            elif waiter in queue:
                queue.remove(waiter)
            if not queue:
                del self._queues[tenant]
                tenant.waits_at.pop(self, None)

    def _allowance_s(self, tokens: int, now: float) -> float:
        wait_s = self._requests.wait_s(1, now) if self._requests is not None else 0.0
        return max(wait_s, self._tokens.wait_s(tokens, now)) if self._tokens is not None else wait_s

    def _next_tokens(self) -> int:
        return next((queue[0].tokens for tenant, queue in list(self._queues.items()) if tenant.free), 0)

    def _pause(self, until: float) -> None:
        if until > self._paused_until:
            self._paused_until = until
            self._look_again(until - time.monotonic())

    def _look_again(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds + 0.001
        if self._timer is not None and not self._timer.cancelled() and loop.time() < self._timer.when() <= when:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(seconds + 0.001, self.admit)


_doors: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, Door]] = WeakKeyDictionary()


def door_at(place: Hashable) -> Door:
    """The door of an endpoint and model that every run on this event loop shares."""
    return _doors.setdefault(asyncio.get_running_loop(), {}).setdefault(place, Door(patience_s=PATIENCE_S))


def close_door(place: Hashable) -> None:
    """Forget a door that nobody uses any more, with what it learned."""
    _doors.get(asyncio.get_running_loop(), {}).pop(place, None)
