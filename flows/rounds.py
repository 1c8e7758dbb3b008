"""What happens around the shards of a round: seeds prepared, judges calibrated, exemplars grown."""

from __future__ import annotations

import asyncio
from typing import Any

from graft.agents.methods import Ask, Place
from graft.agents.methods.calibrate import calibrate_judges, judges
from graft.agents.methods.harmaug import measure_refusals, variants
from graft.agents.roles.summariser import prepare_seeds, summarise
from graft.data.lake import Lake
from graft.data.mixing import method_report, told
from graft.data.versions import version as find_version
from graft.flows.plan import ShardSpec, plan_shards
from graft.flows.run_context import CallRecorder, RunContext
from graft.schemas.base import stable_hash
from graft.schemas.methods import HarmAugSettings
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Seed, Slot

MEASURED_FROM = 1_000_000
"""Index of the first message that is written to count refusals only."""
RESUMABLE = ("time", "user")
"""Reasons after which the same recipe goes on where it stopped; after any other it has ended."""
CAPPED = ("budget", "out_of_reach")
"""Reasons after which it goes on where a cap was changed."""


def already_done(lake: Lake, run_id: str, recipe: Recipe) -> dict[str, Any] | None:
    """The result of this run where it ended before and a rerun would change nothing."""
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
        "method": told(report) if (report := method_report(lake, run_id)) else "",
        "repeated": True,
    }


def funnel(lake: Lake, run_id: str) -> list[dict[str, Any]]:
    """Candidates by how they ended and why, most frequent first. Counts only, never a text."""
    return [
        {"status": status, "route": route, "code": code, "rows": rows}
        for status, route, code, rows, _ in lake.reasons(run_id)
    ]


def shards(recipe: Recipe, round_index: int, attempt: int, wanted: dict[str, int], left: int) -> list[ShardSpec]:
    """The shards of one pass over a round; a top-up's shards are numbered after all earlier ones."""
    specs = plan_shards(recipe, round_index, wanted, left)
    return [spec.model_copy(update={"shard": spec.shard + 10_000 * attempt}) for spec in specs]


async def prepare(context: RunContext) -> None:
    """Seeds get their domain, keywords and summary (instruction), or judges are tried and calibrated (labels)."""
    recorder = CallRecorder(context.gateway.call, context.run_id, "")
    seeds = list(context.seeds)
    if not context.recipe.task.labelled:
        seeds = await prepare_seeds(recorder.ask, context.recipe, seeds)
        context.seeds = seeds
    context.pool = {label.name: [] for label in context.recipe.task.categories}
    shown = context.recipe.steering.exemplars if context.recipe.steering else ()
    for seed in (*seeds, *(Seed.of(row.text, row.label, row.response) for row in shown)):
        context.pool.setdefault(seed.label, []).append(seed)
    if judges(context.recipe, context.method.roles(context.recipe)):
        found = await calibrate_judges(context.method, context.context(recorder.ask), _first_slots(context))
        context.calibration, context.by_name = found.means, found.by_name
        for model in sorted(found.by_name):
            context.say(f"{model} gives no log-probabilities: its label counts as a vote")
    if isinstance(context.recipe.method, HarmAugSettings):
        context.figures |= await _refusals(context, context.recipe.method.measure_refusals, recorder.ask)
    await _keep_calls(context, "prepare", recorder)


async def _refusals(context: RunContext, count: int, ask: Ask) -> dict[str, int]:
    """Harmful messages of their own index range, so that comparing takes nothing from the shards' draws."""
    parts, refused = len(variants(context.recipe)), context.recipe.task.sides[0]
    places = (Place(context.run_id, 0, 0, parts * (MEASURED_FROM + index), refused) for index in range(count))
    slots = [context.method.make_slot(place, context.drawn) for place in places]
    return await measure_refusals(context.context(ask), slots)


def _first_slots(context: RunContext) -> list[Slot]:
    count = getattr(context.recipe.method, "calibration_texts", 0)
    labels = [label for label, wanted in context.recipe.wanted().items() if wanted]
    return [
        context.method.make_slot(
            Place(context.run_id, 0, 0, place // len(labels), labels[place % len(labels)]), context.drawn
        )
        for place in range(count)
    ]


async def grow_pool(context: RunContext, chosen: list[Candidate]) -> None:
    """What a round accepted joins the exemplars: with keywords and a summary for instructions."""
    if not context.recipe.task.labelled:
        recorder = CallRecorder(context.gateway.call, context.run_id, "")
        rows = await asyncio.gather(*(summarise(recorder.ask, context.recipe, candidate) for candidate in chosen))
        await _keep_calls(context, "grow", recorder)
    else:
        rows = [Seed.of(candidate.text, candidate.label, candidate.response) for candidate in chosen]
    for row in rows:
        context.pool.setdefault(row.label, []).append(row)


async def _keep_calls(context: RunContext, step: str, recorder: CallRecorder) -> None:
    if recorder.calls:
        batch_id = f"{step}.{stable_hash(sorted(call.key for call in recorder.calls))}"
        await asyncio.to_thread(context.lake.commit, context.run_id, batch_id, [], recorder.calls)
