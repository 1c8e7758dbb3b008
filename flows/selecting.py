"""Choice of the rows to publish, where a recipe has more made than it wants (`select`)."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence

from graft.flows.dedup import Dropped, Embed, choose, missing, redecide
from graft.flows.run_context import RunContext, Say
from graft.schemas.decisions import NOT_CHOSEN
from graft.schemas.recipe import Select
from graft.schemas.rows import Accepted

TOGETHER = 20_000
"""Rows of a label among which a choice is made at once; of more, each part gives its share."""


async def selected(context: RunContext, say: Say) -> tuple[list[Accepted], int]:
    """The rows to publish, and the number of accepted ones beside them.

    Without `select` these are the rows kept so far. With it a person's texts stay, and of each label's written rows
    those that add most to them and to each other. If no label is short, the other rows end as `rejected.not_chosen`. If
    one is, a continued run may choose otherwise, so they stay accepted.
    """
    settings, wanted = context.recipe.select, context.method.wanted(context.recipe)
    if settings is None or not wanted:
        return list(context.kept), 0
    say("choosing among the accepted rows")
    embed, why = await asyncio.to_thread(context.vectors.find)
    if why:
        say(f"rows are chosen by their scores alone: {why}")
    kept = await asyncio.to_thread(_chosen, context.kept, wanted, settings, context.recipe.seed, embed)
    ids = {row.id for row in kept}
    others = [row for row in context.kept if row.id not in ids]
    if missing(kept, wanted):
        return kept, len(others)
    how = "nothing but scores" if embed is None else settings.by.replace("_", " ")
    whys = {label: f"Not chosen: by {how}, {count} other rows of {label} add more." for label, count in wanted.items()}
    dropped = [Dropped(row.id, None, NOT_CHOSEN, whys[row.label], "not_chosen") for row in others]
    await asyncio.to_thread(redecide, context.lake, context.run_id, dropped)
    context.figures["not_chosen"] = len(dropped)
    return kept, 0


def _chosen(
    rows: Sequence[Accepted], wanted: Mapping[str, int], settings: Select, seed: int, embed: Embed | None
) -> list[Accepted]:
    """The person's rows, and of each label the written ones that are chosen, in the order of `rows`."""
    given = [row for row in rows if row.given]
    room = {label: max(0, count - sum(row.label == label for row in given)) for label, count in wanted.items()}
    written: dict[str, list[Accepted]] = defaultdict(list)
    for row in sorted((row for row in rows if not row.given), key=lambda row: (-row.mean, row.id)):
        written[row.label].append(row)
    if embed is None:
        kept = choose([row for row in rows if not row.given], room)[0]
    else:
        own = {label: [row.text for row in given if row.label == label] for label in room}
        parts = (_adding(written[label], own[label], most, settings, seed, embed) for label, most in room.items())
        kept = [row for part in parts for row in part]
    ids = {row.id for row in (*given, *kept)}
    return [row for row in rows if row.id in ids]


def _adding(
    rows: Sequence[Accepted], held: Sequence[str], most: int, settings: Select, seed: int, embed: Embed
) -> list[Accepted]:
    """The `most` rows that add most to each other and to the texts `held`."""
    from graft.data.vectors.spread import WAYS

    if len(rows) <= most or not most:
        return list(rows[:most])
    before, chosen = (embed(held) if held else None), list[Accepted]()
    parts = -(-len(rows) // TOGETHER)
    for part in range(parts):  # every part is a fair sample: rows are dealt out in the order of their scores
        among = rows[part::parts]
        count = most * (part + 1) // parts - most * part // parts
        places = WAYS[settings.by](embed([row.text for row in among]), count, seed, before)
        chosen += [among[place] for place in places]
    return chosen
