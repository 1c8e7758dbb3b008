"""Texts for a label: several of one call, and attributes drawn for each."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from pydantic import JsonValue

from graft.agents.methods.base import Context, Drawn, Query
from graft.agents.methods.steps.draw import GraSettings, pool_of
from graft.agents.roles import generator
from graft.agents.roles.asking import folded
from graft.schemas.errors import BudgetExhausted, CallFailed
from graft.schemas.models import ModelSpec
from graft.schemas.rows import Slot
from graft.schemas.sections import Column, Table

TRIES = 3
"""Most calls for one group's texts, or for attributes: the first, and repeats for missing or unusable ones."""
EXAMPLES = 12
"""Real texts, at most, from which attributes are named."""
UNREADABLE = ("malformed", "schema_unmet", "empty", "cut")
"""Failures of a reply after which another sample is requested."""


def attributes_of(attributes: Mapping[str, Sequence[str]], seed: int, part: int = 0) -> dict[str, str]:
    """One value of each attribute for a slot; the slots of a group have different ones while there are enough."""
    drawn = {}
    for name, values in attributes.items():
        order = random.Random(f"attribute-{name}-{seed}").sample(list(values), len(values))
        drawn[name] = order[part % len(order)]
    return drawn


async def proposed(context: Context, drawn: Drawn, most: int) -> tuple[dict[str, tuple[str, ...]], str]:
    """Attributes that a generator names from real examples of every label, and a warning if it names none of use.

    Raises BudgetExhausted.
    """
    recipe, what = context.recipe, ""
    model = random.Random(f"attributes-{recipe.seed}").choice(pool_of(recipe, "generator"))
    turns = zip_longest(*(rows[:EXAMPLES] for rows in drawn.pool.values()))
    texts = [row.text for turn in turns for row in turn if row is not None][:EXAMPLES]
    for sample in range(TRIES):
        try:
            return await generator.propose_attributes(context.ask, recipe, model, texts, most, sample), ""
        except BudgetExhausted:
            raise
        except CallFailed as failed:
            what = failed.what
            if failed.code not in UNREADABLE:
                break
    return {}, f"no attributes vary the texts: {what}; list them under method.attributes, or name a larger generator"


def with_attributes(slot: Slot, attributes: Mapping[str, Sequence[str]]) -> Slot:
    """The slot with its attributes as payload, if there are any."""
    if not attributes:
        return slot
    drawn: dict[str, JsonValue] = {**attributes_of(attributes, slot.seed, slot.part)}
    return slot.model_copy(update={"payload": {"attributes": drawn}})


def manner_of(attributes: JsonValue) -> str:
    """Attributes as a prompt and a reader see them; empty if there are none."""
    given = attributes if isinstance(attributes, dict) else {}
    return "; ".join(f"{name}: {value}" for name, value in given.items())


async def one_of_several(slot: Slot, context: Context, settings: GraSettings, model: ModelSpec) -> str:
    """The slot's place in its group's list of texts; empty if the calls gave too few. Raises CallFailed, or TextCut if
    its text was cut off.

    A place without a new text is filled from another sample. Every slot of the group makes the same requests, in the
    same order, so each is made once.
    """
    count = settings.texts_per_call
    attributes = {**context.attributes, **settings.attributes}
    drawn = [manner_of({**attributes_of(attributes, slot.seed, part)}) for part in range(count)]
    manners = drawn if attributes else []
    seen = {folded(seed.text) for seed in slot.exemplars}
    held = dict[int, generator.Written]()
    for sample in range(TRIES):
        try:
            texts = await generator.write_texts(context.ask, context.recipe, model, slot, count, manners, sample)
        except BudgetExhausted:
            raise
        except CallFailed as failed:
            if failed.code not in UNREADABLE or (sample == TRIES - 1 and not held):
                raise
            continue
        for part, written in enumerate(texts):
            if part not in held and folded(written.text) not in seen:
                seen.add(folded(written.text))
                held[part] = written
        if slot.part in held:
            break
    found = held.get(slot.part, generator.Written(""))
    if found.cut:
        raise found.cut
    return found.text


_ATTRIBUTES = """
    SELECT name, value, count(*) AS written, count(*) FILTER (status = 'accepted') AS accepted
    FROM (SELECT status, unnest(json_keys(given)) AS name, unnest(json_extract_string(given, '$.*')) AS value
          FROM (SELECT status, json_extract(payload, '$.attributes') AS given
                FROM lake.candidates WHERE run_id = ?) WHERE given IS NOT NULL)
    GROUP BY name, value ORDER BY name, value"""


def attribute_table(query: Query, run_id: str) -> Table | None:
    """The attributes of a run's texts, listed or proposed: texts written and accepted with each value."""
    rows = [{**row, "share": row["accepted"] / row["written"]} for row in query(_ATTRIBUTES, [run_id])]
    columns = (
        Column("name", "attribute"), Column("value", "value"), Column("written", "written", "number"),
        Column("accepted", "accepted", "number"), Column("share", "share", "share"),
    )  # fmt: skip
    return Table("attributes", "Attributes that texts were written with", columns, rows) if rows else None
