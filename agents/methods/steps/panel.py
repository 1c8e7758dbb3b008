"""The panel: reviewers until the outcome is settled, then the adjudicator if they disagree (GRA section 3).

Reviewers are called one after another unless `early_exit` is off: then all at once.

The decision rule is GRA's (arXiv 2504.12322). The spread is the population standard deviation over the reviewers'
means: the paper's case 1 prints 2.4758, which only that gives. Both bounds are inclusive; a tolerance of 1e-9 keeps
float rounding from moving a row over a bound.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, NamedTuple

from graft.agents.methods.base import TOLERANCE, Bounds
from graft.agents.methods.steps.draft import Draft, code_of, decision, failure, soft_label
from graft.agents.methods.steps.draw import Committee, Roles
from graft.agents.roles import reviewer
from graft.schemas.decisions import UNSURE
from graft.schemas.models import ModelSpec
from graft.schemas.rows import Decision, LabelScore, Review
from graft.schemas.tasks.base import Label

Outcome = Literal["reject", "accept", "adjudicate"]
HIGHEST = 10.0

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
    measuring = [
        reviewer.by_probabilities(context.recipe, model, "reviewer") and not model.is_student
        for model in roles.reviewers
    ]

    async def review(model: ModelSpec, sample: int) -> Review:
        return await reviewer.review_text(context.ask, model=model, sample=sample, **judged)

    async def settle(prior: Sequence[Review]) -> Review:
        return await reviewer.adjudicate_text(context.ask, model=roles.adjudicator, prior=prior, **judged)

    return await review_content(draft, roles, settings, review, settle, measuring)


async def review_content(
    draft: Draft, roles: Roles, settings: Committee, review: AskOne, adjudicate: Adjudicate,
    measuring: Sequence[bool] = (),
) -> Decision:  # fmt: skip
    """Reviews, the decision rule, and the adjudicator if they disagree above the mean.

    An accepted row's label must be likely enough (`unsure`) where judges answer by probabilities; `measuring` tells it
    for each reviewer. A student's probabilities do not count there: rows that it finds hard are the ones to learn from.
    """
    size, bounds = len(roles.reviewers), settings.bounds(draft.context.bounds)
    learners = {model.name for model in (*roles.reviewers, roles.adjudicator) if model.is_student}

    def measured(given: Sequence[Review]) -> list[Sequence[LabelScore]]:
        return [one.distribution for one in given if one.distribution and one.model not in learners]

    def over(given: Sequence[Review]) -> bool:
        means, left = _means(given), size - len(given)
        if not settled(means, left, settings.tau, settings.delta):
            return False
        hopeless = not passes(mean_of([*means, *[HIGHEST] * left]), settings.tau)
        known = [sureness(draft.label, [one]) for one in measured(given)]
        return hopeless or sure_settled(known, sum(measuring[len(given) :]), bounds)

    early = settings.early_exit and not draft.thorough
    reviews = await ask_all(draft, roles, review, over, early=early)
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
        given = measured(reviews)
        reason = f"{summary}; the mean reaches {settings.tau:g} and the spread does not exceed {settings.delta:g}"
        agreed = decision("accepted", "agreed", "accepted.agreed", f"{reason}{_probable(draft, given)}.", **figures)
        return unsure(draft, given, bounds, agreed) or agreed
    verdict = await adjudicate([one for one in reviews if one.mean is not None])
    draft.reviews.append(verdict)
    ended = _adjudicated(verdict, f"{summary}, a spread above {settings.delta:g}", settings.tau, figures)
    given = measured((*reviews, verdict))
    return (unsure(draft, given, bounds, ended) if ended.status == "accepted" else None) or ended


class Sure(NamedTuple):
    """The probability of a label, from 0 to 1, and its lead over the likeliest other label."""

    probability: float
    margin: float
    second: str = ""


def sureness(label: str, distributions: Sequence[Sequence[LabelScore]]) -> Sure:
    """The label's mean calibrated probability over judgements by probabilities, and its lead over the next."""
    soft = soft_label(distributions)
    own = soft.pop(label, 0.0)
    second = max(soft, key=lambda name: soft[name], default="")
    return Sure(own, own - soft.get(second, 0.0), second)


