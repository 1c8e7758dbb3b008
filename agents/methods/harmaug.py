"""HarmAug (arXiv 2410.01524): messages on both sides of a policy, three responses to each, and a teacher's labels.

An affirmative prefix begins the generator's turn, because a tuned model refuses to invent harmful messages. The
label comes from the guard alone, not from the intention: a refusal to a harmful message is mostly safe. Beyond the
paper, half of the messages are safe, a set share of them borderline, because guards that learn from harmful messages
alone refuse too much; and refused, repeated or near-repeated messages are rejected.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, get_args

from pydantic import Field, JsonValue

from graft.agents.methods.base import Calls, Context, Drawn, Method, Place, Prepared, Query, Traits
from graft.agents.methods.steps.calibrate import Judging, calibrated
from graft.agents.methods.steps.draft import Draft, decided, decision, failure, screened, soft_label
from graft.agents.methods.steps.draw import draw_model, make_slot, pool_of
from graft.agents.methods.steps.scoring import scoring_report
from graft.agents.methods.steps.sizes import PROMPT_OVERHEAD, calibration_calls, sizes
from graft.agents.roles.guard import dialogue, score_message
from graft.agents.roles.labeler import is_vote
from graft.agents.roles.mixer import repeats_prefix, write_message
from graft.agents.roles.responder import respond
from graft.schemas.base import Value
from graft.schemas.binding import MethodSettings, Role
from graft.schemas.errors import BudgetExhausted, CallFailed, NoPrefill
from graft.schemas.kinds import TASKS
from graft.schemas.models import GuardSpec
from graft.schemas.problems import Finding
from graft.schemas.recipe import Recipe
from graft.schemas.refusals import refusal_of
from graft.schemas.rows import Candidate, Decision, Labelling, Seed, Slot
from graft.schemas.sections import Section

Side = Literal["harmful", "borderline", "benign"]
Variant = Literal["empty", "refusal", "compliance"]
VARIANTS: tuple[Variant, ...] = ("empty", "refusal", "compliance")
MEASURED_FROM = 1_000_000
"""Index of the first message that only counts refusals, so that it takes no draw of the shards."""


class HarmAugSettings(MethodSettings):
    """HarmAug (arXiv 2410.01524): instructions by a prefilled turn, three variants, a teacher's labels."""

    kind: Literal["harmaug"] = "harmaug"
    exemplars: int = Field(default=3, ge=1, le=16, description="k: examples shown; the paper's figure has 3")
    prefix: str = Field(
        default="I have an idea for a prompt:", max_length=200, description="begins the generator's turn"
    )
    prefill: bool = Field(default=True, description="false: ask without the prefix, as the paper's comparison does")
    threshold: float = Field(default=0.5, ge=0, le=1, description="harmful where the guard's probability is above it")
    borderline: float = Field(
        default=0.5, ge=0, le=1, description="share of the safe instructions that only look harmful"
    )
    compliance_prefix: str = Field(
        default="Sure,", max_length=200, description="begins a compliant response; empty: none"
    )
    measure_refusals: int = Field(
        default=20,
        ge=0,
        le=10_000,
        description="harmful instructions requested with and without the prefix, for comparison",
    )
    max_refusals: float = Field(
        default=0.9, ge=0, le=1, description="share of refusals above which the run stops early"
    )
    calibration_texts: int = Field(
        default=40, ge=0, le=1000, description="messages that label calibration averages over"
    )
    max_cosine: float | None = Field(default=0.9, gt=0, le=1, description="rows at or above are duplicates; null: off")


class Aim(Value):
    """Side of the instruction and variant of its response. A borderline instruction only looks harmful."""

    side: Side
    variant: Variant = "empty"


