"""GRA: Generator, Reviewer, Adjudicator (arXiv 2504.12322, section 3), for instructions and for (text, label) rows.

The models are drawn per slot. Nothing is paid that cannot matter: gates run before reviews, flags before responses, and
reviewers are asked until the outcome is settled. What the models do never raises: it ends in the candidate's decision.

With `responses: k` an instruction has a group of k slots. They share random seed, exemplars, and so the calls for
keywords, instruction and flags, which are made once; each writes and reviews a response of its own. The best accepted
one of a group stays accepted, the others end as `rejected.not_best`: that one is better says nothing against them, so
they are no negatives to learn from (students.instruct.data).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from graft.agents.methods.base import Context, Drawn, Place
from graft.agents.methods.draft import Draft, decided, decision, screened
from graft.agents.methods.draw import Roles, draw_roles, gra_of, make_slot, slot_id, steered
from graft.agents.methods.panel import all_failed, ask_all, review_content, review_label
from graft.agents.roles import adjudicator, generator, reviewer
from graft.schemas.errors import BudgetExhausted, CallFailed
from graft.schemas.models import ModelSpec, RoleName
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Decision, Review, Slot


class Gra:
    """Turns one slot into one decided candidate."""

    def roles(self, recipe: Recipe) -> tuple[RoleName, ...]:
        """The three of its name."""
        return ("generator", "reviewer", "adjudicator")

    def make_slot(self, place: Place, drawn: Drawn) -> Slot:
        """A slot with `few_shot` exemplars of its label; one of a group where a text has several responses."""
        settings = gra_of(drawn.recipe)
        parts = 1 if drawn.recipe.task.labelled else settings.responses
        if parts == 1:
            return make_slot(place, drawn, *settings.few_shot)
        part = place.index % parts
        first = dataclasses.replace(place, index=place.index - part)
        slot = make_slot(first, drawn, *settings.few_shot)
        steer = steered(drawn.recipe, dataclasses.replace(first, index=first.index // parts), slot.seed)
        own = {"id": slot_id(place), "index": place.index, "group": slot.id, "part": part, "steer": steer}
        return slot.model_copy(update=own)

    async def propose(self, slot: Slot, context: Context) -> str:
        """The text that the slot's generator writes."""
        model = draw_roles(context.recipe, slot).generator
        return (await generator.write_text(context.ask, context.recipe, model, slot))[0]

    async def run_slot(self, slot: Slot, context: Context) -> Candidate:
        """The decided candidate. A reached cap ends it as failed.budget."""
        roles = draw_roles(context.recipe, slot)
        draft = Draft(slot, context, roles.names())
        run = _labelled_text if context.recipe.task.labelled else _instruction
        return await decided(draft, run(draft, roles), "The generator")


async def _labelled_text(draft: Draft, roles: Roles) -> Decision:
    """A text with a label: write, gate, review, decide."""
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
    ended = await _answered(draft, roles)
    better = await _better(draft, roles, ended.mean or 0.0) if ended.status == "accepted" else None
    if better is None:
        return ended
    reason = f"{ended.reason} Response {better + 1} to the same instruction is kept instead: it was scored no lower."
    return ended.model_copy(update={"status": "rejected", "code": "rejected.not_best", "reason": reason})


async def _answered(draft: Draft, roles: Roles) -> Decision:
    """Write, gate and review the response of the draft's slot."""
    slot, recipe, ask = draft.slot, draft.context.recipe, draft.context.ask
    draft.response, _ = await generator.write_response(ask, recipe, roles.generator, slot, draft.text)
    judged: dict[str, Any] = {
        "recipe": recipe, "slot": slot, "instruction": draft.text, "response": draft.response,
    }  # fmt: skip

    async def review(model: ModelSpec, sample: int) -> Review:
        return await reviewer.review_response(ask, model=model, sample=sample, **judged)

    async def settle(prior: Sequence[Review]) -> Review:
        return await adjudicator.adjudicate_response(ask, model=roles.adjudicator, prior=prior, **judged)

    return screened(draft) or await review_content(draft, roles, gra_of(recipe), review, settle)


async def _better(draft: Draft, roles: Roles, mean: float) -> int | None:
    """The part of the accepted response of the draft's group that is kept in its place; None where it is the best.

    The higher mean is better, of equals the earlier part. The others' calls are asked for here as their own slots ask
    for them, so that they are made once, and every slot of the group finds the same best. Raises BudgetExhausted.
    """
    slot = draft.slot
    others = range(gra_of(draft.context.recipe).responses) if slot.group else range(0)
    best, highest = slot.part, mean
    for part in (part for part in others if part != slot.part):
        other = Draft(slot.model_copy(update={"part": part}), draft.context, draft.models, text=draft.text)
        try:
            ended = await _answered(other, roles)
        except BudgetExhausted:
            raise
        except CallFailed:
            continue  # that slot ends as failed by the same call
        if ended.status == "accepted" and (ended.mean or 0.0, -part) > (highest, -best):
            best, highest = part, ended.mean or 0.0
    return None if best == slot.part else best


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
