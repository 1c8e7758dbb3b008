"""Limiter of one endpoint and model: concurrency, rates per minute, and pauses.

All runs of a process that use an endpoint share one `Limiter`. Each run is a `Tenant` with permits of its own
(limits.concurrency). A limiter admits tenants in turn, and the calls of one tenant in order of arrival.

Concurrency adapts. A burst of refusals counts once: the calls in flight minus the refused calls, but at least half, are
the ceiling, and the limit becomes nine tenths of it; or half, if nothing has succeeded since the previous burst. Each
success then adds a permit, above nine tenths of the ceiling every fourth success, beyond the ceiling every sixth, and
progressively fewer if refusals recur at the same level or name a wait. Once such a probe holds, the ceiling is dropped.

Transient failures are retried with jittered exponential backoff. A rate limit slows the whole endpoint down, and is
final once the endpoint has refused everything for five minutes.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from graft.agents.gateway.rates import WINDOW_S, Taken, Window

RETRYABLE = frozenset({"timeout", "rate_limited", "server_error", "connection", "malformed", "empty", "schema_unmet"})
"""Failures of a call that are transient; a rate limit counts as a retry in a batch only."""
BASE_WAIT_S, LONGEST_WAIT_S = 0.25, 20.0
BATCH_WAIT_S, LONGEST_BATCH_WAIT_S = 30.0, 600.0
LONGEST_PAUSE_S = 300.0
"""Longest Retry-After that is obeyed; beyond it the call fails."""
PATIENCE_S = 300.0
"""Seconds without a success after which a refusing server is given up."""
GIVEN_UP, QUICK_BELOW = 0.9, 0.9
FIRST_PROBE, RAREST_PROBE = 6.0, 48.0
"""Successes per permit above the refused level: at first, and at most if refusals recur at the same level."""
FIRST_COSTLY, RAREST_COSTLY = 20.0, 2_000.0
"""The same if the server's refusals carry Retry-After."""
LATENCIES = 200
"""Recent latencies kept."""

_serial = itertools.count()
_random = random.Random()


def backoff_s(failures: int) -> float:
    """Seconds before the next retry after this many failures: doubling from 0.25 to 20, times 0.5 to 1."""
    return min(LONGEST_WAIT_S, BASE_WAIT_S * 2.0 ** max(0, failures - 1)) * (0.5 + _random.random() / 2)


def batch_wait_s(refusals: int) -> float:
    """Seconds before a call that was rate limited this often in batches joins another batch: doubling from 30 to 600.

    There is no jitter, so that the calls of one batch enter the next batch together.
    """
    return min(LONGEST_BATCH_WAIT_S, BATCH_WAIT_S * 2.0 ** max(0, refusals - 1))


@dataclass(frozen=True)
class Terms:
    """Limits that a tenant sets for an endpoint: concurrency, and requests and tokens per minute (None: unlimited)."""

    limit: int
    requests: int | None = None
    tokens: int | None = None


class Tenant:
    """Permits of one run, over all endpoints."""

    def __init__(self, places: int) -> None:
        self.places, self.inside = places, 0
        self.waits_at: dict[Limiter, None] = {}

    @property
    def free(self) -> bool:
        """True if a further call of this run may be in flight."""
        return self.inside < self.places

    def left(self) -> None:
        """Return a permit of this run; the limiter at which its oldest call waits admits first."""
        full = self.inside >= self.places
        self.inside -= 1
        if full and self.waits_at:
            for limiter in sorted(self.waits_at, key=lambda limiter: limiter.oldest(self)):
                limiter.admit()
                if not self.free:
                    return


@dataclass(slots=True, eq=False)
class Permit:
    """One admitted call."""

    tenant: Tenant
    sent_at: float
    tokens: Taken | None = None


@dataclass(slots=True, eq=False)
class _Waiter:
    serial: int
    tokens: int
    place: asyncio.Future[Permit]


