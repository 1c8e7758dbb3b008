"""PromptMix (arXiv 2310.14192): texts that are mostly of one class and partly of another, all of them relabelled.

Corrected against the reference: percentages are rounded and add up to 100; one call yields all its usable texts (there
at least four calls for one kept text); an answer outside the set is no label (there the nearest name); agreement and
relabel rate are what they are called. Published facts that are kept: alpha = 0.5 + 0.5 Beta(5, 2) rounded to 0.05, four
classes in a prompt (five in a last group that would leave one alone), the original seeds as examples in every cycle,
the majority class as the intended label. The partner comes from the most confusable classes unless `partner: random`.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from graft.agents.methods.base import Context, Drawn, Place
from graft.agents.methods.draft import Draft, decided, decision, failure, screened
from graft.agents.methods.draw import Roles, draw_model, draw_roles, seed_of, slot_id, steered
from graft.agents.methods.panel import review_label
from graft.agents.methods.relabel import choices, mixing, relabel
from graft.agents.roles.mixer import Mixed, folded, write_mix
from graft.schemas.errors import CallFailed
from graft.schemas.methods import PromptMixSettings
from graft.schemas.models import ModelSpec, RoleName
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Decision, Mix, Seed, Slot

STEP = 0.05
TRIES = 3
"""Calls that are made at most for one group's texts: the first, and again for what it left out."""


