"""Reviewers and the adjudicator: strict scores, adapted dimensions, probabilities, reported failures."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest
from scripted import make_slot

from graft.agents.roles.reviewer import (
    RESPONSE_SCORES,
    adjudicate_text,
    review_instruction,
    review_response,
    review_text,
)
from graft.schemas.calls import CallRequest, Reply, TokenLogprob
from graft.schemas.errors import BudgetExhausted, CallFailed
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Review, Seed
from graft.schemas.tasks.base import RUBRIC

CHAT = ModelSpec(name="chat", provider="openai", model="c", base_url="http://127.0.0.1:1/v1")
BASE = ModelSpec(name="base", provider="embedded", model="b", style="completion")
ENCODER = ModelSpec(name="encoder", provider="encoder", model="e")
LABELS = [{"name": "billing", "description": "invoices"}, {"name": "outage"}]
SEEDS = (Seed.of("My bill is wrong.", "billing"), Seed.of("It is down.", "outage"))
TEXT_SCORES = tuple(one.name for one in RUBRIC)
GUARD_SCORES = (*TEXT_SCORES[:5], "certainty")
GOOD = {**dict.fromkeys(RESPONSE_SCORES, 9), "comment": "word " * 40}


def recipe_of(task: dict[str, Any] | None = None, **roles: Any) -> Recipe:
    task = task or {"kind": "classification", "labels": LABELS}
    return Recipe.model_validate({
        "name": "t", "task": task, "seeds": {"rows": [{"text": "My bill is wrong."}]}, "roles": roles,
        "models": [CHAT.model_dump(), BASE.model_dump(), ENCODER.model_dump()],
    })  # fmt: skip


class FixedModel:
    def __init__(self, reply: Any) -> None:
        self.replies = reply
        self.requests: list[CallRequest] = []

    async def __call__(self, request: CallRequest) -> Reply:
        self.requests.append(request)
        if isinstance(self.replies, Exception):
            raise self.replies
        if isinstance(self.replies, tuple):
            return Reply(key=request.key(), text="", logprobs=(TokenLogprob(token="", logprob=0.0, top=self.replies),))
        text = self.replies if isinstance(self.replies, str) else orjson.dumps(self.replies).decode()
        return Reply(key=request.key(), text=text)


def slot_of(recipe: Recipe, label: str = "billing") -> Any:
    return make_slot(run_id="r", shard=0, round=0, index=0, label=label, pool={label: SEEDS}, recipe=recipe)


async def respond(reply: Any) -> Review:
    recipe = recipe_of({"kind": "instruction"})
    return await review_response(
        FixedModel(reply), recipe=recipe, model=CHAT, slot=slot_of(recipe, "math"), instruction="Add.", response="2"
    )


async def text_review(reply: Any, model: ModelSpec, recipe: Recipe, label: str = "billing", **means: Any) -> Review:
    return await review_text(
        FixedModel(reply), recipe=recipe, model=model, slot=slot_of(recipe, label), text="Why twice?", seeds=SEEDS,
        calibration=means,
    )  # fmt: skip


async def test_six_scores_make_a_review_and_its_comment_stays_under_30_words() -> None:
    review = await respond({**GOOD, "correctness": 3})
    assert review.scores["correctness"] == 3 and review.mean == 8.0 and review.failure == ""
    assert len(review.comment.split()) == 29 and review.stage == "content"


@pytest.mark.parametrize(
    "change",
    [{"clarity": 11}, {"clarity": -1}, {"clarity": 8.5}, {"clarity": 8.0}, {"clarity": True}, {"clarity": "9"},
     {"clarity": None}, {"charm": 9}],
    ids=str,
)  # fmt: skip
async def test_anything_but_six_whole_numbers_from_0_to_10_is_a_failed_review(change: dict[str, Any]) -> None:
    review = await respond({**GOOD, **change})
    assert review.failure.startswith("schema_unmet: ") and review.mean is None and review.scores == {}


async def test_a_missing_score_or_no_json_fails_the_review() -> None:
    assert (await respond({k: v for k, v in GOOD.items() if k != "ethicality"})).failure.startswith("schema_unmet")
    assert (await respond("8 out of 10")).failure.startswith("malformed")
    assert (await respond([9] * 6)).failure.startswith("malformed")


async def test_a_failed_judge_is_recorded_but_an_exhausted_budget_is_raised() -> None:
    assert (await respond(CallFailed("timeout", "120 s passed"))).failure == "timeout: 120 s passed"
    for model in (CHAT, ENCODER):
        with pytest.raises(BudgetExhausted):
            await text_review(BudgetExhausted("no money"), model, recipe_of())
    with pytest.raises(BudgetExhausted):
        await respond(BudgetExhausted("no money"))


@pytest.mark.parametrize("model", [CHAT, BASE])
async def test_flags_are_0_or_1_and_constrained_in_both_styles(model: ModelSpec) -> None:
    recipe, says = (
        recipe_of({"kind": "instruction"}),
        FixedModel({"reasonableness": 1, "completeness": 0, "clarity": 1}),
    )
    requested = {"recipe": recipe, "model": model, "slot": slot_of(recipe, "math"), "instruction": "Add 1 and 2."}
    review = await review_instruction(says, **requested)
    assert review.flags == {"reasonableness": 1, "completeness": 0, "clarity": 1} and review.mean is None
    request = says.requests[0]
    assert request.json_schema is not None and (request.prompt is None) == (model is CHAT)
    bad = await review_instruction(FixedModel({"reasonableness": 2, "completeness": 0, "clarity": 1}), **requested)
    assert bad.failure.startswith("schema_unmet")


@pytest.mark.parametrize("model", [CHAT, BASE])
async def test_texts_are_scored_in_dimensions_of_their_own(model: ModelSpec) -> None:
    review = await text_review({**dict.fromkeys(TEXT_SCORES, 8), "comment": "ok"}, model, recipe_of())
    assert tuple(review.scores) == TEXT_SCORES and review.mean == 8.0 and review.distribution == ()


async def test_a_guards_rubric_does_not_punish_harmful_texts_for_being_harmful() -> None:
    recipe = recipe_of({"kind": "guard", "policy": "asks for a lock to be picked"})
    review = await text_review({**dict.fromkeys(GUARD_SCORES, 9), "comment": ""}, CHAT, recipe, "harmful")
    assert "certainty" in review.scores and "harmlessness" not in review.scores and review.mean == 9.0


async def test_probabilities_score_a_text_and_keep_raw_and_calibrated() -> None:
    top = (("billing", math.log(0.2)), ("outage", math.log(0.8)))
    review = await text_review(top, ENCODER, recipe_of())
    assert review.scores == {"fit": pytest.approx(2.5)} and review.mean == pytest.approx(2.5)
    means = {"billing": math.log(0.1), "outage": math.log(0.9)}
    right = await text_review(top, ENCODER, recipe_of(), encoder=means)
    assert right.mean == pytest.approx(10.0)
    entry = right.distribution[0]
    assert entry.label == "billing" and entry.raw == pytest.approx(math.log(0.2))
    assert sum(math.exp(one.calibrated) for one in right.distribution) == pytest.approx(1.0)
    assert right.call_key


async def test_a_role_may_answer_by_probabilities_with_any_model() -> None:
    recipe = recipe_of(reviewer={"answer": "logprobs"})
    review = await text_review(((" billing", -0.1), (" outage", -2.0)), CHAT, recipe)
    assert review.mean == pytest.approx(10.0) and len(review.distribution) == 2
    assert (await text_review("billing", CHAT, recipe)).failure.startswith("no_logprobs: ")


async def test_the_adjudicator_reads_the_prior_reviews_or_gives_its_own_distribution() -> None:
    low = Review(stage="content", role="reviewer", model="secret-name", scores={"fit": 3.0}, mean=3.0)
    high = low.model_copy(update={"model": "other", "scores": {"fit": 10.0}, "mean": 10.0, "comment": "</review> odd"})
    recipe = recipe_of()
    says = FixedModel({**dict.fromkeys(TEXT_SCORES, 8), "comment": "ok"})
    requested: dict[str, Any] = {
        "recipe": recipe, "slot": slot_of(recipe), "text": "Why twice?", "seeds": SEEDS, "calibration": {},
        "prior": [low, high],
    }  # fmt: skip
    review = await adjudicate_text(says, model=CHAT, **requested)
    assert review.role == "adjudicator" and review.stage == "adjudication" and review.mean == 8.0
    system, user = (message.content for message in says.requests[0].messages)
    assert "adjudicator" in system and "fit 3" in user and "mean 10.00" in user
    assert user.count("</review>") == 2 and "secret-name" not in user
    own = await adjudicate_text(FixedModel((("billing", -0.1), ("outage", -2.0))), model=ENCODER, **requested)
    assert own.role == "adjudicator" and own.distribution[0].raw == -0.1
