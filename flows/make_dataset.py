"""The flow that makes a dataset: plan, shards as tasks, rounds of de-duplication, a published version.

Parameters are a recipe's name and a few plain overrides, so that Prefect's form and a schedule can give them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graft.agents.local import hub
from graft.agents.methods import Place, fragments_of, method_of
from graft.data.gates import Admission, Needs
from graft.data.lake import Lake
from graft.data.seeds import register_evaluation_files
from graft.flows import artifacts, batches, given, live, logs, pause, rounds, stopping
from graft.flows.agents import rows_reserved
from graft.flows.collector import calm_collector
from graft.flows.dedup import choose, missing, redecide, settle_round
from graft.flows.engine import Flow, flow_run, task
from graft.flows.more import is_trial, published, read_more
from graft.flows.neighbours import find_neighbours
from graft.flows.plan import (
    Finished,
    ShardSpec,
    apply_overrides,
    fresh_seed,
    keep_report,
    plan_rounds,
    plan_texts,
    read_report,
    report_file,
    run_id_of,
)
from graft.flows.progress import Progress, begin, current
from graft.flows.publish import cut_short, finish
from graft.flows.run_context import (
    RunContext,
    Say,
    enter,
    leave,
    models_used,
    open_gateway,
    run_context_of,
    run_lock,
    spent_in,
    weighed,
)
from graft.flows.selecting import selected
from graft.flows.streaming import ShardRunner
from graft.flows.vectors import AcceptedVectors
from graft.schemas import agent
from graft.schemas.base import stable_hash, utc_now
from graft.schemas.calls import Call
from graft.schemas.datasets import Run
from graft.schemas.errors import GraftError
from graft.schemas.home import Home
from graft.schemas.kinds import code_version
from graft.schemas.models import hub_name
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Accepted, Candidate, Seed, Slot
from graft.students.judge import student_judge
from graft.students.perplexity import perplexities

SHARDS_AT_ONCE = 2
"""Shards that run at once, so that the next shard's first slots fill the gap left by a shard's last slots."""

ENDED = ("target", "texts", "seeds", "candidates")
"""Reasons for which a shard ends by itself; any other is a halt, and the shard resumes with the run."""

TEXTS_SEEN = 64
"""A person's texts that gates may compare written ones with."""
TOP_UPS = 3
"""Maximum top-ups of a round for rows lost to de-duplication."""


@Flow
async def make_dataset(
    recipe: str,
    rows_per_label: int | None = None,
    seed: int | None = None,
    money_usd: float | None = None,
    minutes: float | None = None,
    fresh: bool = False,
    more: int | None = None,
) -> dict[str, Any]:
    """Make (or continue) the dataset of a recipe and publish it as a version.

    Returns the run and the version as plain dicts; `version` is None if nothing was accepted. A recipe with `review`
    waits for people once its version is published, and returns the version with their edits. Raises GraftError
    subclasses.

    Args:
        recipe: path of a recipe, or the bare name of one
        rows_per_label: target of accepted rows for each label, instead of the recipe's
        seed: random seed instead of the recipe's; another seed makes other rows
        money_usd: US dollars at most, instead of the recipe's
        minutes: minutes at most, instead of the recipe's
        fresh: draw a new seed for this scheduled run, so that it makes new rows
        more: accepted rows beyond those of the dataset's latest version, spread as the recipe's target is
    """
    if fresh:
        seed = fresh_seed(_scheduled_moment())
    overrides = apply_overrides(rows_per_label, seed, money_usd, minutes)
    file, loaded, seeds = await asyncio.to_thread(read_more, recipe, overrides, more, Home.find())
    trial = rows_per_label is not None and await asyncio.to_thread(is_trial, loaded, file)
    result = await make_run(loaded, file, seeds, trial=trial)
    if loaded.review is None:
        return result
    return await pause.review(Home.find(), loaded.review, result, _say_now)