class PromptMix:
    """Turns one slot into one decided candidate; the slots of a call share it."""

    def roles(self, recipe: Recipe) -> tuple[RoleName, ...]:
        """The generator, and whoever relabels and reviews."""
        settings = mixing(recipe)
        labels: tuple[RoleName, ...] = ("labeler",) if settings.relabel == "labeler" else ()
        panel = settings.relabel == "panel" or settings.review is not None
        if panel:
            return ("generator", *labels, "reviewer", "adjudicator")
        adjudicates = settings.relabel == "labeler" and settings.no_label == "adjudicate"
        return ("generator", *labels, *(("adjudicator",) if adjudicates else ()))

    def make_slot(self, place: Place, drawn: Drawn) -> Slot:
        """A slot with its classes, partner, alpha and examples; the slots of one call have all of them in common."""
        settings = mixing(drawn.recipe)
        cycle, within = divmod(place.index, settings.texts_per_cycle)
        part = within % settings.texts_per_call
        first = dataclasses.replace(place, index=place.index - part)
        seed = seed_of(drawn.recipe, first)
        rng = random.Random(f"mix-{seed}")
        group = _group(settings, place, drawn, cycle)
        partner = _partner(settings, place, drawn, cycle, group, rng)
        classes = rng.sample([place.label, *group], len(group) + 1)
        return Slot(
            id=slot_id(place), run_id=place.run_id, shard=place.shard, round=place.round, index=place.index,
            label=place.label, seed=seed, group=slot_id(first), part=part,
            exemplars=tuple(row for name in classes for row in _shots(settings, drawn, name, rng)),
            mix=Mix(partner=partner, alpha=alpha_of(settings, rng), classes=tuple(classes)),
            steer=steered(drawn.recipe, dataclasses.replace(first, index=first.index // settings.texts_per_call), seed),
        )  # fmt: skip

    async def propose(self, slot: Slot, context: Context) -> str:
        """The slot's part of what the generator writes. Raises CallFailed where there is none."""
        text, mixed = await _text(slot, context, draw_model(context.recipe, slot, "generator"))
        if not text:
            raise CallFailed("refusal" if mixed.refusal else "malformed", "the generator gave no text for this slot")
        return text

    async def run_slot(self, slot: Slot, context: Context) -> Candidate:
        """The decided candidate. A reached cap ends it as failed.budget."""
        writer, roles = draw_model(context.recipe, slot, "generator"), draw_roles(context.recipe, slot)
        draft = Draft(slot, context, {"generator": writer.name})
        return await decided(draft, _run(draft, writer, roles), "The generator")


def alpha_of(settings: PromptMixSettings, rng: random.Random) -> float:
    """The share of the seed class: 0.5 + 0.5 Beta(a, b) rounded to 0.05, or one of the recipe's own `alphas`."""
    if settings.alphas:
        return rng.choice(settings.alphas)
    drawn = 0.5 + 0.5 * rng.betavariate(settings.alpha_a, settings.alpha_b)
    return round(round(drawn / STEP) * STEP, 2)


def partition(labels: Sequence[str], size: int, rng: random.Random) -> list[list[str]]:
    """The labels in random groups of `size`; a group takes all that is left where it would leave one alone."""
    left = rng.sample(list(labels), len(labels))
    groups: list[list[str]] = []
    while left:
        take = len(left) if len(left) <= size + 1 else size
        groups.append(left[:take])
        left = left[take:]
    return groups


def _group(settings: PromptMixSettings, place: Place, drawn: Drawn, cycle: int) -> list[str]:
    """The other classes of the prompt: the nearest ones, or those of this cycle's random group."""
    labels = list(drawn.pool)
    near = [name for name in drawn.neighbours.get(place.label, ()) if name in drawn.pool and name != place.label]
    if settings.partner == "confusable" and near:
        return near[: settings.classes_in_prompt - 1]
    rng = random.Random(f"groups-{drawn.recipe.seed}-{place.round}-{place.shard}-{cycle}")
    group = next(group for group in partition(labels, settings.classes_in_prompt, rng) if place.label in group)
    return [name for name in group if name != place.label]


def _partner(
    settings: PromptMixSettings, place: Place, drawn: Drawn, cycle: int, group: Sequence[str], rng: random.Random
) -> str:
    """One of the group: as published one for a class and cycle, among confusable ones another for every call."""
    if settings.partner == "random":
        rng = random.Random(f"partner-{drawn.recipe.seed}-{place.round}-{place.shard}-{cycle}-{place.label}")
    return rng.choice(list(group))


def _shots(settings: PromptMixSettings, drawn: Drawn, name: str, rng: random.Random) -> list[Seed]:
    rows = list(drawn.pool.get(name, ()))
    return rng.sample(rows, min(settings.shots, len(rows)))


def _wanted_texts(settings: PromptMixSettings, slot: Slot) -> int:
    """How many texts the slot's call is asked for: fewer in the last call of a cycle."""
    begun = slot.index - slot.part
    return min(settings.texts_per_call, settings.texts_per_cycle - begun % settings.texts_per_cycle)


async def _text(slot: Slot, context: Context, writer: ModelSpec) -> tuple[str, Mixed]:
    """The slot's part of the texts, empty where the calls gave too few; and what the last call gave.

    What a call leaves out is asked for again, with another sample; every slot of the group goes the same way, so those
    calls are made once as well.
    """
    count = _wanted_texts(mixing(context.recipe), slot)
    texts: dict[str, str] = {}
    mixed = Mixed((), "")
    for sample in range(TRIES):
        mixed = await write_mix(context.ask, context.recipe, writer, slot, count=count, sample=sample)
        for text in mixed.texts:
            texts.setdefault(folded(text), text)
        if len(texts) > slot.part:
            return list(texts.values())[slot.part], mixed
    return "", mixed


async def _run(draft: Draft, writer: ModelSpec, roles: Roles) -> Decision:
    """Write, gate, relabel, review."""
    settings = mixing(draft.context.recipe)
    draft.text, mixed = await _text(draft.slot, draft.context, writer)
    if mixed.refusal and not draft.text:
        reason = f"{writer.name} refused to write ({mixed.refusal}), {TRIES} times."
        return decision("rejected", "refusal", "rejected.refusal", reason)
    if not draft.text:
        what = "repeated the request" if mixed.echo else "gave fewer texts than asked for"
        return failure("few_texts", f"{writer.name} {what}, {TRIES} times.")
    ended = screened(draft)
    if ended:
        return ended
    return await _labelled(draft, roles, settings)


async def _labelled(draft: Draft, roles: Roles, settings: PromptMixSettings) -> Decision:
    slot = draft.slot
    if settings.relabel == "off":
        narrowed = await choices(draft.context, draft.text, slot.label) if settings.review else ()
        told = f"It keeps its intended label {slot.label}: relabelling is off."
    else:
        narrowed = await choices(draft.context, draft.text)
        draft.labelling = labelling = await relabel(draft, roles, narrowed)
        _name_judges(draft)
        if not labelling.label:
            return _no_label(draft)
        draft.label = labelling.label
        now = f"relabelled from {slot.label} to" if labelling.relabelled else "confirmed as"
        told = f"{labelling.by.capitalize()}: {now} {labelling.label}{_share(draft)}."
        ended = screened(draft) if labelling.relabelled else None
        if ended:
            return ended
    if settings.review is None:
        return decision("accepted", "labelled", "accepted.labelled", told)
    draft.models |= {name: value for name, value in roles.names().items() if name != "generator"}
    return await review_label(draft, roles, settings.review, narrowed)


def _no_label(draft: Draft) -> Decision:
    judged = [review for review in draft.reviews if review.stage == "label"]
    if all(review.failure for review in judged):
        code = judged[0].failure.partition(":")[0]
        return failure(code, f"No labeler gave a judgement; the first: {judged[0].failure}.")
    reason = f"No label: {len(judged)} judges gave no label of the set, none that was likely enough, or two alike."
    return decision("rejected", "no_label", "rejected.no_label", reason)


def _share(draft: Draft) -> str:
    share = draft.soft_label.get(draft.label)
    return "" if share is None else f" at {share:.0%}"


def _name_judges(draft: Draft) -> None:
    for role in ("labeler", "reviewer", "adjudicator"):
        names = dict.fromkeys(review.model for review in draft.reviews if review.role == role)
        if names:
            draft.models[role] = ",".join(names)
