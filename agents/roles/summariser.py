"""Seed preparation (GRA section 3): domain, keywords and summary, models in rotation; and the pool update.

A missing reply has a deterministic fallback, which is logged: first content words for keywords, first
words for a summary. A domain is never guessed: a seed without one stays out of the pools.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from graft.agents.roles.asking import (
    Ask,
    cleaned,
    first_words,
    object_in,
    object_schema,
    request_for,
    short_string,
    unmet,
)
from graft.agents.roles.generator import NEWLINE, keywords_in
from graft.schemas.base import stable_hash
from graft.schemas.calls import Reply
from graft.schemas.errors import CallFailed
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Seed

SUMMARY_WORDS = 30

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


async def prepare_seeds(ask: Ask, recipe: Recipe, seeds: Sequence[Seed], *, most: int) -> list[Seed]:
    """The seeds in their order, each with domain, at most `most` keywords and a summary of at most 30 words.

    Existing fields of a seed are kept. Never raises for a model's failure; see the module's docstring for fallbacks.
    """
    models = _rotation(recipe)
    return list(await asyncio.gather(*(_prepared(ask, recipe, seed, models, i, most) for i, seed in enumerate(seeds))))


async def summarise(ask: Ask, recipe: Recipe, candidate: Candidate, *, most: int) -> Seed:
    """An accepted row as an exemplar of the next round: its own keywords, and a summary by any model of the pool."""
    models = _rotation(recipe)
    seed = Seed.of(candidate.text, candidate.label, candidate.response)
    model = models[int(stable_hash(seed.id), 16) % len(models)]
    summary = candidate.summary or await _summary(ask, recipe, seed, model)
    keywords = candidate.keywords or fallback_keywords(seed.text, most)
    return seed.model_copy(update={"keywords": keywords, "summary": summary})


def fallback_keywords(text: str, most: int) -> tuple[str, ...]:
    """The first distinct words of five letters or more: the fallback for missing keywords."""
    words = dict.fromkeys(word.casefold() for word in re.findall(r"[^\W\d_]{5,}", text))
    return tuple(words)[:most]


async def _prepared(ask: Ask, recipe: Recipe, seed: Seed, models: Sequence[ModelSpec], place: int, most: int) -> Seed:
    """One seed; three neighbouring models in the rotation answer its three questions."""
    turn = [models[(place + step) % len(models)] for step in range(3)]
    label, keywords, summary = await asyncio.gather(
        _domain(ask, recipe, seed, turn[0]),
        _keywords(ask, recipe, seed, turn[1], most),
        _summary(ask, recipe, seed, turn[2]),
    )
    return seed.model_copy(update={"label": label, "keywords": keywords, "summary": summary})


async def _domain(ask: Ask, recipe: Recipe, seed: Seed, model: ModelSpec) -> str:
    if seed.label:
        return seed.label
    labels = recipe.task.categories
    names = {label.name.casefold(): label.name for label in labels}

    def read(reply: Reply) -> str:
        answer = reply.text if model.style == "completion" else str(object_in(reply, model).get("domain", ""))
        name = names.get(cleaned(answer.strip().partition("\n")[0]).rstrip(".").casefold())
        if name is None:
            raise unmet(model, "named no domain of the task", reply)
        return name

    domain = {"type": "string", "enum": list(names.values())}
    return await _read_answer(ask, recipe, seed, model, "domain", {"domain": domain}, 24, read, "", labels=labels)


async def _keywords(ask: Ask, recipe: Recipe, seed: Seed, model: ModelSpec, most: int) -> tuple[str, ...]:
    if seed.keywords:
        return seed.keywords

    def read(reply: Reply) -> tuple[str, ...]:
        found = tuple(keywords_in(reply, model)[:most])
        if not found:
            raise unmet(model, "gave no keyword", reply)
        return found

    words = {"type": "array", "items": short_string(model, 60), "minItems": 1, "maxItems": most}
    spare = fallback_keywords(seed.text, most)
    return await _read_answer(ask, recipe, seed, model, "keywords", {"keywords": words}, 96, read, spare, most=most)


async def _summary(ask: Ask, recipe: Recipe, seed: Seed, model: ModelSpec) -> str:
    if seed.summary:
        return seed.summary

    def read(reply: Reply) -> str:
        value: Any = reply.text.strip().partition("\n")[0]
        if model.style == "chat":
            value = object_in(reply, model).get("summary")
        short = first_words(cleaned(value), SUMMARY_WORDS) if isinstance(value, str) else ""
        if not short:
            raise unmet(model, "gave no summary", reply)
        return short

    spare = first_words(seed.text, SUMMARY_WORDS)
    return await _read_answer(
        ask, recipe, seed, model, "summary", {"summary": short_string(model, 240)}, 128, read, spare
    )


async def _read_answer(
    ask: Ask, recipe: Recipe, seed: Seed, model: ModelSpec, step: str, fields: dict[str, dict[str, Any]],
    max_tokens: int, read: Callable[[Reply], _T], fallback: _T, **values: Any,
) -> _T:  # fmt: skip
    request = request_for(
        f"seed_{step}", recipe=recipe, model=model, role="generator", purpose=f"seed.{step}", seed=recipe.seed,
        schema=object_schema(fields) if model.style == "chat" else None, stop=NEWLINE, max_tokens=max_tokens,
        text=seed.text, **values,
    )  # fmt: skip
    try:
        return read(await ask(request))
    except CallFailed as failure:
        _log.warning("seed %s: no %s from %s (%s); a fallback stands in", seed.id, step, model.name, failure.code)
        return fallback


def _rotation(recipe: Recipe) -> list[ModelSpec]:
    models = [model for model in recipe.models_for("generator") if model.provider != "encoder"]
    return random.Random(f"rotation-{recipe.seed}").sample(models, len(models))
