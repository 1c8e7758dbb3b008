"""Texts for a label: several of one call, and attributes drawn for each."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from graft.agents.methods.base import Context
from graft.agents.methods.steps.draw import GraSettings
from graft.agents.roles import generator
from graft.agents.roles.mixer import folded
from graft.schemas.errors import BudgetExhausted, CallFailed
from graft.schemas.models import ModelSpec
from graft.schemas.rows import Slot

TRIES = 3
"""Most calls for one group's texts: the first, and repeats for missing ones."""
UNREADABLE = ("malformed", "schema_unmet", "empty")
"""Failures of a reply after which another sample is requested."""


def attributes_of(attributes: Mapping[str, Sequence[str]], seed: int, part: int = 0) -> dict[str, str]:
    """One value of each attribute for a slot; the slots of a group have different ones while there are enough."""
    drawn = {}
    for name, values in attributes.items():
        order = random.Random(f"attribute-{name}-{seed}").sample(list(values), len(values))
        drawn[name] = order[part % len(order)]
    return drawn


def with_attributes(slot: Slot, settings: GraSettings) -> Slot:
    """The slot with its attributes as payload, if the recipe names any."""
    if not settings.attributes:
        return slot
    drawn: dict[str, JsonValue] = {**attributes_of(settings.attributes, slot.seed, slot.part)}
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
    drawn = [manner_of({**attributes_of(settings.attributes, slot.seed, part)}) for part in range(count)]
    manners = drawn if settings.attributes else []
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
