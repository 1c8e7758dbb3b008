"""Judges are tried before the shards: the mean log-probability that each gives each label, and who gives none at all.

The batch (Zhou et al. 2023) is a fixed one, the texts of each label's first slots, so that a rerun corrects alike
whatever the timing was. Those texts are ordinary calls: the shards find them in the journal and pay nothing again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from graft.agents.methods.base import Context, Method
from graft.agents.methods.relabel import choices
from graft.agents.roles.calibration import batch_means, content_free_means
from graft.agents.roles.choice import judge_label
from graft.schemas.errors import BudgetExhausted, CallFailed, GraftError
from graft.schemas.methods import PromptMixSettings
from graft.schemas.models import GuardSpec, ModelSpec, RoleName
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Slot
from graft.schemas.tasks.base import Label

JUDGING: tuple[RoleName, ...] = ("labeler", "guard", "reviewer", "adjudicator")
PROBE = "A text that says nothing."
"""What a judge without calibration is asked, to learn whether its server gives log-probabilities."""


class Judge(NamedTuple):
    """A model that answers by label probabilities."""

    model: ModelSpec
    role: RoleName
    calibration: str


@dataclass(frozen=True)
class Tried:
    """What is known of the judges before the first slot."""

    means: dict[str, dict[str, float]] = field(default_factory=dict)
    by_name: frozenset[str] = frozenset()


def judges(recipe: Recipe, roles: Sequence[RoleName]) -> dict[str, Judge]:
    """Models of these roles that answer by label probabilities, by name; a task may have none to judge.

    A model with several roles is tried in the one that asks more of it.
    """
    found: dict[str, Judge] = {}
    for role in JUDGING:
        spec = getattr(recipe.roles, role)
        if role not in roles or not recipe.task.labelled:
            continue
        if isinstance(spec, GuardSpec) and spec.template != "labels":
            continue
        for model in recipe.models_for(role):
            if not (measures(recipe, role) or model.provider == "encoder"):
                continue
            known = found.get(model.name)
            if known is None or (may_vote(recipe, known.role) and not may_vote(recipe, role)):
                found[model.name] = Judge(model, role, spec.calibration)
    return found


async def calibrate_judges(method: Method, context: Context, slots: Sequence[Slot]) -> Tried:
    """Try every judge on the texts that the slots' first calls write. Raises GraftError for one that cannot judge."""
    found = judges(context.recipe, method.roles(context.recipe))
    texts: list[str] = []
    if any(judge.calibration == "batch" for judge in found.values()):
        written = await asyncio.gather(*(_text(method, slot, context) for slot in slots))
        texts = [text for text in written if text]
    means: dict[str, dict[str, float]] = {}
    by_name: set[str] = set()
    batch = await _narrowed(context, texts)
    unbatched = not texts or any(judge.calibration != "batch" for judge in found.values())
    probe = await _narrowed(context, [PROBE] if unbatched else [])
    for name, judge in found.items():
        rows = await _rows(context, judge, batch if judge.calibration == "batch" and texts else probe)
        if rows is None:
            by_name.add(name)
        elif judge.calibration == "batch" and texts:
            means[name] = batch_means(rows)
        elif judge.calibration == "content_free":
            means[name] = await content_free_means(
                context.ask, recipe=context.recipe, model=judge.model, role=judge.role, seeds=context.seeds
            )
    return Tried(means, frozenset(by_name))


async def _text(method: Method, slot: Slot, context: Context) -> str:
    try:
        return await method.propose(slot, context)
    except BudgetExhausted:
        raise
    except CallFailed:
        return ""


async def _narrowed(context: Context, texts: Sequence[str]) -> list[tuple[str, Sequence[Label] | None]]:
    """Each text with the labels that its judges choose among; None stands for all of them."""
    if not isinstance(context.recipe.method, PromptMixSettings):
        return [(text, None) for text in texts]
    return list(zip(texts, await asyncio.gather(*(choices(context, text) for text in texts)), strict=True))


async def _rows(
    context: Context, judge: Judge, texts: Sequence[tuple[str, Sequence[Label] | None]]
) -> list[dict[str, float]] | None:
    """Each text's raw log-probabilities; None where the server gives none and a vote may stand in for them."""

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
    if first.code == "no_logprobs" and may_vote(context.recipe, judge.role):
        return None
    raise _cannot(context.recipe, judge, first)


def measures(recipe: Recipe, role: RoleName) -> bool:
    """Whether a role's judgements are label probabilities; one that relabels gives them though it reviews by scores."""
    answer = getattr(recipe.roles, role).answer
    return answer == "logprobs" or (answer == "scores" and gives_labels(recipe, role))


def gives_labels(recipe: Recipe, role: RoleName) -> bool:
    """Whether a role says which label a text has, rather than how well the text fits one."""
    method = recipe.method
    if role in ("labeler", "guard"):
        return True
    if not isinstance(method, PromptMixSettings) or method.relabel == "off":
        return False
    return method.relabel == "panel" or (role == "adjudicator" and method.no_label == "adjudicate")


def may_vote(recipe: Recipe, role: RoleName) -> bool:
    """Whether a judge of this role may name the label instead: one that gives labels may, one that scores may not."""
    if role in ("labeler", "guard"):
        return True
    by_scores = getattr(recipe.roles, role).answer == "scores"
    return gives_labels(recipe, role) and (by_scores or getattr(recipe.method, "review", None) is None)


def _cannot(recipe: Recipe, judge: Judge, first: CallFailed) -> GraftError:
    name, role = judge.model.name, judge.role
    answer = "name" if may_vote(recipe, role) else "scores"
    fix = f"set roles.{role}.answer: {answer}, or name a model whose server returns log-probabilities"
    if first.code == "no_label_tokens":
        fix = f"raise top_logprobs of model {name!r} if its server allows, or set roles.{role}.answer: {answer}"
    return GraftError(
        f"model {name!r} cannot judge by label probabilities: {first.what}", where=f"roles.{role}", fix=fix
    )
