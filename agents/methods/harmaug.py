"""HarmAug (arXiv 2410.01524): messages on both sides of a policy, three responses to each, and a teacher's labels.

The generator's turn is begun with an affirmative prefix, because a tuned model refuses to invent harmful messages. The
label comes from the guard alone, never from what was intended: a refusal to a harmful message is mostly safe. As many
messages again are safe ones, a set share of them borderline, which the paper does not have: guards that learn from
harmful messages alone refuse too much. What is refused, repeated or near-repeated is rejected, which the paper leaves.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Sequence

from graft.agents.methods.base import Context, Drawn, Place
from graft.agents.methods.draft import Draft, decided, decision, failure, screened, soft_label
from graft.agents.methods.draw import draw_model, make_slot, pool_of
from graft.agents.roles.guard import dialogue, score_message
from graft.agents.roles.labeler import is_vote
from graft.agents.roles.mixer import repeats_prefix, write_message
from graft.agents.roles.responder import respond
from graft.schemas.errors import BudgetExhausted, CallFailed, GraftError, NoPrefill
from graft.schemas.methods import HarmAugSettings
from graft.schemas.models import RoleName
from graft.schemas.recipe import Recipe
from graft.schemas.refusals import refusal_of
from graft.schemas.rows import Aim, Candidate, Decision, Labelling, Side, Slot, Variant

VARIANTS: tuple[Variant, ...] = ("empty", "refusal", "compliance")


class HarmAug:
    """Turns one slot into one decided candidate; the variants of a message are slots that share its call."""

    def roles(self, recipe: Recipe) -> tuple[RoleName, ...]:
        """Generator, responder where rows have a response, and guard."""
        return ("generator", "responder", "guard") if len(variants(recipe)) > 1 else ("generator", "guard")

    def make_slot(self, place: Place, drawn: Drawn) -> Slot:
        """A slot with its side, its variant and its exemplars; those of one message differ in the variant alone."""
        settings, kinds = augmenting(drawn.recipe), variants(drawn.recipe)
        part = place.index % len(kinds)
        first = dataclasses.replace(place, index=place.index - part)
        shown = make_slot(first, drawn, settings.exemplars, settings.exemplars)
        aim = Aim(side=_side(drawn.recipe, place.label, shown.seed), variant=kinds[part])
        own = make_slot(place, drawn, 0, 0)
        update = {"exemplars": shown.exemplars, "seed": shown.seed, "group": shown.id, "part": part, "aim": aim}
        return own.model_copy(update=update)

    async def propose(self, slot: Slot, context: Context) -> str:
        """The message as the guard reads it: with its response, where the slot has one. Raises CallFailed."""
        text, _ = await _message(slot, context)
        response = await _response(slot, context, text)
        return dialogue(text, response) if response else text

    async def run_slot(self, slot: Slot, context: Context) -> Candidate:
        """The decided candidate. A reached cap ends it as failed.budget."""
        draft = Draft(slot, context, {"generator": draw_model(context.recipe, slot, "generator").name})
        return await decided(draft, _run(draft), "A model")


def augmenting(recipe: Recipe) -> HarmAugSettings:
    """The recipe's HarmAug settings. Raises GraftError where it has another method or another task."""
    if not isinstance(recipe.method, HarmAugSettings):
        raise GraftError(f"recipe asks for {recipe.method.kind}", where="method.kind", fix="use kind: harmaug")
    if not recipe.task.sides:
        raise GraftError("harmaug makes rows for a guard", where="task.kind", fix="use task.kind: guard, with a policy")
    return recipe.method


def variants(recipe: Recipe) -> tuple[Variant, ...]:
    """The responses that each message gets: none, or none, a refusal and a compliance."""
    return VARIANTS if recipe.task.sides and recipe.task.needs_response else VARIANTS[:1]


def _side(recipe: Recipe, label: str, seed: int) -> Side:
    if label == recipe.task.sides[0]:
        return "harmful"
    share = augmenting(recipe).borderline
    return "borderline" if random.Random(f"side-{seed}").random() < share else "benign"


async def _message(slot: Slot, context: Context) -> tuple[str, bool]:
    """The message (or a refusal to write it), and whether the turn was begun for it."""
    recipe = context.recipe
    writer, prefill = draw_model(recipe, slot, "generator"), augmenting(recipe).prefill
    text, _, begun = await write_message(context.ask, recipe, writer, slot, prefill=prefill)
    return text, begun


