"""Draw passages: every passage of a run's documents is used equally often."""

from __future__ import annotations

import math
import random
from functools import lru_cache

from graft.agents.methods.base import Context, Drawn, Place
from graft.schemas.documents import Passage
from graft.schemas.kinds import METHODS
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Slot

PASSAGE = "passage"
"""Key of a slot's payload that holds the id of its passage."""
TOP_UP = 10_000
"""Shards of a round's top-ups are numbered from here (`flows.rounds.shards`)."""


def passage_for(place: Place, drawn: Drawn) -> Passage | None:
    """The passage of the slot at a place; None if the recipe has no documents.

    The slots of all labels, shards and rounds count as one sequence. It runs through all passages in a random order,
    then through all of them in another, so that no passage is used a second time before all are used once, as far as
    labels are opened in proportion to their targets and shards advance alike. It depends on the recipe's seed alone.
    """
    if not drawn.passages:
        return None
    recipe, size = drawn.recipe, len(drawn.passages)
    attempt, shard = divmod(place.shard, TOP_UP)
    cycle, step = divmod(_position(place, shard, recipe), size)
    loop = recipe.steering.round if recipe.steering else 0
    return drawn.passages[_order(f"passages-{recipe.seed}-{loop}-{attempt}-{cycle}", size)[step]]


def passage_of(slot: Slot, context: Context) -> Passage | None:
    """The passage that a slot was drawn with; None if it has none."""
    name = slot.payload.get(PASSAGE)
    return context.passages.get(name) if isinstance(name, str) else None


def _position(place: Place, shard: int, recipe: Recipe) -> int:
    """The slot's number among all slots of the run, or of one top-up."""
    wanted = {label: count for label, count in recipe.made(recipe.wanted()).items() if count}
    rounds: int = max(1, METHODS.get(recipe.method.kind).traits(recipe).rounds)
    shards = max(1, math.ceil(sum(wanted.values()) / rounds / recipe.limits.shard_rows))
    within = _rank(place.label, place.index, wanted)
    return (within * shards + shard % shards) * rounds + place.round % rounds


def _rank(label: str, index: int, wanted: dict[str, int]) -> int:
    """The place of a label's slot among those of all labels, if each is opened in proportion to its target.

    The k-th of c slots of a label is due at (k + 1/2)/c; all slots are sorted by when they are due, then by label.
    """
    if label not in wanted:
        return index
    due, own, before, rank = 2 * index + 1, wanted[label], True, index
    for other, count in wanted.items():
        if other == label:
            before = False
        elif before:
            rank += (due * count // own + 1) // 2
        else:
            rank += ((due * count - 1) // own + 1) // 2
    return rank


@lru_cache(maxsize=16)
def _order(key: str, size: int) -> list[int]:
    return random.Random(key).sample(range(size), size)
