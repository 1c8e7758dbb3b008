"""Gateway for all model calls: journal, deduplication in flight, budget and sender.

Steps of a call: read the journal (a hit is free), join an identical call in flight, reserve the price, send the
request (sending.py), settle the charge, journal the reply, and only then return it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import orjson

from graft.agents.gateway import charges
from graft.agents.gateway.batch import BatchDesk, path_in
from graft.agents.gateway.health import same_model
from graft.agents.gateway.journal import Journal
from graft.agents.gateway.ledger import FREE, Allowance, Ledger, Reservation, Tab, cost_of, price_of
from graft.agents.gateway.openai_transport import OpenAITransport, body_of
from graft.agents.gateway.sending import Keep, Sender, count_tokens
from graft.agents.gateway.stats import Counts, Stats
from graft.agents.gateway.telemetry import Telemetry
from graft.agents.gateway.transport import Transport, recorded
from graft.schemas import agent
from graft.schemas.addresses import checked_url
from graft.schemas.calls import CallRequest, Reply
from graft.schemas.errors import BudgetExhausted, GraftError
from graft.schemas.models import Cache, ModelSpec, Price
from graft.schemas.redaction import redact_fields

if TYPE_CHECKING:
    from graft.agents.local.encoder import StudentJudge

CHARS_PER_TOKEN = 3
"""Least characters per token (bytes beyond ASCII), for the reservation's upper bound."""
UNKEPT = 4096
"""Replies kept in memory for roles whose cache is off, so that identical calls of one run are made once."""


@dataclass(frozen=True)
class RoleRules:
    """Call settings of one role: journal use, the provider's batch API, and a cap in US dollars."""

    cache: Cache = "reuse"
    batch: bool = False
    money_usd: float | None = None


REUSE = RoleRules()
_log = logging.getLogger(__name__)


