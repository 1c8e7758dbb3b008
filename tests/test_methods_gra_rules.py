"""GRA's draws (roles apart where the pool allows it, slots that every rerun repeats) and its decision rule."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scripted import make_slot

from graft.agents.methods.gra import KIND
from graft.agents.methods.steps.draw import Roles, draw_roles, reviewer_count
from graft.agents.methods.steps.panel import decide, mean_of, settled, spread_of
from graft.data.seeds import load_seeds
from graft.schemas.errors import InputInvalid
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed, Slot

LABELS = [{"name": "billing", "description": "invoices"}, {"name": "outage"}]


def recipe_with(names: str, reviewers: int = 3, encoders: str = "", **roles: Any) -> Recipe:
    models = [{"name": n, "provider": "openai", "model": n, "base_url": "http://127.0.0.1:1/v1"} for n in names]
    models += [{"name": n, "provider": "encoder", "model": n} for n in encoders]
    return Recipe.model_validate({
        "name": "t", "task": {"kind": "classification", "labels": LABELS}, "models": models, "roles": roles,
        "seeds": {"rows": [{"text": "why twice?", "label": "billing"}]},
        "method": {"kind": "gra", "reviewers": reviewers},
    })  # fmt: skip


def slot_of(recipe: Recipe, index: int, run_id: str = "r", rows: int = 6) -> Slot:
    pool = {"billing": [Seed.of(f"text {n}", "billing") for n in range(rows)], "outage": [Seed.of("down", "outage")]}
    return make_slot(run_id=run_id, shard=0, round=0, index=index, label="billing", pool=pool, recipe=recipe)


def drawn(recipe: Recipe, slot: Slot) -> Roles:
    return draw_roles(recipe, slot, KIND.settings(recipe))


def test_five_models_never_share_a_role_and_all_of_them_play_every_role() -> None:
    recipe = recipe_with("abcde")
    generators, adjudicators = Counter[str](), Counter[str]()
    for index in range(200):
        roles = drawn(recipe, slot_of(recipe, index))
        names = [roles.generator.name, *(m.name for m in roles.reviewers), roles.adjudicator.name]
        assert sorted(names) == list("abcde")
        generators[roles.generator.name] += 1
        adjudicators[roles.adjudicator.name] += 1
    assert min(generators.values()) > 20 and min(adjudicators.values()) > 20
    assert len(generators) == len(adjudicators) == 5


def test_the_only_adjudicator_is_kept_out_of_the_committee() -> None:
    recipe = recipe_with("abcde", adjudicator={"models": ["e"]}, generator={"models": ["a", "b"]})
    for index in range(50):
        roles = drawn(recipe, slot_of(recipe, index))
        assert roles.adjudicator.name == "e"
        assert "e" not in {model.name for model in roles.reviewers}


def test_two_models_share_roles_with_the_unused_one_first() -> None:
    recipe = recipe_with("ab", reviewers=1)
    for index in range(30):
        roles = drawn(recipe, slot_of(recipe, index))
        assert roles.reviewers[0] != roles.generator


def test_a_second_judgement_by_the_same_model_is_drawn_for_scores_only() -> None:
    scored = recipe_with("ab", reviewers=3)
    assert reviewer_count(scored, KIND.settings(scored)) == 3
    committee = [model.name for model in drawn(scored, slot_of(scored, 0)).reviewers]
    assert sorted(Counter(committee).values()) == [1, 2]
    for same in ({"answer": "logprobs"}, {"temperature": 0}):
        recipe = recipe_with("ab", reviewers=3, reviewer=same)
        assert reviewer_count(recipe, KIND.settings(recipe)) == 2
        assert len({model.name for model in drawn(recipe, slot_of(recipe, 0)).reviewers}) == 2


def test_an_encoder_judges_once_and_never_writes() -> None:
    recipe = recipe_with("a", reviewers=3, encoders="m")
    for index in range(20):
        roles = drawn(recipe, slot_of(recipe, index))
        assert roles.generator.name == "a"
        assert Counter(model.name for model in roles.reviewers) == {"a": 2, "m": 1}


def test_slots_repeat_whatever_the_run_is_called() -> None:
    recipe = recipe_with("abcde")
    one, again, other = slot_of(recipe, 3), slot_of(recipe, 3), slot_of(recipe, 3, run_id="other")
    assert one == again
    assert one.id.startswith("sl_") and one.id != other.id
    assert (one.seed, one.exemplars) == (other.seed, other.exemplars)
    assert drawn(recipe, one) == drawn(recipe, other)


def test_exemplars_are_two_to_four_of_the_label_or_all_that_there_are() -> None:
    recipe = recipe_with("abcde")
    counts = Counter(len(slot_of(recipe, index).exemplars) for index in range(60))
    assert set(counts) == {2, 3, 4}
    assert len(slot_of(recipe, 0, rows=1).exemplars) == 1
    assert len({seed.id for seed in slot_of(recipe, 1).exemplars}) == len(slot_of(recipe, 1).exemplars)
    orders = {tuple(seed.text for seed in slot_of(recipe, index, rows=2).exemplars) for index in range(20)}
    assert len(orders) == 2, "the order of the exemplars is drawn too"


def test_guard_rows_with_a_response_say_so(tmp_path: Path) -> None:
    data = {**recipe_with("ab").model_dump(), "task": {"kind": "guard", "policy": "asks for x", "with_response": True}}
    data["seeds"] = {"rows": [{"text": "hello there", "label": "safe"}]}
    with pytest.raises(InputInvalid, match="with a response"):
        load_seeds(Recipe.model_validate(data), tmp_path)


CASE_1 = [[9, 10, 10, 10, 10, 10], [9, 9, 10, 10, 10, 10], [6, 4, 5, 4, 5, 3]]


def test_the_papers_case_1_is_disputed() -> None:
    means = [sum(scores) / 6 for scores in CASE_1]
    assert [round(mean, 3) for mean in means] == [9.833, 9.667, 4.5]
    assert mean_of(means) == pytest.approx(8.0)
    assert round(spread_of(means), 4) == 2.4758
    assert decide(means, 8.0, 1.5) == "adjudicate"


@pytest.mark.parametrize(
    ("means", "outcome"),
    [
        ([9.0, 8.0, 7.0], "accept"),  # the mean is exactly tau: inclusive
        ([8.0, 8.0, 7.99], "reject"),
        ([10.0, 7.0], "accept"),  # the spread is exactly delta: inclusive
        ([10.0, 6.98], "adjudicate"),
        ([10.0, 10.0, 3.0], "reject"),  # disagreement below tau is never adjudicated
        ([23 / 3, 25 / 3, 8.0], "accept"),  # thirds do not add up to 24 in floats
    ],
)
def test_bounds(means: list[float], outcome: str) -> None:
    if means == [10.0, 6.98]:
        assert spread_of(means) > 1.5
    assert decide(means, 8.0, 1.5) == outcome


def test_one_low_review_settles_a_committee_and_a_good_one_does_not() -> None:
    assert settled([3.9], 2, 8.0, 1.5)
    assert not settled([4.0], 2, 8.0, 1.5), "10 and 10 would still bring the mean to 8"
    assert not settled([10.0, 10.0], 1, 8.0, 1.5), "a 4 would make it a dispute"
    assert settled([9.0], 1, 4.0, 5.0), "0 and 10 both leave it accepted"
    assert not settled([], 3, 0.0, 10.0), "a committee of which nobody answered has decided nothing"


sixths = st.integers(0, 60).map(lambda total: total / 6)
answers = st.lists(st.one_of(st.none(), sixths, st.floats(0, 10)), min_size=1, max_size=6)


@settings(max_examples=600, deadline=None)
@given(
    answers=answers,
    tau=st.one_of(st.integers(0, 20).map(lambda half: half / 2), st.floats(0, 10)),
    delta=st.one_of(st.integers(0, 20).map(lambda half: half / 2), st.floats(0, 10)),
)
@example(answers=[9.0, 8.0, 7.0], tau=8.0, delta=1.5)
@example(answers=[4.0, 10.0, 10.0], tau=8.0, delta=1.5)
@example(answers=[9.0, 0.0], tau=4.5, delta=4.5)
def test_stopping_early_never_changes_the_decision(answers: list[float | None], tau: float, delta: float) -> None:
    """`None` stands for a judge that failed: with early exit it may not have been called."""
    everyone = [answer for answer in answers if answer is not None]
    so_far: list[float] = []
    for place, answer in enumerate(answers):
        so_far += [] if answer is None else [answer]
        if settled(so_far, len(answers) - place - 1, tau, delta):
            break
    assert bool(so_far) == bool(everyone)
    if everyone:
        assert decide(so_far, tau, delta) == decide(everyone, tau, delta)
