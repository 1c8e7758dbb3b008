"""Label calibration before the shards: the mean log-probability that each judge gives each label.

The batch (Zhou et al. 2023) is a fixed one, the texts of each label's first slots, so that a rerun corrects alike
whatever the timing was. Those texts are ordinary calls: the shards find them in the journal and pay nothing again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agents.methods.base import Ask
from agents.roles.calibration import batch_means, content_free_means
from agents.roles.choice import judge_label
from agents.roles.generator import write_text
from schemas.errors import CallFailed, GraftError
from schemas.models import ModelSpec, RoleName
from schemas.recipe import Recipe
from schemas.rows import Seed, Slot


def judges(recipe: Recipe) -> dict[str, tuple[ModelSpec, RoleName, str]]:
    """Models that answer by label probabilities: name to (model, role, calibration)."""
    found: dict[str, tuple[ModelSpec, RoleName, str]] = {}
    roles: tuple[RoleName, ...] = ("reviewer", "adjudicator")
    for role in roles:
        spec = getattr(recipe.roles, role)
        for model in recipe.models_for(role):
            if spec.answer == "logprobs" or model.provider == "encoder":
                found.setdefault(model.name, (model, role, spec.calibration))
    return found


async def calibrate_judges(
    recipe: Recipe, seeds: Sequence[Seed], slots: Sequence[tuple[Slot, ModelSpec]], ask: Ask
) -> dict[str, dict[str, float]]:
    """Model name to label to mean raw log-probability, over the texts that the slots' generators write."""
    by_name = judges(recipe)
    texts: list[str] = []
    if any(mode == "batch" for _, _, mode in by_name.values()):
        written = await asyncio.gather(*(_text(ask, recipe, slot, model) for slot, model in slots))
        texts = [text for text in written if text]
    means: dict[str, dict[str, float]] = {}
    for name, (model, role, mode) in by_name.items():
        if mode == "batch" and texts:
            means[name] = await _batch(ask, recipe, seeds, model, role, texts)
        elif mode == "content_free":
            means[name] = await content_free_means(ask, recipe=recipe, model=model, role=role, seeds=seeds)
    return means


async def _text(ask: Ask, recipe: Recipe, slot: Slot, model: ModelSpec) -> str:
    try:
        return (await write_text(ask, recipe, model, slot))[0]
    except CallFailed:
        return ""


async def _batch(
    ask: Ask, recipe: Recipe, seeds: Sequence[Seed], model: ModelSpec, role: RoleName, texts: Sequence[str]
) -> dict[str, float]:
    async def one(text: str) -> dict[str, float] | CallFailed:
        try:
            return (await judge_label(ask, recipe=recipe, model=model, role=role, seeds=seeds, text=text))[0]
        except CallFailed as failure:
            return failure

    answers = await asyncio.gather(*(one(text) for text in texts))
    rows = [answer for answer in answers if not isinstance(answer, CallFailed)]
    failures = [answer for answer in answers if isinstance(answer, CallFailed)]
    if not rows:
        first = failures[0]
        raise GraftError(
            f"model {model.name!r} cannot judge by label probabilities: {first.what}",
            where=f"roles.{role}",
            fix="set answer: scores for this role, or name a model whose server returns log-probabilities",
        )
    return batch_means(rows)