async def make_run(
    loaded: Recipe, file: Path, seeds: list[Seed], home: Home | None = None, *, trial: bool = False
) -> dict[str, Any]:
    """Run a loaded recipe inside any flow, by default in GRAFT_HOME, like `make_dataset`; `trial` marks it."""
    home = home or Home.find()
    loaded = await asyncio.to_thread(weighed, await downloaded(loaded, file, home), home)
    run_id = run_id_of(loaded, seeds, *await asyncio.to_thread(given.digests, loaded, file))
    with run_lock(home, run_id), Lake.open(home) as lake:
        done = rounds.already_done(lake, run_id, loaded)
        if done is not None:
            artifacts.say(f"nothing changed: {done['version']['dataset']}@{done['version']['version']} holds this run")
            return done
        kept_log = logs.run_log(home, run_id, loaded.key_variables)
        with rows_reserved(home, lake, run_id, loaded, file), kept_log:
            return await _make(loaded, file, seeds, home, lake, run_id, trial)


async def downloaded(recipe: Recipe, file: Path, home: Home) -> Recipe:
    """The recipe with the hashes of models from a hub, which are downloaded first."""
    if not any(hub_name(model) for model in models_used(recipe)):
        return recipe
    progress = begin(Progress(recipe.name, "", method_of(recipe).wanted(recipe)))
    models = await hub.fetch(recipe.models, file, home, lambda text: _say(progress, text))
    return recipe.model_copy(update={"models": models})


async def _make(
    recipe: Recipe, file: Path, seeds: list[Seed], home: Home, lake: Lake, run_id: str, trial: bool
) -> dict[str, Any]:
    local = all(model.local for model in models_used(recipe))
    progress = begin(Progress(recipe.name, run_id, method_of(recipe).wanted(recipe), local=local))
    say: Say = lambda text: _say(progress, text)  # noqa: E731
    texts = await asyncio.to_thread(given.read_given, recipe, file, home.run(run_id), say)
    chosen = batches.of_run(recipe, seeds, texts.rows, home.run(run_id), say)
    progress.texts = chosen.most if chosen else len(texts.rows)
    before = lake.run(run_id)
    run = Run(
        id=run_id,
        dataset=recipe.name,
        recipe=recipe.model_dump(mode="json"),
        recipe_file=str(file),
        status="running",
        started_at=before.started_at if before else utc_now(),
        by=before.by if before else agent.by(),
        code_version=code_version(recipe.kinds),
        neighbours=before.neighbours if before else {},
    )
    if before is None:
        run = run.model_copy(update={"neighbours": await asyncio.to_thread(find_neighbours, recipe, seeds, lake, say)})
    await asyncio.to_thread(register_evaluation_files, lake, recipe, file)
    lake.save_run(run)
    lake.add_seeds(run_id, seeds)
    logs.started(recipe.name, recipe.method.kind, progress.total_wanted, again=before is not None)
    try:
        noted = live.noted(home, progress, recipe.key_variables)
        opening = open_gateway(recipe, home, say, run.started_at.timestamp(), run_id, spent_in(lake, run_id))
        async with noted, opening as gateway:
            progress.gateway = lambda: gateway.stats
            library, retrieve = await asyncio.to_thread(given.open_library, recipe, file, lake, run_id, say)
            needs = Needs(
                seeds=seeds, published=published(lake, recipe, run), fragments=fragments_of(recipe),
                evaluation=lake.test_texts(recipe.name), student=student_judge(home), documents=library.texts,
                texts=[row.text for row in texts.rows[:TEXTS_SEEN]], perplexity=perplexities(home, say),
            )  # fmt: skip
            context = RunContext(
                recipe=recipe, run_id=run_id, home=home, lake=lake, gateway=gateway, method=method_of(recipe),
                seeds=seeds, gates=Admission(recipe, needs), progress=progress, library=library, retrieve=retrieve,
                say=say, neighbours=run.neighbours, vectors=AcceptedVectors(home.run(run_id)),
                texts=[] if chosen else list(texts.rows), selection=chosen, figures=dict(texts.counts),
                trial=trial,
            )  # fmt: skip
            enter(context)
            loading = asyncio.create_task(asyncio.to_thread(context.gates.load))
            try:
                with calm_collector():
                    kept, surplus = await _rounds(context, say)
                await loading
                return await finish(context, run, kept, surplus, say)
            finally:
                leave(context)
                context.vectors.abandon()
    except (KeyboardInterrupt, asyncio.CancelledError):
        if _published_by(lake, run_id):
            raise
        lake.save_run(cut_short(lake, run, "interrupted", "user"))
        raise
    except GraftError as error:
        logs.failed(error)
        if _published_by(lake, run_id):
            raise  # it ended early with its accepted rows published: its record stays
        lake.save_run(cut_short(lake, run, "failed", error.what))
        raise