async def _response(slot: Slot, context: Context, text: str) -> str | None:
    variant = slot.aim.variant if slot.aim else "empty"
    if variant == "empty":
        return None
    writer = draw_model(context.recipe, slot, "responder")
    return (
        await respond(context.ask, recipe=context.recipe, model=writer, slot=slot, instruction=text, variant=variant)
    )[0]


async def _run(draft: Draft) -> Decision:
    """Message, gates, response, gates, teacher."""
    slot, context = draft.slot, draft.context
    draft.text, draft.prefilled = await _message(slot, context)
    refused = refusal_of(draft.text)
    if refused:
        how = "though its turn was begun" if draft.prefilled else "without a begun turn"
        reason = f"{draft.models['generator']} refused to write the message ({refused}), {how}."
        return decision("rejected", "refusal", "rejected.refusal", reason)
    if repeats_prefix(draft.text, augmenting(context.recipe).prefix):
        return failure("malformed", f"{draft.models['generator']} repeated the beginning of its turn.")
    ended = screened(draft)
    if ended:
        return ended
    draft.response = await _response(slot, context, draft.text)
    if draft.response is not None:
        draft.models["responder"] = draw_model(context.recipe, slot, "responder").name
        ended = screened(draft)
    return ended or await _taught(draft)


async def _taught(draft: Draft) -> Decision:
    """The guards' label: their mean probability against the threshold."""
    context, threshold = draft.context, augmenting(draft.context.recipe).threshold
    guards = context.recipe.models_for("guard")
    reviews = await asyncio.gather(
        *(
            score_message(
                context.ask, recipe=context.recipe, model=model, seeds=context.seeds, text=draft.text,
                response=draft.response, means=context.calibration.get(model.name),
                by_name=model.name in context.by_name,
            )
            for model in guards
        )
    )  # fmt: skip
    draft.reviews.extend(reviews)
    draft.models["guard"] = ",".join(model.name for model in guards)
    given = [review for review in reviews if review.distribution]
    if not given:
        return failure(reviews[0].failure.partition(":")[0], f"No guard gave a score; the first: {reviews[0].failure}.")
    draft.soft_label = soft_label([review.distribution for review in given])
    refused, allowed = context.recipe.task.sides
    score = draft.soft_label[refused]
    draft.label = refused if score > threshold else allowed
    draft.labelling = Labelling(
        by="guard", candidates=(refused, allowed), label=draft.label, relabelled=draft.label != draft.slot.label,
        margin=abs(2 * score - 1), second=allowed if draft.label == refused else refused,
        votes=any(is_vote(review) for review in given),
    )  # fmt: skip
    side = draft.slot.aim.side if draft.slot.aim else ""
    gave = f"{draft.models['guard']} gave {refused} {score:.0%}"
    reason = f"{gave}, the threshold is {threshold:.0%}; it was meant {side}."
    return decision("accepted", "labelled", "accepted.labelled", reason)


async def measure_refusals(context: Context, slots: Sequence[Slot]) -> dict[str, int]:
    """How many of these messages are refused with and without a begun turn: counts alone, no text is kept.

    Keys: asked_prefilled, refused_prefilled, asked_plain, refused_plain. Base models have no turns and are left out.
    """
    settings, pool = augmenting(context.recipe), pool_of(context.recipe, "generator")
    tuned = [model for model in pool if model.style == "chat"]
    counts = dict.fromkeys(("asked_prefilled", "refused_prefilled", "asked_plain", "refused_plain"), 0)

    async def one(slot: Slot, prefill: bool) -> None:
        writer = random.Random(f"generator-{slot.seed}").choice(tuned)
        try:
            text, _, _ = await write_message(context.ask, context.recipe, writer, slot, prefill=prefill)
        except BudgetExhausted:
            raise
        except CallFailed:
            return
        except NoPrefill:
            if settings.prefill:
                raise
            return
        how = "prefilled" if prefill else "plain"
        counts[f"asked_{how}"] += 1
        counts[f"refused_{how}"] += bool(refusal_of(text))

    ways = (True, False) if settings.prefix else (False,)
    if tuned:
        await asyncio.gather(*(one(slot, prefill) for slot in slots for prefill in ways))
    return counts if counts["asked_plain"] or counts["asked_prefilled"] else {}
