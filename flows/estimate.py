"""Calls, tokens and price of a recipe before anything is spent. Nothing is sent; the assumptions are said."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

from graft.agents.methods import method_of, reviewer_count
from graft.agents.methods.calibrate import judges
from graft.agents.methods.harmaug import augmenting, variants
from graft.agents.methods.relabel import mixing
from graft.flows.plan import read_recipe, run_id_of
from graft.flows.run_context import models_used, weighed
from graft.schemas.base import Value
from graft.schemas.errors import GraftError
from graft.schemas.home import Home
from graft.schemas.methods import HarmAugSettings, PromptMixSettings
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed

CHARS_PER_TOKEN = 4
ASSUMED_YIELD = 0.5
ASSUMED_DISPUTES = 0.2
PROMPT_OVERHEAD = 120
"""Tokens of a prompt's fixed sentences, about."""


class Step(Value):
    """One kind of call: how many, of which size, at which price (None where a model's price is unknown)."""

    purpose: str
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    price_usd: float | None


class Estimate(Value):
    """What a run should take."""

    dataset: str
    rows: int
    candidates: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    price_usd: float | None
    steps: tuple[Step, ...]
    assumptions: tuple[str, ...]


def estimate_recipe(name: str) -> Estimate:
    """Estimate the recipe of that path or name, by an earlier run's yield where there is one."""
    _, recipe, seeds = read_recipe(name)
    share, source = _yield(recipe, seeds)
    rows = sum(recipe.wanted().values())
    candidates = min(recipe.limits.candidates, math.ceil(rows / share))
    steps = _steps_of(recipe)(recipe, candidates, seeds)
    prices = [step.price_usd for step in steps]
    return Estimate(
        dataset=recipe.name,
        rows=rows,
        candidates=candidates,
        calls=sum(step.calls for step in steps),
        prompt_tokens=sum(step.prompt_tokens for step in steps),
        completion_tokens=sum(step.completion_tokens for step in steps),
        price_usd=None if any(price is None for price in prices) else sum(p for p in prices if p is not None),
        steps=tuple(steps),
        assumptions=(
            f"yield {share:.0%} ({source})",
            f"{ASSUMED_DISPUTES:.0%} of candidates go to the adjudicator",
            f"{CHARS_PER_TOKEN} characters a token; early exit and the journal can only lower the figures",
            "unknown price: give the model a price in the recipe"
            if None in prices
            else "prices as the recipe gives them",
        ),
    )


def _yield(recipe: Recipe, seeds: list[Seed]) -> tuple[float, str]:
    home = Home.find()
    if not (home.lake / "catalogue.sqlite").exists():
        return ASSUMED_YIELD / _responses(recipe), "assumed: no run of this dataset yet"
    from graft.data.lake import Lake

    with Lake.open(home, read_only=True) as lake:
        runs = [run for run in lake.runs(recipe.name) if run.counts.get("opened", 0) >= 20]
    if not runs:
        return ASSUMED_YIELD / _responses(recipe), "assumed: no run of this dataset yet"
    with suppress(GraftError):  # an absent model is told when a run is started
        recipe = weighed(recipe, home)
    same = [run for run in runs if run.id == run_id_of(recipe, seeds)]
    run = (same or runs)[-1]
    return max(0.01, run.counts.get("accepted", 0) / run.counts["opened"]), f"measured in run {run.id}"


def _steps_of(recipe: Recipe) -> Callable[[Recipe, int, list[Seed]], tuple[Step, ...]]:
    if isinstance(recipe.method, PromptMixSettings):
        return _mix_steps
    if isinstance(recipe.method, HarmAugSettings):
        return _harm_steps
    return _label_steps if recipe.task.labelled else _instruction_steps


