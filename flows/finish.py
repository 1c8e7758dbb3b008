"""The end of a run: splits, card, version, artifacts, and the run's own record."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from graft.data.card import render_card
from graft.data.mixing import GuardReport, MixReport, method_report, told
from graft.data.splits import assign_splits
from graft.data.versions import NothingLeft, publish
from graft.data.versions import version as find_version
from graft.data.withdrawn import withdrawn
from graft.flows import artifacts, logs, rounds
from graft.flows.outlook import Outlook, advice_for, figure
from graft.flows.settle import find_embed, split_clusters
from graft.flows.workshop import Say, Workshop, models_with_licences
from graft.schemas.base import utc_now
from graft.schemas.datasets import DatasetVersion, Row, Run
from graft.schemas.errors import YieldTooLow
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Status

End = Callable[[Sequence[Candidate | Row]], Run]
"""The run's record at its end, with these rows published."""


async def finish(shop: Workshop, run: Run, kept: list[Candidate], surplus: int, say: Say) -> dict[str, Any]:
    """Publish what was kept and say what is missing. Returns run and version as plain dicts."""
    chosen, origins = len(kept), [(candidate.id, run.id, candidate.id) for candidate in kept]
    gone = await asyncio.to_thread(withdrawn, shop.lake, run.dataset, origins)
    kept = [candidate for candidate in kept if (candidate.id, run.id) not in gone]
    end: End = lambda rows: _ended(shop, run, rows, chosen, surplus)  # noqa: E731
    ended, published = end(kept), None
    stopped_by = ended.stopped_by
    if stopped_by != "target":
        logs.stopped_early(stopped_by, ended.counts["opened"], len(kept), sum(shop.recipe.wanted().values()))
    funnel = rounds.funnel(shop.lake, run.id)
    report = method_report(shop.lake, run.id, ended.counts)
    if kept:
        say("publishing")
        try:
            ended, published = await _publish(shop, ended, kept, end, funnel, report)
        except NothingLeft:
            ended = end([])
        else:
            ended = ended.model_copy(update={"version": published.version})
            logs.published(run.dataset, published.version, ended.counts["published"], ended.price_usd)
    run = ended
    shop.lake.save_run(run)
    await artifacts.leave(run.dataset, published.card if published else _nothing(run), funnel)
    if stopped_by == "refusals":
        raise _refused(shop, run)
    if stopped_by == "out_of_reach" and shop.outlook is not None:
        raise _out_of_reach(shop, run, shop.outlook)
    if stopped_by == "yield" and not kept:
        raise _too_low(shop, run)
    return {
        "run": run.model_dump(mode="json"),
        "version": published.model_dump(mode="json") if published else None,
        "funnel": funnel,
        "method": told(report) if report else "",
        "repeated": False,
        "notes": list(shop.gateway.stats.notes),
    }


def _ended(shop: Workshop, run: Run, kept: Sequence[Candidate | Row], chosen: int, surplus: int) -> Run:
    """The run's record at its end, with these rows published of the `chosen` ones: recalls took the others."""
    have = Counter(row.label for row in kept)
    shortfall = {label: n - have[label] for label, n in shop.recipe.wanted().items() if have[label] < n}
    short = len(kept) < chosen
    counts = {
        **shop.lake.counts(run.id),
        "published": len(kept),
        "surplus": surplus,
        "overshoot": shop.progress.overshoot,
        **shop.figures,
    }
    return run.model_copy(
        update={
            "status": "partial" if shortfall else "finished",
            "stopped_by": shop.stop_reason or ("target" if not shortfall else "recall" if short else "candidates"),
            "shortfall": shortfall,
            "counts": counts,
            "ended_at": utc_now(),
            "seconds": round(shop.progress.seconds, 2),
            "calls_cached": shop.gateway.stats.cached,
            **_totals(shop),
        }
    )


