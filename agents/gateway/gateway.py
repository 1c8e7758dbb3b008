"""The one door to every model: key, journal, single flight, limits, budget, transport, retry.

A call goes: journal (a hit costs nothing), join an equal call that is in flight, reserve its price, wait for a place at
its endpoint, send, retry by one policy, journal the reply, settle, return.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from agents.gateway.journal import Journal
from agents.gateway.ledger import Ledger, Reservation, price_of
from agents.gateway.openai_transport import OpenAITransport, body_of
from agents.gateway.transport import RETRYABLE, RateLimited, Transport
from schemas.calls import CallRequest, Reply
from schemas.errors import BudgetExhausted, CallFailed
from schemas.models import ModelSpec

BASE_WAIT_S, LONGEST_WAIT_S = 0.25, 20.0
CHARS_PER_TOKEN = 3
"""Characters that a token has at least, for the reservation's upper estimate."""


@dataclass
class Stats:
    """Counters of this gateway since it opened. `price_usd` is None once any call's price is unknown."""

    calls: int = 0
    cached: int = 0
    failed: int = 0
    in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    price_usd: float | None = 0.0
    waiting: str = ""
    by_model: Counter[str] = field(default_factory=Counter)


@dataclass
class _Endpoint:
    """The places at one model's endpoint, and the moment before which nobody may send (after a 429)."""

    places: asyncio.Semaphore
    paused_until: float = 0.0