def _sizes(seeds: list[Seed]) -> tuple[int, int]:
    """Tokens of all seeds together, and of one text."""
    shots = sum(len(seed.text) for seed in seeds) // CHARS_PER_TOKEN
    return shots, max(12, shots // max(1, len(seeds)))


def _mix_steps(recipe: Recipe, candidates: int, seeds: list[Seed]) -> tuple[Step, ...]:
    """One call writes several texts; each text is labelled among the nearest classes, and reviewed if asked for."""
    method, (shots, text) = mixing(recipe), _sizes(seeds)
    classes = max(1, len(recipe.wanted()))
    shown = PROMPT_OVERHEAD + shots * min(method.classes_in_prompt, classes) // classes
    judged = PROMPT_OVERHEAD + shots * min(method.nearest_classes, classes) // classes + text
    writes = math.ceil(candidates / method.texts_per_call)
    steps = [_step(recipe, "generate", "generator", writes, shown, method.texts_per_call * (text + 4))]
    if method.relabel == "labeler":
        asked = min(method.labelers, len(recipe.models_for("labeler")))
        tokens = 1 if recipe.roles.labeler.answer == "logprobs" else 8
        steps.append(_step(recipe, "label", "labeler", candidates * asked, judged, tokens))
    panels = int(method.relabel == "panel") + int(method.review is not None)
    if panels:
        tokens = 1 if recipe.roles.reviewer.answer == "logprobs" else 120
        size, disputed = reviewer_count(recipe), math.ceil(candidates * ASSUMED_DISPUTES)
        steps.append(_step(recipe, "review", "reviewer", panels * candidates * size, judged, tokens))
        steps.append(_step(recipe, "adjudicate", "adjudicator", panels * disputed, judged, tokens))
    return (*steps, *_calibration(recipe, judged))


def _harm_steps(recipe: Recipe, candidates: int, seeds: list[Seed]) -> tuple[Step, ...]:
    """One call a message; each of its variants is a candidate with its own response and score."""
    _, text = _sizes(seeds)
    kinds = len(variants(recipe))
    messages, answered = math.ceil(candidates / kinds), candidates * (kinds - 1) // kinds
    response = min(recipe.roles.responder.max_tokens, 120)
    shown = PROMPT_OVERHEAD + augmenting(recipe).exemplars * text
    steps = [_step(recipe, "generate", "generator", messages, shown, text + 4)]
    if answered:
        steps.append(_step(recipe, "respond", "responder", answered, PROMPT_OVERHEAD + text, response))
    teachers = len(recipe.models_for("guard"))
    steps.append(_step(recipe, "score", "guard", candidates * teachers, 2 * PROMPT_OVERHEAD + text + response, 1))
    return (*steps, *_calibration(recipe, 2 * PROMPT_OVERHEAD + text))


def _calibration(recipe: Recipe, prompt: int) -> tuple[Step, ...]:
    tried = judges(recipe, method_of(recipe).roles(recipe))
    batch = getattr(recipe.method, "calibration_texts", 0)
    calls: dict[str, int] = {}
    for judge in tried.values():
        calls[judge.role] = calls.get(judge.role, 0) + (batch if judge.calibration == "batch" else 1)
    return tuple(_step(recipe, "calibrate", role, count, prompt, 1) for role, count in calls.items() if count)


def _label_steps(recipe: Recipe, candidates: int, seeds: list[Seed]) -> tuple[Step, ...]:
    shots = sum(len(seed.text) for seed in seeds) // CHARS_PER_TOKEN
    text = max(1, sum(len(seed.text) for seed in seeds) // max(1, len(seeds)) // CHARS_PER_TOKEN)
    per_label = shots // max(1, len(recipe.wanted()))
    reviewers = getattr(recipe.method, "reviewers", 3)
    judged = 1 if recipe.roles.reviewer.answer == "logprobs" else 120
    made = _step(recipe, "generate", "generator", candidates, PROMPT_OVERHEAD + per_label, text + 4)
    reviewed = _step(recipe, "review", "reviewer", candidates * reviewers, PROMPT_OVERHEAD + shots + text, judged)
    disputed = math.ceil(candidates * ASSUMED_DISPUTES)
    settled = _step(recipe, "adjudicate", "adjudicator", disputed, PROMPT_OVERHEAD + shots + text, judged)
    return (made, reviewed, settled, *_calibration(recipe, PROMPT_OVERHEAD + shots + text))


def _instruction_steps(recipe: Recipe, candidates: int, seeds: list[Seed]) -> tuple[Step, ...]:
    reviewers = getattr(recipe.method, "reviewers", 3)
    response, written = min(recipe.roles.generator.max_tokens, 300), math.ceil(candidates / _responses(recipe))
    return (
        _step(recipe, "prepare seeds", "generator", 3 * len(seeds), 250, 40),
        _step(recipe, "keywords", "generator", written, 200, 30),
        _step(recipe, "instruction", "generator", written, 350, 80),
        _step(recipe, "review instruction", "reviewer", written * reviewers, 300, 20),
        _step(recipe, "respond", "generator", candidates, 150, response),
        _step(recipe, "review response", "reviewer", candidates * reviewers, 400 + response, 80),
        _step(recipe, "adjudicate", "adjudicator", math.ceil(candidates * ASSUMED_DISPUTES), 800 + response, 80),
    )


def _responses(recipe: Recipe) -> int:
    """Candidates that share an instruction, of which one at most is accepted."""
    return 1 if recipe.task.labelled else getattr(recipe.method, "responses", 1)


def _step(recipe: Recipe, purpose: str, role: str, calls: int, prompt: int, completion: int) -> Step:
    pool = [model for model in recipe.models_for(role) if model in models_used(recipe)]
    costs = [_price(model, prompt, completion) for model in pool]
    known = [cost for cost in costs if cost is not None]
    return Step(
        purpose=purpose,
        model=", ".join(model.name for model in pool),
        calls=calls,
        prompt_tokens=calls * prompt,
        completion_tokens=calls * completion,
        price_usd=calls * sum(known) / len(costs) if len(known) == len(costs) and costs else None,
    )


def _price(model: ModelSpec, prompt: int, completion: int) -> float | None:
    if model.price is not None:
        return (prompt * model.price.input + completion * model.price.output) / 1e6
    return 0.0 if model.provider in ("embedded", "encoder") else None
