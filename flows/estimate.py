"""Calls, tokens and price of a recipe before anything is spent. Nothing is sent; the assumptions are listed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from graft.agents.gateway.ledger import FREE, cost_of
from graft.agents.methods import Calls, method_of
from graft.agents.methods.steps.sizes import CHARS_PER_TOKEN
from graft.data.documents.read import Library
from graft.data.verdicts import verdict_of
from graft.flows.batches import ASSUMED_LABELLED, at_most
from graft.flows.given import digests, library_of
from graft.flows.plan import read_recipe, run_id_of
from graft.flows.run_context import models_used, weighed
from graft.schemas.base import Value
from graft.schemas.errors import GraftError
from graft.schemas.home import Home
from graft.schemas.load import held
from graft.schemas.models import ModelSpec
from graft.schemas.money import money
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed
from graft.schemas.shown import Shown
from graft.schemas.verdict import one_line


class Step(Value):
    """One kind of call: number, size and price (None if a model's price is unknown)."""

    purpose: str
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    price_usd: float | None
    local: bool = False


class Estimate(Shown, Value):
    """The estimate of a run."""

    dataset: str
    rows: int
    candidates: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    price_usd: float | None
    local: bool = False
    steps: tuple[Step, ...]
    assumptions: tuple[str, ...]

    def shown(self) -> dict[str, object]:
        """See Shown."""
        return {
            "dataset": self.dataset, "rows": self.rows, "candidates": self.candidates, "calls": self.calls,
            "tokens": self.prompt_tokens + self.completion_tokens,
            "price": money(self.price_usd, self.local),
        }  # fmt: skip


def estimate_recipe(name: str) -> Estimate:
    """Estimate the recipe with that path or name, from an earlier run's yield if there is one."""
    file, recipe, seeds = read_recipe(name)
    method = method_of(recipe)
    traits = method.traits(recipe)
    share, source = _yield(recipe, seeds, file, traits.assumed_yield)
    given, texts = method.source(recipe), at_most(recipe, file)
    labelled = math.floor(ASSUMED_LABELLED * len(texts))
    rows = max(sum(method.wanted(recipe).values()), labelled)
    wanted = sum(recipe.made(method.wanted(recipe)).values())
    candidates = min(recipe.limits.candidates - len(texts), math.ceil(max(0, wanted - labelled) / share))
    calls = (*method.estimate_texts(recipe, texts, seeds), *method.estimate(recipe, candidates, seeds))
    steps = [_priced(recipe, one) for one in calls]
    prices = [step.price_usd for step in steps]
    return Estimate(
        dataset=recipe.name,
        rows=rows,
        candidates=len(texts) + candidates,
        calls=sum(step.calls for step in steps),
        prompt_tokens=sum(step.prompt_tokens for step in steps),
        completion_tokens=sum(step.completion_tokens for step in steps),
        price_usd=None if any(price is None for price in prices) else sum(p for p in prices if p is not None),
        local=bool(steps) and all(step.local for step in steps),
        steps=tuple(steps),
        assumptions=(
            *document_lines(library_of(recipe, file)),
            *((f"{ASSUMED_LABELLED:.0%} of {len(texts):,} texts get a label",) if texts else ()),
            *((_earlier(given.margin_of_error),) if given and given.margin_of_error else ()),
            *((f"yield {share:.0%} ({source})",) if candidates or not texts else ()),
            *traits.assumptions,
            f"{CHARS_PER_TOKEN} characters per token; early exit and the journal can only lower the figures",
            _priced_by(steps),
            *_advice(name, recipe, seeds),
        ),
    )


def _yield(recipe: Recipe, seeds: list[Seed], file: Path, assumed: float) -> tuple[float, str]:
    home = Home.find(create=False)
    if not (home.lake / "catalogue.sqlite").exists():
        return assumed, "assumed: no run of this dataset yet"
    from graft.data.lake import Lake

    with Lake.open(home, read_only=True) as lake:
        runs = [run for run in lake.runs(recipe.name) if run.counts.get("opened", 0) >= 20]
    if not runs:
        return assumed, "assumed: no run of this dataset yet"
    with suppress(GraftError):  # an absent model is reported when a run starts
        recipe = weighed(recipe, home)
    same = [run for run in runs if run.id == run_id_of(recipe, seeds, *digests(recipe, file))]
    run = (same or runs)[-1]
    accepted = run.counts.get("accepted", 0) + run.counts.get("not_chosen", 0)
    return max(0.01, accepted / run.counts["opened"]), f"measured in run {run.id}"


def _advice(name: str, recipe: Recipe, seeds: list[Seed]) -> list[str]:
    """The stored verdict on the recipe, or how to get one; nothing for rows without labels."""
    if not recipe.task.labelled:
        return []
    verdict = verdict_of(Home.find(create=False), recipe, seeds)
    named = recipe.name if held(name) else name
    ask = f"whether rows would help is not known yet: graft teacher {named} tells before anything is spent"
    return [one_line(verdict) if verdict else ask]


def document_lines(library: Library) -> list[str]:
    """The documents and passages of a recipe, what was left out of them, and what that means for splits."""
    if not library.documents:
        return []
    one = "rows of a document share a split, so that with one document there is no held-out row"
    return [library.summary, *library.notices, *([one] if len(library.documents) == 1 else [])]


def _earlier(margin: float) -> str:
    return f"labelling ends sooner if a quick student's accuracy is far from 50%: at ±{100 * margin:g} points"


def _priced(recipe: Recipe, made: Calls) -> Step:
    pool = [model for model in recipe.models_for(made.role) if model in models_used(recipe)]
    costs = [_price(model, made.prompt_tokens, made.completion_tokens) for model in pool]
    known = [cost for cost in costs if cost is not None]
    return Step(
        purpose=made.purpose,
        model=", ".join(model.name for model in pool),
        calls=made.calls,
        prompt_tokens=made.calls * made.prompt_tokens,
        completion_tokens=made.calls * made.completion_tokens,
        price_usd=made.calls * sum(known) / len(costs) if len(known) == len(costs) and costs else None,
        local=bool(pool) and all(model.local for model in pool),
    )


def _priced_by(steps: Sequence[Step]) -> str:
    """The source of the prices."""
    if all(step.local for step in steps):
        return "local models: no call is charged for"
    unknown = any(step.price_usd is None and not step.local for step in steps)
    return "unknown price: give the model a price in the recipe" if unknown else "prices from the recipe"


def _price(model: ModelSpec, prompt: int, completion: int) -> float | None:
    """US dollars of such a call: by the recipe's price, or a hosted model's listed one; None if unknown."""
    if model.price is None and model.provider in FREE:
        return 0.0
    price = model.price
    if price is None and model.provider == "litellm":
        from graft.agents.gateway.hosted import known, listed_price

        price = listed_price(known(model.model))
    return cost_of(price, prompt, completion)
