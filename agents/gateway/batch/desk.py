"""Client for providers' batch APIs, at half price: calls gather, are submitted as one file, and are polled for.

No paid answer is lost. A batch is stored before the provider receives it and carries our id as metadata, so that a
later process can find it; its answers stay in the store until they are in the journal (`done`).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from graft.agents.gateway.batch.journey import Journey, alive_lock, leave, sweep
from graft.agents.gateway.batch.provider import Provider, check_prefill, line_of, load, model_of, price_in_batch
from graft.agents.gateway.batch.results import Again, Outcome, cancelled, reply_from
from graft.agents.gateway.batch.store import Batch, BatchStore
from graft.agents.gateway.credentials import headers_of
from graft.agents.gateway.ledger import Reservation, Tab
from graft.agents.gateway.litellm_transport import LiteLLMTransport
from graft.agents.gateway.openai_transport import names_schema
from graft.agents.gateway.transport import recorded
from graft.schemas.calls import CallRequest, Reply
from graft.schemas.errors import CallFailed, GraftError, NotFound
from graft.schemas.models import ModelSpec, Price

BYTES = 90_000_000
"""Largest request file; OpenAI accepts 200 MB, Azure 100."""
LINGER_S, POLL_S = 20.0, 30.0
"""Seconds without a new call before a batch is submitted, and seconds between polls."""
CANCEL_S = 15.0
"""Seconds that closing waits for a batch in submission, to cancel it."""
CLOSE_S = 5.0
"""Seconds that closing waits for requests in flight."""

Place = tuple[str, str | None, str | None, bool]
"""Model, base_url, api_key_env and whether it is chat: common to all requests of one file."""


class _Gathering:
    """Calls of one place that wait for a batch."""

    def __init__(self, model: ModelSpec) -> None:
        self.model, self.size = model, 0
        self.lines: dict[str, bytes] = {}
        self.timer: asyncio.TimerHandle | None = None


class BatchDesk:
    """Sends calls in batches, on one event loop; several processes may use the same store.

    Args:
        store: the SQLite file of batches.
        linger_s: seconds without a new call before a batch is submitted.
        most: calls at which a batch is submitted at once.
        poll_s: seconds between polls.
        run: id of the run that is charged.
    """

    def __init__(
        self, store: Path, *, linger_s: float | None = None, most: int = 10_000, poll_s: float | None = None,
        run: str = "",
    ) -> None:  # fmt: skip
        self._path, self._most, self._run = store, most, run
        self._linger_s = LINGER_S if linger_s is None else linger_s
        self._poll_s = POLL_S if poll_s is None else poll_s
        self._id = uuid.uuid4().hex
        self._alive = alive_lock(store, self._id)
        self._store: BatchStore | None = None
        self._litellm: Any = None
        self._transport = LiteLLMTransport()
        self._opening = asyncio.Lock()
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}
        self._tabs: dict[str, Tab] = {}
        self._present: Counter[str] = Counter()
        self._gatherings: dict[Place, _Gathering] = {}
        self._journeys: dict[str, Journey] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight: set[asyncio.Future[Any]] = set()
        self._prices: dict[tuple[str, Price | None], Price | None] = {}
        self._unconstrained: set[str] = set()
        self._closed = False

    async def send(self, request: CallRequest, key: str, tab: Tab | None = None) -> Reply:
        """Return the reply once its batch has answered, possibly after hours.

        A key in an earlier process's batch joins that batch. After a failure the key may be sent again.

        Args:
            request: the call.
            key: the request's key.
            tab: the call's reservation, made before it joins a new batch. If an earlier process of this run submitted
                the call, its charge is taken over instead.

        Raises:
            BudgetExhausted: a cap leaves no room.
            CallFailed, ModelUnreachable, KeyMissing: the call failed, or its batch did.
        """
        store = await self._ready()
        headers_of(request.model)  # raises KeyMissing before anything is sent
        provider = self._provider(request.model)
        check_prefill(self._litellm, request)
        started = time.perf_counter()
        while True:
            constrained = request.json_schema is not None and request.model.name not in self._unconstrained
            outcome = await self._outcome(store, provider, request, key, constrained, tab)
            try:
                if isinstance(outcome, bytes):
                    return await self._reply(request, key, outcome, time.perf_counter() - started)
                raise outcome.with_traceback(None)
            except Again:
                if tab is not None:
                    tab.spared()
            except CallFailed as failure:
                if not (constrained and failure.code == "refused_by_server" and names_schema(failure.raw)):
                    raise
                self._unconstrained.add(request.model.name)

    async def done(self, key: str) -> None:
        """Drop the answer of a call whose reply is in the journal."""
        if self._store is not None and not self._closed:
            await asyncio.to_thread(self._store.forget, key)

    async def close(self, *, cancel: bool = False) -> None:
        """Stop following batches; pending calls raise CallFailed 'cancelled'.

        Batches continue at the provider, and a later process can fetch their answers. With `cancel` they are cancelled
        there too; answers so far are charged and kept.
        """
        if self._closed:
            return
        self._closed = True
        for gathering in self._gatherings.values():
            if gathering.timer is not None:
                gathering.timer.cancel()
        self._gatherings.clear()
        if cancel:
            await asyncio.gather(*(self._stop(journey) for journey in list(self._journeys.values())))
        if self._in_flight:
            await asyncio.wait(self._in_flight, timeout=CLOSE_S)
        for task in (*self._tasks, *self._in_flight):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for key in list(self._waiting):
            self._resolve(key, cancelled("the run ended before its batch was submitted"))
        await self._transport.close()
        async with self._opening:
            if self._store is not None:
                await asyncio.to_thread(self._store.close)
                await asyncio.to_thread(leave, self._alive)

    async def _ready(self) -> BatchStore:
        async with self._opening:
            if self._closed:
                raise cancelled("the run has ended")
            if self._store is None:
                self._litellm = await asyncio.to_thread(load)
                store = await asyncio.to_thread(BatchStore, self._path)
                await asyncio.to_thread(sweep, self._path)
                await asyncio.to_thread(self._alive.acquire)
                self._store = store
            return self._store

    def _provider(self, model: ModelSpec) -> Provider:
        return Provider(self._litellm, model, self._in_flight)

    async def _reply(self, request: CallRequest, key: str, answer: bytes, latency_s: float) -> Reply:
        model = request.model
        if (model.model, model.price) not in self._prices:
            price = await price_in_batch(self._litellm, self._transport, model)
            self._prices[model.model, model.price] = price
        price = self._prices[model.model, model.price]
        try:
            return reply_from(request, answer, price, latency_s)
        except CallFailed:
            await self.done(key)  # charged and unusable: must not be read again
            raise

    async def _outcome(
        self,
        store: BatchStore,
        provider: Provider,
        request: CallRequest,
        key: str,
        constrained: bool,
        tab: Tab | None,
    ) -> Outcome:
        """Outcome of a call, which joins the batch that holds it or the next batch."""
        waiting = self._waiting.get(key)
        first = waiting is None
        if waiting is None:
            waiting = self._waiting[key] = asyncio.get_running_loop().create_future()
        self._present[key] += 1
        try:
            if first:
                await self._join(store, provider, request, key, constrained, tab)
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if self._present[key] == 1:
                self._give_up(key)
            raise
        finally:
            self._present[key] -= 1
            if not self._present[key]:
                del self._present[key]
                self._tabs.pop(key, None)

    async def _join(
        self,
        store: BatchStore,
        provider: Provider,
        request: CallRequest,
        key: str,
        constrained: bool,
        tab: Tab | None,
    ) -> None:
        joined = False
        try:
            found = await asyncio.to_thread(store.find, key)
            if tab is not None:
                charged = await asyncio.to_thread(store.charge_of, key) if found and self._run else None
                await self._reserve(tab, charged)
                self._tabs[key] = tab
            if self._closed:
                raise cancelled("the run has ended")
            if found is None:
                self._gather(request, key, constrained)
            elif found[1] is not None:
                self._resolve(key, found[1])
            else:
                self._follow(provider, found[0], request.model, key)
            joined = True
        finally:
            if not joined:  # other callers of the same key retry themselves
                self._resolve(key, Again())

    async def _reserve(self, tab: Tab, charged: bytes | None) -> None:
        """Reserve a call, or take over its charge if an earlier process of this run submitted it."""
        run, *amounts = orjson.loads(charged) if charged else ("",)
        if self._run and run == self._run:
            tab.joined(Reservation(*amounts))
        else:
            await tab.open()

    def _gather(self, request: CallRequest, key: str, constrained: bool) -> None:
        model = request.model
        place: Place = (model.model, model.base_url, model.api_key_env, bool(request.messages))
        line = line_of(self._litellm, request, key, constrained)
        gathering = self._gatherings.setdefault(place, _Gathering(model))
        gathering.lines[key] = line
        gathering.size += len(line)
        if gathering.timer is not None:
            gathering.timer.cancel()
        if len(gathering.lines) >= self._most or gathering.size >= BYTES:
            self._depart(place)
        else:
            gathering.timer = asyncio.get_running_loop().call_later(self._linger_s, self._depart, place)

    def _give_up(self, key: str) -> None:
        """Drop a key without callers: it is not sent if still gathering; a batch that holds it continues."""
        self._waiting.pop(key, None)
        for gathering in self._gatherings.values():
            gathering.lines.pop(key, None)

    def _resolve(self, key: str, outcome: Outcome) -> None:
        waiting = self._waiting.pop(key, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(outcome)

    def _depart(self, place: Place) -> None:
        gathering = self._gatherings.pop(place)
        lines, model = gathering.lines, gathering.model
        if lines:
            batch = Batch(uuid.uuid4().hex, *place, size=len(lines), created=time.time(), desk=self._id)
            for key in lines.keys() & self._tabs.keys():
                self._tabs[key].sent()
            self._start(self._provider(model), batch, model, set(lines), lines)

    def _follow(self, provider: Provider, batch: Batch, model: ModelSpec, key: str) -> None:
        if batch.id in self._journeys:
            self._journeys[batch.id].keys.add(key)
        else:
            self._start(provider, batch, model, {key}, None)

    def _start(
        self, provider: Provider, batch: Batch, model: ModelSpec, keys: set[str], lines: dict[str, bytes] | None
    ) -> None:
        journey = Journey(batch, model, keys, me=self._id, poll_s=self._poll_s)
        self._journeys[batch.id] = journey
        task = asyncio.create_task(self._accompany(journey, provider, lines), name=f"batch-{batch.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accompany(self, journey: Journey, provider: Provider, lines: dict[str, bytes] | None) -> None:
        """Follow a batch and resolve its callers, whatever happens."""
        outcomes: dict[str, Outcome] = {}
        otherwise: Outcome = cancelled("the run ended before its batch finished", journey.model.name)
        try:
            charges = self._charges(lines or ())
            with recorded(journey.model):
                outcomes, otherwise = await journey.run(await self._ready(), provider, lines, charges)
        except GraftError as error:
            otherwise = error
            if journey.batch.state == "ended":  # the provider accepted none of it
                for key in journey.keys & self._tabs.keys():
                    self._tabs[key].spared()
        finally:  # without a pause, so that no call joins a batch that has just ended
            del self._journeys[journey.batch.id]
            journey.submitted.set()
            for key in journey.keys:
                self._resolve(key, outcomes.get(key, otherwise))

    def _charges(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Charges of this run for submitted calls, by key."""
        held = {key: tab.held for key in keys if self._run and (tab := self._tabs.get(key)) is not None}
        run = self._run
        return {key: orjson.dumps((run, one.usd, one.tokens, one.role)) for key, one in held.items() if one}

    async def _stop(self, journey: Journey) -> None:
        """Cancel a batch at the provider, if possible."""
        try:
            await asyncio.wait_for(journey.submitted.wait(), CANCEL_S)
            if journey.batch.remote is not None and journey.batch.state == "sent":
                await self._provider(journey.model).cancel(journey.batch.remote)
        except (TimeoutError, GraftError):
            return  # it stays in the store: the next run finds it, or `graft batches --cancel` stops it


