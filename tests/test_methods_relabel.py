"""Relabelling: judges do not see the intended label; their choices; and candidates that get no label."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Models, Scripted

from graft.agents.methods import Context, Drawn, Place, Screen, method_of
from graft.schemas.calls import CallRequest
from graft.schemas.errors import BudgetExhausted, CallFailed
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, GateResult, Proposal, Seed

NAMES = ["apple", "brick", "cloud", "dune", "ember", "fjord", "grove"]
SEEDS = [Seed.of(f"{word} example for {name}", name) for name in NAMES for word in ("first", "second")]
TEXT = "Where is it now?"
LIST = f"1. {TEXT}\n2. It came without a lid.\n3. May I swap the cup?"
SCORES = ("fit", "usability", "clarity", "naturalness", "completeness", "harmlessness")


def recipe_for(classes: int = 3, models: int = 3, roles: dict[str, Any] | None = None, **method: Any) -> Recipe:
    labels = [{"name": name, "description": f"the matter of {name}s"} for name in NAMES[:classes]]
    pool: list[dict[str, Any]] = [
        {"name": f"m{n}", "provider": "openai", "model": f"m{n}", "base_url": "http://127.0.0.1:1/v1"}
        for n in range(models)
    ]
    judges = [model["name"] for model in pool]
    pool.append({"name": "minilm", "provider": "encoder", "model": "all-MiniLM-L6-v2"})
    given_ = {
        "labeler": {"models": judges},
        "reviewer": {"models": judges[:-1] or judges},
        "adjudicator": {"models": judges[-1:]},
    }
    for role, more in (roles or {}).items():
        given_[role] = {**given_.get(role, {}), **more}
    return Recipe.model_validate({
        "name": "t", "task": {"kind": "classification", "labels": labels}, "models": pool, "roles": given_,
        "method": {"kind": "promptmix", **method},
    })  # fmt: skip


def run(
    recipe: Recipe, script: dict[str, Any], *, label: str = "apple", by_name: frozenset[str] = frozenset(),
    screen: Screen = lambda proposal: (),
) -> tuple[Candidate, Models]:  # fmt: skip
    models = Models(generate_mix=LIST, **script)
    names = recipe.task.names
    pool = {name: [seed for seed in SEEDS if seed.label == name] for name in names}
    slot = method_of(recipe).make_slot(Place("r", 0, 0, 0, label), Drawn(recipe, pool))
    context = Context(recipe=recipe, seeds=SEEDS, ask=models.ask, screen=screen, by_name=by_name)
    return asyncio.run(method_of(recipe).run_slot(slot, context)), models


def each(**replies: Scripted) -> Callable[[CallRequest], Scripted]:
    """Replies by model name."""
    return lambda request: replies[request.model.name]


SURE = {" apple": -0.05, " brick": -4.0, " cloud": -4.0}
MOVED = {" apple": -3.0, " brick": -0.2, " cloud": -4.0}
LOST = {" maybe": -0.1, " none": -3.0}


def test_agreement_confirms_the_intended_label() -> None:
    candidate, models = run(recipe_for(), {"labeler_label": SURE})
    decision, labelling = candidate.decision, candidate.labelling
    assert (decision.status, decision.route, decision.code) == ("accepted", "labelled", "accepted.labelled")
    assert labelling and labelling.by == "labeler" and labelling.label == "apple" and not labelling.relabelled
    assert (
        labelling.margin and labelling.margin > 0.9 and labelling.second in ("brick", "cloud") and not labelling.votes
    )
    assert "confirmed as apple" in decision.reason
    assert models.count == {"generate.mix": 1, "labeler.label": 3}
    assert sorted(candidate.models["labeler"].split(",")) == ["m0", "m1", "m2"]
    assert all(review.stage == "label" and review.role == "labeler" for review in candidate.reviews)


def test_a_labeler_does_not_see_the_intended_label() -> None:
    _, one = run(recipe_for(), {"labeler_label": SURE}, label="apple")
    _, other = run(recipe_for(), {"labeler_label": SURE}, label="brick")
    requested = [{request.messages for request in models.of("labeler.label")} for models in (one, other)]
    assert requested[0] == requested[1]
    prompt = one.of("labeler.label")[0].messages[-1].content
    assert TEXT in prompt and "apple" not in prompt and "%" not in prompt
    assert one.of("labeler.label")[0].temperature == 0


def test_a_relabelled_row_keeps_what_was_intended() -> None:
    candidate, _ = run(recipe_for(), {"labeler_label": MOVED})
    labelling = candidate.labelling
    assert candidate.accepted and (candidate.intended_label, candidate.label) == ("apple", "brick")
    assert labelling and labelling.relabelled and labelling.label == "brick" and labelling.second == "apple"
    soft = candidate.soft_label
    assert labelling.margin == pytest.approx(soft["brick"] - soft["apple"])
    assert "relabelled from apple to brick" in candidate.decision.reason and candidate.slot.label == "apple"


def test_gates_are_run_again_with_the_new_label_and_only_then() -> None:
    seen: list[str] = []

    def screen(proposal: Proposal) -> tuple[GateResult, ...]:
        seen.append(proposal.label)
        return (GateResult(gate="leak", rule="label_leak", passed=proposal.label != "brick"),)

    candidate, _ = run(recipe_for(), {"labeler_label": MOVED}, screen=screen)
    assert seen == ["apple", "brick"]
    assert candidate.decision.code == "gate.label_leak" and candidate.label == "brick"
    assert [gate.passed for gate in candidate.gates] == [False]
    seen.clear()
    confirmed, _ = run(recipe_for(), {"labeler_label": SURE}, screen=screen)
    assert confirmed.accepted and seen == ["apple"]


def test_an_answer_outside_the_set_is_no_label_and_never_forced() -> None:
    candidate, models = run(recipe_for(), {"labeler_label": LOST})
    decision = candidate.decision
    assert (decision.status, decision.route, decision.code) == ("rejected", "no_label", "rejected.no_label")
    assert candidate.labelling and candidate.labelling.label == "" and not candidate.labelling.relabelled
    assert {review.answer for review in candidate.reviews} == {"maybe"}
    assert candidate.soft_label == {} and models.count["adjudicator.label"] == 0
    named, _ = run(recipe_for(roles={"labeler": {"answer": "name"}}), {"labeler_name": "apples and pears"})
    assert named.decision.code == "rejected.no_label" and named.reviews[0].answer == "apples and pears"


def test_a_name_of_a_class_that_was_not_shown_is_no_label() -> None:
    nearest = {name: 1.0 - 0.1 * place for place, name in enumerate(NAMES)}
    roles = {"labeler": {"answer": "name"}}
    candidate, _ = run(
        recipe_for(7, roles=roles, nearest_classes=3), {"labeler_nearest": nearest, "labeler_name": "grove"}
    )
    assert candidate.decision.code == "rejected.no_label" and candidate.reviews[0].answer == "grove"


def test_those_without_a_label_are_left_out_of_the_mean() -> None:
    answers = each(m0=MOVED, m1=LOST, m2=CallFailed("timeout", "late"))
    candidate, _ = run(recipe_for(), {"labeler_label": answers})
    assert candidate.accepted and candidate.label == "brick"
    assert sum(candidate.soft_label.values()) == pytest.approx(1)
    assert sum(not review.distribution for review in candidate.reviews) == 2


def test_labelers_that_all_fail_fail_the_row() -> None:
    candidate, _ = run(recipe_for(), {"labeler_label": CallFailed("timeout", "late")})
    assert candidate.decision.code == "failed.timeout" and "late" in candidate.decision.reason
    broke, _ = run(recipe_for(), {"labeler_label": BudgetExhausted("no money")})
    assert broke.decision.code == "failed.budget"


def test_the_adjudicator_labels_what_labelers_could_not() -> None:
    script = {"labeler_label": LOST, "adjudicator_label": MOVED}
    roles = {"labeler": {"models": ["m0", "m1"]}}
    candidate, models = run(recipe_for(roles=roles, no_label="adjudicate"), script)
    assert candidate.accepted and candidate.label == "brick"
    assert candidate.labelling and candidate.labelling.by == "adjudicator" and models.count["adjudicator.label"] == 1
    assert candidate.models["adjudicator"] == "m2" and "Adjudicator" in candidate.decision.reason
    lost, _ = run(recipe_for(no_label="adjudicate"), {"labeler_label": LOST, "adjudicator_label": LOST})
    assert lost.decision.code == "rejected.no_label"
    sure, spared = run(recipe_for(no_label="adjudicate"), {"labeler_label": SURE, "adjudicator_label": MOVED})
    assert sure.label == "apple" and spared.count["adjudicator.label"] == 0


def test_judges_choose_among_the_nearest_classes_alone() -> None:
    nearest = {name: 1.0 - 0.1 * place for place, name in enumerate(reversed(NAMES))}
    best = {" grove": -0.1, " fjord": -3.0, " apple": -0.01}
    candidate, models = run(recipe_for(7, nearest_classes=4), {"labeler_nearest": nearest, "labeler_label": best})
    assert candidate.labelling and candidate.labelling.candidates == ("grove", "fjord", "ember", "dune")
    assert candidate.label == "grove", "apple was not among the choices, whatever the model prefers"
    for request in models.of("labeler.label"):
        assert request.choices == ("dune", "ember", "fjord", "grove"), "in the task's order"
        shown = "".join(message.content for message in request.messages)
        assert "apple" not in shown and "brick" not in shown
    assert models.count["labeler.nearest"] == 1


def test_five_is_the_most_by_default_and_few_classes_need_no_search() -> None:
    nearest = dict.fromkeys(NAMES, 0.5)
    _, models = run(recipe_for(7), {"labeler_nearest": nearest, "labeler_label": SURE})
    assert {len(request.choices) for request in models.of("labeler.label")} == {5}
    _, few = run(recipe_for(5), {"labeler_label": SURE})
    assert few.count["labeler.nearest"] == 0


def test_labelers_are_as_many_as_set_and_differ() -> None:
    candidate, models = run(recipe_for(models=5, labelers=2), {"labeler_label": SURE})
    assert len(set(candidate.models["labeler"].split(","))) == models.count["labeler.label"] == 2
    _, all_of_them = run(recipe_for(models=2, labelers=9), {"labeler_label": SURE})
    assert all_of_them.count["labeler.label"] == 2


def test_even_votes_are_no_label_and_a_majority_is_one() -> None:
    roles = {"labeler": {"answer": "name"}}
    even, _ = run(recipe_for(models=2, roles=roles), {"labeler_name": each(m0="apple", m1="brick")})
    assert even.decision.code == "rejected.no_label" and "two alike" in even.decision.reason
    most, _ = run(recipe_for(roles=roles), {"labeler_name": each(m0="brick", m1="Brick.", m2="apple")})
    assert most.accepted and most.label == "brick" and most.labelling and most.labelling.votes
    assert most.soft_label["brick"] == pytest.approx(2 / 3) and most.labelling.margin == pytest.approx(1 / 3)


def test_a_label_that_is_not_likely_enough_is_none() -> None:
    unsure = {" apple": math.log(0.4), " brick": math.log(0.35), " cloud": math.log(0.25)}
    lost, _ = run(recipe_for(min_probability=0.5), {"labeler_label": unsure})
    assert lost.decision.code == "rejected.no_label" and lost.soft_label["apple"] == pytest.approx(0.4)
    kept, _ = run(recipe_for(min_probability=0.39), {"labeler_label": unsure})
    assert kept.accepted and kept.label == "apple"


def test_a_model_without_logprobs_votes() -> None:
    script = {"labeler_name": "brick", "labeler_label": SURE}
    candidate, models = run(recipe_for(models=1), script, by_name=frozenset({"m0"}))
    assert candidate.label == "brick" and candidate.labelling and candidate.labelling.votes
    assert models.count["labeler.label"] == 0


def test_a_unanimous_panel_decides_by_itself() -> None:
    candidate, models = run(recipe_for(relabel="panel"), {"reviewer_label": MOVED, "adjudicator_label": SURE})
    assert candidate.accepted and candidate.label == "brick"
    assert candidate.labelling and candidate.labelling.by == "panel"
    assert models.count["reviewer.label"] == 2 and models.count["adjudicator.label"] == 0
    assert "labeler" not in candidate.models


@pytest.mark.parametrize("second", [SURE, LOST, CallFailed("timeout", "late")])
def test_a_divided_panel_goes_to_the_adjudicator(second: Scripted) -> None:
    script = {"reviewer_label": each(m0=MOVED, m1=second), "adjudicator_label": {" cloud": -0.1, " apple": -3.0}}
    candidate, models = run(recipe_for(relabel="panel"), script)
    assert candidate.accepted and candidate.label == "cloud"
    assert candidate.labelling and candidate.labelling.by == "adjudicator" and models.count["adjudicator.label"] == 1
    lost, _ = run(recipe_for(relabel="panel"), {**script, "adjudicator_label": LOST})
    assert lost.decision.code == "rejected.no_label"


def test_relabelling_can_be_off() -> None:
    candidate, models = run(recipe_for(relabel="off"), {})
    assert candidate.accepted and candidate.label == "apple" and candidate.labelling is None
    assert models.count == {"generate.mix": 1} and "relabelling is off" in candidate.decision.reason


def scores(mean: int) -> str:
    return json.dumps(dict.fromkeys(SCORES, mean) | {"comment": "fine"})


@pytest.mark.parametrize(("mean", "code"), [(9, "accepted.agreed"), (3, "rejected.low_mean")])
def test_a_review_is_of_the_new_label(mean: int, code: str) -> None:
    recipe = recipe_for(models=4, review={"reviewers": 2})
    candidate, models = run(recipe, {"labeler_label": MOVED, "review_text": scores(mean)})
    assert candidate.decision.code == code and (candidate.intended_label, candidate.label) == ("apple", "brick")
    prompt = models.of("review.text")[0].messages[-1].content
    assert "Wanted label: brick" in prompt and TEXT in prompt and "apple" not in prompt
    assert candidate.labelling and candidate.labelling.relabelled
    assert candidate.models["labeler"] and candidate.models["reviewer"]


def test_a_review_without_relabelling_is_of_the_intended_label() -> None:
    recipe = recipe_for(models=4, relabel="off", review={"reviewers": 2})
    candidate, models = run(recipe, {"review_text": scores(9)})
    assert candidate.decision.code == "accepted.agreed" and candidate.label == "apple"
    assert "Wanted label: apple" in models.of("review.text")[0].messages[-1].content


def test_no_review_is_paid_for_a_text_without_a_label() -> None:
    candidate, models = run(recipe_for(models=4, review={}), {"labeler_label": LOST, "review_text": scores(9)})
    assert candidate.decision.code == "rejected.no_label" and models.count["review.text"] == 0


logprob = st.floats(-20, 0)
distributions = st.lists(st.lists(logprob, min_size=3, max_size=3), min_size=1, max_size=3)


@settings(max_examples=80, deadline=None)
@given(rows=distributions)
def test_the_mean_distribution_is_the_soft_label(rows: list[list[float]]) -> None:
    answers = {f"m{n}": dict(zip((" apple", " brick", " cloud"), row, strict=True)) for n, row in enumerate(rows)}
    candidate, _ = run(recipe_for(models=len(rows)), {"labeler_label": each(**answers)})
    soft, labelling = candidate.soft_label, candidate.labelling
    assert set(soft) == {"apple", "brick", "cloud"} and sum(soft.values()) == pytest.approx(1)
    assert all(-1e-9 <= value <= 1 + 1e-9 for value in soft.values())
    given_ = [{row.label: math.exp(row.calibrated) for row in review.distribution} for review in candidate.reviews]
    for name, value in soft.items():
        assert value == pytest.approx(sum(one[name] for one in given_) / len(rows))
    assert labelling and labelling.margin is not None and labelling.margin >= 0
    if labelling.label:
        assert soft[labelling.label] == max(soft.values()) and labelling.second != labelling.label
    else:
        first, second, *_ = sorted(soft.values(), reverse=True)
        assert first == pytest.approx(second)
