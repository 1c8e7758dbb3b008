"""GRA: Generator, Reviewer, Adjudicator (arXiv 2504.12322, section 3), for instructions and for (text, label) rows.

The models are drawn per slot. Nothing is paid that cannot matter: gates run before reviews, flags before responses, and
reviewers are asked one after another until the outcome is settled (unless `early_exit` is off: then all at once).
What the models do never raises: it ends in the candidate's decision.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.methods.base import Context
from agents.methods.decide import decide, mean_of, passes, settled, spread_of
from agents.methods.draw import Roles, draw_roles
from agents.roles import adjudicator, generator, reviewer
from schemas.base import stable_hash
from schemas.errors import BudgetExhausted, CallFailed, GraftError
from schemas.methods import GraSettings
from schemas.models import ModelSpec
from schemas.rows import Candidate, Decision, GateResult, LabelScore, Review, Route, Slot, Status
from schemas.tasks import GuardTask

AskOne = Callable[[ModelSpec, int], Awaitable[Review]]
"""(model, how many times this model was asked before for this slot) to its review."""


@dataclass
class _Draft:
    """A candidate in the making: what is known when a step ends it."""

    slot: Slot
    context: Context
    roles: Roles
    text: str = ""
    response: str | None = None
    keywords: tuple[str, ...] = ()
    reviews: list[Review] = field(default_factory=list)
    gates: list[GateResult] = field(default_factory=list)

    @property
    def settings(self) -> GraSettings:
        """The recipe's settings of this method."""
        method = self.context.recipe.method
        if not isinstance(method, GraSettings):
            raise GraftError(f"recipe asks for {method.kind}", where="method.kind", fix="use kind: gra")
        return method


class Gra:
    """Turns one slot into one decided candidate."""

    async def run_slot(self, slot: Slot, context: Context) -> Candidate:
        """The decided candidate; its id follows from the slot's. A reached cap ends it as failed.budget."""
        draft = _Draft(slot, context, draw_roles(context.recipe, slot))
        run = _instruction if context.recipe.task.kind == "instruction" else _labelled_text
        try:
            decision = await run(draft)
        except BudgetExhausted as failure:
            decision = _failure("budget", f"No call could be paid any more: {failure.what}.")
        except CallFailed as failure:
            decision = _failure(failure.code, f"The generator gave nothing usable: {failure.what}.")
        return _candidate(draft, decision)


async def _labelled_text(draft: _Draft) -> Decision:
    """Classification and guard: write, gate, review, decide."""
    slot, context = draft.slot, draft.context
    draft.text, _ = await generator.write_text(context.ask, context.recipe, draft.roles.generator, slot)
    judged: dict[str, Any] = {
        "recipe": context.recipe, "slot": slot, "text": draft.text, "seeds": context.seeds,
        "calibration": context.calibration,
    }  # fmt: skip

    async def review(model: ModelSpec, sample: int) -> Review:
        return await reviewer.review_text(context.ask, model=model, sample=sample, **judged)

    async def settle(prior: Sequence[Review]) -> Review:
        return await adjudicator.adjudicate_text(context.ask, model=draft.roles.adjudicator, prior=prior, **judged)

    return _screened(draft) or await _content(draft, review, settle)


async def _instruction(draft: _Draft) -> Decision:
    """Steps 1 to 8 of the paper's loop; flags are in before any response is paid for."""
    slot, recipe, ask = draft.slot, draft.context.recipe, draft.context.ask
    writer = draft.roles.generator
    draft.keywords, _ = await generator.write_keywords(ask, recipe, writer, slot)
    draft.text, _ = await generator.write_instruction(ask, recipe, writer, slot, draft.keywords)
    ended = _screened(draft) or await _flagged(draft)
    if ended:
        return ended
    draft.response, _ = await generator.write_response(ask, recipe, writer, slot, draft.text)
    judged: dict[str, Any] = {
        "recipe": recipe, "slot": slot, "instruction": draft.text, "response": draft.response,
    }  # fmt: skip

    async def review(model: ModelSpec, sample: int) -> Review:
        return await reviewer.review_response(ask, model=model, sample=sample, **judged)

    async def settle(prior: Sequence[Review]) -> Review:
        return await adjudicator.adjudicate_response(ask, model=draft.roles.adjudicator, prior=prior, **judged)

    return _screened(draft) or await _content(draft, review, settle)


def _screened(draft: _Draft) -> Decision | None:
    """The rejection by the first gate that fails, if one does."""
    results = draft.context.screen(draft.text, draft.response, draft.slot.label)
    draft.gates.extend(results)
    hit = next((result for result in results if not result.passed), None)
    if hit is None:
        return None
    score = f" with score {hit.score:.3f}" if hit.score is not None else ""
    neighbour = f", too near to {hit.neighbour}" if hit.neighbour else ""
    detail = f": {hit.detail}" if hit.detail else ""
    reason = f"Gate {hit.gate} refused the row by rule {hit.rule}{score}{neighbour}{detail}."
    return Decision(status="rejected", route="gate", code=f"gate.{hit.rule}", reason=reason)


async def _flagged(draft: _Draft) -> Decision | None:
    """The rejection by any 0 flag of any reviewer, or the failure where no reviewer gave flags."""
    context, size = draft.context, len(draft.roles.reviewers)

    async def review(model: ModelSpec, sample: int) -> Review:
        return await reviewer.review_instruction(
            context.ask, recipe=context.recipe, model=model, slot=draft.slot, instruction=draft.text, sample=sample
        )

    reviews = await _ask_all(draft, review, lambda given: any(0 in one.flags.values() for one in given))
    for one in reviews:
        missing = [name for name, value in one.flags.items() if value == 0]
        if missing:
            asked = f"{len(reviews)} of {size} reviewers asked"
            reason = f"{one.model} gave the instruction 0 for {', '.join(missing)} ({asked}); no response was paid for."
            return Decision(status="rejected", route="flag", code="rejected.flag", reason=reason)
    return _all_failed(reviews)


