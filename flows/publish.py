"""The end of a run: splits, card, version, artifacts, and the run's own record."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from graft.data.card import render_card
from graft.data.documents.kept import of_run
from graft.data.lake import Lake
from graft.data.quality.judged import PRICED, calls_once
from graft.data.spending import by_model
from graft.data.splits import assign_splits
from graft.data.verdicts import verdict_of
from graft.data.versions import NothingLeft, publish
from graft.data.versions import version as find_version
from graft.data.withdrawn import withdrawn
from graft.flows import artifacts, logs, rounds
from graft.flows.dedup import split_clusters
from graft.flows.feasibility import Feasibility, advice_for, figure
from graft.flows.run_context import RunContext, Say, models_with_licences
from graft.schemas.base import utc_now
from graft.schemas.datasets import DatasetVersion, Row, Run, RunStatus
from graft.schemas.errors import JudgesDisagree, YieldTooLow
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Accepted, Status
from graft.schemas.sections import Section
from graft.schemas.verdict import section

TRIAL = "a trial: a lower target than the recipe's, so that latest does not mean this version while there is another"
"""Note of a trial's version."""
End = Callable[[Sequence[Accepted | Row]], Run]
"""The run's record at its end, with these rows published."""


async def finish(context: RunContext, run: Run, kept: list[Accepted], surplus: int, say: Say) -> dict[str, Any]:
    """Publish the kept rows and report missing rows. Returns run and version as plain dicts."""
    chosen, origins = len(kept), [(candidate.id, run.id, candidate.id) for candidate in kept]
    gone = await asyncio.to_thread(withdrawn, context.lake, run.dataset, origins)
    kept = [candidate for candidate in kept if (candidate.id, run.id) not in gone]
    end: End = lambda rows: _ended(context, run, rows, chosen, surplus)  # noqa: E731
    ended, published = end(kept), None
    stopped_by = ended.stopped_by
    if stopped_by not in ("target", "texts", "interval", "seeds"):
        logs.stopped_early(stopped_by, ended.counts["opened"], len(kept), context.progress.total_wanted)
    funnel = rounds.funnel(context.lake, run.id)
    report = context.method.report(context.lake.query, run.id, ended.counts)
    if kept:
        say("publishing")
        try:
            ended, published = await _publish(context, ended, kept, end, funnel, report)
        except NothingLeft:
            ended = end([])
        else:
            ended = ended.model_copy(update={"version": published.version})
            logs.published(run.dataset, published.version, ended.counts["published"], ended.price_usd)
    run = ended
    context.lake.save_run(run)
    await artifacts.leave(run.dataset, published.card if published else _nothing(run), funnel)
    if stopped_by == "refusals":
        raise _refused(context, run)
    if stopped_by == "disagreement":
        raise _disagreeing(context, run)
    if stopped_by == "out_of_reach" and context.outlook is not None:
        raise _out_of_reach(context, run, context.outlook)
    if stopped_by == "yield" and not kept:
        raise _too_low(context, run)
    return {
        "run": run.model_dump(mode="json"),
        "version": published.model_dump(mode="json") if published else None,
        "funnel": funnel,
        "method": report.text if report else "",
        "repeated": False,
        "notes": [*context.gateway.stats.notes, *context.notes],
    }


def _ended(context: RunContext, run: Run, kept: Sequence[Accepted | Row], chosen: int, surplus: int) -> Run:
    """The run's record at its end, with these rows published of the `chosen` ones: recalls took the others."""
    have, wanted = Counter(row.label for row in kept), context.method.wanted(context.recipe)
    shortfall = {label: n - have[label] for label, n in wanted.items() if have[label] < n}
    short = len(kept) < chosen
    whole = "target" if wanted else "interval" if context.enough else "texts"
    used = "seeds" if shortfall.keys() <= context.spent else "candidates"
    counts = {
        **context.lake.counts(run.id),
        "published": len(kept),
        "surplus": surplus,
        "overshoot": context.progress.overshoot,
        **context.figures,
    }
    return run.model_copy(
        update={
            "status": "partial" if shortfall or (context.stop_reason and not wanted) else "finished",
            "stopped_by": context.stop_reason or (whole if not shortfall else "recall" if short else used),
            "shortfall": shortfall,
            "counts": counts,
            "ended_at": utc_now(),
            "seconds": round(context.progress.seconds, 2),
            "calls_cached": context.gateway.stats.cached,
            **_totals(context.lake, run.id),
        }
    )


