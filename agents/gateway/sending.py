"""How one call reaches its model: a place at the endpoint, the one retry policy, and a second try beside a slow first.

What comes back is settled and journaled by `Keep` while the place is still held, so that a killed process has at most
so many calls paid and not kept as limits.concurrency allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping

from graft.agents.gateway.batch import BatchDesk
from graft.agents.gateway.ledger import FREE, Tab, tokens_of
from graft.agents.gateway.limiter import LONGEST_PAUSE_S, Door, Tenant, Terms, Visit, close_door, door_at
from graft.agents.gateway.retry import RETRYABLE, backoff_s, batch_wait_s
from graft.agents.gateway.stats import Counts, EndpointStats, percentile
from graft.agents.gateway.transport import Damaged, NotBilled, RateLimited, Transport, recorded
from graft.schemas.calls import CallRequest, Reply, Usage
from graft.schemas.errors import BudgetExhausted, CallFailed, GraftError
from graft.schemas.models import ModelSpec

_log = logging.getLogger(__name__)

Keep = Callable[[Reply], Awaitable[Reply]]
"""Settles and journals a reply; what it returns is what the caller gets."""
Once = Callable[[CallRequest, int], Awaitable[Reply]]
"""One attempt, by its number."""
HEDGE_AFTER = 40
"""Replies of an endpoint after which it is known what is slow there: later than nineteen of twenty."""
HEDGED_AT_MOST = 0.05
"""Share of a run's calls that may be sent a second time."""


class Sender:
    """Sends the calls of one gateway. `join` and `depart` bracket its life: doors are shared with other gateways."""

    def __init__(
        self, *, counts: Counts, endpoints: Mapping[str, str], concurrency: int, retries: int, hedge: bool
    ) -> None:
        self.tenant = Tenant(concurrency)
        self._counts, self._endpoints, self._retries, self._hedge = counts, dict(endpoints), retries, hedge
        self._doors: dict[Hashable, tuple[str, Door]] = {}

    def depart(self) -> None:
        """This gateway sends no more."""
        for place, (_, door) in self._doors.items():
            if door.depart(self.tenant):
                close_door(place)
        self._doors.clear()

    @property
    def limited_by(self) -> str:
        """What calls wait for at the doors, in a few words; empty where none waits."""
        said = [door.limited_by for _, door in list(self._doors.values())]
        if "the rate limit" in said:
            return "the rate limit"
        if self.tenant.waits_at and not self.tenant.free:
            return "limits.concurrency"
        return next((word for word in said if word), "")

    def endpoints(self) -> tuple[EndpointStats, ...]:
        """Every endpoint that was used, as it is now."""
        return tuple(
            EndpointStats(
                model=name, limit=door.places, inside=door.inside, queued=door.queued_of(self.tenant),
                calls=door.calls, refused=door.refusals, pause_s=door.pause_s,
                p50_s=percentile(list(door.latencies), 0.5), p95_s=percentile(list(door.latencies), 0.95),
            )
            for name, door in list(self._doors.values())
        )  # fmt: skip

    async def send(self, request: CallRequest, transport: Transport, tab: Tab, keep: Keep, tokens: int) -> Reply:
        """The reply of a model's endpoint, kept. Raises CallFailed after the last try."""
        door = self._door(request.model)

        async def once(asked: CallRequest, attempt: int) -> Reply:
            return await self._once(door, transport, asked, attempt, tab, keep, tokens)

        return await self._tried(request, tab, once)

    async def send_in_batch(self, request: CallRequest, desk: BatchDesk, tab: Tab, keep: Keep) -> Reply:
        """The reply of the provider's batch API, kept; it takes no place at the endpoint. Raises CallFailed.

        A rate limit slows no endpoint down here, so it counts as a try of this call.
        """

        refused = 0

        async def once(asked: CallRequest, attempt: int) -> Reply:
            nonlocal refused
            key = asked.key()
            try:
                with recorded(asked.model):
                    reply = await desk.send(asked, key, tab)
            except RateLimited as failure:
                refused += 1
                final = refused > self._retries or (failure.retry_after or 0.0) > LONGEST_PAUSE_S
                if not final:
                    await asyncio.sleep(batch_wait_s(refused))
                failure.final = final  # after the wait: the calls of one batch may share the failure
                raise
            kept = await keep(reply.model_copy(update={"attempts": attempt}))
            await desk.done(key)
            return kept

        return await self._tried(request, tab, once)

    async def _tried(self, request: CallRequest, tab: Tab, once: Once) -> Reply:
        """The one retry policy (see retry.py). A damaged reply is charged, and asked again with another seed."""
        attempts = failures = damaged = 0
        while True:
            attempts += 1
            try:
                return await once(varied(request, damaged), attempts)
            except RateLimited as failure:
                tab.spared()
                if failure.final:
                    raise
            except CallFailed as failure:
                failures += 1
                damaged += isinstance(failure, Damaged)
                self._charge(tab, failure)
                if failure.code not in RETRYABLE or failures > self._retries:
                    raise
                self._counts.retried += 1
                await asyncio.sleep(backoff_s(failures))
                await reopen(tab, failure)

    def _charge(self, tab: Tab, failure: CallFailed) -> None:
        """Charge a failed attempt: an unusable reply at its usage, one that may be billed at its reservation."""
        if isinstance(failure, Damaged):
            self._counts.damaged += 1
            tab.settle(failure.usage, failure.price_usd)
            count_tokens(self._counts, failure.usage)
        elif isinstance(failure, NotBilled):
            tab.spared()
        else:
            tab.lost()

    async def _once(
        self, door: Door, transport: Transport, request: CallRequest, attempt: int, tab: Tab, keep: Keep, tokens: int
    ) -> Reply:
        """One attempt, once there is a place for it."""
        visit = await door.enter(self.tenant, tokens)
        self._counts.in_flight += 1
        taken: int | None = None
        sent_at = time.monotonic()
        tab.sent()
        try:
            with recorded(request.model):
                if self._may_hedge(request.model, door):
                    reply = await self._hedged(door, transport, request, tab, tokens)
                else:
                    reply = await transport.send(request)
            door.succeeded(reply.latency_s)
            taken = tokens_of(reply.usage)
            return await keep(reply if attempt == 1 else reply.model_copy(update={"attempts": attempt}))
        except RateLimited as failure:
            bursts = door.bursts
            failure.final = not door.refused(sent_at, failure.retry_after)
            if door.bursts > bursts:
                log_pause(request.model, door)
            raise
        except Damaged as failure:
            taken = tokens_of(failure.usage)
            raise
        except GraftError as failure:
            if not isinstance(failure, CallFailed):
                tab.spared()  # no key, no such model: a person must act, and nothing was generated
            raise
        finally:
            self._counts.in_flight -= 1
            door.leave(visit, taken)

    def _may_hedge(self, model: ModelSpec, door: Door) -> bool:
        wanted = model.hedge
        if wanted is None:
            free = model.provider in FREE or (model.price is not None and not model.price.input + model.price.output)
            wanted = self._hedge and free
        return wanted and len(door.latencies) >= HEDGE_AFTER

    async def _hedged(self, door: Door, transport: Transport, request: CallRequest, tab: Tab, tokens: int) -> Reply:
        """The first of two equal requests to be answered; the second goes out only where the first is slow."""
        first = asyncio.ensure_future(transport.send(request))
        slow_s = percentile(list(door.latencies), 0.95)
        try:
            await asyncio.wait((first,), timeout=slow_s)
            few = self._counts.hedged < HEDGED_AT_MOST * max(HEDGE_AFTER, self._counts.calls)
            visit = door.try_enter(self.tenant, tokens) if few and not first.done() else None
            if visit is None:
                return await first
            return await self._beside(first, visit, door, transport, request, tab)
        finally:
            await _cancelled(first)

    async def _beside(
        self, first: asyncio.Future[Reply], visit: Visit, door: Door, transport: Transport, request: CallRequest,
        tab: Tab,
    ) -> Reply:  # fmt: skip
        """`first` is slow: the same goes out again. A failure of one leaves the other its chance."""
        reserved = tab.open_second()
        if reserved is None:
            door.leave(visit)
            return await first
        self._counts.hedged += 1
        second: asyncio.Future[Reply] = asyncio.ensure_future(transport.send(request))
        loser = second
        try:
            done, pending = await asyncio.wait((first, second), return_when=asyncio.FIRST_COMPLETED)
            if pending and all(one.exception() for one in done):
                done, _ = await asyncio.wait(pending)
            winner = next((one for one in done if one.exception() is None), first)
            loser = second if winner is first else first
            return winner.result()
        finally:
            await _cancelled(loser)
            door.leave(visit)
            tab.settle_second(reserved, billed=_may_be_billed(loser))

    def _door(self, model: ModelSpec) -> Door:
        address = model.base_url or self._endpoints.get(model.name) or model.provider
        place = (address, model.model, model.api_key_env)
        found = self._doors.get(place)
        if found is None:
            found = self._doors[place] = (model.name, door_at(place))
            terms = Terms(model.max_concurrency, model.requests_per_minute, model.tokens_per_minute)
            found[1].join(self.tenant, terms)
        return found[1]


