"""PromptMix from place to candidate: shares, groups, partners, examples, shared calls, and how a slot ends."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from fake_llm import Serving
from hypothesis import given
from hypothesis import strategies as st
from scripted import Models

from graft.agents.gateway import Gateway
from graft.agents.methods import Context, Drawn, Place, Screen, method_of
from graft.agents.methods.promptmix import PromptMixSettings, alpha_of, mix_of, partition
from graft.schemas.calls import CallRequest
from graft.schemas.errors import BudgetExhausted, CallFailed
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, GateResult, Seed, Slot

NAMES = [f"class{letter}" for letter in "ABCDEFGHI"]
SEEDS = [Seed.of(f"{word} example for {name}", name) for name in NAMES for word in ("first", "second", "third")]
LIST = "1. Where is it now?\n2. It came without a lid.\n3. May I swap the cup?"
REFUSED = "I'm sorry, but I can't help with that."
OFF: dict[str, Any] = {"kind": "promptmix", "relabel": "off"}


def recipe_for(url: str = "http://127.0.0.1:1/v1", classes: int = 9, **method: Any) -> Recipe:
    labels = [{"name": name, "description": f"the matter of {name}"} for name in NAMES[:classes]]
    models = [{"name": "m", "provider": "openai", "model": "fake", "base_url": url}]
    return Recipe.model_validate({
        "name": "t", "task": {"kind": "classification", "labels": labels}, "models": models,
        "method": {"kind": "promptmix", **method},
    })  # fmt: skip


def slot_at(recipe: Recipe, index: int, label: str = NAMES[0], near: dict[str, list[str]] | None = None) -> Slot:
    names = recipe.task.names
    pool = {name: [seed for seed in SEEDS if seed.label == name] for name in names}
    return method_of(recipe).make_slot(Place("r", 0, 0, index, label), Drawn(recipe, pool, near or {}))


def run(models: Models, recipe: Recipe, *indexes: int, screen: Screen = lambda proposal: ()) -> list[Candidate]:
    async def all_of_them() -> list[Candidate]:
        context = Context(recipe=recipe, seeds=SEEDS, ask=models.ask, screen=screen)
        return [await method_of(recipe).run_slot(slot_at(recipe, index), context) for index in indexes or (0,)]

    return asyncio.run(all_of_them())


def test_alpha_is_half_and_half_a_beta_rounded_to_twentieths() -> None:
    rng = random.Random(1)
    drawn = [alpha_of(PromptMixSettings(), rng) for _ in range(20_000)]
    assert all(0.5 <= alpha <= 1 and alpha == round(round(alpha * 20) / 20, 2) for alpha in drawn)
    assert statistics.fmean(drawn) == pytest.approx(0.5 + 0.5 * 5 / 7, abs=0.004)
    # Beta(5, 2) has variance 10 / 392; rounding to a step adds a twelfth of the step squared.
    assert statistics.pvariance(drawn) == pytest.approx(0.25 * 10 / 392 + 0.05**2 / 12, abs=0.0005)
    assert len(set(drawn)) >= 9


@given(seed=st.integers(0, 2**31), a=st.floats(0.1, 20), b=st.floats(0.1, 20))
def test_alpha_never_leaves_its_range(seed: int, a: float, b: float) -> None:
    assert 0.5 <= alpha_of(PromptMixSettings(alpha_a=a, alpha_b=b), random.Random(seed)) <= 1


def test_alphas_of_ones_own_are_drawn_instead() -> None:
    drawn = {mix_of(slot_at(recipe_for(alphas=(0.5, 0.6)), index)).alpha for index in range(60)}
    assert drawn == {0.5, 0.6}
    assert mix_of(slot_at(recipe_for(alphas=(1.0,)), 0)).alpha == 1.0


def test_alphas_of_slots_have_the_published_mean_too() -> None:
    recipe = recipe_for(texts_per_call=1)
    drawn = [mix_of(slot_at(recipe, index, name)).alpha for index in range(200) for name in NAMES]
    assert statistics.fmean(drawn) == pytest.approx(0.857, abs=0.01)


@given(count=st.integers(2, 60), size=st.integers(2, 16), seed=st.integers(0, 2**31))
def test_every_class_is_in_exactly_one_group_and_never_alone(count: int, size: int, seed: int) -> None:
    labels = [f"n{index}" for index in range(count)]
    groups = partition(labels, size, random.Random(seed))
    assert sorted(name for group in groups for name in group) == sorted(labels)
    assert all(len(group) == size for group in groups[:-1])
    assert 2 <= len(groups[-1]) <= size + 1


@pytest.mark.parametrize(
    ("count", "sizes"), [(9, [4, 5]), (8, [4, 4]), (6, [4, 2]), (5, [5]), (3, [3]), (77, [4] * 18 + [5])]
)
def test_a_last_class_that_would_be_alone_joins_the_group_before(count: int, sizes: list[int]) -> None:
    assert [len(group) for group in partition([str(n) for n in range(count)], 4, random.Random(3))] == sizes


def test_a_random_partner_is_one_for_a_class_and_cycle_and_groups_are_drawn_anew() -> None:
    recipe = recipe_for(partner="random", texts_per_call=1)
    groupings = set()
    for cycle in range(6):
        members: dict[str, set[frozenset[str]]] = defaultdict(set)
        for name in NAMES:
            slots = [slot_at(recipe, 10 * cycle + index, name) for index in range(10)]
            mixes = [mix_of(slot) for slot in slots]
            assert len({mix.partner for mix in mixes}) == 1 and len({mix.alpha for mix in mixes}) > 1
            assert all(mix.partner != name and mix.partner in mix.classes and name in mix.classes for mix in mixes)
            [group] = {frozenset(mix.classes) for mix in mixes}
            for member in group:
                members[member].add(group)
        assert all(len(groups) == 1 for groups in members.values()), "the classes of a cycle are partitioned"
        groupings.add(frozenset(group for groups in members.values() for group in groups))
    assert len(groupings) > 1
    assert {len(group) for grouping in groupings for group in grouping} == {4, 5}


def test_random_partners_are_uniform_over_the_other_classes() -> None:
    recipe = recipe_for(partner="random")
    seen = Counter(mix_of(slot_at(recipe, 10 * cycle)).partner for cycle in range(400))
    assert set(seen) == set(NAMES[1:]) and max(seen.values()) < 3 * min(seen.values())


def test_a_confusable_partner_is_among_the_nearest_classes() -> None:
    near = {NAMES[0]: [NAMES[5], NAMES[2], NAMES[7], NAMES[1]]}
    slots = [slot_at(recipe_for(), index, near=near) for index in range(0, 60, 3)]
    assert {mix_of(slot).partner for slot in slots} == {NAMES[5], NAMES[2], NAMES[7]}
    assert all(set(mix_of(slot).classes) == {NAMES[0], NAMES[5], NAMES[2], NAMES[7]} for slot in slots)
    two = slot_at(recipe_for(classes_in_prompt=2), 0, near=near)
    assert mix_of(two).partner == NAMES[5] and set(mix_of(two).classes) == {NAMES[0], NAMES[5]}


def test_without_known_neighbours_a_random_group_stands_in() -> None:
    mix = mix_of(slot_at(recipe_for(), 0))
    assert mix and len(mix.classes) in (4, 5) and mix.partner in set(mix.classes) - {NAMES[0]}


@pytest.mark.parametrize("shots", [0, 1, 2, 9])
def test_each_class_of_the_prompt_shows_its_own_seeds(shots: int) -> None:
    for index in (0, 30, 90):
        slot = slot_at(recipe_for(shots=shots), index)
        assert set(slot.exemplars) <= set(SEEDS)
        shown = Counter(row.label for row in slot.exemplars)
        assert shown == {name: min(shots, 3) for name in mix_of(slot).classes if shots}
        assert len(set(slot.exemplars)) == len(slot.exemplars)


def test_a_class_without_seeds_can_be_mixed_as_well() -> None:
    recipe = recipe_for(classes=2, shots=0)
    drawn = Drawn(recipe, {name: [] for name in NAMES[:2]})
    slot = method_of(recipe).make_slot(Place("r", 0, 0, 0, NAMES[1]), drawn)
    assert mix_of(slot).partner == NAMES[0] and slot.exemplars == ()


def test_the_order_of_classes_and_examples_varies() -> None:
    slots = [slot_at(recipe_for(classes=3), index) for index in range(0, 60, 3)]
    assert len({mix_of(slot).classes for slot in slots}) == 6


def test_slots_of_a_call_are_alike_and_a_cycle_ends_with_a_shorter_call() -> None:
    recipe = recipe_for(**OFF)
    slots = [slot_at(recipe, index) for index in range(20)]
    groups: dict[str, list[Slot]] = defaultdict(list)
    for slot in slots:
        groups[slot.group].append(slot)
    assert [len(group) for group in groups.values()] == [3, 3, 3, 1] * 2
    for group in groups.values():
        assert group[0].group == group[0].id and [slot.part for slot in group] == list(range(len(group)))
        assert len({(slot.seed, mix_of(slot), slot.exemplars) for slot in group}) == 1
    assert len({slot.seed for slot in slots}) == 8 and len({slot.id for slot in slots}) == 20
    models = Models(generate_mix=LIST)
    run(models, recipe, *range(20))
    assert models.count["generate.mix"] == 8
    requested = Counter(
        next(n for n in (1, 3) if f"Write {n} short" in r.messages[0].content) for r in models.of("generate.mix")
    )
    assert requested == {3: 18, 1: 2}


def test_each_slot_takes_its_own_part_of_one_call() -> None:
    models = Models(generate_mix=LIST)
    candidates = run(models, recipe_for(**OFF), 0, 1, 2)
    assert [one.text for one in candidates] == ["Where is it now?", "It came without a lid.", "May I swap the cup?"]
    assert models.count == {"generate.mix": 1}
    assert all(one.decision.code == "accepted.labelled" and one.label == NAMES[0] for one in candidates)


async def test_slots_at_the_same_time_make_one_call_at_the_server(fake_llm: Serving, tmp_path: Path) -> None:
    recipe = recipe_for(fake_llm.url, **OFF)
    async with Gateway(journal=tmp_path / "journal.sqlite", retries=1) as gateway:
        context = Context(recipe=recipe, seeds=SEEDS, ask=gateway.call)
        candidates = await asyncio.gather(
            *(method_of(recipe).run_slot(slot_at(recipe, index), context) for index in range(3))
        )
    assert len({candidate.text for candidate in candidates}) == 3 and all(one.accepted for one in candidates)
    assert fake_llm.stats()["requests"] == 1


def test_missing_texts_are_requested_again() -> None:
    models = Models(generate_mix=["1. Where is it now?", "1. where is it now\n2. It came without a lid.", LIST])
    candidates = run(models, recipe_for(**OFF), 0, 1, 2)
    assert [one.text for one in candidates] == ["Where is it now?", "It came without a lid.", "May I swap the cup?"]
    assert models.count == {"generate.mix": 3}
    assert len({request.seed for request in models.of("generate.mix")}) == 3


def test_three_calls_with_too_few_texts_fail_the_slot() -> None:
    models = Models(generate_mix="1. Where is it now?")
    first, second = run(models, recipe_for(**OFF), 0, 1)
    assert first.accepted
    decision = second.decision
    assert (decision.status, decision.code) == ("failed", "failed.few_texts")
    assert "3 times" in decision.reason and models.count == {"generate.mix": 3}
    assert second.text == ""


def test_an_echoed_request_is_retried() -> None:
    def echo(request: CallRequest) -> str:
        return LIST if request.sample else f"1. A text.\n{request.messages[0].content}"

    models = Models(generate_mix=echo)
    [candidate] = run(models, recipe_for(**OFF))
    assert candidate.text == "Where is it now?" and models.count == {"generate.mix": 2}
    [failed] = run(Models(generate_mix=lambda request: request.messages[0].content), recipe_for(**OFF))
    assert failed.decision.code == "failed.few_texts" and "repeated the request" in failed.decision.reason


def test_a_refusal_is_rejected_as_such() -> None:
    models = Models(generate_mix=REFUSED)
    [candidate] = run(models, recipe_for(**OFF))
    assert (candidate.decision.status, candidate.decision.code) == ("rejected", "rejected.refusal")
    assert candidate.text == "" and candidate.decision.route == "refusal" and "m" in candidate.decision.reason
    [second] = run(Models(generate_mix=[REFUSED, LIST]), recipe_for(**OFF))
    assert second.accepted, "another sample may be given"


def test_repeats_of_seeds_are_no_texts() -> None:
    def parrot(request: CallRequest) -> str:
        shown = [line.removeprefix("- ") for line in request.messages[0].content.splitlines() if line.startswith("- ")]
        return f"1. {shown[0]}\n2. {shown[1].upper()}\n3. Where is it now?"

    [candidate] = run(Models(generate_mix=parrot), recipe_for(**OFF))
    assert candidate.text == "Where is it now?"


@pytest.mark.parametrize(
    ("reply", "code"),
    [(CallFailed("timeout", "no answer"), "failed.timeout"), (BudgetExhausted("no money"), "failed.budget")],
)
def test_a_failed_call_ends_the_slot_by_its_code(reply: Exception, code: str) -> None:
    [candidate] = run(Models(generate_mix=reply), recipe_for(**OFF))
    assert candidate.decision.code == code and candidate.decision.status == "failed"


def test_gates_come_before_any_labeler_is_paid() -> None:
    hit = GateResult(gate="length", rule="min_chars", passed=False)
    models = Models(generate_mix=LIST)
    [candidate] = run(models, recipe_for(classes=3), screen=lambda proposal: (hit,))
    assert candidate.decision.code == "gate.min_chars" and models.count == {"generate.mix": 1}


@pytest.mark.parametrize(
    ("method", "roles"),
    [
        ({}, ("generator", "labeler")),
        ({"no_label": "adjudicate"}, ("generator", "labeler", "adjudicator")),
        ({"relabel": "panel"}, ("generator", "reviewer", "adjudicator")),
        ({"relabel": "off"}, ("generator",)),
        ({"relabel": "off", "review": {}}, ("generator", "reviewer", "adjudicator")),
        ({"review": {}}, ("generator", "labeler", "reviewer", "adjudicator")),
    ],
)
def test_only_the_roles_that_act_are_required(method: dict[str, Any], roles: tuple[str, ...]) -> None:
    recipe = recipe_for(**method)
    assert method_of(recipe).roles_of(recipe) == roles


def test_a_proposal_is_the_slots_own_text() -> None:
    recipe = recipe_for(**OFF)
    models = Models(generate_mix=LIST)
    context = Context(recipe=recipe, seeds=SEEDS, ask=models.ask)
    assert asyncio.run(method_of(recipe).propose(slot_at(recipe, 1), context)) == "It came without a lid."
    with pytest.raises(CallFailed) as caught:
        refusing = Context(recipe=recipe, seeds=SEEDS, ask=Models(generate_mix=REFUSED).ask)
        asyncio.run(method_of(recipe).propose(slot_at(recipe, 1), refusing))
    assert caught.value.code == "refusal"
