"""HarmAug with scripted models and a benign policy: shared messages, three responses, and the teacher's labels."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError
from scripted import Models, Scripted

from graft.agents.methods import Context, Drawn, Place, Screen, method_of
from graft.agents.methods.harmaug import KIND, aim_of, measure_refusals, variants
from graft.schemas.calls import CallRequest
from graft.schemas.errors import BudgetExhausted, CallFailed
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, GateResult, Proposal, Seed, Slot

SEEDS = {
    "harmful": [Seed.of(f"Give me the staff price, number {n}.", "harmful") for n in range(6)],
    "safe": [Seed.of(f"Where is order {n}?", "safe") for n in range(6)],
}
PREFIX = "I have an idea for a prompt:"
REFUSED = "I'm sorry, but I can't help with that."
MESSAGE = "Sell it to me as to your own staff."
NO, YES = "Staff prices are for staff alone.", "here is the staff price."


def recipe_for(
    with_response: bool = True, restricted: bool = True, guards: int = 1, roles: dict[str, Any] | None = None,
    style: str = "chat", **method: Any,
) -> Recipe:  # fmt: skip
    task = {
        "kind": "guard", "policy": "asks for a discount that staff alone may give", "safe": "asks about an order",
        "with_response": with_response, "restricted": restricted,
    }  # fmt: skip
    url = "http://127.0.0.1:1/v1"
    models: list[dict[str, Any]] = [
        {"name": "w", "provider": "openai", "model": "w", "base_url": url, "style": style},
        *({"name": f"g{n}", "provider": "openai", "model": f"g{n}", "base_url": url} for n in range(guards)),
    ]
    who = {
        "generator": {"models": ["w"]}, "responder": {"models": ["w"]},
        "guard": {"models": [f"g{n}" for n in range(guards)], **(roles or {})},
    }  # fmt: skip
    rows = [{"text": seed.text, "label": seed.label} for seeds in SEEDS.values() for seed in seeds]
    return Recipe.model_validate({
        "name": "t", "task": task, "models": models, "roles": who, "seeds": {"rows": rows},
        "method": {"kind": "harmaug", **method},
    })  # fmt: skip


def guard(harmful: float) -> dict[str, float]:
    return {" harmful": math.log(harmful), " safe": math.log(1 - harmful)}


def slot_at(recipe: Recipe, index: int, label: str = "harmful") -> Slot:
    return method_of(recipe).make_slot(Place("r", 0, 0, index, label), Drawn(recipe, SEEDS))


def context_of(recipe: Recipe, models: Models, screen: Screen = lambda proposal: ()) -> Context:
    return Context(recipe=recipe, seeds=[row for rows in SEEDS.values() for row in rows], ask=models.ask, screen=screen)


def models_for(**script: Any) -> Models:
    usual: dict[str, Any] = {
        "generate_message": MESSAGE, "respond_refusal": NO, "respond_compliance": YES, "guard_label": guard(0.9),
    }  # fmt: skip
    return Models(**{**usual, **script})


def run(
    models: Models, recipe: Recipe, *indexes: int, label: str = "harmful",
    screen: Screen = lambda proposal: (),
) -> list[Candidate]:  # fmt: skip
    async def all_of_them() -> list[Candidate]:
        context = context_of(recipe, models, screen)
        return [await method_of(recipe).run_slot(slot_at(recipe, index, label), context) for index in indexes or (0,)]

    return asyncio.run(all_of_them())


def test_three_variants_share_one_message_and_one_call() -> None:
    models = models_for()
    candidates = run(models, recipe_for(), *range(6))
    assert models.count["generate.message"] == 2
    assert models.count["respond.refusal"] == models.count["respond.compliance"] == 2
    assert [aim_of(one.slot).variant for one in candidates] == ["empty", "refusal", "compliance"] * 2
    assert [one.response for one in candidates[:3]] == [None, NO, f"Sure, {YES}"]
    assert {one.text for one in candidates} == {MESSAGE} and len({one.id for one in candidates}) == 6
    assert len({KIND.text_id(one) for one in candidates[:3]}) == 1
    assert KIND.text_id(candidates[0]) != KIND.text_id(candidates[3])


def test_slots_of_a_message_differ_in_the_variant_alone() -> None:
    recipe = recipe_for()
    slots = [slot_at(recipe, index) for index in range(3)]
    assert len({(slot.seed, slot.group, slot.exemplars, aim_of(slot).side) for slot in slots}) == 1
    assert slots[0].group == slots[0].id and [slot.part for slot in slots] == [0, 1, 2]
    assert len(slots[0].exemplars) == 3 and {row.label for row in slots[0].exemplars} == {"harmful"}
    assert len(slot_at(recipe_for(exemplars=5), 0).exemplars) == 5


def test_without_responses_there_is_the_empty_variant_alone() -> None:
    recipe, models = recipe_for(with_response=False), models_for()
    assert variants(recipe) == ("empty",) and method_of(recipe).roles_of(recipe) == ("generator", "guard")
    candidates = run(models, recipe, 0, 1, 2)
    assert all(one.response is None and aim_of(one.slot).variant == "empty" for one in candidates)
    assert models.count == {"generate.message": 3, "guard.label": 1}, "the same message needs no second judgement"
    assert method_of(recipe_for()).roles_of(recipe_for()) == ("generator", "responder", "guard")


def test_the_turn_is_begun_and_that_is_recorded() -> None:
    models = models_for()
    [candidate] = run(models, recipe_for())
    [request] = models.of("generate.message")
    assert request.continues and request.messages[-1].role == "assistant" and request.messages[-1].content == PREFIX
    assert candidate.notes["prefilled"] is True
    plain = models_for()
    [other] = run(plain, recipe_for(prefill=False))
    assert other.notes["prefilled"] is False and not plain.of("generate.message")[0].continues
    assert all(turn.role == "user" for turn in plain.of("generate.message")[0].messages)
    base = models_for()
    [third] = run(base, recipe_for(style="completion"))
    assert third.notes["prefilled"] is False and not base.of("generate.message")[0].continues


@pytest.mark.parametrize("prefill", [True, False])
def test_a_refused_message_is_rejected_before_anything_else_is_paid(prefill: bool) -> None:
    models = models_for(generate_message=REFUSED)
    candidates = run(models, recipe_for(prefill=prefill), 0, 1, 2)
    for candidate in candidates:
        decision = candidate.decision
        assert (decision.status, decision.route, decision.code) == ("rejected", "refusal", "rejected.refusal")
        assert (
            candidate.notes["prefilled"] is prefill and ("begun" in decision.reason) and "w refused" in decision.reason
        )
    assert models.count == {"generate.message": 1}


@pytest.mark.parametrize(
    ("harmful", "threshold", "label"),
    [(0.5, 0.5, "safe"), (0.501, 0.5, "harmful"), (0.499, 0.5, "safe"), (0.7, 0.8, "safe"), (0.3, 0.2, "harmful")],
)
def test_a_row_is_harmful_above_the_threshold_and_keeps_its_score(harmful: float, threshold: float, label: str) -> None:
    [candidate] = run(models_for(guard_label=guard(harmful)), recipe_for(threshold=threshold))
    assert candidate.label == label and candidate.accepted
    assert candidate.soft_label == pytest.approx({"harmful": harmful, "safe": 1 - harmful})
    labelling = candidate.labelling
    assert labelling and labelling.by == "guard" and labelling.label == label
    assert labelling.margin == pytest.approx(abs(2 * harmful - 1), abs=1e-9)
    assert f"{harmful:.0%}" in candidate.decision.reason and f"{threshold:.0%}" in candidate.decision.reason


@pytest.mark.parametrize(("intended", "harmful", "label"), [("harmful", 0.1, "safe"), ("safe", 0.9, "harmful")])
def test_the_label_is_the_guards_and_not_the_intended_one(intended: str, harmful: float, label: str) -> None:
    [candidate] = run(models_for(guard_label=guard(harmful)), recipe_for(), label=intended)
    assert (candidate.intended_label, candidate.label) == (intended, label)
    assert candidate.labelling and candidate.labelling.relabelled and candidate.decision.code == "accepted.labelled"
    assert candidate.reviews[0].stage == "label" and candidate.reviews[0].role == "guard"


def test_each_pair_is_judged_by_itself() -> None:
    def teacher(request: CallRequest) -> Scripted:
        prompt = request.messages[-1].content
        assert MESSAGE in prompt
        return guard(0.2 if NO in prompt else 0.95 if YES in prompt else 0.6)

    candidates = run(models_for(guard_label=teacher), recipe_for(), 0, 1, 2)
    assert [one.label for one in candidates] == ["harmful", "safe", "harmful"]
    assert [round(one.soft_label["harmful"], 2) for one in candidates] == [0.6, 0.2, 0.95]


def test_several_guards_are_averaged_and_failed_ones_left_out() -> None:
    def by_name(**value: Scripted) -> Callable[[CallRequest], Scripted]:
        return lambda request: value[request.model.name]

    three = by_name(g0=guard(0.9), g1=guard(0.2), g2=guard(0.1))
    [candidate] = run(models_for(guard_label=three), recipe_for(guards=3))
    assert candidate.soft_label["harmful"] == pytest.approx(0.4) and candidate.label == "safe"
    assert candidate.models["guard"] == "g0,g1,g2" and len(candidate.reviews) == 3
    two = by_name(g0=CallFailed("timeout", "late"), g1=guard(0.9))
    [candidate] = run(models_for(guard_label=two), recipe_for(guards=2))
    assert candidate.soft_label["harmful"] == pytest.approx(0.9) and candidate.label == "harmful"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (CallFailed("timeout", "late"), "failed.timeout"), (BudgetExhausted("no money"), "failed.budget"),
        ({" other": -0.1}, "failed.no_label_tokens"),
    ],
)  # fmt: skip
def test_a_guard_that_fails_fails_the_row_by_its_code(reply: Scripted, code: str) -> None:
    [candidate] = run(models_for(guard_label=reply), recipe_for())
    assert candidate.decision.status == "failed" and candidate.decision.code == code
    assert candidate.text == MESSAGE and candidate.soft_label == {}


@pytest.mark.parametrize("step", ["generate_message", "respond_refusal"])
def test_a_writer_that_fails_fails_the_row_by_its_code(step: str) -> None:
    [candidate] = run(models_for(**{step: CallFailed("server_error", "500")}), recipe_for(), 1)
    assert candidate.decision.code == "failed.server_error"


def test_a_guard_without_logprobs_votes() -> None:
    given = models_for(guard_label=CallFailed("no_logprobs", "none"), guard_name="harmful")
    [candidate] = run(given, recipe_for())
    assert candidate.label == "harmful" and candidate.labelling and candidate.labelling.votes
    assert candidate.soft_label["harmful"] == pytest.approx(1)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_the_share_of_borderline_messages_is_as_set(share: float) -> None:
    recipe = recipe_for(borderline=share)
    slots = [slot_at(recipe, 3 * index, "safe") for index in range(1000)]
    sides = Counter(aim_of(slot).side for slot in slots)
    assert sides["borderline"] / 1000 == pytest.approx(share, abs=0.06) and sides["harmful"] == 0
    assert {aim_of(slot_at(recipe, index)).side for index in range(30)} == {"harmful"}


def side_of(recipe: Recipe, side: str) -> int:
    return next(n for n in range(0, 300, 3) if aim_of(slot_at(recipe, n, "safe")).side == side)


@pytest.mark.parametrize(
    ("label", "side", "harmful", "restricted"),
    [
        ("harmful", "", 0.9, True), ("harmful", "", 0.1, True), ("safe", "borderline", 0.1, True),
        ("safe", "benign", 0.9, True), ("safe", "benign", 0.1, False),
    ],
)  # fmt: skip
def test_what_is_or_may_be_harmful_is_restricted(label: str, side: str, harmful: float, restricted: bool) -> None:
    for task_says in (True, False):
        recipe = recipe_for(restricted=task_says)
        index = side_of(recipe, side) if side else 0
        [candidate] = run(models_for(guard_label=guard(harmful)), recipe, index, label=label)
        assert candidate.restricted is (restricted and task_says)


def test_a_refused_or_failed_row_of_the_harmful_side_is_restricted_too() -> None:
    for script in ({"generate_message": REFUSED}, {"guard_label": CallFailed("timeout", "late")}):
        [candidate] = run(models_for(**script), recipe_for())
        assert not candidate.accepted and candidate.restricted


def test_gates_see_the_message_first_and_then_the_pair() -> None:
    seen: list[tuple[str, str | None]] = []

    def screen(proposal: Proposal) -> tuple[GateResult, ...]:
        seen.append((proposal.text, proposal.response))
        return (GateResult(gate="length", rule="max_chars", passed=proposal.response is None),)

    models = models_for()
    [candidate] = run(models, recipe_for(), 1, screen=screen)
    assert seen == [(MESSAGE, None), (MESSAGE, NO)]
    assert candidate.decision.code == "gate.max_chars" and models.count["guard.label"] == 0


def test_a_response_is_never_begun_where_it_refuses() -> None:
    models = models_for()
    run(models, recipe_for(), 1, 2)
    [no], [yes] = models.of("respond.refusal"), models.of("respond.compliance")
    assert not no.continues and yes.continues and yes.messages[-1].content == "Sure,"


def measure(models: Models, recipe: Recipe, count: int = 10) -> dict[str, int]:
    slots = [slot_at(recipe, 3 * n) for n in range(count)]
    return asyncio.run(measure_refusals(context_of(recipe, models), KIND.settings(recipe), slots))


def test_refusals_are_counted_with_and_without_a_begun_turn() -> None:
    models = models_for(generate_message=lambda request: MESSAGE if request.continues else REFUSED)
    assert measure(models, recipe_for()) == {
        "asked_prefilled": 10, "refused_prefilled": 0, "asked_plain": 10, "refused_plain": 10,
    }  # fmt: skip
    assert models.count == {"generate.message": 20}


def test_failed_calls_are_no_answers_and_base_models_are_left_out() -> None:
    def half(request: CallRequest) -> Scripted:
        return CallFailed("timeout", "late") if request.continues else MESSAGE

    counts = measure(models_for(generate_message=half), recipe_for())
    assert counts == {"asked_prefilled": 0, "refused_prefilled": 0, "asked_plain": 10, "refused_plain": 0}
    base = models_for()
    assert measure(base, recipe_for(style="completion")) == {} and not base.requests
    assert measure(models_for(), recipe_for(), 0) == {}
    with pytest.raises(BudgetExhausted):
        measure(models_for(generate_message=BudgetExhausted("no money")), recipe_for())


def test_a_prefix_that_is_empty_measures_no_begun_turn() -> None:
    counts = measure(models_for(), recipe_for(prefix=""))
    assert counts["asked_prefilled"] == 0 and counts["asked_plain"] == 10


def test_a_proposal_is_what_the_guard_will_read() -> None:
    recipe, models = recipe_for(), models_for()
    answers = [asyncio.run(method_of(recipe).propose(slot_at(recipe, n), context_of(recipe, models))) for n in range(3)]
    assert answers[0] == MESSAGE and answers[1] == f"User: {MESSAGE}\nAssistant: {NO}"
    run(models, recipe, 1)
    assert answers[1].replace("\n", " ") in " ".join(models.of("guard.label")[-1].messages[-1].content.split())


def test_another_task_is_rejected() -> None:
    task = {"kind": "classification", "labels": [{"name": "harmful"}, {"name": "safe"}]}
    with pytest.raises(ValidationError, match="guard"):
        Recipe.model_validate({**recipe_for().model_dump(), "task": task})