def _published_by(lake: Lake, run_id: str) -> bool:
    ended = lake.run(run_id)
    return ended is not None and ended.version is not None


async def _rounds(context: RunContext, say: Say) -> tuple[list[Accepted], int]:
    """Run every round: given texts, then shards, duplicates, top-ups; a round's rows join the next one's exemplars."""
    say("preparing seeds")
    await asyncio.to_thread(context.choose_texts)
    await rounds.prepare(context)
    left, surplus = context.recipe.limits.candidates, 0
    if context.texts:
        left -= await _label_texts(context, left, say)
    short = context.recipe.made(missing(context.kept, context.method.wanted(context.recipe)))
    context.progress.make(short, context.kept)
    plan = plan_rounds(context.recipe, short)
    for index, wanted in enumerate(plan, context.round):
        accepted = list[Accepted]()
        for attempt in range(TOP_UPS + 1):
            short = {label: n for label, n in missing(accepted, wanted).items() if label not in context.spent}
            if not short or left <= 0 or (attempt and context.stop_reason):
                break
            say(f"round {index + 1}: writing and reviewing" + (f", top-up {attempt}" if attempt else ""))
            specs = rounds.shards(context.recipe, index, attempt, short, left)
            left -= await _run_shards(context, specs)
            say(f"round {index + 1}: settling duplicates")
            accepted += await _settle(context, specs, accepted, context.method.traits(context.recipe).max_cosine)
        chosen, over = choose(accepted, wanted)
        surplus += over
        context.kept.extend(chosen)
        if index < context.round + len(plan) - 1:
            await rounds.grow_pool(context, chosen)
    kept, left_out = await selected(context, say)
    return kept, surplus + left_out


async def _label_texts(context: RunContext, most: int, say: Say) -> int:
    """Label a person's texts; rows written later have them as exemplars. Returns the number of settled candidates."""
    source, begin, settled = context.method.source(context.recipe), 0, 0
    assert source is not None, "without a file of texts there is none to label"
    while begin < (end := min(most, len(context.texts))) and not context.stop_reason:
        after = f" after {begin:,}{context.selection.outlook}" if begin and context.selection else ""
        say(f"labelling {end - begin:,} texts{after}")
        specs = plan_texts(begin, end, source.each)
        settled += await _run_shards(context, specs)
        context.kept.extend(await _settle(context, specs, (), None))
        begin = end
        if not context.stop_reason:
            await asyncio.to_thread(context.choose_texts)
    if context.enough:
        context.progress.texts = begin
    if not context.stop_reason and begin < len(context.texts):
        context.stop_reason = "candidates"
    context.round = 1
    if not context.stop_reason and missing(context.kept, context.method.wanted(context.recipe)):
        await rounds.grow_pool(context, context.kept)
        await rounds.calibrate(context)
    return settled


async def _settle(
    context: RunContext, specs: list[ShardSpec], accepted: Sequence[Accepted], max_cosine: float | None
) -> list[Accepted]:
    """Settle duplicates between these shards' rows, `accepted` ones of the round, and earlier rounds'."""
    embed, why = await asyncio.to_thread(context.vectors.find) if max_cosine is not None else (None, "")
    if why:
        context.say(f"semantic de-duplication is skipped: {why}")
    made = await asyncio.to_thread(context.lake.kept, context.run_id, specs[0].round)
    ours = {spec.shard for spec in specs}
    alive, dropped = await settle_round(
        [*context.kept, *accepted],
        [row for row in made if row.shard in ours],
        method=context.method,
        admission=context.admission(accepted),
        max_cosine=max_cosine,
        embed=embed,
    )
    await asyncio.to_thread(redecide, context.lake, context.run_id, dropped)
    return alive


