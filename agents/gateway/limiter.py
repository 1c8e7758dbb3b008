"""Limiters of an address and its models: concurrency, rates per minute, and pauses.

All runs of a process that use an address (and key variable) share one `Address`, which learns what its server bears
(adaptive.py), and in it one `Limiter` per model, with its own maximum, learned limit, rates and pauses. Each run is a
`Tenant` with permits of its own (limits.concurrency). An address admits tenants in turn; a tenant's models in turn, in
proportion to their waiting calls; and the calls of one model in order of arrival, where a retry keeps its call's place.

Retry-After pauses the refused model. A model that has to wait holds no other model up: if the others have to wait too,
the server refuses one call of each. Transient failures are retried with jittered exponential backoff. A rate limit is
final once a model was refused for five minutes.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import math
import random
import time
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from operator import attrgetter
from weakref import WeakKeyDictionary

from graft.agents.gateway.adaptive import AddressLimit, ModelLimit
from graft.agents.gateway.rates import WINDOW_S, Rates, Taken

RETRYABLE = frozenset(
    {"timeout", "rate_limited", "server_error", "connection", "malformed", "cut", "empty", "schema_unmet"}
)
"""Failures of a call that are transient; a rate limit counts as a retry in a batch only."""
BASE_WAIT_S, LONGEST_WAIT_S, BATCH_WAIT_S, LONGEST_BATCH_WAIT_S = 0.25, 20.0, 30.0, 600.0
LONGEST_PAUSE_S = 300.0
"""Longest Retry-After that is obeyed; beyond it the call fails."""
PATIENCE_S = 300.0
"""Seconds without a success after which a refusing server is given up."""
LATENCIES = 200
"""Recent latencies kept."""

_random = random.Random()
next_turn = itertools.count().__next__
"""Next serial number of a call: calls are admitted in this order."""
_turn_of = attrgetter("turn")


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
    """Limits that a tenant sets for a model: concurrency, and requests and tokens per minute (None: unlimited)."""

    limit: int
    requests: int | None = None
    tokens: int | None = None


class Tenant:
    """Permits of one run, over all addresses."""

    def __init__(self, places: int) -> None:
        self.places, self.inside = places, 0
        self.waits_at: dict[Address, None] = {}

    @property
    def free(self) -> bool:
        """True if a further call of this run may be in flight."""
        return self.inside < self.places

    def left(self) -> None:
        """Return a permit of this run; the address at which its oldest call waits admits first."""
        full = self.inside >= self.places
        self.inside -= 1
        if full and self.waits_at:
            for address in sorted(self.waits_at, key=lambda address: address.oldest(self)):
                address.admit()
                if not self.free:
                    return


@dataclass(slots=True, eq=False)
class Permit:
    """One admitted call. `served`: the server has answered, and only the run's own permit is still held."""

    tenant: Tenant
    sent_at: float
    tokens: Taken | None = None
    served: bool = False


@dataclass(slots=True, eq=False)
class _Waiter:
    turn: int
    tokens: int
    place: asyncio.Future[Permit]


class Address:
    """Common limit of an address's models, and the order of admission."""

    def __init__(self) -> None:
        self.models: list[Limiter] = []
        self.limit = AddressLimit()
        self.waiting: dict[Tenant, int] = {}
        self.passed = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def full(self) -> bool:
        """True if the common limit is reached."""
        return self.limit.inside >= self.limit.shared.most

    def oldest(self, tenant: Tenant) -> float:
        """Serial number of a tenant's oldest call here; infinite if none waits."""
        return min((queue[0].turn for one in self.models if (queue := one.queues.get(tenant))), default=math.inf)

    def admit(self) -> None:
        """Admit waiting calls, tenants in turn; set a timer if only time is missing."""
        now = time.monotonic()
        while self.waiting and not self.full:
            for tenant in self.waiting:
                limiter = self._next(tenant, now) if tenant.free else None
                if limiter is not None:
                    break
            else:
                return
            self.passed = limiter.passed
            limiter.admit(tenant, now)
            if tenant in self.waiting:
                self.waiting[tenant] = self.waiting.pop(tenant)  # moves it behind the others

    def _next(self, tenant: Tenant, now: float) -> Limiter | None:
        """Return the model whose turn it is; set a timer for those that only have to wait."""
        chosen, least = None, math.inf
        for limiter in self.models:
            queue = limiter.queues.get(tenant)
            if queue is None or limiter.passed >= least or limiter.here.inside >= limiter.here.most:
                continue
            wait_s = limiter.wait_s(tenant, queue[0].tokens, now)
            if not wait_s:
                chosen, least = limiter, limiter.passed
            elif wait_s < math.inf:
                self.wake_in(wait_s)
        return chosen

    def wake_in(self, seconds: float) -> None:
        """Admit after so many seconds, or earlier."""
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds + 0.001
        if self._timer is not None and not self._timer.cancelled() and loop.time() < self._timer.when() <= when:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(seconds + 0.001, self.admit)


