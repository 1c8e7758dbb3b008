"""Least probability and lead of an accepted label: fixed numbers, or `auto`, calibrated on the seeds.

Each seed is judged as the run's texts are, with the other seeds as examples (leave-one-out). Of all pairs of bounds at
which the share of wrong labels among the accepted ones stays at `max_error`, the pair that accepts most right ones is
taken, and of these the lowest (selective classification, Geifman and El-Yaniv 2017). As few seeds prove little, one
more wrong label is assumed than was seen: 5% takes 19 accepted seeds at least. If no pair suffices, the fixed numbers
hold.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from graft.agents.methods.base import Bounds, Context, Prepared
from graft.agents.methods.steps.calibrate import Judging, judges
from graft.agents.roles.calibration import calibrate
from graft.agents.roles.choice import judge_label
from graft.schemas.base import Value
from graft.schemas.errors import BudgetExhausted, CallFailed
from graft.schemas.models import ModelSpec
from graft.schemas.problems import field_error
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed
from graft.schemas.sections import Fact
from graft.schemas.tasks.base import Label

AUTO = "auto"
FIXED = Bounds(min_probability=0.5, min_margin=0.1)
MOST_KNOWN = 100
"""Seeds judged at most."""
MAX_ERROR = 0.05
GRID = tuple(step / 20 for step in range(20))


def _bound(given: Any) -> Any:
    if given == AUTO or (isinstance(given, (int, float)) and not isinstance(given, bool) and 0 <= given < 1):
        return given
    raise field_error((), f"{given!r} is no probability below 1", "write a number such as 0.5, or auto")


Bound = Annotated[Annotated[float, Field(ge=0, lt=1)] | Literal["auto"], BeforeValidator(_bound)]


class Sureness(Value):
    """Bounds on a label's probability and lead, where judges answer by probabilities."""

    min_probability: Bound = Field(
        default=FIXED.min_probability,
        description="least mean probability of the label, where judges answer by probabilities; auto: by the seeds",
    )
    min_margin: Bound = Field(
        default=FIXED.min_margin,
        description="least lead of that probability over the likeliest other label's; auto: by the seeds",
    )
    max_error: float = Field(
        default=MAX_ERROR, gt=0, lt=1, exclude_if=lambda share: share == MAX_ERROR,
        description="for auto: largest share of wrong labels among the accepted ones of the seeds",
    )  # fmt: skip

    @property
    def calibrated(self) -> bool:
        """True if the seeds decide a bound."""
        return AUTO in (self.min_probability, self.min_margin)

    def bounds(self, found: Bounds | None) -> Bounds:
        """The bounds in numbers, with those that were found for `auto`."""
        found, fixed = found or FIXED, (self.min_probability, self.min_margin)
        return Bounds(*(auto if one == AUTO else float(one) for one, auto in zip(fixed, found, strict=True)))


class Known(NamedTuple):
    """A label that judges gave, or a wrong one that was proposed, for a text whose label is known."""

    probability: float
    margin: float
    right: bool


@dataclasses.dataclass(frozen=True)
class Trial:
    """How seeds are judged: by `size` models of `role`, among the labels of `narrow` (None: all).

    With `proposed` each seed counts twice: proposed under its own label, and under the likeliest wrong one, as by a
    writer that failed; else under the label that the judges find likeliest.
    """

    judging: Judging
    role: str
    size: int
    proposed: bool
    narrow: Callable[[Context, str], Awaitable[Sequence[Label]]] | None = None

    def models(self, recipe: Recipe, by_name: frozenset[str] = frozenset()) -> list[ModelSpec]:
        """The role's models that answer by probabilities; no student, as in reviews."""
        found = [judge.model for judge in judges(recipe, self.judging).values()]
        pool = {model.name for model in recipe.models_for(self.role)} - by_name
        return [model for model in found if model.name in pool and not model.is_student]


async def with_bounds(prepared: Prepared, context: Context, settings: Sureness, trial: Trial) -> Prepared:
    """The preparation with bounds for `auto`, and the counts behind them; unchanged if both bounds are numbers.

    Raises BudgetExhausted.
    """
    if not settings.calibrated:
        return prepared
    models = trial.models(context.recipe, prepared.by_name)
    seeds = known_seeds(context.recipe, context.seeds) if models else []
    judged = await asyncio.gather(*(_judged(seed, prepared, context, models, trial) for seed in seeds))
    cases = [case for found in judged for case in found]
    found = chosen(cases, settings)
    bounds = settings.bounds(found)
    accepted = [one for one in cases if _accepts(bounds, one)]
    figures = {
        "known": len(cases), "accepted": len(accepted), "wrong": sum(not one.right for one in accepted),
        "found": int(found is not None), "probability": round(100 * bounds.min_probability),
        "margin": round(100 * bounds.min_margin),
    }  # fmt: skip
    named = {f"{trial.role}_bounds_{name}": count for name, count in figures.items()}
    return dataclasses.replace(prepared, bounds=bounds, figures={**prepared.figures, **named})


