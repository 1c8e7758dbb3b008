"""Relabelling: judges that do not see the intended label give a text its label (PromptMix, step 2).

Judges choose among the nearest classes. An answer outside them is no label: it is never forced to the nearest name.
Several judges' distributions are averaged; a judge that names a label counts as one vote.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from graft.agents.methods.base import Context
from graft.agents.methods.steps.draft import Draft, code_of, decision, failure, screened, soft_label
from graft.agents.methods.steps.draw import Committee, Roles
from graft.agents.methods.steps.panel import unsure
from graft.agents.roles.labeler import Giver, is_vote, label_text, nearest_labels
from graft.schemas.base import OFF, Value
from graft.schemas.models import ModelSpec
from graft.schemas.rows import Decision, Labelling, Review
from graft.schemas.tasks.base import Label

TIE = 1e-9


class Relabelling(Value):
    """Roles that label texts, and the classes that they choose among."""

    relabel: Annotated[Literal["labeler", "panel", "off"], OFF] = Field(
        default="labeler", description="by the labeler role, by GRA's reviewers and adjudicator, or not at all"
    )
    labelers: int = Field(default=3, ge=1, le=16, description="labelers per text, as far as the role has models")
    nearest_classes: int = Field(default=5, ge=2, description="classes that a labeler chooses among, at most")
    min_probability: float = Field(
        default=0.0, ge=0, lt=1, description="least mean probability of a label; below it the text has no label"
    )
    no_label: Literal["reject", "adjudicate"] = Field(
        default="reject", description="outcome of a text whose labelers gave no label of the set"
    )


async def choices(context: Context, text: str, most: int, also: str = "") -> tuple[Label, ...]:
    """The `most` classes that judges choose among for a text, nearest first; `also` is one of them in any case."""
    recipe = context.recipe
    names = await nearest_labels(context.ask, recipe=recipe, seeds=context.seeds, text=text, most=most)
    if also and also not in names:
        names = (*names[: most - 1], also)
    return tuple(recipe.task.category(name) for name in names)


async def relabel(draft: Draft, roles: Roles, settings: Relabelling, labels: Sequence[Label]) -> Labelling:
    """The label that the labelers (or the panel) give the draft's text; its reviews join the draft's."""
    least = settings.min_probability
    names = [label.name for label in labels]
    if settings.relabel == "panel":
        reviews = await ask_givers(draft, list(roles.reviewers), "reviewer", names)
        given = [review.answer for review in reviews if review.answer in names]
        if len(set(given)) == 1 and len(given) == len(reviews):
            return combined(draft, reviews, names, "panel", least)
        reviews += await ask_givers(draft, [roles.adjudicator], "adjudicator", names)
        return combined(draft, reviews, names, "adjudicator", least, decides=reviews[-1])
    reviews = await ask_givers(draft, labelers_of(draft, settings.labelers), "labeler", names)
    labelling = combined(draft, reviews, names, "labeler", least)
    if not labelling.label and settings.no_label == "adjudicate":
        reviews += await ask_givers(draft, [roles.adjudicator], "adjudicator", names)
        labelling = combined(draft, reviews, names, "adjudicator", least, decides=reviews[-1])
    return labelling


async def relabel_by_reviewers(draft: Draft, roles: Roles, settings: Committee) -> Decision:
    """Accept the draft under the label with the highest mean probability over its reviewers, if it is likely enough.

    The reviewers do not see the intended label. A row with another label than the intended one is screened again.
    """
    names = draft.context.recipe.task.names
    reviews = await ask_givers(draft, list(roles.reviewers), "reviewer", names)
    draft.labelling = labelling = combined(draft, reviews, names, "panel", 0.0)
    if not labelling.label:
        return no_label(draft)
    draft.label = labelling.label
    given = [one.distribution for one in reviews if one.distribution]
    accepted = decision("accepted", "labelled", "accepted.labelled", label_reason(draft, labelling))
    bounds = settings.bounds(draft.context.bounds)
    return unsure(draft, given, bounds, accepted) or (screened(draft) if labelling.relabelled else None) or accepted


def no_label(draft: Draft) -> Decision:
    """The end of a draft that its judges gave no label."""
    count = sum(review.stage == "label" for review in draft.reviews)
    reason = f"No label: {count} judges gave no label of the set, none that was likely enough, or two alike."
    return unjudged(draft) or decision("rejected", "no_label", "rejected.no_label", reason)


def label_reason(draft: Draft, labelling: Labelling) -> str:
    """Sentence about the label that judges gave, with its probability."""
    now = f"relabelled from {draft.slot.label} to" if labelling.relabelled else "confirmed as"
    share = draft.soft_label.get(labelling.label)
    return f"{labelling.by.capitalize()}: {now} {labelling.label}" + (f" at {share:.0%}." if share is not None else ".")


def labelers_of(draft: Draft, most: int) -> list[ModelSpec]:
    """The labelers of a draft, drawn without repeats from the role's models."""
    pool = list(draft.context.recipe.models_for("labeler"))
    rng = random.Random(f"labelers-{draft.slot.seed}")
    return rng.sample(pool, min(most, len(pool)))


