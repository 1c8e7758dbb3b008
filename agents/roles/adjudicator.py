"""The adjudicator: decides alone if reviewers disagree above the mean (GRA section 3).

By scores it sees the prior reviews; by probabilities it gives its own distribution. Failures are returned as in
`reviewer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graft.agents.roles.asking import Ask
from graft.agents.roles.reviewer import RESPONSE_SCORES, judge_text, score
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Review, Seed, Slot
from graft.schemas.tasks.base import Label


async def adjudicate_response(
    ask: Ask, *, recipe: Recipe, model: ModelSpec, slot: Slot, instruction: str, response: str, prior: Sequence[Review]
) -> Review:
    """The same six scores as a reviewer's, after reading the prior reviews. Raises BudgetExhausted only."""
    return await score(
        ask, "review_response", RESPONSE_SCORES, recipe=recipe, model=model, role="adjudicator", slot=slot,
        prior=prior, instruction=instruction, response=response,
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