def log_pause(model: ModelSpec, door: Door) -> None:
    """A line of the run's log: an endpoint asked to wait."""
    fields = {"model": model.name, "seconds": round(door.pause_s, 3), "refused": door.refusals, "limit": door.places}
    _log.warning("an endpoint asked to wait", extra={"event": "endpoint.paused", **fields})


async def _cancelled(task: asyncio.Future[Reply]) -> None:
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):  # its failure changes nothing any more
            await task
    elif not task.cancelled():
        task.exception()  # seen, even where the other one was taken


def _may_be_billed(task: asyncio.Future[Reply]) -> bool:
    """Whether the provider may bill a request whose answer is not used."""
    return task.cancelled() or not isinstance(task.exception(), NotBilled)


async def reopen(tab: Tab, failure: CallFailed) -> None:
    """Reserve for another try. Raises `failure`, the truth about what was sent, where a cap leaves no room."""
    try:
        await tab.open()
    except BudgetExhausted:
        raise failure from None


def varied(request: CallRequest, damaged: int) -> CallRequest:
    """The same question with another seed after a damaged reply: the same seed would only bring it again."""
    if not damaged or request.seed is None:
        return request
    return request.model_copy(update={"seed": (request.seed + 7919 * damaged) % 2**31})


def count_tokens(counts: Counts, usage: Usage | None) -> None:
    """Add what a reply took."""
    if usage is not None:
        counts.prompt_tokens += usage.prompt_tokens or 0
        counts.completion_tokens += usage.completion_tokens or 0
        counts.cached_tokens += usage.cached_tokens or 0
