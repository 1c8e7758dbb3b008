"""Judges are tried before the shards: who is measured, who votes, and who cannot judge at all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from scripted import Models, Scripted

from graft.agents.methods import Context, Drawn, Place, method_of
from graft.agents.methods.base import Prepared
from graft.agents.methods.steps.calibrate import Judging, judges, try_judges
from graft.agents.methods.steps.relabel import choices
from graft.schemas.calls import CallRequest
from graft.schemas.errors import BudgetExhausted, CallFailed, GraftError
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed
from graft.schemas.tasks.base import Label

LABELS = [{"name": "apple", "description": "a fruit"}, {"name": "brick", "description": "a stone"}]
SEEDS = [Seed.of("first of apples", "apple"), Seed.of("first of bricks", "brick")]
MIX = {"generate_mix": "1. Where is it now?\n2. It came late.\n3. May I swap it?"}
NONE = CallFailed("no_logprobs", "m1 gives no log-probabilities")
UNLISTED = CallFailed("no_label_tokens", "none of 20 alternatives begins a label")
SURE = {" apple": -0.5, " brick": -2.0}


def recipe_for(roles: dict[str, Any] | None = None, guard: bool = False, **method: Any) -> Recipe:
    pool = [
        {"name": n, "provider": "openai", "model": n, "base_url": "http://127.0.0.1:1/v1"} for n in ("m0", "m1", "m2")
    ]
    who: dict[str, Any] = {
        "generator": {"models": ["m0"]}, "labeler": {"models": ["m1"]},
        **({"guard": {"models": ["m1"]}, "responder": {"models": ["m0"]}} if guard
           else {"reviewer": {"models": ["m1"]}, "adjudicator": {"models": ["m2"]}}),
    }  # fmt: skip
    for role, more in (roles or {}).items():
        who[role] = {**who[role], **more}
    task: dict[str, Any] = {"kind": "classification", "labels": LABELS}
    if guard:
        task = {"kind": "guard", "policy": "asks for staff prices", "safe": "asks about an order"}
    rows = {"rows": [{"text": "What is it?", "label": "safe" if guard else "apple"}]}
    kind = "harmaug" if guard else "promptmix"
    return Recipe.model_validate(
        {"name": "t", "task": task, "models": pool, "roles": who, "seeds": rows, "method": {"kind": kind, **method}}
    )


def judging_of(recipe: Recipe) -> Judging:
    method: Any = method_of(recipe)
    found: Judging = method.judging(recipe)
    return found


def tried(recipe: Recipe, script: dict[str, Any], count: int = 6) -> tuple[Prepared, Models]:
    models, method = Models(**script), method_of(recipe)
    labels = ("harmful", "safe") if recipe.task.kind == "guard" else ("apple", "brick")
    drawn = Drawn(recipe, dict.fromkeys(labels, SEEDS))
    slots = [method.make_slot(Place("r", 0, 0, n // 2, labels[n % 2]), drawn) for n in range(count)]
    context = Context(recipe=recipe, seeds=SEEDS, ask=models.ask)
    settings: Any = recipe.method

    async def narrow(text: str) -> tuple[Label, ...]:
        return await choices(context, text, settings.nearest_classes)

    narrowed = None if recipe.task.kind == "guard" else narrow
    return asyncio.run(try_judges(method, context, slots, judging_of(recipe), narrowed)), models


def test_the_batch_is_what_first_calls_write_and_means_are_taken_over_it() -> None:
    def judge(request: CallRequest) -> Scripted:
        late = "late" in request.messages[-1].content
        return {" apple": -1.0 if late else -2.0, " brick": -3.0}

    found, models = tried(recipe_for(), {**MIX, "labeler_label": judge})
    assert found.by_name == frozenset()
    assert found.calibration == {"m1": pytest.approx({"apple": -(2 + 1 + 2) / 3, "brick": -3.0})}
    assert models.count == {"generate.mix": 2, "labeler.label": 3}, "the texts of a call are calibrated on apart"


def test_texts_of_a_complete_label_are_its_own_and_nothing_is_written_for_it() -> None:
    recipe, models = recipe_for(calibration_texts=4), Models(**MIX, labeler_label=SURE)
    own = [Seed.of(f"apple {n} of mine", "apple") for n in range(3)]
    drawn = Drawn(recipe, {"apple": [*SEEDS[:1], *own], "brick": SEEDS[1:]}, complete=frozenset({"apple"}))
    context = Context(recipe=recipe, seeds=SEEDS, ask=models.ask)
    asyncio.run(method_of(recipe).prepare(context, drawn))
    judged = {request.messages[-1].content for request in models.of("labeler.label")}
    assert sum("of mine" in text for text in judged) == 2 and len(judged) == 4
    assert models.count["generate.mix"] == 1 and not any("first of apples" in text for text in judged)


def test_without_calibration_one_question_learns_whether_a_judge_can() -> None:
    found, models = tried(recipe_for({"labeler": {"calibration": "none"}}), {"labeler_label": SURE})
    assert found == Prepared() and models.count == {"labeler.label": 1}


def test_content_free_means_come_from_texts_that_say_nothing() -> None:
    found, models = tried(recipe_for({"labeler": {"calibration": "content_free"}}), {"labeler_label": SURE})
    assert found.calibration == {"m1": pytest.approx({"apple": -0.5, "brick": -2.0})}
    assert "generate.mix" not in models.count and models.count["labeler.label"] == 4


def test_texts_that_could_not_be_written_are_left_out() -> None:
    found, models = tried(recipe_for(), {"generate_mix": CallFailed("timeout", "late"), "labeler_label": SURE})
    assert found == Prepared() and models.count["labeler.label"] == 1


@pytest.mark.parametrize("calibration", ["batch", "none", "content_free"])
def test_a_labeler_without_logprobs_votes(calibration: str) -> None:
    found, _ = tried(recipe_for({"labeler": {"calibration": calibration}}), {**MIX, "labeler_label": NONE})
    assert found == Prepared({}, frozenset({"m1"}))


def test_a_guard_without_logprobs_votes() -> None:
    found, _ = tried(recipe_for(guard=True), {"guard_label": NONE})
    assert found.by_name == frozenset({"m1"})


@pytest.mark.parametrize("role", ["labeler", "guard"])
def test_a_teacher_that_lists_no_label_is_an_error_with_a_fix(role: str) -> None:
    with pytest.raises(GraftError) as caught:
        tried(recipe_for(guard=role == "guard"), {**MIX, f"{role}_label": UNLISTED})
    error = caught.value
    assert error.where == f"roles.{role}" and "'m1'" in error.what and "begins a label" in error.what
    assert f"roles.{role}.answer: name" in error.fix and "top_logprobs" in error.fix


def test_a_reviewer_that_must_score_may_not_vote() -> None:
    recipe = recipe_for({"reviewer": {"answer": "logprobs"}}, review={"reviewers": 1})
    with pytest.raises(GraftError) as caught:
        tried(recipe, {**MIX, "labeler_label": SURE, "reviewer_label": NONE})
    assert caught.value.where in ("roles.reviewer", "roles.labeler")
    other = recipe_for({"labeler": {"models": ["m0"]}, "reviewer": {"answer": "logprobs"}}, review={"reviewers": 1})
    with pytest.raises(GraftError) as caught:
        tried(other, {**MIX, "labeler_label": SURE, "reviewer_label": NONE})
    assert caught.value.where == "roles.reviewer" and "roles.reviewer.answer: scores" in caught.value.fix


def test_a_panel_that_relabels_is_tried_and_may_vote() -> None:
    recipe = recipe_for(relabel="panel")
    assert {name: judge.role for name, judge in judges(recipe, judging_of(recipe)).items()} == {
        "m1": "reviewer", "m2": "adjudicator",
    }  # fmt: skip
    script: dict[str, Any] = {**MIX, "reviewer_label": NONE, "adjudicator_label": SURE}
    found, _ = tried(recipe, script)
    assert found.by_name == frozenset({"m1"}) and set(found.calibration) == {"m2"}
    with pytest.raises(GraftError) as caught:
        tried(recipe, {**script, "reviewer_label": UNLISTED})
    assert "roles.reviewer.answer: name" in caught.value.fix


def test_a_panel_that_relabels_and_scores_may_vote_as_well() -> None:
    recipe = recipe_for(relabel="panel", review={"reviewers": 1})
    assert judging_of(recipe).voting >= {"reviewer", "adjudicator"}


def test_an_adjudicator_of_unlabelled_texts_is_tried() -> None:
    recipe = recipe_for(no_label="adjudicate")
    script: dict[str, Any] = {**MIX, "labeler_label": SURE, "adjudicator_label": NONE}
    found, _ = tried(recipe, script)
    assert found.by_name == frozenset({"m2"}) and set(found.calibration) == {"m1"}


def test_who_names_labels_or_scores_is_not_tried() -> None:
    named = recipe_for({"labeler": {"answer": "name"}})
    assert judges(named, judging_of(named)) == {}
    scored = recipe_for(relabel="off", review={"reviewers": 1})
    assert judges(scored, judging_of(scored)) == {}
    llama = recipe_for({"guard": {"template": "llama-guard-3"}}, guard=True)
    assert judges(llama, judging_of(llama)) == {}


def test_an_exhausted_budget_ends_the_trial() -> None:
    with pytest.raises(BudgetExhausted):
        tried(recipe_for(), {"generate_mix": BudgetExhausted("no money"), "labeler_label": SURE})
    with pytest.raises(BudgetExhausted):
        tried(recipe_for(), {**MIX, "labeler_label": BudgetExhausted("no money")})
