"""PromptMix (arXiv 2310.14192): texts that are mostly of one class and partly of another, all of them relabelled.

Corrected against the reference: percentages are rounded and add up to 100; one call yields all its usable texts (there
at least four calls for one kept text); an answer outside the set is no label (there the nearest name); agreement and
relabel rate are not mixed up. Published facts that are kept: alpha = 0.5 + 0.5 Beta(5, 2) rounded to 0.05, four
classes in a prompt (five in a last group that would leave one alone), the original seeds as examples in every cycle,
the majority class as the intended label. The partner comes from the most confusable classes unless `partner: random`.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from pydantic import Field, JsonValue, field_validator

from graft.agents.methods.base import Calls, Context, Drawn, Method, Place, Prepared, Query, Traits
from graft.agents.methods.steps.bounds import Trial, with_bounds
from graft.agents.methods.steps.calibrate import Judging, calibrated
from graft.agents.methods.steps.draft import Draft, decided, decision, failure, screened
from graft.agents.methods.steps.draw import (
    Committee,
    GraSettings,
    Roles,
    draw_model,
    draw_roles,
    reviewer_count,
    seed_of,
    shots,
    slot_id,
    steered,
)
from graft.agents.methods.steps.mixing import mixing_report
from graft.agents.methods.steps.panel import review_label
from graft.agents.methods.steps.relabel import Relabelling, choices, label_reason, name_judges, no_label, relabel
from graft.agents.methods.steps.sizes import (
    ASSUMED_DISPUTES,
    PROMPT_OVERHEAD,
    bounds_calls,
    calibration_calls,
    panel_calls,
    sizes,
)
from graft.agents.roles.asking import folded
from graft.agents.roles.mixer import Mix, Mixed, write_mix
from graft.schemas.binding import MethodSettings, Role
from graft.schemas.errors import CallFailed
from graft.schemas.models import LabelerSpec, ModelSpec
from graft.schemas.problems import Finding, field_error
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Decision, Seed, Slot
from graft.schemas.sections import Section
from graft.schemas.tasks.base import Label

STEP = 0.05
TRIES = 3
"""Most calls for one group's texts: the first, and repeats for missing texts."""


_BARE = "class {!r} has neither description nor example"


class PromptMixSettings(Relabelling, MethodSettings):
    """PromptMix (arXiv 2310.14192): texts between two classes, all of them relabelled.

    The defaults are the paper's released ones, but for the partner (there: random) and for answers that are
    no label (there: forced to the nearest name).
    """

    kind: Literal["promptmix"] = "promptmix"
    shots: int = Field(default=2, ge=0, le=16, description="examples of each class in a prompt; 0: descriptions alone")
    classes_in_prompt: int = Field(default=4, ge=2, le=16, description="c: the seed class, its partner, and others")
    texts_per_cycle: int = Field(
        default=10, ge=1, le=1000, description="n: texts of a class before groups are drawn anew"
    )
    texts_per_call: int = Field(default=3, ge=1, le=20)
    alpha_a: float = Field(default=5.0, gt=0, description="alpha = 0.5 + 0.5 * Beta(a, b), rounded to 0.05")
    alpha_b: float = Field(default=2.0, gt=0)
    alphas: tuple[float, ...] = Field(
        default=(), description="shares to draw from instead, each in [0.5, 1]; [1.0] mixes nothing: plain generation"
    )
    partner: Literal["confusable", "random"] = Field(
        default="confusable", description="from the nearest classes (or the last student's confusions), or any class"
    )
    max_refusals: float = Field(
        default=0.9, ge=0, le=1, description="share of refusals above which the run stops early"
    )
    calibration_texts: int = Field(default=40, ge=0, le=1000, description="texts that label calibration averages over")
    max_cosine: float | None = Field(default=0.9, gt=0, le=1, description="rows at or above are duplicates; null: off")
    review: GraSettings | None = Field(default=None, description="GRA's review of the relabelled text; null: none")

    @field_validator("alphas")
    @classmethod
    def _shares(cls, alphas: tuple[float, ...]) -> tuple[float, ...]:
        for alpha in alphas:
            if not 0.5 <= alpha <= 1:
                what = f"alpha {alpha:g} is outside [0.5, 1]: the seed class is always the larger share"
                raise field_error((), what, "write shares between 0.5 and 1, such as [0.6, 0.75, 0.9]")
        return alphas