async def _run_shards(context: RunContext, specs: list[ShardSpec]) -> int:
    """Run all shards of a pass, a few at once. Returns the number of settled candidates."""
    room = asyncio.Semaphore(SHARDS_AT_ONCE)

    async def one(spec: ShardSpec) -> dict[str, Any]:
        async with room:
            return {} if context.halt() else await _one_shard(context, spec)

    tasks = [asyncio.ensure_future(one(spec)) for spec in specs]
    try:
        reports = await asyncio.gather(*tasks)
        stopping.call_off()
        context.spent.update(label for report in reports for label in report.get("spent", ()))
        return sum(report.get("settled", 0) for report in reports)
    finally:
        for pending in tasks:
            pending.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _one_shard(context: RunContext, spec: ShardSpec) -> dict[str, Any]:
    """Make the shard, unless an earlier process finished it. Returns its report."""
    file = report_file(context.home, context.run_id, context.lake.id, spec)
    report = read_report(file)
    if report is None:
        report = await make_shard(context.run_id, spec.model_dump())
        if report["stopped_by"] in ENDED:
            keep_report(file, report)
    context.progress.note_shard((spec.round, spec.shard), report)
    return report


@task(name="make_shard", run_name="shard {spec[round]}.{spec[shard]}")
async def make_shard(run_id: str, spec: dict[str, Any]) -> dict[str, Any]:
    """Make one shard's share of accepted rows. Candidates in the lake are replayed, not repeated.

    A given text that a cap or a server's failure left without a label is tried again: no other slot replaces it.
    """
    context, plan = run_context_of(run_id), ShardSpec.model_validate(spec)
    admission, drawn = context.admission(), context.drawn
    known = {c.slot.id: c for c in context.lake.settled(run_id, plan.round, plan.shard)}
    again = {name for name, c in known.items() if not c.slot.label and c.decision.status == "failed"}
    stored = {name: candidate for name, candidate in known.items() if name not in again}

    def slot_for(label: str, index: int) -> Slot | None:
        place = Place(run_id, plan.shard, plan.round, index, label)
        return None if context.method.spent(place, drawn) else context.method.make_slot(place, drawn)

    async def commit(batch: list[Candidate], calls: list[Call]) -> None:
        batch_id = f"{plan.round}.{plan.shard}.{stable_hash([c.id for c in batch])}"
        tried = [c for c in batch if c.slot.id in again]
        if tried:
            batch_id += f".{stable_hash([c.decision.code for c in tried])}"
        new = [c for c in batch if c.slot.id not in again]
        await asyncio.to_thread(context.lake.commit, run_id, batch_id, new, calls)
        await asyncio.to_thread(context.lake.redecide, run_id, tried)

    def settled(candidate: Candidate) -> None:
        context.progress.note(candidate, (plan.round, plan.shard))
        if context.method.judged_by_all(context.recipe, candidate.slot):
            context.agreement.note(candidate)
        if candidate.accepted:
            context.vectors.later(candidate.text)

    runner = ShardRunner(
        wanted=plan.wanted,
        caps=plan.caps,
        make_slot=slot_for,
        run_slot=lambda slot: context.run_slot(slot, admission),
        admit=lambda c: admission.settle(c.proposal(context.method.text_id(c))),
        commit=commit,
        width=_width(context.recipe),
        stored=stored,
        remember=lambda c: admission.remember(c.proposal(context.method.text_id(c))),
        halt=context.halt,
        on_settled=settled,
    )
    name, began = f"{plan.round}.{plan.shard}", time.monotonic()
    with context.gateway.telemetry.span("graft.shard", shard=name) as span:
        report = await runner.run()
        span.note(stopped_by=report.stopped_by, settled=report.settled)
    accepted = sum(report.accepted.values())
    logs.shard_ended(name, report.stopped_by, report.settled, accepted, time.monotonic() - began)
    if report.stopped_by not in ENDED:
        context.stop_reason = report.stopped_by
    return {name: getattr(report, name) for name in Finished.model_fields}


def _width(recipe: Recipe) -> int:
    """Slots that a shard has open at once: a few more than calls in flight, and many if replies take hours."""
    limits, asked = recipe.limits, method_of(recipe).roles_of(recipe)
    width = max(8, int(limits.concurrency * 1.25))
    return max(width, limits.batch_slots) if any(recipe.role(role).batch for role in asked) else width


def _say(progress: Progress, text: str) -> None:
    progress.stage = text
    artifacts.say(text)


def _say_now(text: str) -> None:
    _say(current() or Progress("", "", {}), text)


def _scheduled_moment() -> str:
    context = flow_run()
    scheduled = context.flow_run.expected_start_time if context is not None and context.flow_run is not None else None
    return str(scheduled or utc_now())
