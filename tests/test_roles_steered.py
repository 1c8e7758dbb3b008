"""A steered round's prompts: the student's report, every chosen mistake, and a beginning that the prompts share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import pytest

from graft.agents.methods import Drawn, Place, method_of
from graft.agents.methods.promptmix import mix_of
from graft.agents.roles.generator import write_text
from graft.agents.roles.mixer import mix_request
from graft.schemas.calls import CallRequest, Reply
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed, Slot
from graft.schemas.steering import NOTATION

LABELS = ("delivery", "refund", "account")
WEAK = {"label": "refund", "precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 12, "taken_for": "delivery"}
FINE = {"label": "account", "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 9}
MISTAKES = [
    {"text": f"money {{{{ {n} }}}} never\ncame", "label": "refund", "taken_for": "delivery"} for n in range(6)
] + [{"text": "van at the wrong door", "label": "delivery", "taken_for": "refund"}]


def recipe_of(kind: str = "gra", style: str = "chat", **steering: Any) -> Recipe:
    model = {"name": "m", "provider": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1", "style": style}
    rows = [{"text": f"{label} seed {n}", "label": label} for label in LABELS for n in range(5)]
    given = {"steering": {"round": 2, "after": 1, **steering}} if steering else {}
    return Recipe.model_validate({
        "name": "desk", "models": [model], "method": {"kind": kind},
        "task": {"kind": "classification", "labels": [{"name": label} for label in LABELS]},
        "seeds": {"rows": rows}, **given,
    })  # fmt: skip


def slots_of(recipe: Recipe, label: str, count: int = 6) -> list[Slot]:
    pool = {name: [Seed.of(row.text, row.label) for row in recipe.seeds.rows if row.label == name] for name in LABELS}
    return [method_of(recipe).make_slot(Place("r", 0, 0, n, label), Drawn(recipe, pool)) for n in range(count)]


async def prompts_of(recipe: Recipe, label: str) -> list[str]:
    seen = list[CallRequest]()

    async def ask(request: CallRequest) -> Reply:
        seen.append(request)
        return Reply(key=request.key(), text='{"text": "a new one"}')

    for slot in slots_of(recipe, label):
        if recipe.method.kind == "promptmix":
            seen.append(mix_request(recipe, recipe.models[0], slot, mix_of(slot), count=3))
        else:
            await write_text(ask, recipe, recipe.models[0], slot)
    return [request.prompt or request.messages[-1].content for request in seen]


def beginning(texts: Sequence[str]) -> str:
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in same)


@pytest.mark.parametrize("style", ["chat", "completion"])
@pytest.mark.parametrize("kind", ["gra", "promptmix"])
async def test_every_prompt_of_a_steered_round_shows_the_report_and_all_mistakes(kind: str, style: str) -> None:
    recipe = recipe_of(kind, style, exemplars=MISTAKES, report=[WEAK, FINE])
    for label in LABELS:
        for prompt in await prompts_of(recipe, label):
            weak, fine = (
                prompt.index("refund: precision 0.50, recall 0.25, F1 0.33, 12 texts"),
                prompt.index("account: "),
            )
            assert weak < fine, "the weakest class first"
            assert "most often taken for delivery" in prompt
            shown = [
                n for n in range(6) if f"money {{{{ {n} }}}} never came | right: refund | taken for: delivery" in prompt
            ]
            assert shown == (list(range(6)) if label in ("refund", "delivery") else [])
            assert all(mark in prompt for mark in NOTATION) or label == "account"
            assert ("van at the wrong door | right: delivery | taken for: refund" in prompt) == (label != "account")


@pytest.mark.parametrize("kind", ["gra", "promptmix"])
async def test_steered_prompts_begin_alike_so_that_servers_cache_them(kind: str) -> None:
    recipe = recipe_of(kind, exemplars=MISTAKES, report=[WEAK, FINE])
    own, other = await prompts_of(recipe, "refund"), await prompts_of(recipe, "delivery")
    of_a_label, of_a_round = beginning(own), beginning([*own, *other])
    assert "taken for: delivery" in of_a_label and "most often taken for" in of_a_round
    assert "delivery, refund, account" in of_a_round.splitlines()[0]


def test_a_mistake_is_an_exemplar_of_its_slots_and_no_draw_can_miss_it() -> None:
    others = [{"text": f"chosen {n}", "label": "account"} for n in range(9)]
    recipe = recipe_of(exemplars=[*MISTAKES, *others], report=[WEAK])
    wrong = {row["text"] for row in MISTAKES if row["label"] == "refund"}
    assert all(wrong == {seed.text for seed in slot.exemplars} for slot in slots_of(recipe, "refund"))
    assert all(seed.label == "refund" for slot in slots_of(recipe, "refund") for seed in slot.exemplars)
    for slot in slots_of(recipe, "account"):
        assert all(seed.text.startswith("chosen") for seed in slot.exemplars), "chosen rows come before seeds"
    for slot in slots_of(recipe, "delivery"):
        first, *rest = (seed.text for seed in slot.exemplars)
        assert first == "van at the wrong door" and all("seed" in text for text in rest)


@pytest.mark.parametrize("style", ["chat", "completion"])
@pytest.mark.parametrize("kind", ["gra", "promptmix"])
async def test_a_round_without_report_and_mistakes_asks_as_an_unsteered_one(kind: str, style: str) -> None:
    plain, steered = recipe_of(kind, style), recipe_of(kind, style, partners={"refund": ["delivery"]})
    bare = recipe_of(kind, style, concepts={})
    for label in LABELS:
        words = [set(re.findall("[a-zA-Z]+", " ".join(await prompts_of(one, label)))) for one in (plain, steered)]
        assert words[0] == words[1]
        assert await prompts_of(bare, label) == await prompts_of(steered, label)
        assert slots_of(bare, label) == slots_of(steered, label)


@pytest.mark.parametrize("kind", ["gra", "promptmix"])
def test_a_round_that_shows_nothing_new_draws_other_slots_than_the_last(kind: str) -> None:
    rounds = [slots_of(recipe_of(kind, **steering), "refund") for steering in ({}, {"round": 2}, {"round": 3})]
    seeds = [{slot.seed for slot in slots} for slots in rounds]
    assert not seeds[0] & seeds[1] and not seeds[0] & seeds[2] and not seeds[1] & seeds[2]


def test_a_chosen_instruction_is_shown_as_its_summary() -> None:
    row = {"text": "Explain how a parcel is sent back.", "label": "shop", "response": "Pack it and post it."}
    recipe = Recipe.model_validate({
        "name": "desk", "models": [{"name": "m", "provider": "openai", "model": "m", "base_url": "http://127.0.0.1:1"}],
        "task": {"kind": "instruction", "domains": [{"name": "shop"}]}, "seeds": {"rows": [row]},
        "steering": {"round": 2, "after": 1, "exemplars": [row]},
    })  # fmt: skip
    seed = Seed.of(row["text"], "shop", row["response"]).model_copy(update={"keywords": ("a",), "summary": "returns"})
    others = [Seed.of(f"seed {n}", "shop").model_copy(update={"summary": f"sum {n}"}) for n in range(9)]
    for n in range(4):
        slot = method_of(recipe).make_slot(Place("r", 0, 0, n, "shop"), Drawn(recipe, {"shop": [*others, seed]}))
        assert slot.exemplars[0] == seed