async def _content(
    draft: _Draft, review: AskOne, adjudicate: Callable[[Sequence[Review]], Awaitable[Review]]
) -> Decision:
    """Reviews, the decision rule, and the adjudicator where they disagree above the mean."""
    settings, size = draft.settings, len(draft.roles.reviewers)

    def over(given: Sequence[Review]) -> bool:
        return settled(_means(given), size - len(given), settings.tau, settings.delta)

    reviews = await _ask_all(draft, review, over)
    figures: dict[str, Any] = {"asked": len(reviews), "saved": size - len(reviews)}
    failed = _all_failed(reviews)
    if failed:
        return failed.model_copy(update=figures)
    means = _means(reviews)
    figures |= {"mean": mean_of(means), "spread": spread_of(means)}
    outcome = decide(means, settings.tau, settings.delta)
    told = _told(means, len(reviews), size)
    if outcome == "reject":
        reason = f"{told}, below the least mean of {settings.tau:g}."
        return _decision("rejected", "low_mean", "rejected.low_mean", reason, figures)
    if outcome == "accept":
        reason = f"{told}; the mean reaches {settings.tau:g} and the spread does not exceed {settings.delta:g}."
        return _decision("accepted", "agreed", "accepted.agreed", reason, figures)
    verdict = await adjudicate([one for one in reviews if one.mean is not None])
    draft.reviews.append(verdict)
    return _adjudicated(verdict, f"{told}, a spread above {settings.delta:g}", settings.tau, figures)


def _adjudicated(verdict: Review, told: str, tau: float, figures: dict[str, Any]) -> Decision:
    if verdict.mean is None:
        reason = f"{told}, and the adjudicator {verdict.model} gave no judgement: {verdict.failure}."
        return _failure(_code(verdict), reason).model_copy(update=figures)
    if passes(verdict.mean, tau):
        reason = f"{told}; the adjudicator {verdict.model} gave {verdict.mean:.2f}, at least {tau:g}."
        return _decision("accepted", "adjudicated", "accepted.adjudicated", reason, figures)
    reason = f"{told}; the adjudicator {verdict.model} gave {verdict.mean:.2f}, below {tau:g}."
    return _decision("rejected", "adjudicated", "rejected.adjudicated", reason, figures)


async def _ask_all(draft: _Draft, ask_one: AskOne, over: Callable[[Sequence[Review]], bool]) -> list[Review]:
    """The committee's reviews in its drawn order: one after another until `over`, or all at once without early exit.

    They are entered in the draft as they come in. Raises BudgetExhausted once nothing is in flight any more.
    """
    seen: Counter[str] = Counter()
    seats: list[tuple[ModelSpec, int]] = []
    for model in draft.roles.reviewers:
        seats.append((model, seen[model.name]))
        seen[model.name] += 1
    if draft.settings.early_exit:
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


def _all_failed(reviews: Sequence[Review]) -> Decision | None:
    """The failure of a committee of which nobody gave a judgement; some failing are left out of the decision."""
    if any(not review.failure for review in reviews):
        return None
    noun = "reviewer" if len(reviews) == 1 else "reviewers"
    reason = f"None of {len(reviews)} {noun} gave a judgement; the first: {reviews[0].failure}."
    return _failure(_code(reviews[0]), reason)


def _code(review: Review) -> str:
    return review.failure.partition(":")[0]


def _told(means: Sequence[float], asked: int, size: int) -> str:
    """The figures of a committee as the beginning of a sentence."""
    noun = "reviewer" if size == 1 else "reviewers"
    given = ", ".join(f"{mean:.2f}" for mean in means)
    failed = f" ({asked - len(means)} failed)" if asked > len(means) else ""
    saved = f" ({size - asked} not asked, as the outcome was settled)" if asked < size else ""
    return (
        f"{len(means)} of {size} {noun} gave {given}{failed}{saved}: mean {mean_of(means):.2f}, "
        f"spread {spread_of(means):.2f}"
    )


def _decision(status: Status, route: Route, code: str, reason: str, figures: dict[str, Any]) -> Decision:
    return Decision(status=status, route=route, code=code, reason=reason, **figures)


def _failure(code: str, reason: str) -> Decision:
    return Decision(status="failed", route="failed", code=f"failed.{code}", reason=reason.replace("..", "."))


def _candidate(draft: _Draft, decision: Decision) -> Candidate:
    slot, task = draft.slot, draft.context.recipe.task
    return Candidate(
        id="c_" + stable_hash(slot.id), slot=slot, text=draft.text, response=draft.response,
        label=slot.label, intended_label=slot.label, keywords=draft.keywords, models=draft.roles.names(),
        reviews=tuple(draft.reviews), gates=tuple(draft.gates), decision=decision,
        soft_label=soft_label([review.distribution for review in draft.reviews if review.distribution]),
        restricted=isinstance(task, GuardTask) and task.restricted and slot.label == "harmful",
    )  # fmt: skip


def soft_label(distributions: Sequence[Sequence[LabelScore]]) -> dict[str, float]:
    """Mean calibrated probability of each label over the judgements by probabilities; empty where there is none."""
    columns: dict[str, list[float]] = {}
    for distribution in distributions:
        for entry in distribution:
            columns.setdefault(entry.label, []).append(math.exp(entry.calibrated))
    return {label: math.fsum(values) / len(values) for label, values in columns.items()}