class Gateway:
    """Opened once a run as an async context manager; safe to use from many tasks of one event loop."""

    def __init__(
        self,
        *,
        journal: Path,
        endpoints: Mapping[str, str] | None = None,
        concurrency: int = 64,
        money_usd: float | None = None,
        tokens: int | None = None,
        retries: int = 4,
    ) -> None:
        self._journal_path, self._endpoint_urls = journal, dict(endpoints or {})
        self._concurrency, self._retries = concurrency, retries
        self.ledger = Ledger(money_usd, tokens)
        self._stats = Stats()
        self._flights: dict[str, asyncio.Future[Reply]] = {}
        self._endpoints: dict[tuple[str | None, str], _Endpoint] = {}
        self._transports: dict[str, Transport] = {}
        self._random = random.Random()

    async def __aenter__(self) -> Self:
        self._journal = Journal(self._journal_path)
        self._places = asyncio.Semaphore(self._concurrency)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for transport in self._transports.values():
            await transport.close()
        await asyncio.to_thread(self._journal.close)

    @property
    def stats(self) -> Stats:
        """The counters now, and what limits speed."""
        stats = self._stats
        stats.price_usd = None if self.ledger.unknown else self.ledger.spent_usd
        now = time.monotonic()
        if any(endpoint.paused_until > now for endpoint in self._endpoints.values()):
            stats.waiting = "rate limit"
        elif self._places.locked():
            stats.waiting = "limits.concurrency"
        elif any(endpoint.places.locked() for endpoint in self._endpoints.values()):
            stats.waiting = "the model's max_concurrency"
        else:
            stats.waiting = "the models' speed" if stats.in_flight else ""
        return stats

    async def call(self, request: CallRequest) -> Reply:
        """The reply, from the journal or from the model. Raises CallFailed after the last retry, BudgetExhausted
        where a cap leaves no room, KeyMissing and ModelUnreachable for what only a person can mend."""
        key = request.key()
        found = self._journal.find(key)
        if found is not None:
            self._stats.cached += 1
            return found
        flight = self._flights.get(key)
        if flight is not None:
            return (await asyncio.shield(flight)).model_copy(update={"cached": True})
        flight = asyncio.get_running_loop().create_future()
        self._flights[key] = flight
        try:
            reply = await self._pay(key, request)
        except asyncio.CancelledError:
            flight.cancel()
            raise
        except BaseException as error:
            flight.set_exception(error)
            flight.exception()
            raise
        else:
            flight.set_result(reply)
            return reply
        finally:
            del self._flights[key]

    async def _pay(self, key: str, request: CallRequest) -> Reply:
        """Reserve, send, journal, settle."""
        model = request.model
        reservation = _upper_estimate(request)
        self.ledger.reserve(reservation, where=model.name)
        settled = False
        try:
            reply = await self._send(request)
            reply = reply.model_copy(update={"key": key})
            await self._journal.add(
                orjson.dumps(body_of(request, chat=bool(request.messages), constrained=True)), reply
            )
            usage = reply.usage
            tokens = None if usage.completion_tokens is None else (usage.prompt_tokens or 0) + usage.completion_tokens
            self.ledger.settle(reservation, reply.price_usd, tokens)
            settled = True
        except CallFailed as failure:
            if not isinstance(failure, BudgetExhausted):
                self._stats.failed += 1
            raise
        finally:
            if not settled:
                self.ledger.release(reservation)
        self._count(model, reply)
        return reply

    def _count(self, model: ModelSpec, reply: Reply) -> None:
        stats, usage = self._stats, reply.usage
        stats.calls += 1
        stats.by_model[model.name] += 1
        stats.prompt_tokens += usage.prompt_tokens or 0
        stats.completion_tokens += usage.completion_tokens or 0
        stats.cached_tokens += usage.cached_tokens or 0

    async def _send(self, request: CallRequest) -> Reply:
        """The one retry policy: what can pass is tried again with jittered, growing waits; what cannot is not."""
        endpoint, transport = self._endpoint(request.model), self._transport(request.model)
        for attempt in range(self._retries + 1):
            try:
                async with endpoint.places, self._places:
                    while (pause := endpoint.paused_until - time.monotonic()) > 0:
                        await asyncio.sleep(pause)
                    self._stats.in_flight += 1
                    try:
                        reply = await transport.send(_varied(request, attempt))
                    finally:
                        self._stats.in_flight -= 1
                return reply if attempt == 0 else reply.model_copy(update={"attempts": attempt + 1})
            except CallFailed as failure:
                if failure.code not in RETRYABLE or attempt == self._retries:
                    raise
                wait = min(LONGEST_WAIT_S, BASE_WAIT_S * 2**attempt) * (0.5 + self._random.random())
                if isinstance(failure, RateLimited):
                    wait = min(LONGEST_WAIT_S * 3, wait if failure.retry_after is None else failure.retry_after)
                    endpoint.paused_until = max(endpoint.paused_until, time.monotonic() + wait)
                else:
                    await asyncio.sleep(wait)
        raise AssertionError("unreachable: the last attempt raises")

    def _endpoint(self, model: ModelSpec) -> _Endpoint:
        place = (model.base_url or self._endpoint_urls.get(model.name), model.model)
        if place not in self._endpoints:
            self._endpoints[place] = _Endpoint(asyncio.Semaphore(model.max_concurrency))
        return self._endpoints[place]

    def _transport(self, model: ModelSpec) -> Transport:
        kind = "openai" if model.provider == "embedded" else model.provider
        if kind not in self._transports:
            self._transports[kind] = self._make(kind)
        return self._transports[kind]

    def _make(self, kind: str) -> Transport:
        if kind == "openai":
            return OpenAITransport(self._endpoint_urls, self._concurrency)
        if kind == "litellm":
            from agents.gateway.litellm_transport import LiteLLMTransport

            return LiteLLMTransport()
        from agents.local.encoder import EncoderTransport

        return EncoderTransport()


def _upper_estimate(request: CallRequest) -> Reservation:
    """The most that a call can take: prompt characters over three, and all of max_tokens."""
    chars = sum(len(message.content) for message in request.messages) + len(request.prompt or "")
    prompt = chars // CHARS_PER_TOKEN + 16 + 8 * len(request.messages)
    return Reservation(price_of(request.model, prompt, request.max_tokens), prompt + request.max_tokens)


def _varied(request: CallRequest, attempt: int) -> CallRequest:
    """The same question with another seed for a retry: a damaged reply to the same seed would only come again."""
    if attempt == 0 or request.seed is None:
        return request
    return request.model_copy(update={"seed": (request.seed + 7919 * attempt) % 2**31})