async def ask_givers(draft: Draft, models: Sequence[ModelSpec], role: Giver, names: Sequence[str]) -> list[Review]:
    """One review per model: a second call of the same model would return the same.

    Prompts list the labels in the task's order, so that texts with the same nearest classes share their beginning.
    """
    context, slot = draft.context, draft.slot
    distinct = {model.name: model for model in models}.values()
    ordered = sorted(names, key=context.recipe.task.names.index)
    reviews = await asyncio.gather(
        *(
            label_text(
                context.ask, recipe=context.recipe, model=model, role=role, seeds=context.seeds, text=draft.text,
                labels=ordered, means=context.calibration.get(model.name), by_name=model.name in context.by_name,
                seed=slot.seed,
            )
            for model in distinct
        )
    )  # fmt: skip
    draft.reviews.extend(reviews)
    return list(reviews)


def combined(
    draft: Draft,
    reviews: Sequence[Review],
    names: Sequence[str],
    by: str,
    least: float,
    decides: Review | None = None,
) -> Labelling:
    """The mean distribution over judges that gave a label, and its best label; or the label of the deciding judge.

    There is none if the first two are exactly even, as votes may be, or the first is under `least`. A text that was
    written for no label is not relabelled.
    """
    by_model = {review.model: review for review in reviews if review.answer in names and review.distribution}
    given = list(by_model.values())  # a model in two roles counts once, by its last review
    mean = soft_label([review.distribution for review in given])
    ranked = sorted(mean, key=lambda name: (-mean[name], names.index(name)))
    label = ranked[0] if ranked else ""
    even = len(ranked) > 1 and mean[ranked[0]] - mean[ranked[1]] <= TIE
    if even or (ranked and mean[ranked[0]] < least):
        label = ""
    if decides is not None:
        label = decides.answer if decides.answer in names else ""
    draft.soft_label = {name: mean[name] for name in ranked}
    first = label or next(iter(ranked), "")
    others = [name for name in ranked if name != first]
    return Labelling(
        by=by, candidates=tuple(names), label=label, relabelled=label not in ("", draft.slot.label or label),
        margin=mean[first] - mean[others[0]] if others else None, second=others[0] if others else "",
        votes=any(is_vote(review) for review in given),
    )  # fmt: skip


def name_judges(draft: Draft) -> None:
    """Note in the draft which models judged, by role."""
    for role in ("labeler", "reviewer", "adjudicator"):
        names = dict.fromkeys(review.model for review in draft.reviews if review.role == role)
        if names:
            draft.models[role] = ",".join(names)


def unjudged(draft: Draft) -> Decision | None:
    """The failure of a draft of which no labeler gave a judgement."""
    judged = [review for review in draft.reviews if review.stage == "label"]
    if not all(review.failure for review in judged):
        return None
    return failure(code_of(judged[0]), f"No labeler gave a judgement; the first: {judged[0].failure}.")