def known_seeds(recipe: Recipe, seeds: Sequence[Seed]) -> list[Seed]:
    """The seeds with a label, or a sample of MOST_KNOWN of them."""
    known = [seed for seed in seeds if seed.label in recipe.task.names]
    return random.Random(f"known-{recipe.seed}").sample(known, min(MOST_KNOWN, len(known)))


def chosen(cases: Sequence[Known], settings: Sureness) -> Bounds | None:
    """The bounds that accept most right labels within `max_error`, the lowest of equal ones; None if there are none."""
    fixed = (settings.min_probability, settings.min_margin)
    grid = itertools.product(*(GRID if one == AUTO else (float(one),) for one in fixed))
    best, most = None, 0
    for probability, margin in grid:
        bounds = Bounds(probability, margin)
        accepted = [one for one in cases if _accepts(bounds, one)]
        right = sum(one.right for one in accepted)
        wrong = len(accepted) - right
        if right > most and (wrong + 1) / (len(accepted) + 1) <= settings.max_error:
            best, most = bounds, right
    return best


def _accepts(bounds: Bounds, one: Known) -> bool:
    return bounds.accept(one.probability, one.margin)


async def _judged(
    seed: Seed, prepared: Prepared, context: Context, models: Sequence[ModelSpec], trial: Trial
) -> list[Known]:
    """The cases of one seed; none if no judge answered."""
    others = dataclasses.replace(context, seeds=[one for one in context.seeds if one.text != seed.text])
    labels = await trial.narrow(others, seed.text) if trial.narrow else None
    drawn = random.Random(f"known-{seed.id}").sample(list(models), min(trial.size, len(models)))
    answers = await asyncio.gather(*(_answer(seed, others, model, trial, labels, prepared) for model in drawn))
    given = [answer for answer in answers if answer]
    shares: dict[str, float] = {}
    for answer in given:
        for name, logprob in answer.items():
            shares[name] = shares.get(name, 0.0) + math.exp(logprob) / len(given)
    ranked = sorted(shares, key=lambda name: -shares[name])
    if len(ranked) < 2:
        return []
    best = ranked[0]
    if not trial.proposed:
        return [Known(shares[best], shares[best] - shares[ranked[1]], best == seed.label)]
    wrong = next(name for name in ranked if name != seed.label)
    own = shares.get(seed.label, 0.0)
    rival = max(own, *(shares[name] for name in ranked if name not in (wrong, seed.label)), 0.0)
    return [Known(own, own - shares[wrong], True), Known(shares[wrong], shares[wrong] - rival, False)]


async def _answer(
    seed: Seed, others: Context, model: ModelSpec, trial: Trial, labels: Sequence[Label] | None, prepared: Prepared
) -> dict[str, float]:
    """One judge's calibrated log-probabilities; empty if it gave none."""
    try:
        judged = await judge_label(
            others.ask, recipe=others.recipe, model=model, role=trial.role, seeds=others.seeds, text=seed.text,
            labels=labels,
        )  # fmt: skip
    except BudgetExhausted:
        raise
    except CallFailed:
        return {}
    return calibrate(judged.raw, prepared.calibration.get(model.name))


def bounds_facts(counts: Mapping[str, int]) -> list[Fact]:
    """The bounds that a run calibrated on its seeds, by role, with the evidence."""
    facts = []
    for role in [name.removesuffix("_bounds_known") for name in counts if name.endswith("_bounds_known")]:
        get = {
            name: counts[f"{role}_bounds_{name}"] for name in ("known", "accepted", "wrong", "probability", "margin")
        }
        held = f"{get['accepted']} of {get['known']} known labels are accepted, {get['wrong']} of them wrong"
        few = "" if counts[f"{role}_bounds_found"] else "; too few known labels, or none sure enough: the fixed bounds"
        facts.append(
            Fact(f"least probability and lead, {role}", f"{get['probability']}%, {get['margin']} points ({held}{few})")
        )
    return facts
