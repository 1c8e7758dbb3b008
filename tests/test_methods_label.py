"""Labelling given texts, decision by decision, with scripted models."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from scripted import Models

from graft.agents.methods import Context, Drawn, Place, method_of
from graft.data.intake.texts import read_texts
from graft.data.vectors.spread import WAYS, spread
from graft.schemas.calls import CallRequest
from graft.schemas.errors import InputInvalid
from graft.schemas.recipe import Recipe, Select
from graft.schemas.rows import Candidate, GivenText, Seed

TEXTS = [GivenText.of(f"where is parcel number {n} now?", "mine.csv", n + 1) for n in range(7)]
SEEDS = [Seed.of("a first example", "apple"), Seed.of("a second example", "brick")]


def recipe_of(models: int = 3, *, labelers: int = 2, seed: int = 42, **method: Any) -> Recipe:
    names = [f"m{n}" for n in range(models)]
    pool = [{"name": n, "provider": "openai", "model": n, "base_url": "http://127.0.0.1:1/v1"} for n in names]
    return Recipe.model_validate({
        "name": "t", "task": {"kind": "classification", "labels": [{"name": "apple"}, {"name": "brick"}]},
        "models": pool, "roles": {"labeler": {"models": names[:labelers]}}, "seed": seed,
        "seeds": {"rows": [{"text": seed.text, "label": seed.label} for seed in SEEDS]},
        "limits": {"shard_rows": 4}, "method": {"kind": "label", "texts": "mine.csv", **method},
    })  # fmt: skip


def label(recipe: Recipe, **apple: float) -> Candidate:
    """The first text's candidate, where each model gives *apple* this probability."""

    def likely(request: CallRequest) -> dict[str, float]:
        share = apple[request.model.name]
        return {"apple": math.log(share), "brick": math.log(1 - share)}

    models = Models(labeler_label=likely, adjudicator_label=likely)
    context = Context(recipe=recipe, seeds=SEEDS, ask=models.ask, texts={text.id: text for text in TEXTS})
    slot = method_of(recipe).make_slot(Place("r", 0, 0, 0, ""), Drawn(recipe, {}, texts=TEXTS))
    return asyncio.run(method_of(recipe).run_slot(slot, context))


def test_agreeing_labelers_need_no_adjudicator() -> None:
    made = label(recipe_of(), m0=0.9, m1=0.7)
    assert made.decision.code == "accepted.labelled" and made.label == "apple" and made.intended_label == ""
    assert made.soft_label["apple"] == pytest.approx(0.8)
    assert sorted(made.models["labeler"].split(",")) == ["m0", "m1"] and "adjudicator" not in made.models
    assert made.labelling is not None and not made.labelling.relabelled
    assert made.labelling.margin == pytest.approx(0.6)


def test_an_adjudicator_that_is_no_labeler_decides_a_dispute() -> None:
    made = label(recipe_of(), m0=0.9, m1=0.3, m2=0.95)
    assert made.label == "apple" and made.models["adjudicator"] == "m2"
    assert made.soft_label["apple"] == pytest.approx((0.9 + 0.3 + 0.95) / 3)
    unasked = label(recipe_of(adjudicate=False), m0=0.9, m1=0.3)
    assert unasked.label == "apple" and "adjudicator" not in unasked.models
    alone = label(recipe_of(2), m0=0.9, m1=0.3)
    assert "adjudicator" not in alone.models, "a labeler's second judgement would be its first"


@pytest.mark.parametrize(
    ("share", "bounds"), [(0.55, {}), (0.75, {"min_probability": 0.8}), (0.75, {"min_margin": 0.6})]
)
def test_a_label_that_is_not_likely_enough_is_a_guess(share: float, bounds: dict[str, float]) -> None:
    made = label(recipe_of(labelers=1, adjudicate=False, **{"min_margin": 0.2, **bounds}), m0=share)
    assert (made.decision.code, made.decision.route, made.label) == ("rejected.unsure", "unsure", "apple")
    assert made.labelling is not None and made.labelling.label == ""
    assert f"best guess is apple at {share:.0%}" in made.decision.reason


