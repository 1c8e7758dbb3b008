"""GRA: Generator, Reviewer, Adjudicator (arXiv 2504.12322, section 3), for instructions and for (text, label) rows.

The models are drawn per slot. Nothing is paid that cannot matter: gates run before reviews, flags before responses, and
reviewers are asked until the outcome is settled. What the models do never raises: it ends in the candidate's decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agents.methods.base import Context, Drawn, Place
from agents.methods.draft import Draft, decided, decision, screened
from agents.methods.draw import Roles, draw_roles, gra_of, make_slot
from agents.methods.panel import all_failed, ask_all, review_content, review_label
from agents.roles import adjudicator, generator, reviewer
from schemas.models import ModelSpec, RoleName
from schemas.recipe import Recipe
from schemas.rows import Candidate, Decision, Review, Slot


class Gra:
    """Turns one slot into one decided candidate."""

    def roles(self, recipe: Recipe) -> tuple[RoleName, ...]:
        """The three of its name."""
        return ("generator", "reviewer", "adjudicator")

    def make_slot(self, place: Place, drawn: Drawn) -> Slot:
        """A slot with `few_shot` exemplars of its label."""
        return make_slot(place, drawn, *gra_of(drawn.recipe).few_shot)

    async def propose(self, slot: Slot, context: Context) -> str:
        """The text that the slot's generator writes."""
        model = draw_roles(context.recipe, slot).generator
        return (await generator.write_text(context.ask, context.recipe, model, slot))[0]

    async def run_slot(self, slot: Slot, context: Context) -> Candidate:
        """The decided candidate. A reached cap ends it as failed.budget."""
        roles = draw_roles(context.recipe, slot)
        draft = Draft(slot, context, roles.names())
        run = _instruction if context.recipe.task.kind == "instruction" else _labelled_text
        return await decided(draft, run(draft, roles), "The generator")


async def _labelled_text(draft: Draft, roles: Roles) -> Decision:
    """Classification and guard: write, gate, review, decide."""
    draft.text = await Gra().propose(draft.slot, draft.context)
    return screened(draft) or await review_label(draft, roles, gra_of(draft.context.recipe))


async def _instruction(draft: Draft, roles: Roles) -> Decision:
    """Steps 1 to 8 of the paper's loop; flags are in before any response is paid for."""
    slot, recipe, ask = draft.slot, draft.context.recipe, draft.context.ask
    draft.keywords, _ = await generator.write_keywords(ask, recipe, roles.generator, slot)
    draft.text, _ = await generator.write_instruction(ask, recipe, roles.generator, slot, draft.keywords)
    ended = screened(draft) or await _flagged(draft, roles)
    if ended:
        return ended
    draft.response, _ = await generator.write_response(ask, recipe, roles.generator, slot, draft.text)
    judged: dict[str, Any] = {
        "recipe": recipe, "slot": slot, "instruction": draft.text, "response": draft.response,
    }  # fmt: skip

    async def review(model: ModelSpec, sample: int) -> Review:
        return await reviewer.review_response(ask, model=model, sample=sample, **judged)

    async def settle(prior: Sequence[Review]) -> Review:
        return await adjudicator.adjudicate_response(ask, model=roles.adjudicator, prior=prior, **judged)

    return screened(draft) or await review_content(draft, roles, gra_of(recipe), review, settle)


async def _flagged(draft: Draft, roles: Roles) -> Decision | None:
    """The rejection by any 0 flag of any reviewer, or the failure where no reviewer gave flags."""
    context, size = draft.context, len(roles.reviewers)

    async def review(model: ModelSpec, sample: int) -> Review:
        return await reviewer.review_instruction(
            context.ask, recipe=context.recipe, model=model, slot=draft.slot, instruction=draft.text, sample=sample
        )

    def over(given: Sequence[Review]) -> bool:
        return any(0 in one.flags.values() for one in given)

    reviews = await ask_all(draft, roles, gra_of(context.recipe), review, over)
    for one in reviews:
        missing = [name for name, value in one.flags.items() if value == 0]
        if missing:
            asked = f"{len(reviews)} of {size} reviewers asked"
            reason = f"{one.model} gave the instruction 0 for {', '.join(missing)} ({asked}); no response was paid for."
            return decision("rejected", "flag", "rejected.flag", reason)
    return all_failed(reviews)
