"""Reviewers: three flags on an instruction, six scores on a response or a text, or a distribution over the labels.

Scores follow GRA section 3 (arXiv 2504.12322) and parse strictly: exactly the required whole numbers in 0..10, anything
else is a failed review. The paper's text has 0..10 and its prompt 1..10; here both have 0..10. For (text, label)
rows the dimensions are those of the task's rubric. A failed judge returns a Review with `failure` set ("code:
message"); only BudgetExhausted is raised.

The adjudicator decides alone if reviewers disagree above the mean. By scores it sees the prior reviews; by
probabilities it gives its own distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from graft.agents.roles.asking import (
    Ask,
    first_words,
    object_in,
    object_schema,
    request_for,
    short_string,
    unmet,
)  # fmt: skip
from graft.agents.roles.calibration import calibrate
from graft.agents.roles.choice import judge_label
from graft.schemas.calls import Reply
from graft.schemas.errors import BudgetExhausted, CallFailed
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import LabelScore, Review, Seed, Slot
from graft.schemas.tasks.base import Label

Judge = Literal["reviewer", "adjudicator"]

FLAGS = ("reasonableness", "completeness", "clarity")
RESPONSE_SCORES = ("correctness", "clarity", "completeness", "relevance", "coherence", "ethicality")
COMMENT_WORDS = 29
COMMENT_CHARS = 200


def by_probabilities(recipe: Recipe, model: ModelSpec, role: Judge) -> bool:
    """Return True if this judge answers with label probabilities: if its role sets so; an encoder always does."""
    spec = recipe.role(role)
    return recipe.task.labelled and (spec.answer == "logprobs" or model.provider == "encoder")


async def review_instruction(
    ask: Ask, *, recipe: Recipe, model: ModelSpec, slot: Slot, instruction: str, sample: int = 0
) -> Review:
    """Three 0/1 flags on an instruction. Raises BudgetExhausted only."""
    schema = object_schema({name: {"type": "integer", "enum": [0, 1]} for name in FLAGS})
    request = request_for(
        "review_flags", recipe=recipe, model=model, role="reviewer", purpose="review.instruction", seed=slot.seed,
        sample=sample, schema=schema, instruction=instruction,
    )  # fmt: skip
    blank = Review(stage="instruction", role="reviewer", model=model.name, call_key=request.key())
    try:
        reply = await ask(request)
        flags = _numbers(reply, model, FLAGS, 1)
    except BudgetExhausted:
        raise
    except CallFailed as failure:
        return failed(blank, failure)
    return blank.model_copy(update={"flags": flags})


async def review_response(
    ask: Ask, *, recipe: Recipe, model: ModelSpec, slot: Slot, instruction: str, response: str, sample: int = 0
) -> Review:
    """Six scores on a response, and a comment under 30 words. Raises BudgetExhausted only."""
    return await _score_response(
        ask, recipe=recipe, model=model, role="reviewer", slot=slot, sample=sample, instruction=instruction,
        response=response,
    )  # fmt: skip


async def review_text(
    ask: Ask, *, recipe: Recipe, model: ModelSpec, slot: Slot, text: str, seeds: Sequence[Seed],
    calibration: Mapping[str, Mapping[str, float]], sample: int = 0, labels: Sequence[Label] | None = None,
) -> Review:  # fmt: skip
    """Review whether a text fits its label and is usable: scores, or label probabilities. Raises BudgetExhausted only.

    `labels` narrows a judge's choice; the slot's label must be one of them.
    """
    return await judge_text(
        ask, recipe=recipe, model=model, role="reviewer", slot=slot, text=text, seeds=seeds, calibration=calibration,
        sample=sample, labels=labels,
    )  # fmt: skip


async def adjudicate_response(
    ask: Ask, *, recipe: Recipe, model: ModelSpec, slot: Slot, instruction: str, response: str, prior: Sequence[Review]
) -> Review:
    """The same six scores as a reviewer's, after reading the prior reviews. Raises BudgetExhausted only."""
    return await _score_response(
        ask, recipe=recipe, model=model, role="adjudicator", slot=slot, prior=prior, instruction=instruction,
        response=response,
    )  # fmt: skip


async def adjudicate_text(
    ask: Ask, *, recipe: Recipe, model: ModelSpec, slot: Slot, text: str, seeds: Sequence[Seed],
    calibration: Mapping[str, Mapping[str, float]], prior: Sequence[Review], labels: Sequence[Label] | None = None,
) -> Review:  # fmt: skip
    """Scores or label probabilities on (text, label), as the role answers. Raises BudgetExhausted only."""
    return await judge_text(
        ask, recipe=recipe, model=model, role="adjudicator", slot=slot, text=text, seeds=seeds,
        calibration=calibration, prior=prior, labels=labels,
    )  # fmt: skip


async def judge_text(
    ask: Ask, *, recipe: Recipe, model: ModelSpec, role: Judge, slot: Slot, text: str, seeds: Sequence[Seed],
    calibration: Mapping[str, Mapping[str, float]], sample: int = 0, prior: Sequence[Review] = (),
    labels: Sequence[Label] | None = None,
) -> Review:  # fmt: skip
    """A reviewer's or, with the prior reviews, the adjudicator's judgement of (text, label)."""
    if by_probabilities(recipe, model, role):
        means = calibration.get(model.name)
        return await _distribution(
            ask, recipe=recipe, model=model, role=role, slot=slot, text=text, seeds=seeds, means=means, labels=labels
        )
    rubric = recipe.criteria
    return await score(
        ask, "review_text", [one.name for one in rubric], recipe=recipe, model=model, role=role, slot=slot,
        sample=sample, prior=prior, rubric=rubric, noun=recipe.task.noun, labels=labels or recipe.task.categories,
        text=text, label=slot.label, good=_first(seeds, lambda label: label == slot.label),
        bad=_first(seeds, lambda label: label not in ("", slot.label)),
    )  # fmt: skip


