"""Sending of one call: a permit at the endpoint, the retry policy, and hedging of slow requests.

`Keep` settles and journals a reply while the run's permit is still held, so a killed process loses at most
limits.concurrency paid replies. The server's permit is returned before: it is free for the next request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping

from graft.agents.gateway.batch import BatchDesk
from graft.agents.gateway.ledger import FREE, Tab, tokens_of
from graft.agents.gateway.limiter import (
    LONGEST_PAUSE_S,
    RETRYABLE,
    Limiter,
    Permit,
    Tenant,
    Terms,
    backoff_s,
    batch_wait_s,
    drop_limiter,
    limiter_at,
    next_turn,
)
from graft.agents.gateway.stats import Counts, EndpointStats, percentile
from graft.agents.gateway.transport import Damaged, NotBilled, RateLimited, Transport, recorded
from graft.schemas.calls import CallRequest, Reply, Usage
from graft.schemas.errors import BudgetExhausted, CallFailed, GraftError
from graft.schemas.models import ModelSpec

_log = logging.getLogger(__name__)

Keep = Callable[[Reply], Awaitable[Reply]]
"""Settles and journals a reply, and returns the reply for the caller."""
Attempt = Callable[[CallRequest, int], Awaitable[Reply]]
"""One attempt, with its number."""
HEDGE_AFTER = 40
"""Replies of an endpoint before its 95th percentile of latency counts as known."""
HEDGED_AT_MOST = 0.05
"""Share of a run's calls that may be sent a second time."""


class Sender:
    """Sends the calls of one gateway. Call `depart` at the end: limiters are shared with other gateways."""

    def __init__(
        self, *, counts: Counts, endpoints: Mapping[str, str], concurrency: int, retries: int, hedge: bool
    ) -> None:
        self.tenant = Tenant(concurrency)
        self._counts, self._endpoints, self._retries, self._hedge = counts, dict(endpoints), retries, hedge
        self._limiters: dict[tuple[Hashable, str], tuple[str, Limiter]] = {}

    def depart(self) -> None:
        """Leave all limiters; nothing is sent afterwards."""
        for place, (_, limiter) in self._limiters.items():
            if limiter.depart(self.tenant):
                drop_limiter(*place)
        self._limiters.clear()

    @property
    def limited_by(self) -> str:
        """Reason why calls wait at the limiters, in a few words; empty if none waits."""
        reasons = [limiter.limited_by for _, limiter in list(self._limiters.values())]
        if "the rate limit" in reasons:
            return "the rate limit"
        if self.tenant.waits_at and not self.tenant.free:
            return "limits.concurrency"
        return next((reason for reason in reasons if reason), "")

    def endpoints(self) -> tuple[EndpointStats, ...]:
        """Snapshot of every endpoint used so far."""
        return tuple(
            EndpointStats(
                model=name, limit=limiter.places, inside=limiter.inside, queued=limiter.queued_of(self.tenant),
                calls=limiter.calls, refused=limiter.refusals, pause_s=limiter.pause_s,
                p50_s=percentile(list(limiter.latencies), 0.5), p95_s=percentile(list(limiter.latencies), 0.95),
            )
            for name, limiter in list(self._limiters.values())
        )  # fmt: skip

    async def send(self, request: CallRequest, transport: Transport, tab: Tab, keep: Keep, tokens: int) -> Reply:
        """Return the reply of a model's endpoint, settled and journaled.

        Args:
            request: the call.
            transport: the protocol of the model's provider.
            tab: the call's reservation and charges.
            keep: settles and journals the reply.
            tokens: prompt and completion tokens to reserve in the endpoint's tokens_per_minute.

        Raises:
            CallFailed: the last retry failed.
        """
        limiter, turn = self._limiter(request.model), next_turn()

        async def attempt(varied_request: CallRequest, number: int) -> Reply:
            permit = await limiter.enter(self.tenant, tokens, turn)
            return await self._attempt(limiter, permit, transport, varied_request, number, tab, keep, tokens)

        return await self._with_retries(request, tab, attempt)

    async def send_in_batch(self, request: CallRequest, desk: BatchDesk, tab: Tab, keep: Keep) -> Reply:
        """Return the reply of the provider's batch API, settled and journaled. Raises CallFailed.

        A batch takes no permit at the endpoint and its rate limits slow no endpoint down, so each counts as a retry.
        """

        refused = 0

        async def attempt(varied_request: CallRequest, number: int) -> Reply:
            nonlocal refused
            key = varied_request.key()
            try:
                with recorded(varied_request.model):
                    reply = await desk.send(varied_request, key, tab)
            except RateLimited as failure:
                refused += 1
                final = refused > self._retries or (failure.retry_after or 0.0) > LONGEST_PAUSE_S
                if not final:
                    await asyncio.sleep(batch_wait_s(refused))
                failure.final = final  # after the wait: the calls of one batch may share the failure
                raise
            kept = await keep(reply.model_copy(update={"attempts": number}))
            await desk.done(key)
            return kept

        return await self._with_retries(request, tab, attempt)

    async def _with_retries(self, request: CallRequest, tab: Tab, attempt: Attempt) -> Reply:
        """Apply the retry policy (see limiter.py). A damaged reply is charged and retried with another seed."""
        attempts = failures = damaged = 0
        while True:
            attempts += 1
            try:
                return await attempt(varied(request, damaged), attempts)
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
        """Charge a failed attempt: its usage for an unusable reply, its reservation if it may be billed."""
        if isinstance(failure, Damaged):
            self._counts.damaged += 1
            tab.settle(failure.usage, failure.price_usd)
            count_tokens(self._counts, failure.usage)
        elif isinstance(failure, NotBilled):
            tab.spared()
        else:
            tab.lost()

    async def _attempt(
        self,
        limiter: Limiter,
        permit: Permit,
        transport: Transport,
        request: CallRequest,
        number: int,
        tab: Tab,
        keep: Keep,
        tokens: int,
    ) -> Reply:
        """Make one attempt, and return its permits."""
        self._counts.in_flight += 1
        taken: int | None = None
        sent_at = time.monotonic()
        tab.sent()
        try:
            with recorded(request.model):
                if self._may_hedge(request.model, limiter):
                    reply = await self._hedged(limiter, transport, request, tab, tokens)
                else:
                    reply = await transport.send(request)
            limiter.succeeded(reply.latency_s)
            limiter.served(permit, tokens_of(reply.usage))
            return await keep(reply if number == 1 else reply.model_copy(update={"attempts": number}))
        except RateLimited as failure:
            bursts = limiter.bursts
            failure.final = not limiter.refused(sent_at, failure.retry_after)
            if limiter.bursts > bursts:
                log_pause(request.model, limiter)
            raise
        except Damaged as failure:
            taken = tokens_of(failure.usage)
            raise
        except GraftError as failure:
            if not isinstance(failure, CallFailed):
                tab.spared()  # no key or no such model: nothing was generated, and a person must act
            raise
        finally:
            self._counts.in_flight -= 1
            limiter.leave(permit, taken)

    def _may_hedge(self, model: ModelSpec, limiter: Limiter) -> bool:
        enabled = model.hedge
        if enabled is None:
            free = model.provider in FREE or (model.price is not None and not model.price.input + model.price.output)
            enabled = self._hedge and free
        return enabled and len(limiter.latencies) >= HEDGE_AFTER

    async def _hedged(
        self, limiter: Limiter, transport: Transport, request: CallRequest, tab: Tab, tokens: int
    ) -> Reply:
        """Return the first answer of two identical requests; the second is sent only if the first is slow."""
        first = asyncio.ensure_future(transport.send(request))
        slow_s = percentile(list(limiter.latencies), 0.95)
        try:
            await asyncio.wait((first,), timeout=slow_s)
            few = self._counts.hedged < HEDGED_AT_MOST * max(HEDGE_AFTER, self._counts.calls)
            permit = limiter.try_enter(self.tenant, tokens) if few and not first.done() else None
            if permit is None:
                return await first
            return await self._beside(first, permit, limiter, transport, request, tab)
        finally:
            await _cancelled(first)

    async def _beside(
        self,
        first: asyncio.Future[Reply],
        permit: Permit,
        limiter: Limiter,
        transport: Transport,
        request: CallRequest,
        tab: Tab,
    ) -> Reply:
        """Send the slow `first` request again. If either fails, the other may still succeed."""
        reserved = tab.open_second()
        if reserved is None:
            limiter.leave(permit)
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
            limiter.leave(permit)
            tab.settle_second(reserved, billed=_may_be_billed(loser))

    def _limiter(self, model: ModelSpec) -> Limiter:
        place = (self._account(model), model.model)
        found = self._limiters.get(place)
        if found is None:
            found = self._limiters[place] = (model.name, limiter_at(*place))
            terms = Terms(model.max_concurrency, model.requests_per_minute, model.tokens_per_minute)
            found[1].join(self.tenant, terms)
        return found[1]

    def _account(self, model: ModelSpec) -> Hashable:
        """Address and key variable; for LiteLLM, which knows the addresses, the provider in the model's name."""
        address = model.base_url or self._endpoints.get(model.name)
        if address is None and model.provider == "litellm":
            address = model.model.partition("/")[0]
        return (address or model.provider, model.api_key_env)


