"""Seed preparation: models in rotation, what is given is kept, failures fall back and are logged."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import orjson
import pytest
from scripted import make_slot

from graft.agents.roles.summariser import prepare_seeds, summarise
from graft.schemas.calls import CallRequest, Reply
from graft.schemas.errors import CallFailed
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Decision, Seed

TEXT = "Please explain carefully how binary search works on sorted arrays, step by step, with one example."


def recipe_of(style: str = "chat") -> Recipe:
    models = [{"name": n, "provider": "openai", "model": n, "base_url": "http://127.0.0.1:1/v1", "style": style}
              for n in "abc"]  # fmt: skip
    seeds = {"rows": [{"text": "x"}]}
    return Recipe.model_validate({"name": "t", "task": {"kind": "instruction"}, "models": models, "seeds": seeds})


class Helper:
    """Answers each step; chat models in JSON, base models in a line."""

    def __init__(self, **replies: Any) -> None:
        self.replies = {
            "domain": "coding",
            "keywords": ["binary search", "arrays", "steps", "more"],
            "summary": "w " * 40,
        }
        self.replies |= replies
        self.requests: list[CallRequest] = []

    async def __call__(self, request: CallRequest) -> Reply:
        self.requests.append(request)
        step = request.purpose.removeprefix("seed.")
        given = self.replies[step]
        if isinstance(given, Exception):
            raise given
        if request.prompt is not None:
            return Reply(key=request.key(), text=f" {', '.join(given) if isinstance(given, list) else given}\n")
        return Reply(key=request.key(), text=orjson.dumps({step: given}).decode())


@pytest.mark.parametrize("style", ["chat", "completion"])
async def test_seeds_get_domain_keywords_and_summary(style: str) -> None:
    helper = Helper()
    (seed,) = await prepare_seeds(helper, recipe_of(style), [Seed.of(TEXT)], most=3)
    assert seed.label == "coding" and seed.keywords == ("binary search", "arrays", "steps")
    assert len(seed.summary.split()) == 30
    assert seed.id == Seed.of(TEXT).id and seed.text == TEXT


async def test_models_take_turns() -> None:
    helper = Helper()
    await prepare_seeds(helper, recipe_of(), [Seed.of(f"{TEXT} {n}") for n in range(6)], most=3)
    assert Counter(request.model.name for request in helper.requests) == {"a": 6, "b": 6, "c": 6}


async def test_fields_that_a_seed_has_are_kept_and_not_requested() -> None:
    helper = Helper()
    given = Seed.of(TEXT, "math").model_copy(update={"keywords": ("own",), "summary": "Own."})
    assert await prepare_seeds(helper, recipe_of(), [given], most=3) == [given]
    assert helper.requests == []


@pytest.mark.parametrize("style", ["chat", "completion"])
async def test_failures_fall_back_and_a_domain_is_never_guessed(style: str, caplog: pytest.LogCaptureFixture) -> None:
    late = CallFailed("timeout", "late")
    helper = Helper(domain="cooking", keywords=late, summary=late)
    with caplog.at_level(logging.WARNING):
        (seed,) = await prepare_seeds(helper, recipe_of(style), [Seed.of(TEXT)], most=3)
    assert seed.label == "" and seed.keywords == ("please", "explain", "carefully")
    assert seed.summary == TEXT
    assert len(caplog.records) == 3 and "timeout" in caplog.text and "schema_unmet" in caplog.text


async def test_an_accepted_row_joins_the_pool_with_its_own_keywords() -> None:
    recipe, helper = recipe_of(), Helper(summary="Explain binary search.")
    slot = make_slot(run_id="r", shard=0, round=0, index=0, label="coding", pool={}, recipe=recipe)
    decision = Decision(status="accepted", route="agreed", code="accepted.agreed", reason="They agree.")
    candidate = Candidate(
        id="c_1", slot=slot, text=TEXT, response="So.", label="coding", intended_label="coding", decision=decision,
        keywords=("binary search",),
    )  # fmt: skip
    seed = await summarise(helper, recipe, candidate, most=3)
    assert (seed.text, seed.label, seed.response) == (TEXT, "coding", "So.")
    assert seed.keywords == ("binary search",) and seed.summary == "Explain binary search."
    assert [request.purpose for request in helper.requests] == ["seed.summary"]