def cut_short(lake: Lake, run: Run, status: RunStatus, stopped_by: str) -> Run:
    """The record of a run that published nothing, with the candidates and calls that are in the lake."""
    ended = utc_now()
    return run.model_copy(
        update={
            "status": status, "stopped_by": stopped_by, "ended_at": ended, "counts": lake.counts(run.id),
            "seconds": round((ended - run.started_at).total_seconds(), 2), **_totals(lake, run.id),
        }
    )  # fmt: skip


async def _publish(
    context: RunContext,
    run: Run,
    kept: list[Accepted],
    end: End,
    funnel: list[dict[str, Any]],
    report: Section | None,
) -> tuple[Run, DatasetVersion]:
    """The version, and the run's record with the rows that it holds: a recall may take some until the last moment."""
    embed, _ = await asyncio.to_thread(context.vectors.find)
    groups, note = await split_clusters(kept, context.method, embed, context.recipe.splits.train)
    context.notes += [note] if note else []
    splits = assign_splits(
        [(c.id, c.text, c.label, groups[c.id]) for c in kept], context.recipe.splits, context.recipe.seed
    )
    rows = [
        Row(
            id=c.id, text=c.text, response=c.response, label=c.label, split=splits[c.id], restricted=c.restricted,
            source="labelled" if c.given else "synthetic", data=c.data,
        )
        for c in sorted(kept, key=lambda c: c.id)
    ]  # fmt: skip
    reasons = [(row["status"], row["code"], row["rows"]) for row in funnel]
    roles = context.method.roles_of(context.recipe)
    writing = [role for role in roles if context.recipe.writes(role)]
    generators = {model.name for role in writing for model in context.recipe.models_for(role)}
    public = Recipe.stored(run.recipe)  # as stored in the lake: without keys
    ended, looked = run, verdict_of(context.home, context.recipe, context.seeds)
    verdict, documents = section(looked) if looked else None, of_run(context.lake, run.id)
    uses = by_model(context.lake, run_id=run.id)

    def card(standing: Sequence[Row]) -> str:
        nonlocal ended
        ended = run if len(standing) == len(rows) else end(standing)
        return render_card(
            run=ended, recipe=public, rows=standing, seeds=len(context.seeds), reasons=reasons, generators=generators,
            method=report, verdict=verdict, roles=roles, documents=documents, uses=uses,
        )  # fmt: skip

    steering, models = context.recipe.steering, dict(models_with_licences(public))
    carried = find_version(context.lake, f"{run.dataset}@{steering.after}") if steering else None
    published = publish(
        context.lake, run=run, rows=rows, models={**(carried.models if carried else {}), **models},
        seeds=len(context.seeds), card=card, partial=run.status == "partial", carried=carried,
        origin="trial" if context.trial else "run", note=TRIAL if context.trial else "",
    )  # fmt: skip
    return ended, published


def _totals(lake: Lake, run_id: str) -> dict[str, Any]:
    """Calls, tokens and price of the run's rows: each call once, at its cost when it was made."""
    more = "coalesce(max(prompt_tokens), 0) AS prompt, coalesce(max(completion_tokens), 0) AS completion"
    [row] = lake.query(
        f"""SELECT count(*) AS calls, coalesce(sum(prompt), 0)::BIGINT AS prompt_tokens,
                   coalesce(sum(completion), 0)::BIGINT AS completion_tokens, {PRICED} AS price_usd
            FROM ({calls_once("run_id = ?", more=more)})""",
        [run_id],
    )
    return {**row, "price_usd": None if row["price_usd"] is None else float(row["price_usd"])}