async def _publish(
    shop: Workshop,
    run: Run,
    kept: list[Candidate],
    end: End,
    funnel: list[dict[str, Any]],
    report: MixReport | GuardReport | None,
) -> tuple[Run, DatasetVersion]:
    """The version, and the run's record with the rows that it holds: a recall may take some until the last moment."""
    embed = await asyncio.to_thread(find_embed, lambda text: None)
    groups = await split_clusters(kept, embed)
    splits = assign_splits([(c.id, c.text, c.label, groups[c.id]) for c in kept], shop.recipe.splits, shop.recipe.seed)
    rows = [
        Row(id=c.id, text=c.text, response=c.response, label=c.label, split=splits[c.id], restricted=c.restricted)
        for c in sorted(kept, key=lambda c: c.id)
    ]
    reasons = [(row["status"], row["code"], row["rows"]) for row in funnel]
    roles = shop.method.roles(shop.recipe)
    writing = [role for role in roles if role in ("generator", "responder")]
    generators = {model.name for role in writing for model in shop.recipe.models_for(role)}
    public = Recipe.stored(run.recipe)  # as the lake keeps it: without keys
    ended = run

    def card(standing: Sequence[Row]) -> str:
        nonlocal ended
        ended = run if len(standing) == len(rows) else end(standing)
        return render_card(
            run=ended, recipe=public, rows=standing, seeds=len(shop.seeds), reasons=reasons, generators=generators,
            method=report, roles=roles,
        )  # fmt: skip

    steering, models = shop.recipe.steering, dict(models_with_licences(public))
    carried = find_version(shop.lake, f"{run.dataset}@{steering.after}") if steering else None
    published = publish(
        shop.lake, run=run, rows=rows, models={**(carried.models if carried else {}), **models},
        seeds=len(shop.seeds), card=card, partial=run.status == "partial", carried=carried,
    )  # fmt: skip
    return ended, published


def _totals(shop: Workshop) -> dict[str, Any]:
    """Calls, tokens and price of the run's rows: each call once, at what it cost when it was made."""
    row = shop.lake.sql(
        """SELECT count(*) AS calls, coalesce(sum(prompt), 0) AS prompt, coalesce(sum(completion), 0) AS completion,
                  sum(price) AS price, count(*) FILTER (price IS NULL AND answered) AS unknown
           FROM (SELECT key, max(prompt_tokens) AS prompt, max(completion_tokens) AS completion,
                        max(price_usd) AS price, bool_or(failure IS NULL) AS answered
                 FROM lake.calls WHERE run_id = ? GROUP BY key)""",
        [shop.run_id],
    ).to_pylist()[0]
    return {
        "calls": int(row["calls"]),
        "prompt_tokens": int(row["prompt"]),
        "completion_tokens": int(row["completion"]),
        "price_usd": None if row["unknown"] else float(row["price"] or 0.0),
    }


def _too_low(shop: Workshop, run: Run) -> YieldTooLow:
    limits = shop.recipe.limits
    return YieldTooLow(
        f"stopped after {run.counts['opened']} candidates: {run.counts['accepted']} accepted, under limits.min_yield "
        f"{limits.min_yield:g}. Three of them:\n" + "\n".join(_examples(shop, run)),
        where=run.dataset,
        fix="look at the reasons above: another generator, a lower method.tau, or longer max_tokens",
    )


def _examples(shop: Workshop, run: Run) -> list[str]:
    """Up to three candidates that were not accepted, and why; of restricted ones the code alone."""
    statuses: tuple[Status, ...] = ("rejected", "failed")
    found = [c for status in statuses for c in shop.lake.iter_candidates(run.id, status, limit=3)]
    return [
        f"    (restricted): {candidate.decision.code}"
        if candidate.restricted
        else f"    {candidate.text[:200]!r}: {candidate.decision.reason}"
        for candidate in found[:3]
    ]


def _out_of_reach(shop: Workshop, run: Run, outlook: Outlook) -> YieldTooLow:
    progress, has = shop.progress, figure(outlook.cap, outlook.has)
    short = ", ".join(f"{label} {count}" for label, count in run.shortfall.items())
    published = "what was accepted is published" if run.version else "nothing was accepted"
    examples = _examples(shop, run)
    return YieldTooLow(
        f"stopped after {progress.settled} candidates: the target needs about {figure(outlook.cap, outlook.takes)} "
        f"(at best {figure(outlook.cap, outlook.at_least)}), and {outlook.cap} is {has}. "
        f"{run.counts['accepted']} of {run.counts['opened']} were accepted; still missing: {short}; {published}."
        + ("\nNot accepted, for example:\n" + "\n".join(examples) if examples else ""),
        where=run.dataset,
        fix=advice_for(outlook, shop.recipe.target.rows_per_label),
    )


def _refused(shop: Workshop, run: Run) -> YieldTooLow:
    share = shop.progress.refused_share
    return YieldTooLow(
        f"stopped after {shop.progress.settled} candidates: the generator refused {share:.0%} of them, more than "
        f"method.max_refusals allows; what was accepted is published",
        where=run.dataset,
        fix=("set method.prefill: true, " if getattr(shop.recipe.method, "prefill", True) is False else "")
        + "name another generator, or a base model (style: completion), which refuses nothing",
    )


def _nothing(run: Run) -> str:
    return f"# {run.dataset}\n\nNothing was accepted; stopped by {run.stopped_by}."