async def cancel_batch(path: Path, name: str) -> Batch:
    """Cancel a batch at its provider.

    Args:
        path: the store of batches.
        name: our id, the provider's id, or the beginning of either.

    Returns:
        The batch with its new status.

    Raises:
        NotFound: no batch, or several batches, begin with `name`.
        CallFailed, KeyMissing, ModelUnreachable: the provider cannot be reached or refuses.
    """
    store = await asyncio.to_thread(BatchStore, path)
    transport = LiteLLMTransport()
    try:
        batch = _named([batch for batch, _ in await asyncio.to_thread(store.listed)], name)
        if batch.state == "ended":
            return batch
        model = model_of(batch)
        headers_of(model)
        litellm = await asyncio.to_thread(load)
        provider = Provider(litellm, model, set())
        if batch.remote is None and batch.state == "uploaded":
            there = await provider.search(batch)
            batch.remote = str(there["id"]) if there else None
        if batch.remote is None:
            what = "the provider has no such batch, so there is nothing to cancel"
            raise NotFound(what, where=batch.id, fix="rerun its run to submit the calls again")
        await provider.cancel(batch.remote)
        batch.state, batch.status = "sent", "cancelling"
        await asyncio.to_thread(store.update, batch)
        return batch
    finally:
        await transport.close()
        await asyncio.to_thread(store.close)


def _named(batches: list[Batch], name: str) -> Batch:
    found = [b for b in batches if name and (b.id.startswith(name) or (b.remote or "").startswith(name))]
    if len(found) != 1:
        what = f"{len(found)} batches begin with {name!r}" if found else f"no batch {name!r}"
        raise NotFound(what, where="--cancel", fix="list them with: graft batches")
    return found[0]
