"""Draws the models that play the roles of one slot, and the slot itself. The recipe's seed decides all of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from graft.agents.methods.base import Drawn, Place
from graft.agents.methods.steps.bounds import Sureness
from graft.schemas.base import stable_hash
from graft.schemas.binding import MethodSettings
from graft.schemas.errors import GraftError
from graft.schemas.models import ModelSpec
from graft.schemas.problems import field_error
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed, Slot, Steer

ATTRIBUTE_CHARS = 200
"""Most characters of an attribute's value."""
AUTO, PROPOSED = "auto", 4
"""Value of `attributes` that lets the generator propose some, and how many it then proposes."""


class Committee(Sureness):
    """Reviewers and adjudicator (GRA, arXiv 2504.12322): their number and decision rule."""

    reviewers: int = Field(default=3, ge=1, le=16, description="size of the review committee, N_R")
    tau: float = Field(default=8.0, ge=0, le=10, description="least mean score that can be accepted")
    delta: float = Field(
        default=1.5, ge=0, le=10, description="population standard deviation above which to adjudicate"
    )
    early_exit: bool = Field(default=True, description="stop calling reviewers once the outcome is settled")
    agreement_after: int = Field(
        default=30, ge=0, le=1000,
        description="candidates that all reviewers judge; the run stops after them if these agree less than chance",
    )  # fmt: skip


LabelPolicy = Literal["agreeing", "intended", "relabelled"]
"""The label of a row: the intended one if reviewers accept it, the intended one without a judgement, or the label that
the reviewers find likeliest."""