async def _score_response(ask: Ask, *, recipe: Recipe, **values: Any) -> Review:
    """Scores on a response, by the paper's six criteria or by the recipe's own rubric."""
    if not recipe.rubric:
        return await score(ask, "review_response", RESPONSE_SCORES, recipe=recipe, **values)
    rubric, template = recipe.criteria, "review_response" if "review_response" in recipe.prompts else "review_rubric"
    return await score(ask, template, [one.name for one in rubric], recipe=recipe, rubric=rubric, **values)


async def score(
    ask: Ask, template: str, dimensions: Sequence[str], *, recipe: Recipe, model: ModelSpec, role: Judge, slot: Slot,
    sample: int = 0, prior: Sequence[Review] = (), **values: Any,
) -> Review:  # fmt: skip
    """One judgement by six scores; its mean is theirs. Raises BudgetExhausted only."""
    whole = {"type": "integer", "minimum": 0, "maximum": 10}
    schema = object_schema({**dict.fromkeys(dimensions, whole), "comment": short_string(model, COMMENT_CHARS)})
    request = request_for(
        template, recipe=recipe, model=model, role=role, purpose=_purpose(template, role), seed=slot.seed,
        sample=sample, schema=schema, prior=[described(review) for review in prior], **values,
    )  # fmt: skip
    blank = Review(stage=_stage(role), role=role, model=model.name, call_key=request.key())
    try:
        reply = await ask(request)
        scores = _numbers(reply, model, dimensions, 10, and_comment=True)
    except BudgetExhausted:
        raise
    except CallFailed as failure:
        return failed(blank, failure)
    comment = object_in(reply, model).get("comment", "")
    shortened = first_words(comment, COMMENT_WORDS) if isinstance(comment, str) else ""
    mean = sum(scores.values()) / len(scores)
    return blank.model_copy(
        update={"scores": {k: float(v) for k, v in scores.items()}, "mean": mean, "comment": shortened}
    )


def described(review: Review) -> str:
    """A review in one line for the adjudicator: scores, mean, comment; without the reviewer's name."""
    named = ", ".join(f"{name} {value:g}" for name, value in review.scores.items())
    mean = f" (mean {review.mean:.2f})" if review.mean is not None else ""
    return f"{named}{mean}" + (f". {review.comment}" if review.comment else "")


def failed(blank: Review, failure: CallFailed) -> Review:
    """The review of a judge without a judgement."""
    return blank.model_copy(update={"failure": f"{failure.code}: {failure.what}"})


async def _distribution(
    ask: Ask, *, recipe: Recipe, model: ModelSpec, role: Judge, slot: Slot, text: str, seeds: Sequence[Seed],
    means: Mapping[str, float] | None, labels: Sequence[Label] | None = None,
) -> Review:  # fmt: skip
    """A judgement by probabilities: 10 times the intended label's calibrated probability over the best label's."""
    blank = Review(stage=_stage(role), role=role, model=model.name)
    try:
        judged = await judge_label(ask, recipe=recipe, model=model, role=role, seeds=seeds, text=text, labels=labels)
    except BudgetExhausted:
        raise
    except CallFailed as failure:
        return failed(blank, failure)
    raw, key = judged.raw, judged.key
    right = calibrate(raw, means)
    fit = 10.0 * math.exp(right[slot.label] - max(right.values()))
    best = max(right, key=lambda label: right[label])
    rows = tuple(LabelScore(label=label, raw=raw[label], calibrated=right[label]) for label in raw)
    comment = f"most likely {best} at {math.exp(right[best]):.0%}; {slot.label} at {math.exp(right[slot.label]):.0%}"
    update = {"scores": {"fit": fit}, "mean": fit, "distribution": rows, "comment": comment, "call_key": key}
    return blank.model_copy(update=update)


def _first(seeds: Sequence[Seed], fits: Callable[[str], bool]) -> str:
    """The first seed's text whose label fits: a worked example for base models; empty if there is none."""
    return next((seed.text for seed in seeds if fits(seed.label)), "")


def _numbers(
    reply: Reply, model: ModelSpec, names: Sequence[str], highest: int, and_comment: bool = False
) -> dict[str, int]:
    """Exactly these whole numbers in 0..highest. A missing, extra, fractional or boolean number fails the review."""
    given = {name: value for name, value in object_in(reply, model).items() if not (and_comment and name == "comment")}
    whole = all(type(value) is int and 0 <= value <= highest for value in given.values())
    if set(given) != set(names) or not whole:
        raise unmet(model, f"did not give exactly {len(names)} whole numbers from 0 to {highest}", reply)
    return {name: given[name] for name in names}


def _stage(role: Judge) -> Literal["content", "adjudication"]:
    return "content" if role == "reviewer" else "adjudication"


def _purpose(template: str, role: Judge) -> str:
    step = template.replace("review_rubric", "review_response")
    return step.replace("_", ".") if role == "reviewer" else step.replace("review_", "adjudicate.")