def test_a_texts_slot_follows_from_its_words_and_the_recipe() -> None:
    recipe, method = recipe_of(), method_of(recipe_of())
    there = method.make_slot(Place("r", 1, 0, 2, ""), Drawn(recipe, {}, texts=TEXTS))
    first = method.make_slot(Place("r", 0, 0, 0, ""), Drawn(recipe, {}, texts=TEXTS[6:]))
    assert there.payload == {"text_id": TEXTS[6].id, "file": "mine.csv", "row": 7} and there.label == ""
    assert (first.id, first.seed) == (there.id, there.seed)
    other = method.make_slot(Place("r", 0, 0, 0, ""), Drawn(recipe_of(seed=1), {}, texts=TEXTS[6:]))
    assert other.seed != first.seed


def test_rounds_after_the_texts_are_those_of_the_other_method() -> None:
    recipe = recipe_of(top_up={"kind": "gra", "rounds": 2, "max_cosine": 0.8})
    method = method_of(recipe)
    assert method.traits(recipe).rounds == 2 and method.traits(recipe).max_cosine == 0.8
    assert method.roles_of(recipe) == ("labeler", "adjudicator", "generator", "reviewer")
    assert method.wanted(recipe) == {"apple": 50, "brick": 50} and method.wanted(recipe_of()) == {}
    pool = {"apple": SEEDS[:1], "brick": SEEDS[1:]}
    slot = method.make_slot(Place("r", 0, 1, 0, "apple"), Drawn(recipe, pool, texts=TEXTS, round=1))
    plain = recipe.model_copy(update={"method": recipe.method.top_up})  # type: ignore[attr-defined]
    same = method_of(plain).make_slot(Place("r", 0, 0, 0, "apple"), Drawn(plain, pool))
    assert (slot.round, slot.label, slot.seed, slot.exemplars) == (1, "apple", same.seed, same.exemplars)


def test_texts_are_read_once_each_and_rows_without_one_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    rows = ["where is my blue parcel?", "Where is my blue parcel", "", "I want my money back", 7]
    file.write_text("\n".join(json.dumps({"n": n, "body": row}) for n, row in enumerate(rows)), encoding="utf-8")
    found = read_texts(file, None, 0.8)
    assert [(text.text, text.row) for text in found.rows] == [(rows[0], 1), (rows[3], 4)] and found.column == "body"
    assert found.counts == {"texts_read": 5, "texts_repeated": 1, "texts_unusable": 2}
    with pytest.raises(InputInvalid, match="the columns are: n, body"):
        read_texts(file, "text", 0.8)


def test_a_choice_takes_one_of_each_group_and_is_a_prefix_of_a_larger_one() -> None:
    rng = np.random.default_rng(3)
    middles = np.eye(8)[:4]
    rows = np.concatenate([middle + 0.05 * rng.normal(size=(30, 8)) for middle in middles])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    chosen = spread(rows, 4, 1)
    assert sorted(place // 30 for place in chosen) == [0, 1, 2, 3]
    assert spread(rows, 9, 1)[:4] == chosen and spread(rows, 500, 1) == list(range(120))


@pytest.mark.parametrize("by", WAYS)
def test_a_choice_adds_what_the_held_rows_lack(by: str) -> None:
    rng = np.random.default_rng(4)
    middles = np.eye(8)[:4]
    rows = np.concatenate([middle + 0.05 * rng.normal(size=(30, 8)) for middle in middles])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert sorted(place // 30 for place in WAYS[by](rows, 4, 1, None)) == [0, 1, 2, 3]
    assert sorted(place // 30 for place in WAYS[by](rows, 2, 1, middles[:2])) == [2, 3]
    places = WAYS[by](rows, 119, 1, middles[:1])
    assert len(set(places)) == 119 and WAYS[by](rows, 120, 1, None) == list(range(120))
    assert set(WAYS) == set(get_args(Select.model_fields["by"].annotation))