# Here because a method that reviews as GRA does has them too, such as under `review:` of PromptMix.
class GraSettings(Committee, MethodSettings):
    """Generator, Reviewer, Adjudicator (arXiv 2504.12322). The defaults are the paper's."""

    kind: Literal["gra"] = "gra"
    max_cosine: float | None = Field(default=0.9, gt=0, le=1, description="rows at or above are duplicates; null: off")
    rounds: int = Field(default=1, ge=1, le=50, description="after each round its accepted rows join the exemplars")
    few_shot: tuple[int, int] = Field(default=(2, 4), description="least and most exemplars in a prompt")
    max_keywords: int = Field(default=3, ge=1, le=10)
    responses: int = Field(
        default=1, ge=1, le=16, description="responses to one instruction: the best is kept, wrong ones make pairs"
    )
    calibration_texts: int = Field(default=40, ge=0, le=1000, description="texts that label calibration averages over")
    texts_per_call: int = Field(
        default=1, ge=1, le=20, description="texts that one call writes for a label; max_tokens holds for one of them"
    )
    attributes: dict[str, tuple[str, ...]] = Field(
        default={}, description="name (situation, length, tone …) to values, of which each slot draws one; `auto`: as "
        "propose_attributes: 4",
    )  # fmt: skip
    propose_attributes: int = Field(
        default=0, ge=0, le=8, description="attributes that the generator names once a run, from real examples, at most"
    )
    label_policy: LabelPolicy | dict[str, LabelPolicy] = Field(
        default="agreeing", description="the rows' labels, or a policy for each label (agreeing for those not named)"
    )

    @model_validator(mode="before")
    @classmethod
    def _proposed(cls, given: Any) -> Any:
        """`attributes: auto` and `attributes: {propose: 4}` stand for `propose_attributes`."""
        named = given.get("attributes") if isinstance(given, Mapping) else None
        count = named.get("propose") if isinstance(named, Mapping) and len(named) == 1 else None
        if named != AUTO and not isinstance(count, int):
            return given
        return {**given, "attributes": {}, "propose_attributes": PROPOSED if named == AUTO else count}

    @field_validator("label_policy", mode="before")
    @classmethod
    def _policy(cls, given: Any) -> Any:
        policies = get_args(LabelPolicy)
        wrong = {"": given} if not isinstance(given, Mapping) else given
        for label, policy in wrong.items():
            if policy not in policies:
                fix = f"write one of {', '.join(policies)}, or one of them for each label"
                raise field_error((label,) if label else (), f"{policy!r} is no label policy", fix)
        return given

    @field_validator("attributes")
    @classmethod
    def _short(cls, attributes: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, values in attributes.items():
            wrong = [value for value in values if not value.strip() or len(value) > ATTRIBUTE_CHARS]
            if not values or wrong:
                what = f"it has a value that is empty or over {ATTRIBUTE_CHARS} characters" if wrong else "it is empty"
                raise field_error((name,), what, "list short values, such as [polite, annoyed, in a hurry]")
        return attributes

    @field_validator("few_shot")
    @classmethod
    def _ordered(cls, few_shot: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= few_shot[0] <= few_shot[1] <= 16:
            what = "few_shot must be two numbers, least first, between 1 and 16"
            raise field_error((), what, "write two whole numbers, least first, such as [2, 4]")
        return few_shot

    def policy(self, label: str) -> LabelPolicy:
        """The policy for rows written for this label."""
        given = self.label_policy
        return given if isinstance(given, str) else given.get(label, "agreeing")


@dataclass(frozen=True)
class Roles:
    """Models that play the roles of one slot; `reviewers` are in the order in which they are called."""

    generator: ModelSpec
    reviewers: tuple[ModelSpec, ...]
    adjudicator: ModelSpec

    def names(self) -> dict[str, str]:
        """Role to model name, reviewers joined by commas."""
        return {
            "generator": self.generator.name,
            "reviewer": ",".join(model.name for model in self.reviewers),
            "adjudicator": self.adjudicator.name,
        }


def seed_of(recipe: Recipe, place: Place, *more: object) -> int:
    """A place's random seed. It is independent of the run's id, so that runs of similar recipes share their calls.

    Each round of a loop has its own: a round whose prompts are those of the last would repeat its rows.
    """
    loop = [f"round {recipe.steering.round}"] if recipe.steering else []
    return int(stable_hash(recipe.seed, place.round, place.shard, place.label, place.index, *more, *loop), 16) % 2**31


def slot_id(place: Place) -> str:
    """The id of the slot at a place."""
    return "sl_" + stable_hash(place.run_id, place.round, place.shard, place.label, place.index)


def make_slot(place: Place, drawn: Drawn, least: int, most: int) -> Slot:
    """The slot at one place of a label's stream, with `least` to `most` exemplars of that label."""
    seed = seed_of(drawn.recipe, place)
    rng = random.Random(f"exemplars-{seed}")
    exemplars = tuple(shots(drawn, place.label, rng.randint(least, most), rng))
    return Slot(
        id=slot_id(place), run_id=place.run_id, shard=place.shard, round=place.round, index=place.index,
        label=place.label, exemplars=exemplars, seed=seed,
        steer=steered(drawn.recipe, place, seed),
    )  # fmt: skip


def shots(drawn: Drawn, label: str, count: int, rng: random.Random) -> list[Seed]:
    """`count` exemplars of a label, or all there are.

    In a steered round all mistakes of the label come first, even if they are more; then its other chosen rows, then
    rows of the pool, both drawn.
    """
    steering = drawn.recipe.steering
    chosen = [row for row in steering.exemplars if row.label == label] if steering and count else []
    summarised = {seed.text: seed for seed in drawn.pool.get(label, ()) if seed.summary}
    seeds = [summarised.get(row.text) or Seed.of(row.text, row.label, row.response) for row in chosen]
    found = [seed for seed, row in zip(seeds, chosen, strict=True) if row.taken_for]
    others = [seed for seed, row in zip(seeds, chosen, strict=True) if not row.taken_for]
    for rows in (others, list(drawn.pool.get(label, ()))):
        shown = {row.text for row in found}
        left = [row for row in rows if row.text not in shown]
        found += rng.sample(left, max(0, min(count - len(found), len(left))))
    return found


def steered(recipe: Recipe, place: Place, seed: int) -> Steer | None:
    """The concept that a slot is steered to: one of its label's, for every second slot; None for all others."""
    concepts = recipe.steering.concepts.get(place.label, ()) if recipe.steering else ()
    if not concepts or place.index % 2:
        return None
    return Steer(concept=random.Random(f"concept-{seed}").choice(concepts))


def draw_model(recipe: Recipe, slot: Slot, role: str) -> ModelSpec:
    """One model of a role for a slot, uniformly; the slots of a group draw the same. GraftError if there is none."""
    return random.Random(f"{role}-{slot.seed}").choice(pool_of(recipe, role))


def draw_roles(recipe: Recipe, slot: Slot, committee: Committee) -> Roles:
    """Generator, reviewers and adjudicator, uniformly and without overlap if the pools allow it (GRA section 3).

    If not, unused models come first, then those used least. Raises GraftError if a role has no model.
    """
    rng = random.Random(f"roles-{slot.seed}")
    generator = rng.choice(pool_of(recipe, "generator"))
    jurors, judges = _shuffled(rng, pool_of(recipe, "reviewer")), _shuffled(rng, pool_of(recipe, "adjudicator"))
    size = reviewer_count(recipe, committee)
    free = _apart(generator, jurors, judges, size)
    if free:
        reviewers = [model for model in jurors if model not in (generator, free[0])][:size]
        return Roles(generator, tuple(reviewers), free[0])
    used = Counter([generator.name])
    reviewers = sorted(jurors, key=lambda model: used[model.name])[:size]
    again = [model for model in reviewers if _can_repeat(recipe, model)]
    while len(reviewers) < size:
        reviewers.append(again[(len(reviewers) - len(jurors)) % len(again)])
    seats = {model.name for model in reviewers}
    used.update(seats)
    adjudicator = min(judges, key=lambda model: (used[model.name], model.name in seats))
    return Roles(generator, tuple(reviewers), adjudicator)


def reviewer_count(recipe: Recipe, committee: Committee) -> int:
    """Number of reviewers of a slot: as set, but no more than the models that can give different judgements.

    A second judgement by probabilities, or at temperature 0, would repeat the first; by sampled scores it would not.
    """
    pool = pool_of(recipe, "reviewer")
    if any(_can_repeat(recipe, model) for model in pool):
        return committee.reviewers
    return min(committee.reviewers, len(pool))


def _apart(
    generator: ModelSpec, jurors: Sequence[ModelSpec], judges: Sequence[ModelSpec], size: int
) -> list[ModelSpec]:
    """Adjudicators that leave enough unused models for the committee, in the order of `judges`."""
    others = {model.name for model in jurors} - {generator.name}
    return [model for model in judges if model.name != generator.name and len(others - {model.name}) >= size]


def pool_of(recipe: Recipe, role: str) -> list[ModelSpec]:
    """The models that may play a role; a writer is never an encoder. Raises GraftError if there is none."""
    writes = recipe.writes(role) or not recipe.task.labelled
    models = [model for model in recipe.models_for(role) if not (writes and model.provider == "encoder")]
    if not models:
        raise GraftError(
            f"no model can play the {role}", where=f"roles.{role}.models",
            fix="name a chat or completion model: an encoder judges labels only",
        )  # fmt: skip
    return models


def _can_repeat(recipe: Recipe, model: ModelSpec) -> bool:
    spec = recipe.role("reviewer")
    by_scores = not recipe.task.labelled or spec.answer == "scores"
    return by_scores and model.provider != "encoder" and spec.temperature > 0


def _shuffled(rng: random.Random, models: Sequence[ModelSpec]) -> list[ModelSpec]:
    return rng.sample(list(models), len(models))
