"""The one door to every model: key, journal, single flight, budget, limits, transport, retry.

A call goes: journal (a hit costs nothing), join an equal call that is in flight, reserve its price, wait for a place at
its endpoint, send, retry by one policy, settle, journal the reply, and only then return it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from agents.gateway.journal import Journal
from agents.gateway.ledger import Ledger, Reservation, Tab, cost_of, price_of
from agents.gateway.openai_transport import OpenAITransport, body_of
from agents.gateway.retry import RETRYABLE, Door, backoff_s
from agents.gateway.transport import Damaged, RateLimited, Transport
from schemas.calls import CallRequest, Reply, Usage
from schemas.errors import BudgetExhausted, CallFailed, GraftError
from schemas.models import ModelSpec, Price

CHARS_PER_TOKEN = 3
"""Characters (beyond ASCII: bytes) that a token has at least, for the reservation's upper estimate."""
SECRET = re.compile(r"(api_?key|secret|password|authorization|headers?|credentials?)$", re.IGNORECASE)


@dataclass(frozen=True)
class Stats:
    """A snapshot of this gateway's counters since it opened. `price_usd` is None once any call's price is unknown.

    `waiting` says in a few words what limits speed now; empty while nothing is under way.
    """

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


Keep = Callable[[Reply], Awaitable[Reply]]
"""Settles and journals a reply; what it returns is what the caller gets."""


