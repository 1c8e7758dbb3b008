"""The panel: reviewers until the outcome is settled, then the adjudicator if they disagree (GRA section 3).

Reviewers are called one after another unless `early_exit` is off: then all at once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from graft.agents.methods.steps.decide import decide, mean_of, passes, settled, spread_of
from graft.agents.methods.steps.draft import Draft, code_of, decision, failure
from graft.agents.methods.steps.draw import Committee, Roles
from graft.agents.roles import adjudicator, reviewer
from graft.schemas.models import ModelSpec
from graft.schemas.rows import Decision, Review
from graft.schemas.tasks.base import Label

AskOne = Callable[[ModelSpec, int], Awaitable[Review]]
"""(model, number of its earlier reviews of this slot) to its review."""

Adjudicate = Callable[[Sequence[Review]], Awaitable[Review]]
"""The prior reviews to the adjudicator's."""


async def review_label(
    draft: Draft, roles: Roles, settings: Committee, labels: Sequence[Label] | None = None
) -> Decision:
    """Review whether the draft's text fits its label and is usable; `labels` narrows the judges' choice."""
    context = draft.context
    judged: dict[str, Any] = {
        "recipe": context.recipe, "slot": draft.judged, "text": draft.text, "seeds": context.seeds,
        "calibration": context.calibration, "labels": labels,
    }  # fmt: skip

    async def review(model: ModelSpec, sample: int) -> Review:
        return await reviewer.review_text(context.ask, model=model, sample=sample, **judged)

    async def settle(prior: Sequence[Review]) -> Review:
        return await adjudicator.adjudicate_text(context.ask, model=roles.adjudicator, prior=prior, **judged)

    return await review_content(draft, roles, settings, review, settle)


async def review_content(
    draft: Draft, roles: Roles, settings: Committee, review: AskOne, adjudicate: Adjudicate
) -> Decision:
    """Reviews, the decision rule, and the adjudicator if they disagree above the mean."""
    size = len(roles.reviewers)

    def over(given: Sequence[Review]) -> bool:
        return settled(_means(given), size - len(given), settings.tau, settings.delta)

    reviews = await ask_all(draft, roles, settings, review, over)
    figures: dict[str, Any] = {"asked": len(reviews), "saved": size - len(reviews)}
    failed = all_failed(reviews)
    if failed:
        return failed.model_copy(update=figures)
    means = _means(reviews)
    figures |= {"mean": mean_of(means), "spread": spread_of(means)}
    outcome = decide(means, settings.tau, settings.delta)
    summary = _summary(means, len(reviews), size)
    if outcome == "reject":
        reason = f"{summary}, below the least mean of {settings.tau:g}."
        return decision("rejected", "low_mean", "rejected.low_mean", reason, **figures)
    if outcome == "accept":
        reason = f"{summary}; the mean reaches {settings.tau:g} and the spread does not exceed {settings.delta:g}."
        return decision("accepted", "agreed", "accepted.agreed", reason, **figures)
    verdict = await adjudicate([one for one in reviews if one.mean is not None])
    draft.reviews.append(verdict)
    return _adjudicated(verdict, f"{summary}, a spread above {settings.delta:g}", settings.tau, figures)


def _adjudicated(verdict: Review, summary: str, tau: float, figures: dict[str, Any]) -> Decision:
    if verdict.mean is None:
        reason = f"{summary}, and the adjudicator {verdict.model} gave no judgement: {verdict.failure}."
        return failure(code_of(verdict), reason).model_copy(update=figures)
    if passes(verdict.mean, tau):
        reason = f"{summary}; the adjudicator {verdict.model} gave {verdict.mean:.2f}, at least {tau:g}."
        return decision("accepted", "adjudicated", "accepted.adjudicated", reason, **figures)
    reason = f"{summary}; the adjudicator {verdict.model} gave {verdict.mean:.2f}, below {tau:g}."
    return decision("rejected", "adjudicated", "rejected.adjudicated", reason, **figures)


async def ask_all(
    draft: Draft, roles: Roles, settings: Committee, ask_one: AskOne, over: Callable[[Sequence[Review]], bool]
) -> list[Review]:
    """The committee's reviews in its drawn order: one after another until `over`, or all at once without early exit.

    They are added to the draft as they come in. Raises BudgetExhausted once nothing is in flight any more.
    """
    seen: Counter[str] = Counter()
    seats: list[tuple[ModelSpec, int]] = []
    for model in roles.reviewers:
        seats.append((model, seen[model.name]))
        seen[model.name] += 1
    if settings.early_exit:
        reviews: list[Review] = []
        for model, sample in seats:
            reviews.append(await ask_one(model, sample))
            draft.reviews.append(reviews[-1])
            if over(reviews):
                break
        return reviews
    answers = await asyncio.gather(*(ask_one(model, sample) for model, sample in seats), return_exceptions=True)
    reviews = [answer for answer in answers if isinstance(answer, Review)]
    draft.reviews.extend(reviews)
    raised = next((answer for answer in answers if isinstance(answer, BaseException)), None)
    if raised is not None:
        raise raised
    return reviews


def _means(reviews: Sequence[Review]) -> list[float]:
    return [review.mean for review in reviews if review.mean is not None]


def all_failed(reviews: Sequence[Review]) -> Decision | None:
    """The failure of a committee without any judgement; single failed reviews are left out of the decision."""
    if any(not review.failure for review in reviews):
        return None
    noun = "reviewer" if len(reviews) == 1 else "reviewers"
    reason = f"None of {len(reviews)} {noun} gave a judgement; the first: {reviews[0].failure}."
    return failure(code_of(reviews[0]), reason)


def _summary(means: Sequence[float], called: int, size: int) -> str:
    """The figures of a committee as the beginning of a sentence."""
    noun = "reviewer" if size == 1 else "reviewers"
    given = ", ".join(f"{mean:.2f}" for mean in means)
    failed = f" ({called - len(means)} failed)" if called > len(means) else ""
    saved = f" ({size - called} skipped, as the outcome was settled)" if called < size else ""
    return (
        f"{len(means)} of {size} {noun} gave {given}{failed}{saved}: mean {mean_of(means):.2f}, "
        f"spread {spread_of(means):.2f}"
    )