class Gateway:
    """Async context manager for all model calls of one run; safe to use from many tasks of one event loop.

    Args:
        journal: the SQLite file of finished calls.
        endpoints: base address of each model that runs on this machine, by the model's name.
        concurrency: calls in flight at most, over all endpoints.
        money_usd: cap of the run in US dollars.
        tokens: cap of the run in prompt and completion tokens.
        retries: retries of a call after its first failure.
        hedge: send a second request if the first is slow, at endpoints that cost nothing.
        roles: settings by role; a role without an entry uses the defaults.
        since: start of the run (Unix seconds); roles with cache `refresh` ignore older journal entries.
        run: the run's id. Its caps then hold over all its processes, through charges on disk beside the journal;
            without an id they hold for this gateway only.
        recorded: the run's spending according to the lake, by the cap's field.
        telemetry: spans and metrics; off by default.
        students: predictions of trained students, for models whose name is a student's id.
    """

    def __init__(
        self,
        *,
        journal: Path,
        endpoints: Mapping[str, str] | None = None,
        concurrency: int = 64,
        money_usd: float | None = None,
        tokens: int | None = None,
        retries: int = 4,
        hedge: bool = False,
        roles: Mapping[str, RoleRules] | None = None,
        since: float = 0.0,
        run: str = "",
        recorded: Mapping[str, float] | None = None,
        telemetry: Telemetry | None = None,
        students: StudentJudge | None = None,
    ) -> None:
        self._journal_path = journal
        self._endpoint_urls = {name: checked_url(url) for name, url in (endpoints or {}).items()}
        self._concurrency, self._roles, self._since = concurrency, dict(roles or {}), since
        self._students, self._run, self._recorded = students, run, recorded
        caps = {role: rules.money_usd for role, rules in self._roles.items() if rules.money_usd is not None}
        allowed = agent.policy()
        within = Allowance(allowed.usd, allowed.tokens) if allowed else None
        self.ledger = Ledger(money_usd, tokens, caps, within)
        self.telemetry = telemetry or Telemetry()
        self._counts = Counts()
        self._sender = Sender(
            counts=self._counts, endpoints=self._endpoint_urls, concurrency=concurrency, retries=retries, hedge=hedge
        )
        self._flights: dict[str, asyncio.Future[Reply]] = {}
        self._unkept: OrderedDict[str, Reply] = OrderedDict()
        self._transports: dict[str, Transport] = {}
        self._desk: BatchDesk | None = None
        self._notes: dict[tuple[str, str], str] = {}

    async def __aenter__(self) -> Self:
        self._journal = await asyncio.to_thread(Journal, self._journal_path)
        if self._run or self.ledger.within:
            await self._attach()
        self.telemetry.watch(lambda: self.stats)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sender.depart()
        try:
            if self._desk is not None:
                await self._desk.close()
            for transport in self._transports.values():
                await transport.close()
        finally:
            await asyncio.to_thread(self._journal.close)
            try:
                await self.ledger.close()
            except GraftError as failure:  # the amount left on disk is never less than the spending
                _log.warning("the run's exact charge could not be written: %s", failure.what)

    async def _attach(self) -> None:
        path = charges.path_in(self._journal_path.parent)
        try:
            if self._run:
                self.ledger.attach(await asyncio.to_thread(charges.Charges, path, self._run, self._recorded))
            if self.ledger.within:
                self.ledger.within.attach(await asyncio.to_thread(charges.Charges, path, charges.agents_day()))
        except GraftError:
            await asyncio.to_thread(self._journal.close)
            raise
        if self.ledger.used_before:
            self._notes["", "budget"] = self.ledger.used_before

    @property
    def stats(self) -> Stats:
        """Snapshot of the counters, the current bottleneck and every endpoint."""
        counts = {one.name: getattr(self._counts, one.name) for one in dataclasses.fields(self._counts)}
        counts |= {"by_model": self._counts.by_model.copy(), "price_by_role": dict(self.ledger.spent_by_role)}
        return Stats(
            **counts, price_usd=None if self.ledger.unknown else self.ledger.spent_usd, waiting=self._waiting(),
            charged=dict(self.ledger.charged), charged_before=dict(self.ledger.before),
            notes=tuple(self._notes.values()), endpoints=self._sender.endpoints(),
        )  # fmt: skip

    def _waiting(self) -> str:
        limit = self._sender.limited_by
        if limit == "the rate limit":
            return limit
        if self.ledger.waiting:
            return "the budget"
        return limit or ("the models' speed" if self._counts.in_flight else "")

    async def call(self, request: CallRequest) -> Reply:
        """Return the reply, from the journal or from the model.

        Raises:
            CallFailed: the last retry failed.
            BudgetExhausted: a cap leaves no room.
            KeyMissing, ModelUnreachable: a person must fix the recipe or the environment.
        """
        key = request.key()
        rules = self._roles.get(request.role, REUSE)
        while True:
            found = self._found(key, rules)
            if found is not None:
                self._counts.cached += 1
                return found
            flight = self._flights.get(key)
            if flight is None:
                return await self._lead(key, request, rules)
            try:
                reply = await asyncio.shield(flight)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not flight.cancelled() or (task is not None and task.cancelling()):
                    raise
                continue  # the leading call was cancelled, this call was not
            self._counts.cached += 1
            return as_cached(reply)

    def _found(self, key: str, rules: RoleRules) -> Reply | None:
        if rules.cache == "off":
            kept = self._unkept.get(key)
            return None if kept is None else as_cached(kept)
        return self._journal.find(key, since=self._since) if rules.cache == "refresh" else self._journal.find(key)

    async def _lead(self, key: str, request: CallRequest, rules: RoleRules) -> Reply:
        """Make the call on behalf of every identical call that arrives meanwhile."""
        flight: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._flights[key] = flight
        try:
            with self.telemetry.call(request) as span:
                reply = await self._pay(key, request, rules)
                span.done(reply)
        except asyncio.CancelledError:
            flight.cancel()
            raise
        except BaseException as error:
            if isinstance(error, GraftError) and not isinstance(error, BudgetExhausted):
                self._counts.failed += 1
            flight.set_exception(error)
            flight.exception()  # marks it as retrieved, even if no other call joined
            raise
        else:
            flight.set_result(reply)
            return reply
        finally:
            del self._flights[key]

    async def _pay(self, key: str, request: CallRequest, rules: RoleRules) -> Reply:
        """Reserve, send, settle, journal."""
        reservation = await self._upper_estimate(request)
        tab = Tab(self.ledger, reservation, request.model.name)
        keep = self._keeper(key, request, rules, tab)
        try:
            if rules.batch:  # the desk reserves: an earlier process's batch may already hold and charge this call
                return await self._sender.send_in_batch(request, self._batches(), tab, keep)
            await tab.open()
            return await self._sender.send(request, self._transport(request.model), tab, keep, reservation.tokens)
        finally:
            tab.close()

    def _keeper(self, key: str, request: CallRequest, rules: RoleRules, tab: Tab) -> Keep:
        async def keep(reply: Reply) -> Reply:
            tab.settle(reply.usage, reply.price_usd)
            self._counts.calls += 1
            self._counts.by_model[request.model.name] += 1
            count_tokens(self._counts, reply.usage)
            self._note(request.model, reply)
            reply = reply.model_copy(update={"key": key, "price_usd": tab.usd})
            if rules.cache == "off":
                self._unkept[key] = reply
                if len(self._unkept) > UNKEPT:
                    self._unkept.popitem(last=False)
            else:
                newer: dict[str, Any] = {"replace": True} if rules.cache == "refresh" else {}
                with recorded(request.model, billed=False):  # settled above
                    await self._journal.add(orjson.dumps(_public_body(request)), reply, **newer)
            return reply

        return keep

    def _note(self, model: ModelSpec, reply: Reply) -> None:
        """Add a note about the model's server, once per model and subject."""
        served = reply.served_model
        if served and not same_model(model, served) and (model.name, served) not in self._notes:
            self._notes[model.name, served] = (
                f"{model.name}: requested {model.model}, but the server answered as {served}"
            )
        silent = reply.usage.prompt_tokens is None or reply.usage.completion_tokens is None
        if silent and model.provider not in FREE and (model.name, "usage") not in self._notes:
            self._notes[model.name, "usage"] = (
                f"{model.name}: the server reports no token counts, so its price is unknown and each call is charged "
                "its full reservation"
            )

    def _batches(self) -> BatchDesk:
        if self._desk is None:
            self._desk = BatchDesk(path_in(self._journal_path.parent), run=self._run)
        return self._desk

    def _transport(self, model: ModelSpec) -> Transport:
        kind = "openai" if model.provider == "embedded" else model.provider
        if kind not in self._transports:
            self._transports[kind] = self._make(kind)
        return self._transports[kind]

    def _make(self, kind: str) -> Transport:
        if kind == "openai":
            return OpenAITransport(self._endpoint_urls, self._concurrency)
        if kind == "litellm":
            from graft.agents.gateway.hosted_transport import HostedTransport

            return HostedTransport(self._concurrency)
        from graft.agents.local.encoder import EncoderTransport

        return EncoderTransport(students=self._students)

    async def _upper_estimate(self, request: CallRequest) -> Reservation:
        """Upper bound of one attempt: a third of the prompt's characters, and all of max_tokens."""
        model, texts = request.model, [message.content for message in request.messages]
        size = sum(len(text) if text.isascii() else len(text.encode()) for text in (*texts, request.prompt or ""))
        if request.json_schema is not None:
            size += len(orjson.dumps(request.json_schema))
        size += len(orjson.dumps(model.extra)) if model.extra else 0  # may hold a template that joins the prompt
        prompt = size // CHARS_PER_TOKEN + 16 + 8 * len(texts)
        usd = price_of(model, prompt, request.max_tokens)
        if usd is None and self.ledger.capped:
            usd = cost_of(await self._known_price(model), prompt, request.max_tokens)
        return Reservation(usd, prompt + request.max_tokens, request.role, model.provider == "openai")

    async def _known_price(self, model: ModelSpec) -> Price | None:
        if model.provider != "litellm":
            return None
        from graft.agents.gateway.hosted_transport import HostedTransport

        transport = self._transport(model)
        return await transport.price(model) if isinstance(transport, HostedTransport) else None


def as_cached(reply: Reply) -> Reply:
    """Copy of a reply that another call paid for."""
    return reply.model_copy(update={"cached": True, "latency_s": 0.0})


def _public_body(request: CallRequest) -> dict[str, Any]:
    """Request body as sent, for the journal, with secrets redacted at every depth of the extra fields."""
    model = request.model
    body = body_of(request, chat=bool(request.messages), constrained=request.json_schema is not None)
    if model.extra:
        kept = redact_fields({name: body[name] for name in model.extra if name in body}, model.key_variables)
        body |= {name: value for name, value in kept.items() if name in body}
    return body