class Limiter:
    """Permits of one model at an address. `enter` waits for a permit; return each permit with `leave`.

    Args:
        address: the model's address; a new one by default.
        patience_s: seconds without a success after which a refusing server is given up.
        window_s: length of the rate window in seconds.
    """

    def __init__(
        self, address: Address | None = None, *, patience_s: float = PATIENCE_S, window_s: float = WINDOW_S
    ) -> None:
        self._patience_s = patience_s
        self.address = address or Address()
        self.address.models.append(self)
        self.here = ModelLimit()
        self._terms: dict[Tenant, Terms] = {}
        self._rates = Rates(window_s)
        self.queues: dict[Tenant, deque[_Waiter]] = {}
        self.paused_until = self.passed = 0.0
        self._refusing_since: float | None = None
        self.calls = self.refusals = self.bursts = 0
        self.latencies: deque[float] = deque(maxlen=LATENCIES)

    def join(self, tenant: Tenant, terms: Terms) -> None:
        """Register a run. The strictest terms of all registered runs apply."""
        self._terms[tenant] = terms
        self._apply_terms()

    def depart(self, tenant: Tenant) -> bool:
        """Remove a run; returns whether no run uses the model any more."""
        self._terms.pop(tenant, None)
        if self._terms:
            self._apply_terms()
            self.address.admit()
        else:
            self.address.models.remove(self)
        return not self._terms

    def _apply_terms(self) -> None:
        terms = self._terms.values()
        requests = [one.requests for one in terms if one.requests is not None]
        tokens = [one.tokens for one in terms if one.tokens is not None]
        self._rates.allow(min(requests, default=None), min(tokens, default=None))
        self.here.limit = min(one.limit for one in terms)
        self.here.apply()

    @property
    def inside(self) -> int:
        """Calls in flight."""
        return self.here.inside

    @property
    def pause_s(self) -> float:
        """Seconds until the pause ends; 0 while calls are admitted."""
        return max(0.0, self.paused_until - time.monotonic())

    @property
    def places(self) -> int:
        """Calls allowed in flight now: the model's own limit or, if it is lower, what its address's models share."""
        return max(1, min(self.here.most, self.address.limit.shared.most))

    def queued_of(self, tenant: Tenant) -> int:
        """Number of a run's calls that wait here."""
        return len(self.queues.get(tenant, ()))

    @property
    def limited_by(self) -> str:
        """Reason why calls wait here, in a few words; empty if none waits."""
        if self.pause_s:
            return "the rate limit"
        if not self.queues:
            return ""
        if self.here.inside >= self.here.most:
            return "the model's max_concurrency" if self.here.most >= self.here.limit else "the rate limit"
        if self.address.full:
            return "the rate limit"
        now, waiting = time.monotonic(), self.queues.items()
        waits = any(self.wait_s(tenant, queue[0].tokens, now) for tenant, queue in waiting if tenant.free)
        return "a minute's allowance" if waits else ""

    async def enter(self, tenant: Tenant, tokens: int = 0, turn: int | None = None) -> Permit:
        """Wait for a permit of model, address and run, and for room for `tokens` in the rate window.

        `turn` is the call's place (`next_turn`), which its retries keep; a new one by default.
        """
        permit = self.try_enter(tenant, tokens)
        if permit is not None:
            return permit
        place: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(next_turn() if turn is None else turn, tokens, place)
        self._queue(tenant, waiter)
        self.address.admit()
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.leave(place.result())  # the permit was granted at the same moment
            else:
                self.forget(tenant, waiter)
                self.address.admit()
            raise

    def _queue(self, tenant: Tenant, waiter: _Waiter) -> None:
        if not self.queues:
            self.passed = max(self.passed, self.address.passed)
        queue = self.queues.setdefault(tenant, deque())
        if queue and queue[-1].turn > waiter.turn:
            queue.insert(bisect.bisect(queue, waiter.turn, key=_turn_of), waiter)
        else:
            queue.append(waiter)
        self.address.waiting[tenant] = self.address.waiting.get(tenant, 0) + 1
        tenant.waits_at[self.address] = None

    def forget(self, tenant: Tenant, waiter: _Waiter) -> None:
        """Remove a waiting call, if it still waits."""
        queue, waiting = self.queues.get(tenant), self.address.waiting
        if queue is None or waiter not in queue:
            return
        queue.remove(waiter)
        if not queue:
            del self.queues[tenant]
        waiting[tenant] -= 1
        if not waiting[tenant]:
            del waiting[tenant]
            tenant.waits_at.pop(self.address, None)

    def admit(self, tenant: Tenant, now: float) -> None:
        """Admit a tenant's next call."""
        queue = self.queues[tenant]
        self.passed += 1.0 / len(queue)
        waiter = queue[0]
        self.forget(tenant, waiter)
        if tenant in self.queues:
            self.queues[tenant] = self.queues.pop(tenant)  # moves it behind the others
        if not waiter.place.done():
            waiter.place.set_result(self._grant(tenant, waiter.tokens, now))

    def try_enter(self, tenant: Tenant, tokens: int = 0) -> Permit | None:
        """Return a permit at once, or None. No call overtakes a queued call of its run or a call held by the rate."""
        here, address, rated = self.here, self.address, self._rates.limited
        if here.inside >= here.most or address.full or not tenant.free:
            return None
        if self.queues if rated else tenant in self.queues:
            return None
        now = time.monotonic()
        if self.paused_until > now or (rated and self._rates.wait_s(tokens, now)):
            return None
        return self._grant(tenant, tokens, now)

    def _grant(self, tenant: Tenant, tokens: int, now: float) -> Permit:
        self.here.inside += 1
        self.address.limit.inside += 1
        tenant.inside += 1
        return Permit(tenant, now, self._rates.take(tokens, now) if self._rates.limited else None)

    def served(self, permit: Permit, tokens: int | None = None) -> None:
        """Return the server's permit of an answered call; `tokens` is its actual usage, if known."""
        self._return(permit, tokens)
        if self.address.waiting:
            self.address.admit()

    def leave(self, permit: Permit, tokens: int | None = None) -> None:
        """End a call: return the permits that it still holds."""
        if not permit.served:
            self._return(permit, tokens)
        permit.tenant.left()
        if self.address.waiting:
            self.address.admit()

    def _return(self, permit: Permit, tokens: int | None) -> None:
        self._rates.correct(permit.tokens, tokens)
        permit.served = True
        self.here.inside -= 1
        self.address.limit.inside -= 1

    def succeeded(self, latency_s: float = 0.0) -> None:
        """Record a reply: reset the refusals and, if permits are short, grow."""
        self.calls += 1
        self.latencies.append(latency_s)
        self._refusing_since = None
        if self.address.limit.replied(self.here, latency_s) and self.address.waiting:
            self.address.admit()

    def refused(self, sent_at: float, retry_after: float | None) -> bool:
        """Record a rate limit; returns whether to retry.

        Args:
            sent_at: when the refused request was sent (time.monotonic).
            retry_after: the wait that the server requests, in seconds.
        """
        now = time.monotonic()
        self.refusals += 1
        if retry_after is not None and retry_after > LONGEST_PAUSE_S:
            return False
        if self._refusing_since is None:
            self._refusing_since = now
        in_a_row = self.address.limit.refused(self.here, now, sent_at, costly=bool(retry_after))
        self.bursts += bool(in_a_row)
        wait_s = retry_after or 0.0
        if in_a_row > 1:  # everything is refused: back off further, however short the requested wait
            wait_s = max(wait_s, backoff_s(in_a_row - 1))
        if wait_s and now + wait_s > self.paused_until:
            self.paused_until = now + wait_s
            self.address.wake_in(wait_s)
        return now - self._refusing_since <= self._patience_s

    def wait_s(self, tenant: Tenant, tokens: int, now: float) -> float:
        """Seconds that a tenant's next call waits for a pause or the rate window; infinite if another's is its next."""
        if self.paused_until > now:
            return self.paused_until - now
        if not self._rates.limited:
            return 0.0
        first = next((one for one in self.queues if one.free), None)
        return self._rates.wait_s(tokens, now) if tenant is first else math.inf


_limiters: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[Hashable, Hashable], Limiter]] = WeakKeyDictionary()


def limiter_at(address: Hashable, model: Hashable) -> Limiter:
    """Return the limiter of a model at an address, shared by all runs on this event loop."""
    found = _limiters.setdefault(asyncio.get_running_loop(), {})
    if (address, model) not in found:
        there = next((limiter.address for (place, _), limiter in found.items() if place == address), None)
        found[address, model] = Limiter(there, patience_s=PATIENCE_S)
    return found[address, model]


def drop_limiter(address: Hashable, model: Hashable) -> None:
    """Drop an unused limiter and its state."""
    _limiters.get(asyncio.get_running_loop(), {}).pop((address, model), None)