class Limiter:
    """Permits of one endpoint. `enter` waits for a permit; return each permit with `leave`.

    Args:
        patience_s: seconds without a success after which a refusing endpoint is given up.
        window_s: length of the rate window in seconds.
    """

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
        """Register a run. The strictest terms of all registered runs apply."""
        self._terms[tenant] = terms
        self._apply_terms()

    def depart(self, tenant: Tenant) -> bool:
        """Remove a run; returns whether no run uses the endpoint any more."""
        self._terms.pop(tenant, None)
        if self._terms:
            self._apply_terms()
            self.admit()
        elif self._timer is not None:
            self._timer.cancel()
        return not self._terms

    def _apply_terms(self) -> None:
        terms = self._terms.values()
        self._limit = min(one.limit for one in terms)
        self._requests = self._window(self._requests, [one.requests for one in terms])
        self._tokens = self._window(self._tokens, [one.tokens for one in terms])

    def _window(self, window: Window | None, limits: list[int | None]) -> Window | None:
        least = min((limit for limit in limits if limit is not None), default=None)
        if least is None:
            return None
        if window is None:
            return Window(least, self._window_s)
        window.most = least
        return window

    @property
    def pause_s(self) -> float:
        """Seconds until the pause ends; 0 while calls are admitted."""
        return max(0.0, self._paused_until - time.monotonic())

    @property
    def places(self) -> int:
        """Calls allowed in flight now, from 1 to the least max_concurrency of all runs."""
        return max(1, int(min(self._allowed, self._limit)))

    def queued_of(self, tenant: Tenant) -> int:
        """Number of a run's calls that wait here."""
        return len(self._queues.get(tenant, ()))

    @property
    def limited_by(self) -> str:
        """Reason why calls wait here, in a few words; empty if none waits."""
        if self.pause_s:
            return "the rate limit"
        if not self._queues:
            return ""
        if self.inside >= self.places:
            return "the model's max_concurrency" if self.places >= self._limit else "the rate limit"
        return "a minute's allowance" if self._allowance_s(self._next_tokens(), time.monotonic()) else ""

    def oldest(self, tenant: Tenant) -> float:
        """Serial number of a tenant's oldest call here; infinite if none waits."""
        queue = self._queues.get(tenant)
        return queue[0].serial if queue else math.inf

    async def enter(self, tenant: Tenant, tokens: int = 0) -> Permit:
        """Wait for a permit of the endpoint, a permit of the run, and room for `tokens` in the rate window."""
        permit = self.try_enter(tenant, tokens)
        if permit is not None:
            return permit
        waiter = _Waiter(next(_serial), tokens, asyncio.get_running_loop().create_future())
        self._queues.setdefault(tenant, deque()).append(waiter)
        tenant.waits_at[self] = None
        self.admit()
        try:
            return await waiter.place
        except asyncio.CancelledError:
            if waiter.place.done() and not waiter.place.cancelled():
                self.leave(waiter.place.result())  # the permit was granted at the same moment
            else:
                self._forget(tenant, waiter)
                self.admit()
            raise

    def try_enter(self, tenant: Tenant, tokens: int = 0) -> Permit | None:
        """Return a permit at once, or None. No call overtakes a queued call of its run or a call held by the rate."""
        rated = self._requests is not None or self._tokens is not None
        if (self._queues if rated else tenant in self._queues) or not tenant.free:
            return None
        now = time.monotonic()
        if self.inside >= self.places or self._paused_until > now or (rated and self._allowance_s(tokens, now)):
            return None
        return self._grant(tenant, tokens, now)

    def leave(self, permit: Permit, tokens: int | None = None) -> None:
        """End a call; `tokens` is its actual usage, if known."""
        if tokens is not None and permit.tokens is not None and self._tokens is not None:
            self._tokens.correct(permit.tokens, tokens)
        self.inside -= 1
        permit.tenant.left()
        if self._queues:
            self.admit()

    def succeeded(self, latency_s: float = 0.0) -> None:
        """Record a reply: reset the refusals and, if permits are short, grow."""
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
        """Record a rate limit.

        Args:
            sent_at: when the refused request was sent (time.monotonic).
            retry_after: the wait that the server requests, in seconds.

        Returns:
            Whether to retry.
        """
        now = time.monotonic()
        self.refusals += 1
        if retry_after is not None and retry_after > LONGEST_PAUSE_S:
            return False
        if sent_at > self._burst_at:
            self._begin_burst(now, retry_after)
            if self._in_a_row > 1:  # everything is refused: back off further, however short the requested wait
                self._pause(now + backoff_s(self._in_a_row - 1))
        if retry_after is not None:
            self._pause(now + retry_after)
        if self._in_a_row <= 1 and self._allowed <= self._ceiling:  # one more refusal of the same burst
            self._ceiling = max(1.0, self._burst_inside / 2, self._ceiling - 1)
            self._allowed = max(1.0, GIVEN_UP * self._ceiling)
        return now - self._refusing_since <= self._patience_s

    def _begin_burst(self, now: float, retry_after: float | None) -> None:
        """Start a burst; refusals of calls sent before now belong to it."""
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
        """Admit waiting calls, tenants in turn; set a timer if only time is missing."""
        now = time.monotonic()
        if self._paused_until > now:
            self._wake_in(self._paused_until - now)
            return
        while self._queues and self.inside < self.places:
            tenant = next((one for one in self._queues if one.free), None)
            if tenant is None:
                return
            wait_s = self._allowance_s(self._queues[tenant][0].tokens, now)
            if wait_s:
                self._wake_in(wait_s)
                return
            waiter = self._queues[tenant][0]
            self._forget(tenant, waiter)
            if tenant in self._queues:
                self._queues[tenant] = self._queues.pop(tenant)  # moves it behind the others
            if not waiter.place.done():
                waiter.place.set_result(self._grant(tenant, waiter.tokens, now))

    def _grant(self, tenant: Tenant, tokens: int, now: float) -> Permit:
        self.inside += 1
        tenant.inside += 1
        if self._requests is not None:
            self._requests.take(1, now)
        return Permit(tenant, now, None if self._tokens is None else self._tokens.take(tokens, now))

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
            self._wake_in(until - time.monotonic())

    def _wake_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds + 0.001
        if self._timer is not None and not self._timer.cancelled() and loop.time() < self._timer.when() <= when:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(seconds + 0.001, self.admit)


_limiters: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, Limiter]] = WeakKeyDictionary()


def limiter_at(place: Hashable) -> Limiter:
    """Return the limiter of an endpoint and model, shared by all runs on this event loop."""
    return _limiters.setdefault(asyncio.get_running_loop(), {}).setdefault(place, Limiter(patience_s=PATIENCE_S))


def drop_limiter(place: Hashable) -> None:
    """Drop an unused limiter and its state."""
    _limiters.get(asyncio.get_running_loop(), {}).pop(place, None)