def log_pause(model: ModelSpec, limiter: Limiter) -> None:
    """Log that an endpoint's rate limit paused it."""
    fields = {
        "model": model.name,
        "seconds": round(limiter.pause_s, 3),
        "refused": limiter.refusals,
        "limit": limiter.places,
    }
    _log.warning("an endpoint hit its rate limit", extra={"event": "endpoint.paused", **fields})


async def _cancelled(task: asyncio.Future[Reply]) -> None:
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):  # its failure no longer matters
            await task
    elif not task.cancelled():
        task.exception()  # marks it as retrieved, even if the other answer was used


def _may_be_billed(task: asyncio.Future[Reply]) -> bool:
    """Return True if the provider may bill a request whose answer was dropped."""
    return task.cancelled() or not isinstance(task.exception(), NotBilled)


async def reopen(tab: Tab, failure: CallFailed) -> None:
    """Reserve for another attempt. Raises `failure`, the outcome of the sent request, if a cap leaves no room."""
    try:
        await tab.open()
    except BudgetExhausted:
        raise failure from None


def varied(request: CallRequest, damaged: int) -> CallRequest:
    """Change the request's seed after damaged replies: the same seed would reproduce them."""
    if not damaged or request.seed is None:
        return request
    return request.model_copy(update={"seed": (request.seed + 7919 * damaged) % 2**31})


def count_tokens(counts: Counts, usage: Usage | None) -> None:
    """Add a reply's tokens to the counters."""
    if usage is not None:
        counts.prompt_tokens += usage.prompt_tokens or 0
        counts.completion_tokens += usage.completion_tokens or 0
        counts.cached_tokens += usage.cached_tokens or 0