class PromptMix(Method[PromptMixSettings]):
    """Turns one slot into one decided candidate; the slots of a call share it."""

    kind = "promptmix"
    Settings = PromptMixSettings
    roles = MappingProxyType(
        {"generator": Role(writes=True), "labeler": Role(LabelerSpec), "reviewer": Role(), "adjudicator": Role()}
    )
    prompts = ("mix", "steered", "label_name", "choice_chat", "choice_chat_turn", "choice_completion", "review_text")
    needs_seeds = False
    least_score = "review.tau"
    version = 2

    def traits(self, recipe: Recipe) -> Traits:
        """Texts share calls, generators may refuse, and partners may be drawn from confusable classes."""
        settings = self.settings(recipe)
        return Traits(
            max_cosine=settings.max_cosine, max_refusals=settings.max_refusals, together=settings.texts_per_call,
            confusable=settings.partner == "confusable", assumptions=(ASSUMED_DISPUTES,),
        )  # fmt: skip

    def roles_of(self, recipe: Recipe) -> tuple[str, ...]:
        """The generator, and the roles that relabel and review."""
        settings = self.settings(recipe)
        labels = ("labeler",) if settings.relabel == "labeler" else ()
        if settings.relabel == "panel" or settings.review is not None:
            return ("generator", *labels, "reviewer", "adjudicator")
        adjudicates = settings.relabel == "labeler" and settings.no_label == "adjudicate"
        return ("generator", *labels, *(("adjudicator",) if adjudicates else ()))

    def check(self, recipe: Recipe, seeds: Sequence[Seed] | None) -> list[Finding]:
        """The task is a classification, and a description or an example shows each class."""
        if recipe.task.sides or not recipe.task.labelled:
            what = "promptmix mixes classes, so the task must be a classification"
            fix = "set task.kind: classification with labels, or another method"
            return [Finding(("method", "kind"), what, fix)]
        bare = [(index, label.name) for index, label in enumerate(recipe.task.categories) if not label.description]
        if seeds is None:
            fix = "describe it in a clause, or let method.shots show examples of it"
            shots = self.settings(recipe).shots
            return [
                Finding(("task", "labels", index, "description"), _BARE.format(name), fix)
                for index, name in bare if not shots
            ]  # fmt: skip
        seen = {seed.label for seed in seeds}
        fix = "describe it in a clause under task.labels, or add a row with this label to the seeds"
        return [
            Finding(("task", "labels"), _BARE.format(name), fix)
            for _, name in bare if name not in seen
        ]  # fmt: skip

    def judging(self, recipe: Recipe) -> Judging:
        """The roles that judge by label probabilities; the panel's if it relabels or reviews by them."""
        settings, roles = self.settings(recipe), self.roles_of(recipe)
        panel = {"reviewer", "adjudicator"} if settings.relabel == "panel" else set[str]()
        if settings.relabel == "labeler" and settings.no_label == "adjudicate":
            panel = {"adjudicator"}
        votes = {role for role in panel if recipe.role(role).answer == "scores" or settings.review is None}
        return Judging(
            roles=tuple(role for role in ("labeler", "reviewer", "adjudicator") if role in roles),
            giving=frozenset({"labeler", *panel}), voting=frozenset({"labeler", *votes}),
        )  # fmt: skip

    def make_slot(self, place: Place, drawn: Drawn) -> Slot:
        """A slot with its classes, partner, alpha and examples; the slots of one call have all of them in common."""
        settings = self.settings(drawn.recipe)
        cycle, within = divmod(place.index, settings.texts_per_cycle)
        part = within % settings.texts_per_call
        first = dataclasses.replace(place, index=place.index - part)
        seed = seed_of(drawn.recipe, first)
        rng = random.Random(f"mix-{seed}")
        group = _group(settings, place, drawn, cycle)
        partner = _partner(settings, place, drawn, cycle, group, rng)
        classes = rng.sample([place.label, *group], len(group) + 1)
        exemplars = tuple(row for name in classes for row in _shots(settings, drawn, name, place.label, rng))
        mix = Mix(partner=partner, alpha=alpha_of(settings, rng), classes=tuple(classes))
        return Slot(
            id=slot_id(place), run_id=place.run_id, shard=place.shard, round=place.round, index=place.index,
            label=place.label, seed=seed, group=slot_id(first), part=part, exemplars=exemplars,
            payload=mix.model_dump(mode="json"),
            steer=steered(drawn.recipe, dataclasses.replace(first, index=first.index // settings.texts_per_call), seed),
        )  # fmt: skip

    async def prepare(self, context: Context, drawn: Drawn) -> Prepared:
        """Calibrate the judges among the nearest classes of each text."""
        settings = self.settings(context.recipe)

        async def narrow(text: str) -> tuple[Label, ...]:
            return await choices(context, text, settings.nearest_classes)

        recipe = context.recipe
        prepared = await calibrated(self, context, drawn, self.judging(recipe), settings.calibration_texts, narrow)
        return await with_bounds(prepared, context, settings.review or Committee(), self._trial(recipe))

    async def propose(self, slot: Slot, context: Context) -> str:
        """The slot's part of the generator's reply. Raises CallFailed if there is none."""
        settings = self.settings(context.recipe)
        text, mixed = await _text(slot, context, settings, draw_model(context.recipe, slot, "generator"))
        if not text:
            raise CallFailed(
                "refusal" if mixed.refusal else "malformed", "the generator returned no text for this slot"
            )
        return text

    async def run_slot(self, slot: Slot, context: Context) -> Candidate:
        """The decided candidate. A reached budget ends it as failed.budget."""
        settings, writer = self.settings(context.recipe), draw_model(context.recipe, slot, "generator")
        roles = draw_roles(context.recipe, slot, settings.review or Committee())
        draft = Draft(slot, context, {"generator": writer.name})
        return await decided(draft, _run(draft, writer, roles, settings), "The generator")

    def estimate(self, recipe: Recipe, candidates: int, seeds: Sequence[Seed]) -> tuple[Calls, ...]:
        """One call writes several texts; each is labelled among its nearest classes, and reviewed if `review` is
        set."""
        settings, (shots, text) = self.settings(recipe), sizes(seeds)
        classes, each = max(1, len(recipe.wanted())), settings.texts_per_call
        shown = PROMPT_OVERHEAD + shots * min(settings.classes_in_prompt, classes) // classes
        judged = PROMPT_OVERHEAD + shots * min(settings.nearest_classes, classes) // classes + text
        steps = [
            Calls(
                purpose="generate", role="generator", calls=math.ceil(candidates / each), prompt_tokens=shown,
                completion_tokens=each * (text + 4),
            )
        ]  # fmt: skip
        if settings.relabel == "labeler":
            judges = min(settings.labelers, len(recipe.models_for("labeler")))
            tokens = 1 if recipe.role("labeler").answer == "logprobs" else 8
            steps.append(
                Calls(
                    purpose="label", role="labeler", calls=candidates * judges, prompt_tokens=judged,
                    completion_tokens=tokens,
                )
            )  # fmt: skip
        panels = int(settings.relabel == "panel") + int(settings.review is not None)
        if panels:
            size = reviewer_count(recipe, settings.review or Committee())
            steps += panel_calls(recipe, size, candidates, judged, panels)
        tried = calibration_calls(recipe, self.judging(recipe), settings.calibration_texts, judged)
        return (
            *steps,
            *tried,
            *bounds_calls(recipe, settings.review or Committee(), self._trial(recipe), seeds, judged),
        )

    def report(self, query: Query, run_id: str, counts: Mapping[str, int]) -> Section | None:
        """Agreement and relabelling, over all, by alpha and by pair of classes."""
        return mixing_report(query, run_id, counts)

    def _trial(self, recipe: Recipe) -> Trial:
        settings = self.settings(recipe)

        async def narrow(context: Context, text: str) -> tuple[Label, ...]:
            return await choices(context, text, settings.nearest_classes)

        size = reviewer_count(recipe, settings.review or Committee())
        return Trial(self.judging(recipe), "reviewer", size, proposed=True, narrow=narrow)

    def describe(self, slot: Slot, notes: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
        """The intended mix."""
        mix = mix_of(slot)
        shares = f"{mix.alpha:.0%} {slot.label}, the rest {mix.partner}; shown: {', '.join(mix.classes)}"
        return [("meant", shares)]


def mix_of(slot: Slot) -> Mix:
    """The slot's payload."""
    return Mix.model_validate(slot.payload)


def alpha_of(settings: PromptMixSettings, rng: random.Random) -> float:
    """The share of the seed class: 0.5 + 0.5 Beta(a, b) rounded to 0.05, or one of the recipe's own `alphas`."""
    if settings.alphas:
        return rng.choice(settings.alphas)
    drawn = 0.5 + 0.5 * rng.betavariate(settings.alpha_a, settings.alpha_b)
    return round(round(drawn / STEP) * STEP, 2)


def partition(labels: Sequence[str], size: int, rng: random.Random) -> list[list[str]]:
    """The labels in random groups of `size`; the last group takes one more if a label would be left alone."""
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
    """A partner from the group: as published one per class and cycle; among confusable classes a new one per call."""
    if settings.partner == "random":
        rng = random.Random(f"partner-{drawn.recipe.seed}-{place.round}-{place.shard}-{cycle}-{place.label}")
    return rng.choice(list(group))


def _shots(settings: PromptMixSettings, drawn: Drawn, name: str, own: str, rng: random.Random) -> list[Seed]:
    """The examples of one class: of the slot's own class with all of the student's mistakes."""
    found = shots(drawn, name, settings.shots, rng)
    return found if name == own else found[: settings.shots]


def _wanted_texts(settings: PromptMixSettings, slot: Slot) -> int:
    """Number of texts that the slot's call requests: fewer in the last call of a cycle."""
    begun = slot.index - slot.part
    return min(settings.texts_per_call, settings.texts_per_cycle - begun % settings.texts_per_cycle)


async def _text(slot: Slot, context: Context, settings: PromptMixSettings, writer: ModelSpec) -> tuple[str, Mixed]:
    """The slot's part of the texts, empty if the calls returned too few; and the last call's result.

    Missing texts are requested again with another sample; every slot of the group makes the same requests, so these
    calls are made once as well.
    """
    count = _wanted_texts(settings, slot)
    texts: dict[str, str] = {}
    mixed = Mixed((), "")
    for sample in range(TRIES):
        mixed = await write_mix(context.ask, context.recipe, writer, slot, mix_of(slot), count=count, sample=sample)
        for text in mixed.texts:
            texts.setdefault(folded(text), text)
        if len(texts) > slot.part:
            return list(texts.values())[slot.part], mixed
    return "", mixed


async def _run(draft: Draft, writer: ModelSpec, roles: Roles, settings: PromptMixSettings) -> Decision:
    """Write, gate, relabel, review."""
    draft.text, mixed = await _text(draft.slot, draft.context, settings, writer)
    if mixed.refusal and not draft.text:
        reason = f"{writer.name} refused to write ({mixed.refusal}), {TRIES} times."
        return decision("rejected", "refusal", "rejected.refusal", reason)
    if mixed.cut and not draft.text:
        raise mixed.cut
    if not draft.text:
        what = "repeated the request" if mixed.echo else "returned fewer texts than requested"
        return failure("few_texts", f"{writer.name} {what}, {TRIES} times.")
    ended = screened(draft)
    if ended:
        return ended
    return await _labelled(draft, roles, settings)


async def _labelled(draft: Draft, roles: Roles, settings: PromptMixSettings) -> Decision:
    slot = draft.slot
    if settings.relabel == "off":
        narrowed = (
            await choices(draft.context, draft.text, settings.nearest_classes, slot.label) if settings.review else ()
        )
        reason = f"It keeps its intended label {slot.label}: relabelling is off."
    else:
        narrowed = await choices(draft.context, draft.text, settings.nearest_classes)
        draft.labelling = labelling = await relabel(draft, roles, settings, narrowed)
        name_judges(draft)
        if not labelling.label:
            return no_label(draft)
        draft.label = labelling.label
        reason = label_reason(draft, labelling)
        ended = screened(draft) if labelling.relabelled else None
        if ended:
            return ended
    if settings.review is None:
        return decision("accepted", "labelled", "accepted.labelled", reason)
    draft.models |= {name: value for name, value in roles.names().items() if name != "generator"}
    return await review_label(draft, roles, settings.review, narrowed)


KIND = PromptMix()