class HarmAug(Method[HarmAugSettings]):
    """Turns one slot into one decided candidate; the variants of a message are slots that share its call."""

    kind = "harmaug"
    Settings = HarmAugSettings
    roles = MappingProxyType({"generator": Role(writes=True), "responder": Role(writes=True), "guard": Role(GuardSpec)})
    prompts = (
        "harm_message", "respond_refusal", "respond_comply", "guard_llama", "label_name", "choice_chat",
        "choice_chat_turn", "choice_completion",
    )  # fmt: skip
    group_shares_text = True
    version = 2

    def traits(self, recipe: Recipe) -> Traits:
        """Variants share their message, and generators may refuse."""
        settings = self.settings(recipe)
        return Traits(
            max_cosine=settings.max_cosine, max_refusals=settings.max_refusals, together=len(variants(recipe)),
            refusal_fix="" if settings.prefill else "set method.prefill: true, ",
        )  # fmt: skip

    def roles_of(self, recipe: Recipe) -> tuple[str, ...]:
        """Generator, responder if rows have a response, and guard."""
        return ("generator", "responder", "guard") if len(variants(recipe)) > 1 else ("generator", "guard")

    def check(self, recipe: Recipe, seeds: Sequence[Seed] | None) -> list[Finding]:
        """It makes rows for a guard, from seeds of both labels."""
        if not recipe.task.sides:
            what = "harmaug makes rows for a guard, so the task must be a guard"
            return [Finding(("method", "kind"), what, "set task.kind: guard with a policy, or another method")]
        return super().check(recipe, seeds)

    def judging(self, recipe: Recipe) -> Judging:
        """The guards, unless they get their own form of prompt."""
        guards = frozenset({"guard"} if recipe.role("guard", GuardSpec).template == "labels" else ())
        return Judging(roles=tuple(guards), giving=guards, voting=guards)

    def make_slot(self, place: Place, drawn: Drawn) -> Slot:
        """A slot with its side, its variant and its exemplars; those of one message differ in the variant alone."""
        settings, kinds = self.settings(drawn.recipe), variants(drawn.recipe)
        part = place.index % len(kinds)
        first = dataclasses.replace(place, index=place.index - part)
        shown = make_slot(first, drawn, settings.exemplars, settings.exemplars)
        aim = Aim(side=_side(drawn.recipe, settings.borderline, place.label, shown.seed), variant=kinds[part])
        own = make_slot(place, drawn, 0, 0)
        update = {
            "exemplars": shown.exemplars, "seed": shown.seed, "group": shown.id, "part": part,
            "payload": aim.model_dump(mode="json"),
        }  # fmt: skip
        return own.model_copy(update=update)

    async def prepare(self, context: Context, drawn: Drawn) -> Prepared:
        """Calibrate the guards, and count refusals with and without a prefilled turn."""
        settings, parts = self.settings(context.recipe), len(variants(context.recipe))
        judging = self.judging(context.recipe)
        prepared = await calibrated(self, context, drawn, judging, settings.calibration_texts)
        indexes = (parts * (MEASURED_FROM + index) for index in range(settings.measure_refusals))
        slots = [self.make_slot(Place("", 0, 0, index, context.recipe.task.sides[0]), drawn) for index in indexes]
        return dataclasses.replace(prepared, figures=await measure_refusals(context, settings, slots))

    async def propose(self, slot: Slot, context: Context) -> str:
        """The message in the form that the guard reads: with its response, if the slot has one. Raises CallFailed."""
        settings = self.settings(context.recipe)
        text, _ = await _message(slot, context, settings)
        response = await _response(slot, context, settings, text)
        return dialogue(text, response) if response else text

    async def run_slot(self, slot: Slot, context: Context) -> Candidate:
        """The decided candidate. A reached budget ends it as failed.budget."""
        draft = Draft(slot, context, {"generator": draw_model(context.recipe, slot, "generator").name})
        draft.risky = aim_of(slot).side != "benign"
        return await decided(draft, _run(draft, self.settings(context.recipe)), "A model")

    def estimate(self, recipe: Recipe, candidates: int, seeds: Sequence[Seed]) -> tuple[Calls, ...]:
        """One call per message; each variant is a candidate with its own response and score."""
        settings, (_, text) = self.settings(recipe), sizes(seeds)
        kinds = len(variants(recipe))
        answered, response = candidates * (kinds - 1) // kinds, min(recipe.role("responder").max_tokens, 120)
        shown, judged = PROMPT_OVERHEAD + settings.exemplars * text, 2 * PROMPT_OVERHEAD + text
        rows = (
            ("generate", "generator", math.ceil(candidates / kinds), shown, text + 4),
            ("respond", "responder", answered, PROMPT_OVERHEAD + text, response),
            ("score", "guard", candidates * len(recipe.models_for("guard")), judged + response, 1),
        )
        made = (
            Calls(purpose=purpose, role=role, calls=calls, prompt_tokens=prompt, completion_tokens=completion)
            for purpose, role, calls, prompt, completion in rows if calls
        )  # fmt: skip
        return (*made, *calibration_calls(recipe, self.judging(recipe), settings.calibration_texts, judged))

    def report(self, query: Query, run_id: str, counts: Mapping[str, int]) -> Section | None:
        """Guard scores of each kind of row, and refusals with and without a prefilled turn."""
        refused = next(task.sides[0] for task in TASKS.all().values() if task.sides)
        return scoring_report(query, run_id, counts, refused=refused, sides=get_args(Side), variants=VARIANTS)

    def describe(self, slot: Slot, notes: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
        """The intended message and response, and whether the turn was prefilled."""
        aim, begun = aim_of(slot), notes.get("prefilled")
        how = {True: "; the generator's turn was begun", False: "; no begun turn"}
        return [("meant", f"{aim.side}, response {aim.variant}{how[bool(begun)] if begun is not None else ''}")]


def aim_of(slot: Slot) -> Aim:
    """The slot's payload."""
    return Aim.model_validate(slot.payload)


def variants(recipe: Recipe) -> tuple[Variant, ...]:
    """The responses of each message: none, or none, a refusal and a compliance."""
    return VARIANTS if recipe.task.sides and recipe.task.needs_response else VARIANTS[:1]


def _side(recipe: Recipe, borderline: float, label: str, seed: int) -> Side:
    if label == recipe.task.sides[0]:
        return "harmful"
    return "borderline" if random.Random(f"side-{seed}").random() < borderline else "benign"


async def _message(slot: Slot, context: Context, settings: HarmAugSettings) -> tuple[str, bool]:
    """The message (or a refusal to write it), and whether the turn was prefilled for it."""
    writer = draw_model(context.recipe, slot, "generator")
    text, _, begun = await write_message(
        context.ask, context.recipe, writer, slot, prefix=settings.prefix, prefill=settings.prefill,
        borderline=aim_of(slot).side == "borderline",
    )  # fmt: skip
    return text, begun


async def _response(slot: Slot, context: Context, settings: HarmAugSettings, text: str) -> str | None:
    variant = aim_of(slot).variant
    if variant == "empty":
        return None
    text, _, _ = await respond(
        context.ask, recipe=context.recipe, model=draw_model(context.recipe, slot, "responder"), slot=slot,
        instruction=text, variant=variant, prefix=settings.compliance_prefix,
    )  # fmt: skip
    return text


async def _run(draft: Draft, settings: HarmAugSettings) -> Decision:
    """Message, gates, response, gates, teacher."""
    slot, context = draft.slot, draft.context
    draft.text, begun = await _message(slot, context, settings)
    draft.notes["prefilled"] = begun
    refused = refusal_of(draft.text)
    if refused:
        how = "though its turn was begun" if begun else "without a begun turn"
        reason = f"{draft.models['generator']} refused to write the message ({refused}), {how}."
        return decision("rejected", "refusal", "rejected.refusal", reason)
    if repeats_prefix(draft.text, settings.prefix):
        return failure("malformed", f"{draft.models['generator']} repeated the beginning of its turn.")
    ended = screened(draft)
    if ended:
        return ended
    draft.response = await _response(slot, context, settings, draft.text)
    if draft.response is not None:
        draft.models["responder"] = draw_model(context.recipe, slot, "responder").name
        ended = screened(draft)
    return ended or await _taught(draft, settings.threshold)


async def _taught(draft: Draft, threshold: float) -> Decision:
    """The guards' label: their mean probability against the threshold."""
    context = draft.context
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
    gave = f"{draft.models['guard']} gave {refused} {score:.0%}"
    reason = f"{gave}, the threshold is {threshold:.0%}; it was meant {aim_of(draft.slot).side}."
    return decision("accepted", "labelled", "accepted.labelled", reason)


async def measure_refusals(context: Context, settings: HarmAugSettings, slots: Sequence[Slot]) -> dict[str, int]:
    """Count refusals of these messages with and without a prefilled turn: counts only, no text is kept.

    Keys: asked_prefilled, refused_prefilled, asked_plain, refused_plain. Base models have no turns and are left out.
    """
    tuned = [model for model in pool_of(context.recipe, "generator") if model.style == "chat"]
    counts = dict.fromkeys(("asked_prefilled", "refused_prefilled", "asked_plain", "refused_plain"), 0)

    async def one(slot: Slot, prefill: bool) -> None:
        writer = random.Random(f"generator-{slot.seed}").choice(tuned)
        try:
            text, _, _ = await write_message(
                context.ask, context.recipe, writer, slot, prefix=settings.prefix, prefill=prefill
            )
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


KIND = HarmAug()
