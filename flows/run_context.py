"""The resources of a run: lake, gateway, model servers, lock. Opened once for each run; tasks find it by run id."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import orjson
from filelock import FileLock, Timeout

from graft.agents.gateway import Gateway
from graft.agents.local.files import weights_of
from graft.agents.methods import Ask, Bounds, Context, Drawn, Method, Place, Retrieve, method_of
from graft.data.documents.read import Library
from graft.data.gates import Admission
from graft.flows import stopping
from graft.flows.agreement import Agreement
from graft.flows.batches import Selection
from graft.flows.feasibility import FIRST_LOOK, LOOK_EVERY, Feasibility, out_of_reach
from graft.flows.progress import Progress
from graft.flows.vectors import AcceptedVectors
from graft.schemas import agent
from graft.schemas.base import stable_hash, utc_now
from graft.schemas.calls import Call, CallRequest, FailureCode, Reply
from graft.schemas.datasets import NOT_STATED
from graft.schemas.decisions import OUT_OF_BUDGET
from graft.schemas.errors import AlreadyRunning, CallFailed, GraftError
from graft.schemas.home import Home
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Accepted, Candidate, GivenText, Seed, Slot
from graft.students.judge import student_judge

if TYPE_CHECKING:
    from graft.data.lake import Lake

Say = Callable[[str], None]
REFUSALS_AFTER = 20
"""Candidates before the share of refusals is checked."""


@dataclass
class RunContext:
    """The resources of one run in this process."""

    recipe: Recipe
    run_id: str
    home: Home
    lake: Lake
    gateway: Gateway
    method: Method[Any]
    seeds: Sequence[Seed]
    gates: Admission
    """The run's gates without any row of the run."""
    progress: Progress
    vectors: AcceptedVectors = field(default_factory=AcceptedVectors)
    say: Say = lambda text: None
    calibration: dict[str, dict[str, float]] = field(default_factory=dict)
    by_name: frozenset[str] = frozenset()
    bounds: Bounds | None = None
    neighbours: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pool: dict[str, list[Seed]] = field(default_factory=dict)
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Attributes of texts that the method proposed for this run."""
    notes: list[str] = field(default_factory=list)
    """Warnings for the run's result, besides the gateway's."""
    texts: list[GivenText] = field(default_factory=list)
    """A person's texts, which the first round labels, as far as they are chosen."""
    selection: Selection | None = None
    """Chooses further texts once these are labelled."""
    library: Library = field(default_factory=Library)
    """The recipe's documents and their passages."""
    retrieve: Retrieve | None = None
    round: int = 0
    kept: list[Accepted] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)
    """Further counts of the method; they are added to the run's."""
    stop_reason: str = ""
    trial: bool = False
    """Whether the version is marked as a trial."""
    spent: set[str] = field(default_factory=set)
    """Labels whose seeds are used up: no slot can be made for what is missing of them."""
    outlook: Feasibility | None = None
    """The reason why the target is out of reach, if that ended the run."""
    next_look: int = FIRST_LOOK
    agreement: Agreement = field(init=False)

    def __post_init__(self) -> None:
        self.agreement = Agreement(self.method.traits(self.recipe).agreement_after)

    @property
    def drawn(self) -> Drawn:
        """The current pool that slots are drawn from."""
        return Drawn(
            self.recipe, self.pool, self.neighbours, self.texts, self.round, attributes=self.attributes,
            passages=self.library.passages,
        )  # fmt: skip

    @cached_property
    def texts_by_id(self) -> dict[str, GivenText]:
        """The person's texts by id, those not yet chosen too."""
        return {text.id: text for text in (self.selection.rows if self.selection else self.texts)}

    @property
    def enough(self) -> bool:
        """True if labelling ended before the last text, as enough were labelled."""
        return self.selection is not None and self.selection.enough

    def choose_texts(self) -> None:
        """Add the next batch of texts, if there is one. Raises MissingExtra without the sentence encoder."""
        if self.selection is None:
            return
        labels, each = {row.id: row.label for row in self.kept if row.given}, self.selection.source.each
        slots = (
            self.method.make_slot(Place(self.run_id, place // each, 0, place % each, ""), self.drawn)
            for place in range(len(self.texts))
        )
        self.texts.extend(self.selection.next([labels.get(candidate_id(slot), "") for slot in slots]))
        self.figures |= self.selection.figures

    def context(self, ask: Ask, admission: Admission | None = None) -> Context:
        """The context of a method for one slot; calls go through `ask`, texts through the gates."""
        context = Context(
            recipe=self.recipe, seeds=self.seeds, ask=ask, calibration=self.calibration, by_name=self.by_name,
            bounds=self.bounds, texts=self.texts_by_id, attributes=self.attributes,
            passages=self.library.by_id, retrieve=self.retrieve,
        )  # fmt: skip
        return replace(context, screen=admission.screen, clean=admission.clean) if admission else context

    def admission(self, accepted: Sequence[Accepted] = ()) -> Admission:
        """Fresh gates that know seeds, held-out texts, published rows, rows of earlier rounds, and `accepted`."""
        admission = self.gates.fresh()
        for row in (*self.kept, *accepted):
            admission.remember(row.proposal(self.method.text_id(row)))
        return admission

    async def run_slot(self, slot: Slot, admission: Admission) -> tuple[Candidate, tuple[Call, ...]]:
        """Run one slot through the method and record every call."""
        recorder = CallRecorder(self.gateway.call, self.run_id, candidate_id(slot))
        with self.gateway.telemetry.span("graft.candidate", index=slot.index) as span:
            candidate = await self.method.run_slot(slot, self.context(recorder.ask, admission))
            span.note(status=candidate.decision.status, code=candidate.decision.code)
        self.progress.end(candidate, recorder.calls)
        if candidate.decision.code == OUT_OF_BUDGET:
            self.stop_reason = self.stop_reason or "budget"
        return candidate, tuple(recorder.calls)

    def halt(self) -> str:
        """Return the reason why no further slot may be opened; empty while the run may continue."""
        if stopping.requested():
            return "user"
        minutes = self.recipe.limits.minutes
        if not self.stop_reason and minutes is not None and self.progress.seconds > minutes * 60:
            self.stop_reason = "time"
        limits, progress = self.recipe.limits, self.progress
        if not self.stop_reason and progress.settled >= limits.min_yield_after:
            share = progress.yield_share
            if share is not None and share < limits.min_yield:
                self.stop_reason = "yield"
        traits = self.method.traits(self.recipe)
        refused = progress.refused_share > traits.max_refusals
        if not self.stop_reason and progress.settled >= REFUSALS_AFTER and refused:
            self.stop_reason = "refusals"
        if not self.stop_reason and self.agreement.below_chance:
            self.stop_reason = "disagreement"
        if not self.stop_reason and limits.out_of_reach == "stop" and progress.settled >= self.next_look:
            self.next_look = progress.settled + LOOK_EVERY
            self.outlook = out_of_reach(
                progress.labels(),
                progress.rooms(limits),
                wanted=sum(progress.wanted.values()),
                together=traits.together,
            )
            self.stop_reason = "out_of_reach" if self.outlook else ""
        return self.stop_reason


def candidate_id(slot: Slot) -> str:
    """The id of the slot's candidate."""
    return "c_" + stable_hash(slot.id)


class CallRecorder:
    """Forwards calls and records each for the lake."""

    def __init__(self, call: Ask, run_id: str, candidate_id: str) -> None:
        self._call, self._run_id, self._candidate_id = call, run_id, candidate_id
        self.calls: list[Call] = []

    async def ask(self, request: CallRequest) -> Reply:
        """The gateway's reply; its errors are recorded and re-raised. Cancelled if the process stops."""
        stopping.call_off()
        try:
            reply = await self._call(request)
        except CallFailed as failure:
            self.calls.append(self._record(request, None, failure))
            raise
        self.calls.append(self._record(request, reply, None))
        return reply

    def _record(self, request: CallRequest, reply: Reply | None, failure: CallFailed | None) -> Call:
        usage = reply.usage if reply else None
        return Call.model_construct(
            key=reply.key if reply else request.key(),
            run_id=self._run_id,
            candidate_id=self._candidate_id,
            role=request.role,
            purpose=request.purpose,
            model=request.model.name,
            provider=request.model.provider,
            served_model=reply.served_model if reply else None,
            revision=request.model.revision,
            request=request_json(request),
            reply=reply.text if reply else (failure.raw if failure else None),
            failure=cast("FailureCode", failure.code) if failure else None,
            prompt_tokens=usage.prompt_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            cached_tokens=usage.cached_tokens if usage else None,
            price_usd=reply.price_usd if reply else None,
            latency_s=reply.latency_s if reply else 0.0,
            attempts=reply.attempts if reply else 0,
            cached=reply.cached if reply else False,
            at=utc_now(),
        )


def request_json(request: CallRequest) -> str:
    """The request as JSON: messages and sampling, without address and key."""
    asked: dict[str, Any] = {
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "prompt": request.prompt,
        "json_schema": request.json_schema,
        "choices": request.choices,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
        "stop": request.stop,
        "seed": request.seed,
        "sample": request.sample,
    }
    return orjson.dumps({name: value for name, value in asked.items() if value not in (None, (), [])}).decode()


def models_used(recipe: Recipe) -> tuple[ModelSpec, ...]:
    """Every model of the pool that a role of the recipe may draw, in the recipe's order."""
    names = {model.name for role in method_of(recipe).roles_of(recipe) for model in recipe.models_for(role)}
    return tuple(model for model in recipe.models if model.name in names)


def weighed(recipe: Recipe, home: Home) -> Recipe:
    """The recipe with the hash of its local models' weights, which is part of every call's key and of the run's id.

    Takes seconds if a large file is new. Raises ModelUnreachable if a model's file is absent or differs from the hash
    in the recipe.
    """
    used = models_used(recipe)
    models = tuple(
        model.model_copy(update={"weights": weights_of(model, home)}) if model in used else model
        for model in recipe.models
    )
    return recipe.model_copy(update={"models": models})


@asynccontextmanager
async def open_gateway(
    recipe: Recipe,
    home: Home,
    say: Say,
    since: float = 0.0,
    run_id: str = "",
    recorded: Mapping[str, float] | None = None,
) -> AsyncIterator[Gateway]:
    """The gateway, with embedded servers started and every endpoint checked. Stopped at the end.

    `since` (unix seconds) is when the run began. With `run_id` the recipe's caps hold over all processes of the run;
    `recorded` is the spending in the lake (`spent_in`).
    """
    from graft.agents.gateway import RoleRules, check_endpoint
    from graft.agents.gateway.telemetry import Telemetry
    from graft.agents.local.servers import embedded_servers

    limits = recipe.limits
    used = models_used(recipe)
    agent.check_models(used, recipe.name)
    async with embedded_servers([model for model in used if model.provider == "embedded"], home, say) as endpoints:
        problems = [problem for model in used if (problem := await check_endpoint(model, endpoints))]
        if problems:
            from graft.schemas.errors import ModelUnreachable

            raise ModelUnreachable("; ".join(problems), fix="start the server, or correct `models` in the recipe")
        async with Gateway(
            journal=home.journal,
            endpoints=endpoints,
            concurrency=limits.concurrency,
            money_usd=limits.money_usd,
            tokens=limits.tokens,
            hedge=limits.hedge,
            roles={role: RoleRules(spec.cache, spec.batch, spec.money_usd) for role, spec in recipe.roles.items()},
            since=since,
            run=run_id,
            recorded=recorded,
            students=student_judge(home),
            telemetry=(telemetry := Telemetry.find(say)),
        ) as gateway:
            if gateway.ledger.used_before:
                say(gateway.ledger.used_before)
            try:
                with telemetry.span("graft.run", dataset=recipe.name, method=recipe.method.kind):
                    yield gateway
            finally:
                await asyncio.to_thread(telemetry.close)


def spent_in(lake: Lake, run_id: str) -> dict[str, float]:
    """Money, tokens and each role's money spent by a run, from the lake's records, by the cap's field.

    Each call that the run made itself counts once; calls from the journal are free.
    """
    from graft.agents.gateway.ledger import MONEY, TOKENS, role_cap

    found = lake.query(
        """SELECT role, sum(price)::DOUBLE AS usd, sum(tokens)::DOUBLE AS tokens
           FROM (SELECT key, any_value(role) AS role, max(price_usd) AS price,
                        max(prompt_tokens + completion_tokens) AS tokens
                 FROM lake.calls WHERE run_id = ? AND NOT cached GROUP BY key) GROUP BY role""",
        [run_id],
    )
    spent = {role_cap(row["role"]): row["usd"] or 0.0 for row in found}
    return {MONEY: sum(spent.values()), TOKENS: sum(row["tokens"] or 0.0 for row in found), **spent}


@contextmanager
def run_lock(home: Home, run_id: str) -> Any:
    """Lock the run: only one process may work on it; the error names the holder."""
    folder = home.run(run_id)
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / "lock"), folder / "holder"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = holder.read_text() if holder.exists() else "another process"
        raise AlreadyRunning(
            f"run {run_id} is already running ({who})", fix="wait for it, or watch it with: graft status"
        ) from None
    try:
        holder.write_text(f"pid {os.getpid()} since {time.strftime('%H:%M:%S')}")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


_open: dict[str, RunContext] = {}


def enter(context: RunContext) -> None:
    """Register the context for its run's tasks."""
    _open[context.run_id] = context


def leave(context: RunContext) -> None:
    """Forget the context."""
    _open.pop(context.run_id, None)


def run_context_of(run_id: str) -> RunContext:
    """The context of a run in this process."""
    if run_id not in _open:
        raise GraftError(
            f"run {run_id} is not open in this process", fix="run the whole flow again; finished work is not repeated"
        )
    return _open[run_id]


def models_with_licences(recipe: Recipe) -> Mapping[str, str]:
    """Model name to licence; a licence that the recipe does not state is named so."""
    return {model.name: model.licence or NOT_STATED for model in models_used(recipe)}
