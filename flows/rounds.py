"""Work around the shards of a round: prepare seeds, calibrate judges, extend exemplars."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from graft.agents.methods import Ask, report_of
from graft.data.lake import Lake
from graft.data.versions import version as find_version
from graft.flows.dedup import missing
from graft.flows.plan import ShardSpec, plan_shards
from graft.flows.run_context import CallRecorder, RunContext
from graft.schemas.base import stable_hash
from graft.schemas.calls import CallRequest, Reply
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Accepted

ATTRIBUTES = "attributes.json"
"""File in a run's folder with the attributes that its method proposed."""
RESUMABLE = ("time", "user")
"""Reasons after which the same recipe continues; after any other the run has ended."""
CAPPED = ("budget", "out_of_reach")
"""Reasons after which it continues if a cap was changed."""


def already_done(lake: Lake, run_id: str, recipe: Recipe) -> dict[str, Any] | None:
    """The result of this run if it has ended and a rerun would change nothing."""
    run = lake.run(run_id)
    if run is None or run.version is None or run.status not in ("finished", "partial"):
        return None
    now = recipe.model_dump(mode="json")
    recapped = any(run.recipe.get(part) != now[part] for part in ("limits", "roles"))
    if run.status == "partial" and (run.stopped_by in RESUMABLE or (recapped and run.stopped_by in CAPPED)):
        return None
    published = find_version(lake, f"{run.dataset}@{run.version}")
    return {
        "run": run.model_dump(mode="json"),
        "version": published.model_dump(mode="json"),
        "funnel": funnel(lake, run_id),
        "method": report.text if (report := report_of(run, lake.query)) else "",
        "repeated": True,
    }


def funnel(lake: Lake, run_id: str) -> list[dict[str, Any]]:
    """Candidates by outcome and reason, most frequent first. Counts only, never a text."""
    return [
        {"status": status, "route": route, "code": code, "rows": rows}
        for status, route, code, rows, _ in lake.reasons(run_id)
    ]


def shards(recipe: Recipe, round_index: int, attempt: int, wanted: dict[str, int], left: int) -> list[ShardSpec]:
    """The shards of one pass over a round; a top-up's shards are numbered after all earlier ones."""
    specs = plan_shards(recipe, round_index, wanted, left)
    return [spec.model_copy(update={"shard": spec.shard + 10_000 * attempt}) for spec in specs]


async def prepare(context: RunContext) -> None:
    """Let the method prepare seeds and its own state; group them by label."""
    recorder = CallRecorder(context.gateway.call, context.run_id, "")
    context.seeds = await context.method.prepare_seeds(context.context(_counted(context, recorder.ask)))
    context.pool = {label.name: [] for label in context.recipe.task.categories}
    for seed in context.seeds:
        context.pool.setdefault(seed.label, []).append(seed)
    await _keep_calls(context, "prepare", recorder)
    await calibrate(context)


async def calibrate(context: RunContext) -> None:
    """Let the method prepare for the round that begins, such as by calibrating its judges."""
    recorder = CallRecorder(context.gateway.call, context.run_id, "")
    first = context.texts and not context.round  # these calls are the first texts' labels
    context.progress.stage = "labelling the first texts" if first else "calibrating judges"
    memory = context.home.run(context.run_id) / ATTRIBUTES
    context.attributes = context.attributes or _read_attributes(memory)
    given = context.context(_counted(context, recorder.ask), context.gates)
    wanted = context.method.wanted(context.recipe)
    complete = frozenset(wanted) - frozenset(missing(context.kept, wanted))
    found = await context.method.prepare(given, replace(context.drawn, complete=complete))
    if found.attributes and found.attributes != context.attributes:
        context.attributes = found.attributes
        _keep_attributes(memory, found.attributes)
    context.calibration, context.by_name = context.calibration | found.calibration, found.by_name
    context.bounds = found.bounds
    context.figures |= found.figures
    for model in sorted(found.by_name):
        context.say(f"{model} returns no log-probabilities: its label counts as a vote")
    for note in found.notes:
        context.say(note)
        context.notes.append(note)
    await _keep_calls(context, f"prepare{context.round or ''}", recorder)


def _read_attributes(memory: Path) -> dict[str, tuple[str, ...]]:
    """The attributes that an earlier start of the run kept; empty if there are none."""
    try:
        kept = json.loads(memory.read_text(encoding="utf-8"))
        return {str(name): tuple(map(str, values)) for name, values in kept.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _keep_attributes(memory: Path, attributes: Mapping[str, tuple[str, ...]]) -> None:
    """Every start of the run draws from the same attributes, even if the journal has lost the reply."""
    beside = memory.with_suffix(".tmp")
    beside.write_text(json.dumps(attributes, ensure_ascii=False), encoding="utf-8")
    beside.replace(memory)


def _counted(context: RunContext, ask: Ask) -> Ask:
    """Forward calls and show in the run's stage how many of those begun have ended."""
    stage, begun, ended = context.progress.stage, 0, 0

    async def counted(request: CallRequest) -> Reply:
        nonlocal begun, ended
        begun += 1
        try:
            return await ask(request)
        finally:
            ended += 1
            context.progress.stage = f"{stage} {ended}/{begun}"

    return counted


async def grow_pool(context: RunContext, chosen: list[Accepted]) -> None:
    """Add a round's accepted rows to the exemplars, as the method shows them."""
    recorder = CallRecorder(context.gateway.call, context.run_id, "")
    given = context.context(recorder.ask)
    whole = await asyncio.to_thread(context.lake.named, context.run_id, [row.id for row in chosen])
    in_order = {candidate.id: candidate for candidate in whole}
    rows = await asyncio.gather(*(context.method.exemplar(in_order[row.id], given) for row in chosen))
    await _keep_calls(context, "grow", recorder)
    for row in rows:
        context.pool.setdefault(row.label, []).append(row)


async def _keep_calls(context: RunContext, step: str, recorder: CallRecorder) -> None:
    if recorder.calls:
        batch_id = f"{step}.{stable_hash(sorted(call.key for call in recorder.calls))}"
        await asyncio.to_thread(context.lake.commit, context.run_id, batch_id, [], recorder.calls)
