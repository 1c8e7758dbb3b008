"""Calibrates judges before the shards: each label's mean log-probability per judge, and judges without
log-probabilities.

The batch (Zhou et al. 2023) is fixed, the texts of each label's first slots, so that a rerun makes the same correction
whatever the timing. These texts are ordinary calls: the shards find them in the journal and pay nothing again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from graft.agents.methods.base import Context, Drawn, Method, Place, Prepared
from graft.agents.roles.calibration import batch_means, content_free_means
from graft.agents.roles.choice import judge_label
from graft.schemas.errors import BudgetExhausted, CallFailed, GraftError
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Slot
from graft.schemas.tasks.base import Label

PROBE = "A text that says nothing."
"""Request to a judge without calibration, to learn whether its server returns log-probabilities."""


class Judge(NamedTuple):
    """A model that answers by label probabilities."""

    model: ModelSpec
    role: str
    calibration: str


@dataclass(frozen=True)
class Judging:
    """The roles of a recipe that judge labels, in the order in which they are tried.

    Args:
        roles: those that may answer by label probabilities, as their settings say
        giving: of these, those that choose a text's label, rather than score how well it fits one
        voting: of these, those that may name the label instead where a server gives no log-probabilities
    """

    roles: tuple[str, ...] = ()
    giving: frozenset[str] = frozenset()
    voting: frozenset[str] = frozenset()


Narrow = Callable[[str], Awaitable[Sequence[Label] | None]]
"""A text to the labels that its judges choose among; None stands for all of them."""


def judges(recipe: Recipe, judging: Judging) -> dict[str, Judge]:
    """Models that answer by label probabilities, by name; instructions have no labels to judge.

    A model with several roles is tried in the most demanding one.
    """
    found: dict[str, Judge] = {}
    for role in judging.roles if recipe.task.labelled else ():
        spec = recipe.role(role)
        measures = spec.answer == "logprobs" or (spec.answer == "scores" and role in judging.giving)
        for model in recipe.models_for(role):
            if not (measures or model.provider == "encoder"):
                continue
            known = found.get(model.name)
            if known is None or (known.role in judging.voting and role not in judging.voting):
                found[model.name] = Judge(model, role, spec.calibration)
    return found


async def calibrated(
    method: Method[Any], context: Context, drawn: Drawn, judging: Judging, texts: int, narrow: Narrow | None = None
) -> Prepared:
    """The judges' calibration on the texts of the first slots of all labels in turn. Errors as `try_judges`.

    A complete label's texts are those that it has: batch calibration needs all labels, but no writer for them.
    """
    labels = [label for label, wanted in context.recipe.wanted().items() if wanted]
    if not judges(context.recipe, judging) or not labels:
        return Prepared()
    shown = {seed.text for seed in context.seeds}
    have = {label: [row.text for row in drawn.pool.get(label, ()) if row.text not in shown] for label in drawn.complete}
    slots, given = list[Slot](), list[str]()
    for place in range(texts):
        turn, label = place // len(labels), labels[place % len(labels)]
        if turn < len(have.get(label, ())):
            given.append(have[label][turn])
        else:
            slots.append(method.make_slot(Place("", 0, 0, turn, label), drawn))
    return await try_judges(method, context, slots, judging, narrow, given)


async def try_judges(
    method: Method[Any], context: Context, slots: Sequence[Slot], judging: Judging, narrow: Narrow | None = None,
    given: Sequence[str] = (),
) -> Prepared:  # fmt: skip
    """Try every judge on given texts and those that the slots' first calls write.

    Raises GraftError for a judge that cannot judge.
    """
    found = judges(context.recipe, judging)
    texts: list[str] = []
    if any(judge.calibration == "batch" for judge in found.values()):
        written = await asyncio.gather(*(_text(method, slot, context) for slot in slots))
        texts = [*given, *(text for text in written if text)]
    means: dict[str, dict[str, float]] = {}
    by_name: set[str] = set()
    batch = await _narrowed(texts, narrow)
    unbatched = not texts or any(judge.calibration != "batch" for judge in found.values())
    probe = await _narrowed([PROBE] if unbatched else [], narrow)
    for name, judge in found.items():
        rows = await _rows(context, judge, batch if judge.calibration == "batch" and texts else probe, judging)
        if rows is None:
            by_name.add(name)
        elif judge.calibration == "batch" and texts:
            means[name] = batch_means(rows)
        elif judge.calibration == "content_free":
            means[name] = await content_free_means(
                context.ask, recipe=context.recipe, model=judge.model, role=judge.role, seeds=context.seeds
            )
    return Prepared(means, frozenset(by_name))


async def _text(method: Method[Any], slot: Slot, context: Context) -> str:
    try:
        return await method.propose(slot, context)
    except BudgetExhausted:
        raise
    except CallFailed:
        return ""


async def _narrowed(texts: Sequence[str], narrow: Narrow | None) -> list[tuple[str, Sequence[Label] | None]]:
    """Each text with the labels that its judges choose among."""
    if narrow is None:
        return [(text, None) for text in texts]
    return list(zip(texts, await asyncio.gather(*(narrow(text) for text in texts)), strict=True))


async def _rows(
    context: Context, judge: Judge, texts: Sequence[tuple[str, Sequence[Label] | None]], judging: Judging
) -> list[dict[str, float]] | None:
    """Each text's raw log-probabilities; None if the server returns none and a vote may replace them."""

    async def one(text: str, labels: Sequence[Label] | None) -> dict[str, float] | CallFailed:
        try:
            judged = await judge_label(
                context.ask, recipe=context.recipe, model=judge.model, role=judge.role, seeds=context.seeds, text=text,
                labels=labels,
            )  # fmt: skip
        except BudgetExhausted:
            raise
        except CallFailed as failure:
            return failure
        return judged.raw

    answers = await asyncio.gather(*(one(text, labels) for text, labels in texts))
    rows = [answer for answer in answers if not isinstance(answer, CallFailed)]
    if rows:
        return rows
    first = next(answer for answer in answers if isinstance(answer, CallFailed))
    if first.code == "no_logprobs" and judge.role in judging.voting:
        return None
    raise _cannot(judge, first, judging)


def _cannot(judge: Judge, first: CallFailed, judging: Judging) -> GraftError:
    name, role = judge.model.name, judge.role
    answer = "name" if role in judging.voting else "scores"
    fix = f"set roles.{role}.answer: {answer}, or name a model whose server returns log-probabilities"
    if first.code == "no_label_tokens":
        fix = f"raise top_logprobs of model {name!r} if its server allows, or set roles.{role}.answer: {answer}"
    return GraftError(
        f"model {name!r} cannot judge by label probabilities: {first.what}", where=f"roles.{role}", fix=fix
    )
