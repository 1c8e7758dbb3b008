"""Bounds on a label's probability and lead that follow from the seeds, each judged without itself."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from pydantic import ValidationError
from scripted import Models

from graft.agents.methods import Context, Drawn, Place, method_of
from graft.agents.methods.base import Bounds, Prepared
from graft.agents.methods.steps.bounds import Known, Sureness, bounds_facts, chosen
from graft.schemas.calls import CallRequest
from graft.schemas.errors import CallFailed
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, GivenText, Seed

TEXT = GivenText.of("a new apple", "mine.csv", 1)
SEEDS = [Seed.of(f"{name} {n}", name.rpartition(" ")[2])
         for n in range(12) for name in ("a plain apple", "a plain brick", "an odd apple")]  # fmt: skip
"""Judges read 24 plain texts rightly, with 95%, and take 12 odd apples for bricks, with 70%."""
AUTO = {"min_probability": "auto", "min_margin": "auto"}


def recipe_of(**method: Any) -> Recipe:
    names = ("m0", "m1")
    pool = [{"name": n, "provider": "openai", "model": n, "base_url": "http://127.0.0.1:1/v1"} for n in names]
    judges = {"answer": "logprobs", "calibration": "none"}
    role = "labeler" if method["kind"] == "label" else "reviewer"
    return Recipe.model_validate({
        "name": "t", "task": {"kind": "classification", "labels": [{"name": "apple"}, {"name": "brick"}]},
        "models": pool, "roles": {role: judges}, "method": method,
        "seeds": {"rows": [{"text": seed.text, "label": seed.label} for seed in SEEDS]},
    })  # fmt: skip


def read(request: CallRequest) -> dict[str, float]:
    """A judge's probabilities for the last text of the request."""
    text = str(request.messages[-1].content)
    share = 0.05 if "brick" in text else 0.3 if "odd" in text else 0.95
    return {" apple": math.log(share), " brick": math.log(1 - share)}


def prepared(recipe: Recipe, known: list[Seed] = SEEDS, judge: Any = read) -> tuple[Prepared, Models]:
    models = Models(labeler_label=judge, reviewer_label=judge, adjudicator_label=judge, generate_text="a new text")
    context = Context(recipe=recipe, seeds=known, ask=models.ask, texts={TEXT.id: TEXT})
    texts = [TEXT] if recipe.method.kind == "label" else []
    drawn = Drawn(recipe, {"apple": SEEDS[:1], "brick": SEEDS[1:2]}, texts=texts)
    return asyncio.run(method_of(recipe).prepare(context, drawn)), models


def labelled(recipe: Recipe, bounds: Bounds | None, share: float) -> Candidate:
    models = Models(labeler_label={" apple": math.log(share), " brick": math.log(1 - share)})
    context = Context(recipe=recipe, seeds=(), ask=models.ask, texts={TEXT.id: TEXT}, bounds=bounds)
    slot = method_of(recipe).make_slot(Place("r", 0, 0, 0, ""), Drawn(recipe, {}, texts=[TEXT]))
    return asyncio.run(method_of(recipe).run_slot(slot, context))


def test_labels_are_accepted_where_the_judges_are_right_on_the_seeds() -> None:
    recipe = recipe_of(kind="label", texts="mine.csv", **AUTO)
    found, models = prepared(recipe)
    assert found.bounds == Bounds(0.0, 0.45), "the lowest lead above the 40 points of the odd ones"
    assert found.figures == {
        "labeler_bounds_known": 36, "labeler_bounds_accepted": 24, "labeler_bounds_wrong": 0,
        "labeler_bounds_found": 1, "labeler_bounds_probability": 0, "labeler_bounds_margin": 45,
    }  # fmt: skip
    asked = models.requests[-1]
    assert str(asked.messages[-1].content) not in [str(message.content) for message in asked.messages[:-1]]
    assert bounds_facts(found.figures)[0].text.startswith("0%, 45 points (24 of 36 known labels are accepted, 0 of")
    doubtful = labelled(recipe, found.bounds, 0.7)
    assert doubtful.decision.code == "rejected.unsure" and "the lead is under 45%" in doubtful.decision.reason
    assert labelled(recipe, found.bounds, 0.8).decision.code == "accepted.labelled"


@pytest.mark.parametrize("known", [SEEDS[:12], [seed for seed in SEEDS if "odd" in seed.text]], ids=["few", "wrong"])
def test_with_few_seeds_or_wrong_judges_the_fixed_numbers_hold(known: list[Seed]) -> None:
    recipe = recipe_of(kind="label", texts="mine.csv", **AUTO)
    found, _ = prepared(recipe, known)
    assert found.bounds == Bounds(0.5, 0.1) and found.figures["labeler_bounds_found"] == 0
    assert "the fixed bounds" in bounds_facts(found.figures)[0].text
    assert labelled(recipe, None, 0.52).decision.code == "rejected.unsure"


def test_a_judge_that_gives_no_probabilities_measures_nothing_and_numbers_ask_nobody() -> None:
    recipe = recipe_of(kind="gra", reviewers=2, calibration_texts=0, **AUTO)
    silent = CallFailed("timeout", "late")
    found, _ = prepared(
        recipe, judge=lambda request: silent if "1" in str(request.messages[-1].content) else read(request)
    )
    assert 0 < found.figures["reviewer_bounds_known"] < 72
    plain, models = prepared(recipe_of(kind="gra", reviewers=2, calibration_texts=0))
    assert plain.bounds is None and not plain.figures and not models.of("reviewer.label")[2:]


def test_reviewers_are_tried_on_the_right_and_the_likeliest_wrong_label() -> None:
    recipe = recipe_of(kind="gra", reviewers=2, calibration_texts=0, max_error=0.4, min_margin="auto")
    found, _ = prepared(recipe)
    assert found.bounds == Bounds(0.5, 0.0), "24 right ones, and as bricks the 12 odd apples: (12 + 1) / (36 + 1)"
    assert (found.figures["reviewer_bounds_known"], found.figures["reviewer_bounds_wrong"]) == (72, 12)
    strict, _ = prepared(recipe_of(kind="gra", reviewers=2, calibration_texts=0, min_margin="auto"))
    assert strict.bounds == Bounds(0.5, 0.45)
    names = {step.purpose: step.calls for step in method_of(recipe).estimate(recipe, 10, SEEDS)}
    assert names["calibrate"] == 72


def test_the_lowest_bounds_that_keep_the_error_are_chosen() -> None:
    sure = [Known(0.9, 0.8, True)] * 30
    assert chosen(sure, Sureness(**AUTO)) == Bounds(0.0, 0.0)  # type: ignore[arg-type]
    assert chosen(sure[:18], Sureness(**AUTO)) is None, "one more wrong label than seen: 1 of 19 is over 5%"  # type: ignore[arg-type]
    mixed = [*sure, *[Known(0.6, 0.75, False)] * 5]
    assert chosen(mixed, Sureness(min_probability="auto")) == Bounds(0.65, 0.1)
    assert chosen(mixed, Sureness(min_margin="auto")) == Bounds(0.5, 0.8)
    assert chosen(mixed, Sureness(min_probability="auto", max_error=0.2)) == Bounds(0.0, 0.1)


@pytest.mark.parametrize("wrong", [1.0, -0.1, "often", True])
def test_a_bound_is_a_probability_or_auto(wrong: Any) -> None:
    with pytest.raises(ValidationError, match=r"write a number such as 0\.5, or auto"):
        recipe_of(kind="gra", min_margin=wrong)
    assert "max_error" not in recipe_of(kind="gra").model_dump(mode="json")["method"], "so that runs keep their ids"