@dataclass
class _Counts:
    calls: int = 0
    cached: int = 0
    failed: int = 0
    in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


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
        self._counts, self._by_model = _Counts(), Counter[str]()
        self._flights: dict[str, asyncio.Future[Reply]] = {}
        self._doors: dict[tuple[str | None, str], Door] = {}
        self._transports: dict[str, Transport] = {}

    async def __aenter__(self) -> Self:
        self._journal = await asyncio.to_thread(Journal, self._journal_path)
        self._places = asyncio.Semaphore(self._concurrency)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for transport in self._transports.values():
                await transport.close()
        finally:
            await asyncio.to_thread(self._journal.close)

    @property
    def stats(self) -> Stats:
        """The counters now, and what limits speed."""
        price = None if self.ledger.unknown else self.ledger.spent_usd
        counts = dataclasses.asdict(self._counts)
        return Stats(**counts, price_usd=price, waiting=self._waiting(), by_model=self._by_model.copy())

    def _waiting(self) -> str:
        if any(door.pause_s for door in self._doors.values()):
            return "the rate limit"
        if self.ledger.waiting:
            return "the budget"
        if self._places.locked():
            return "limits.concurrency"
        if any(door.crowded for door in self._doors.values()):
            return "the model's max_concurrency"
        return "the models' speed" if self._counts.in_flight else ""

    async def call(self, request: CallRequest) -> Reply:
        """The reply, from the journal or from the model. Raises CallFailed after the last retry, BudgetExhausted
        where a cap leaves no room, KeyMissing and ModelUnreachable for what only a person can mend."""
        key = request.key()
        while True:
            found = self._journal.find(key)
            if found is not None:
                self._counts.cached += 1
                return found
            flight = self._flights.get(key)
            if flight is None:
                return await self._lead(key, request)
            try:
                reply = await asyncio.shield(flight)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not flight.cancelled() or (task is not None and task.cancelling()):
                    raise
                continue  # the one who led was cancelled, we were not
            self._counts.cached += 1
            return reply.model_copy(update={"cached": True, "latency_s": 0.0})

    async def _lead(self, key: str, request: CallRequest) -> Reply:
        """Make the call for everyone who asks the same meanwhile."""
        flight: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._flights[key] = flight
        try:
            reply = await self._pay(key, request)
        except asyncio.CancelledError:
            flight.cancel()
            raise
        except BaseException as error:
            if isinstance(error, GraftError) and not isinstance(error, BudgetExhausted):
                self._counts.failed += 1
            flight.set_exception(error)
            flight.exception()  # seen, even where nobody joined
            raise
        else:
            flight.set_result(reply)
            return reply
        finally:
            del self._flights[key]

    async def _pay(self, key: str, request: CallRequest) -> Reply:
        """Reserve, send, settle, journal."""
        tab = Tab(self.ledger, await self._upper_estimate(request), request.model.name)

        async def keep(reply: Reply) -> Reply:
            tab.settle(reply.usage, reply.price_usd)
            self._counts.calls += 1
            self._by_model[request.model.name] += 1
            self._count(reply.usage)
            reply = reply.model_copy(update={"key": key, "price_usd": tab.usd})
            await self._journal.add(orjson.dumps(_public_body(request)), reply)
            return reply

        await tab.open()
        try:
            return await self._send(request, tab, keep)
        finally:
            tab.close()

    def _count(self, usage: Usage | None) -> None:
        if usage is not None:
            self._counts.prompt_tokens += usage.prompt_tokens or 0
            self._counts.completion_tokens += usage.completion_tokens or 0
            self._counts.cached_tokens += usage.cached_tokens or 0

    async def _send(self, request: CallRequest, tab: Tab, keep: Keep) -> Reply:
        """The one retry policy (see retry.py). A damaged reply is paid for, and asked again with another seed."""
        door, transport = self._door(request.model), self._transport(request.model)
        attempts = failures = damaged = 0
        while True:
            attempts += 1
            try:
                return await self._once(door, transport, _varied(request, damaged), attempts, keep)
            except RateLimited as failure:
                if failure.final:
                    raise
            except CallFailed as failure:
                failures += 1
                if isinstance(failure, Damaged):
                    damaged += 1
                    tab.settle(failure.usage, failure.price_usd)
                    self._count(failure.usage)
                if failure.code not in RETRYABLE or failures > self._retries:
                    raise
                await asyncio.sleep(backoff_s(failures))
                if isinstance(failure, Damaged):
                    await _reopen(tab, failure)

    async def _once(self, door: Door, transport: Transport, request: CallRequest, attempt: int, keep: Keep) -> Reply:
        """One attempt, once there is a place at its endpoint and in this run, and no pause.

        The places are held until the reply is journaled, so that a killed process has at most so many calls paid and
        not kept as `concurrency` allows.
        """
        async with door:
            await self._places.acquire()
            while door.pause_s:  # it was paused while we waited for a place in this run
                self._places.release()
                await asyncio.sleep(door.pause_s)
                await self._places.acquire()
            self._counts.in_flight += 1
            sent_at = time.monotonic()
            try:
                reply = await transport.send(request)
                door.succeeded()
                return await keep(reply if attempt == 1 else reply.model_copy(update={"attempts": attempt}))
            except RateLimited as failure:
                failure.final = not door.refused(sent_at, failure.retry_after)
                raise
            finally:
                self._counts.in_flight -= 1
                self._places.release()

    def _door(self, model: ModelSpec) -> Door:
        place = (model.base_url or self._endpoint_urls.get(model.name), model.model)
        if place not in self._doors:
            self._doors[place] = Door(model.max_concurrency, self._retries)
        return self._doors[place]

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

    async def _upper_estimate(self, request: CallRequest) -> Reservation:
        """The most that one attempt can take: prompt characters over three, and all of max_tokens."""
        model, texts = request.model, [message.content for message in request.messages]
        size = sum(len(text) if text.isascii() else len(text.encode()) for text in (*texts, request.prompt or ""))
        if request.json_schema is not None:
            size += len(orjson.dumps(request.json_schema))
        prompt = size // CHARS_PER_TOKEN + 16 + 8 * len(texts)
        usd = price_of(model, prompt, request.max_tokens)
        if usd is None and self.ledger.capped:
            usd = cost_of(await self._known_price(model), prompt, request.max_tokens)
        return Reservation(usd, prompt + request.max_tokens)

    async def _known_price(self, model: ModelSpec) -> Price | None:
        if model.provider != "litellm":
            return None
        from agents.gateway.litellm_transport import LiteLLMTransport

        transport = self._transport(model)
        return await transport.price(model) if isinstance(transport, LiteLLMTransport) else None


async def _reopen(tab: Tab, failure: CallFailed) -> None:
    try:
        await tab.open()
    except BudgetExhausted:
        raise failure from None  # something was sent: the failure is the truth, the next call meets the cap


def _varied(request: CallRequest, damaged: int) -> CallRequest:
    """The same question with another seed after a damaged reply: the same seed would only bring it again."""
    if not damaged or request.seed is None:
        return request
    return request.model_copy(update={"seed": (request.seed + 7919 * damaged) % 2**31})


def _public_body(request: CallRequest) -> dict[str, Any]:
    """What the journal keeps of a request; fields that look like a key are not kept."""
    body = body_of(request, chat=bool(request.messages), constrained=request.json_schema is not None)
    for name in request.model.extra:
        if SECRET.search(name):
            body[name] = "(not kept)"
    return body