def _too_low(context: RunContext, run: Run) -> YieldTooLow:
    limits, least = context.recipe.limits, context.method.least_score
    lower = f"a lower method.{least}, " if least else ""
    return YieldTooLow(
        f"stopped after {run.counts['opened']} candidates: {run.counts['accepted']} accepted, under limits.min_yield "
        f"{limits.min_yield:g}. Three of them:\n" + "\n".join(_examples(context, run)),
        where=run.dataset,
        fix=f"see the reasons above: try another generator, {lower}or a higher max_tokens",
    )


def _examples(context: RunContext, run: Run) -> list[str]:
    """Up to three candidates that were not accepted, and why; of restricted ones the code alone."""
    statuses: tuple[Status, ...] = ("rejected", "failed")
    found = [c for status in statuses for c in context.lake.iter_candidates(run.id, status, limit=3)]
    return [
        f"    (restricted): {candidate.decision.code}"
        if candidate.restricted
        else f"    {candidate.text[:200]!r}: {candidate.decision.reason}"
        for candidate in found[:3]
    ]


def _out_of_reach(context: RunContext, run: Run, outlook: Feasibility) -> YieldTooLow:
    progress, has = context.progress, figure(outlook.cap, outlook.has)
    short = ", ".join(f"{label} {count}" for label, count in run.shortfall.items())
    published = "accepted rows are published" if run.version else "nothing was accepted"
    examples = _examples(context, run)
    return YieldTooLow(
        f"stopped after {progress.settled} candidates: the target needs about {figure(outlook.cap, outlook.takes)} "
        f"(at best {figure(outlook.cap, outlook.at_least)}), and {outlook.cap} is {has}. "
        f"{run.counts['accepted']} of {run.counts['opened']} were accepted; still missing: {short}; {published}."
        + ("\nNot accepted, for example:\n" + "\n".join(examples) if examples else ""),
        where=run.dataset,
        fix=advice_for(outlook, context.recipe.target.rows_per_label),
    )


def _refused(context: RunContext, run: Run) -> YieldTooLow:
    share = context.progress.refused_share
    return YieldTooLow(
        f"stopped after {context.progress.settled} candidates: the generator refused {share:.0%} of them, more than "
        f"method.max_refusals allows; accepted rows are published",
        where=run.dataset,
        fix=context.method.traits(context.recipe).refusal_fix
        + "name another generator, or a base model (style: completion), which refuses nothing",
    )


def _disagreeing(context: RunContext, run: Run) -> JudgesDisagree:
    agreement, lines = context.agreement, list[str]()
    for name, means in agreement.disputes():
        found = context.lake.candidate(run.id, name)
        if found is not None:
            text = "(restricted)" if found.restricted else repr(found.text[:200])
            scores = ", ".join(f"{model} {mean:.1f}" for model, mean in sorted(means.items()))
            lines.append(f"    {text} written for {found.slot.label}: {scores}")
    published = "accepted rows are published" if run.version else "nothing was accepted"
    return JudgesDisagree(
        f"stopped after {context.progress.settled} candidates: the reviewers agree less than chance (Krippendorff's "
        f"alpha {agreement.alpha:.2f} over {len(agreement.units)} candidates that all of them judged); {published}. "
        "Three that they disagree on:\n" + "\n".join(lines),
        where=run.dataset,
        fix="describe the labels more sharply, name larger judges, or measure the judges with graft teacher; "
        "label_policy: intended under method keeps labels unjudged, agreement_after: 0 turns this check off",
    )


def _nothing(run: Run) -> str:
    return f"# {run.dataset}\n\nNothing was accepted; stopped by {run.stopped_by}."
