"""GRA with several responses to one instruction: calls in common, one best, and nothing changes where there is one."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Models, make_slot

from graft.agents.methods import Context, Drawn, Place, Screen, method_of
from graft.agents.methods.gra import KIND
from graft.data.gates import Admission
from graft.flows.dedup import redecided, settle_round
from graft.flows.streaming import Outcome, ShardRunner
from graft.schemas.calls import Call, CallRequest
from graft.schemas.errors import BudgetExhausted, CallFailed
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Accepted, Candidate, GateResult, Proposal, Seed, Slot
from graft.students.instruct.data import pairs_of

POOL = {"shop": [Seed.of(f"seed {n}", "shop").model_copy(update={"keywords": ("parcels",), "summary": f"sum {n}"})
                 for n in range(6)]}  # fmt: skip
DIMENSIONS = ("correctness", "clarity", "completeness", "relevance", "coherence", "ethicality")


def recipe_for(responses: int = 4, **more: Any) -> Recipe:
    pool = [
        {"name": f"m{n}", "provider": "openai", "model": f"m{n}", "base_url": "http://127.0.0.1:1/v1"} for n in range(5)
    ]
    task = {"kind": "instruction", "domains": [{"name": "shop", "description": "questions to a shop's assistant"}]}
    method = {"kind": "gra", "responses": responses, "max_cosine": None}
    seeds = {"rows": [{"text": "a seed that stands alone", "label": "shop"}]}
    return Recipe.model_validate(
        {"name": "t", "task": task, "models": pool, "seeds": seeds, "method": method, **more}
    )  # fmt: skip


def slot_at(recipe: Recipe, index: int) -> Slot:
    return method_of(recipe).make_slot(Place("r", 0, 0, index, "shop"), Drawn(recipe, POOL))


def models_for(scores: list[int], **more: Any) -> Models:
    """Response n of every instruction gets scores[n] from everyone."""

    def judged(request: CallRequest) -> str:
        shown = "".join(message.content for message in request.messages)
        score = next(scores[n] for n in range(len(scores)) if f"Answer number {n}." in shown)
        return orjson.dumps({**dict.fromkeys(DIMENSIONS, score), "comment": "so it is"}).decode()

    usual: dict[str, Any] = {
        "generate_keywords": '{"keywords": ["returns", "receipts"]}',
        "generate_instruction": '{"instruction": "Say how a lamp is sent back."}',
        "generate_response": lambda request: f"Answer number {request.sample}.",
        "review_instruction": '{"reasonableness": 1, "completeness": 1, "clarity": 1}',
        "review_response": judged,
    }
    return Models(**{**usual, **more})


def run(models: Models, recipe: Recipe, count: int = 4, screen: Screen = lambda proposal: ()) -> list[Candidate]:
    async def all_at_once() -> list[Candidate]:
        context = Context(recipe=recipe, seeds=POOL["shop"], ask=models.ask, screen=screen)
        slots = [slot_at(recipe, index) for index in range(count)]
        return list(await asyncio.gather(*(method_of(recipe).run_slot(slot, context) for slot in slots)))

    return asyncio.run(all_at_once())


def codes(candidates: list[Candidate]) -> list[str]:
    return [candidate.decision.code for candidate in candidates]


def test_a_group_pays_for_its_instruction_once_and_for_each_response() -> None:
    models = models_for([9, 8, 2, 10])
    method = {"kind": "gra", "responses": 4, "max_cosine": None, "agreement_after": 0}
    candidates = run(models, recipe_for(method=method))
    assert models.count == {
        "generate.keywords": 1, "generate.instruction": 1, "review.instruction": 3, "generate.response": 4,
        "review.response": 3 + 3 + 1 + 3,
    }  # fmt: skip
    assert {candidate.text for candidate in candidates} == {"Say how a lamp is sent back."}
    assert [candidate.response for candidate in candidates] == [f"Answer number {n}." for n in range(4)]
    assert len({candidate.id for candidate in candidates}) == 4 and len({KIND.text_id(c) for c in candidates}) == 1


def test_the_best_response_is_accepted_and_no_other() -> None:
    candidates = run(models_for([9, 8, 2, 10]), recipe_for())
    assert codes(candidates) == ["rejected.not_best", "rejected.not_best", "rejected.low_mean", "accepted.agreed"]
    assert "Response 4 to the same instruction is kept" in candidates[0].decision.reason
    assert candidates[0].decision.mean == 9.0, "its own judgement stays"
    assert [pair.rejected for pair in pairs_of(candidates[3], candidates, 8.0)] == ["Answer number 2."]


@given(scores=st.lists(st.integers(0, 10), min_size=4, max_size=4))
@settings(max_examples=40, deadline=None)
def test_a_group_has_one_accepted_response_where_any_is_good_enough(scores: list[int]) -> None:
    candidates = run(models_for(scores), recipe_for())
    accepted = [n for n, candidate in enumerate(candidates) if candidate.accepted]
    assert accepted == ([scores.index(max(scores))] if max(scores) >= 8 else [])
    assert {pair.rejected for n in accepted for pair in pairs_of(candidates[n], candidates, 8.0)} == {
        f"Answer number {n}." for n, score in enumerate(scores) if score < 8 and accepted
    }


def test_a_response_that_a_gate_refused_is_no_rival() -> None:
    def screen(proposal: Proposal) -> tuple[GateResult, ...]:
        return (GateResult(gate="length", rule="max_chars", passed=proposal.response != "Answer number 3."),)

    assert codes(run(models_for([9, 8, 2, 10]), recipe_for(), screen=screen)) == [
        "accepted.agreed", "rejected.not_best", "rejected.low_mean", "gate.max_chars",
    ]  # fmt: skip


def test_a_response_that_failed_is_no_rival_and_a_reached_cap_accepts_nothing() -> None:
    def failing(error: CallFailed) -> Any:
        return lambda request: error if request.sample == 3 else f"Answer number {request.sample}."

    late = failing(CallFailed("timeout", "no answer"))
    assert codes(run(models_for([9, 8, 2, 10], generate_response=late), recipe_for())) == [
        "accepted.agreed", "rejected.not_best", "rejected.low_mean", "failed.timeout",
    ]  # fmt: skip
    spent = failing(BudgetExhausted("money_usd 1.00 is spent"))
    assert not [c for c in run(models_for([9, 8, 2, 10], generate_response=spent), recipe_for()) if c.accepted]


def test_a_flag_ends_the_whole_group_before_any_response_is_paid() -> None:
    flags = '{"reasonableness": 1, "completeness": 0, "clarity": 1}'
    models = models_for([9] * 4, review_instruction=flags)
    assert codes(run(models, recipe_for())) == ["rejected.flag"] * 4
    assert models.count["review.instruction"] == 1 and models.count["generate.response"] == 0


def test_slots_of_a_group_share_all_but_their_place_and_groups_differ() -> None:
    recipe = recipe_for(3)
    slots = [slot_at(recipe, index) for index in range(6)]
    assert [slot.part for slot in slots] == [0, 1, 2, 0, 1, 2] and [slot.index for slot in slots] == list(range(6))
    assert [slot.group for slot in slots] == [slots[0].id] * 3 + [slots[3].id] * 3
    for group in (slots[:3], slots[3:]):
        assert len({(slot.seed, slot.exemplars) for slot in group}) == 1
    assert slots[0].seed != slots[3].seed and len({slot.id for slot in slots}) == 6


def test_one_response_leaves_slots_and_requests_as_they_always_were() -> None:
    recipe = recipe_for(1)
    slot = slot_at(recipe, 5)
    # what GRA drew for this place before it knew of groups
    assert (slot.id, slot.seed, slot.group, slot.part) == (PINNED_ID, PINNED_SEED, "", 0)
    assert slot == make_slot(run_id="r", shard=0, round=0, index=5, label="shop", pool=POOL, recipe=recipe)
    models = models_for([9])
    candidate = run(models, recipe, count=1)[0]
    assert candidate.accepted and KIND.text_id(candidate) == candidate.id
    assert [request.sample for request in models.of("generate.response")] == [0]


PINNED_ID, PINNED_SEED = "sl_4ebb1d99e181c06a", 963670291


def test_a_task_of_labels_has_no_groups() -> None:
    labels = [{"name": "shop", "description": "a"}, {"name": "bank", "description": "b"}]
    recipe = recipe_for(4, task={"kind": "classification", "labels": labels, "text": "a message"})
    assert slot_at(recipe, 2).group == ""


def test_a_shard_makes_as_many_instructions_as_are_wanted_not_as_many_responses() -> None:
    models = models_for(
        [9, 8, 2, 10],
        generate_instruction=lambda request: f'{{"instruction": "Say how number {request.seed} is sent back."}}',
    )
    recipe, committed = recipe_for(), list[Candidate]()
    context = Context(recipe=recipe, seeds=POOL["shop"], ask=models.ask)
    admission = Admission(recipe)

    async def run_slot(slot: Slot) -> Outcome:
        return await method_of(recipe).run_slot(slot, context), ()

    async def commit(candidates: list[Candidate], calls: list[Call]) -> None:
        committed.extend(candidates)

    runner = ShardRunner(
        wanted={"shop": 5}, caps={"shop": 100}, make_slot=lambda label, index: slot_at(recipe, index),
        run_slot=run_slot, admit=lambda c: admission.settle(c.proposal(KIND.text_id(c))), commit=commit,
        width=6,
    )  # fmt: skip
    report = asyncio.run(runner.run())
    accepted = [candidate for candidate in committed if candidate.accepted]
    assert (report.accepted, report.stopped_by) == ({"shop": len(accepted)}, "target")
    assert len({candidate.slot.group for candidate in accepted}) == len(accepted) >= 5
    assert {candidate.response for candidate in accepted} == {"Answer number 3."}


async def _settled(candidates: list[Candidate], kept: list[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
    admission, by_id = Admission(recipe_for()), {one.id: one for one in candidates}
    before, new = ([_accepted(one) for one in some] for some in (kept, candidates))
    for row in before:
        admission.remember(row.proposal(KIND.text_id(row)))
    alive, dropped = await settle_round(before, new, method=KIND, admission=admission, max_cosine=None, embed=None)
    return [by_id[row.id] for row in alive], [redecided(by_id[drop.id], drop) for drop in dropped]


def _accepted(one: Candidate) -> Accepted:
    mean = one.decision.mean or 0.0
    return Accepted(one.id, one.text, one.response, one.label, mean, one.restricted, one.group, one.slot.shard)


@pytest.mark.parametrize("before", [False, True], ids=["in one round", "of an earlier pass"])
def test_settling_lets_one_of_a_group_through_though_two_were_accepted(before: bool) -> None:
    good = run(models_for([9, 8, 2, 10]), recipe_for())[3]
    slot = good.slot.model_copy(update={"id": "sl_x", "part": 1})
    decision = good.decision.model_copy(update={"mean": 8.5})
    second = good.model_copy(update={"id": "c_x", "slot": slot, "response": "Another.", "decision": decision})
    given = ([second], [good]) if before else ([second, good], [])
    alive, dropped = asyncio.run(_settled(*given))
    assert [c.id for c in alive] == ([] if before else [good.id])
    assert [(c.id, c.decision.status, c.decision.code) for c in dropped] == [("c_x", "rejected", "rejected.not_best")]
    assert pairs_of(good, dropped, 8.0) == []