def unsure(
    draft: Draft, distributions: Sequence[Sequence[LabelScore]], least: Bounds, accepted: Decision
) -> Decision | None:
    """The rejection of a row whose label its judges find too improbable, or hardly likelier than another label."""
    sure = sureness(draft.label, distributions)
    if not distributions or least.accept(sure.probability, sure.margin):
        return None
    low = sure.probability < least.min_probability - TOLERANCE
    what = f"below the least probability of {least.min_probability:.0%}"
    if not low:
        what = (
            f"less than {100 * least.min_margin:.0f} points above {sure.second} at {sure.probability - sure.margin:.0%}"
        )
    reason = f"The judges give {draft.label} a mean probability of {sure.probability:.0%}, {what}."
    return accepted.model_copy(update={"status": "rejected", "route": "unsure", "code": UNSURE, "reason": reason})


def sure_settled(known: Sequence[Sure], remaining: int, least: Bounds) -> bool:
    """Return True if the remaining judgements by probabilities, or failures of them, cannot change `least.accept`.

    The mean of every number of further judgements lies between those with only the lowest (probability 0, lead -1) and
    only the highest values (1, 1). The lead of the mean is at least the mean lead, and at most the mean lead over one
    and the same other label; its upper bound is not used, so an unsure row is settled by its probability alone.
    """
    if not known:
        return remaining <= 0
    total, lead = (math.fsum(values) for values in zip(*((one.probability, one.margin) for one in known), strict=True))
    counts = [len(known) + more for more in range(remaining + 1)]
    if all(least.accept(total / n, (lead - (n - len(known))) / n) for n in counts):
        return True
    return all((total + n - len(known)) / n < least.min_probability - TOLERANCE for n in counts)


def _probable(draft: Draft, distributions: Sequence[Sequence[LabelScore]]) -> str:
    if not distributions:
        return ""
    return f"; {draft.label} has a mean probability of {sureness(draft.label, distributions).probability:.0%}"


def mean_of(values: Sequence[float]) -> float:
    """Arithmetic mean, correctly rounded in its sum. Raises ZeroDivisionError for no values."""
    return math.fsum(values) / len(values)


def spread_of(values: Sequence[float]) -> float:
    """Population standard deviation (ddof 0). Raises ZeroDivisionError for no values."""
    middle = mean_of(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / len(values))


def passes(mean: float, tau: float) -> bool:
    """Return True if a mean reaches tau (inclusive)."""
    return mean >= tau - TOLERANCE


def decide(means: Sequence[float], tau: float, delta: float) -> Outcome:
    """Reject a mean below tau, accept means that agree, else adjudicate. `means`: one or more, each in 0..10."""
    if not passes(mean_of(means), tau):
        return "reject"
    return "accept" if spread_of(means) <= delta + TOLERANCE else "adjudicate"


def settled(means_so_far: Sequence[float], remaining: int, tau: float, delta: float) -> bool:
    """Return True if the remaining reviewers can no longer change the outcome of `decide`.

    Any of the remaining may also fail, so every number of further answers is checked. Rejection: the mean cannot
    reach tau any more even with tens. Acceptance: mean and spread keep their bounds at every corner of [0, 10]; the
    mean is linear and the spread convex, so what holds at the corners holds between them. A dispute is never settled
    early: the adjudicator reads all reviews.
    """
    if not means_so_far:
        return False
    if remaining <= 0:
        return True
    if not passes(mean_of([*means_so_far, *[HIGHEST] * remaining]), tau):
        return True
    if not passes(mean_of([*means_so_far, *[0.0] * remaining]), tau):
        return False
    return all(
        spread_of([*means_so_far, *[0.0] * zeros, *[HIGHEST] * (answers - zeros)]) <= delta
        for answers in range(remaining + 1)
        for zeros in range(answers + 1)
    )


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
    draft: Draft, roles: Roles, ask_one: AskOne, over: Callable[[Sequence[Review]], bool], *, early: bool
) -> list[Review]:
    """The committee's reviews in its drawn order: one after another until `over` if `early`, or all at once.

    They are added to the draft as they come in. Raises BudgetExhausted once nothing is in flight any more.
    """
    seen: Counter[str] = Counter()
    seats: list[tuple[ModelSpec, int]] = []
    for model in roles.reviewers:
        seats.append((model, seen[model.name]))
        seen[model.name] += 1
    if early:
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
