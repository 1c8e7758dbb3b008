"""Concepts are named by a model, reach the generator's prompt for every second slot, and stay text."""

from __future__ import annotations

import pytest

from graft.agents.methods import Place, method_of
from graft.agents.methods.base import Drawn
from graft.agents.methods.promptmix import mix_of
from graft.agents.roles.generator import name_concepts, write_text
from graft.agents.roles.mixer import mix_request
from graft.schemas.calls import CallRequest, Reply, Usage
from graft.schemas.errors import CallFailed
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed

CHAT = {"name": "m", "provider": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}
BASE = {**CHAT, "style": "completion"}


def recipe(concepts: dict[str, list[str]], kind: str = "gra") -> Recipe:
    return Recipe.model_validate({
        "name": "desk", "models": [CHAT], "method": {"kind": kind},
        "task": {"kind": "classification", "labels": [{"name": "parcel_late"}, {"name": "refund"}]},
        "seeds": {"rows": [{"text": "where is it", "label": "parcel_late"}, {"text": "pay me", "label": "refund"}]},
        "steering": {"round": 2, "after": 1, "concepts": concepts},
    })  # fmt: skip


def answering(text: str, seen: list[CallRequest]):
    async def ask(request: CallRequest) -> Reply:
        seen.append(request)
        return Reply(key=request.key(), text=text, finish_reason="stop", usage=Usage(), latency_s=0.0, attempts=1)

    return ask


@pytest.mark.parametrize(
    ("model", "reply"),
    [(CHAT, '{"keywords": ["lost vans", "parcel late", "snow"]}'), (BASE, " lost vans, parcel late, snow\nText")],
)
async def test_a_model_names_subjects_but_not_the_label_itself(model: dict[str, str], reply: str) -> None:
    seen: list[CallRequest] = []
    spec = ModelSpec.model_validate(model)
    texts = ["the van {{ never }} came", "snow again"]
    named = await name_concepts(answering(reply, seen), recipe({}), spec, "parcel_late", texts, seed=1)
    assert named == ("lost vans", "snow")
    prompt = seen[0].prompt or " ".join(message.content for message in seen[0].messages)
    assert "the van {{ never }} came" in prompt and "parcel late" in prompt


async def test_a_reply_without_subjects_is_a_failure() -> None:
    spec = ModelSpec.model_validate(CHAT)
    with pytest.raises(CallFailed):
        await name_concepts(answering("sorry", []), recipe({}), spec, "refund", ["x"], seed=1)


@pytest.mark.parametrize("model", [CHAT, BASE])
async def test_every_second_slot_of_a_steered_label_is_about_a_concept(model: dict[str, str]) -> None:
    steered = recipe({"parcel_late": ["lost {{ vans }}"]})
    pool = {row.label: [Seed.of(row.text, row.label)] for row in steered.seeds.rows}
    method, drawn = method_of(steered), Drawn(steered, pool)
    slots = [method.make_slot(Place("r", 0, 0, n, "parcel_late"), drawn) for n in range(4)]
    assert [slot.steer is not None for slot in slots] == [True, False, True, False]
    assert method.make_slot(Place("r", 0, 0, 0, "refund"), drawn).steer is None
    seen: list[CallRequest] = []
    for slot in slots[:2]:
        await write_text(answering('{"text": "it is late"}', seen), steered, ModelSpec.model_validate(model), slot)
    prompts = [request.prompt or request.messages[-1].content for request in seen]
    assert "lost {{ vans }}" in prompts[0] and "lost {{ vans }}" not in prompts[1]


def test_the_slots_of_one_mixing_call_share_their_concept() -> None:
    mixed = Recipe.model_validate({
        **recipe({"refund": ["vouchers", "broken goods", "returns"]}).model_dump(mode="json"),
        "method": {"kind": "promptmix", "texts_per_call": 3, "partner": "random"},
    })  # fmt: skip
    pool = {row.label: [Seed.of(row.text, row.label)] for row in mixed.seeds.rows}
    method, drawn = method_of(mixed), Drawn(mixed, pool)
    slots = [method.make_slot(Place("r", 0, 0, n, "refund"), drawn) for n in range(10)]
    calls = [slots[0:3], slots[3:6], slots[6:9], slots[9:]]
    assert all(len({slot.steer for slot in call}) == 1 for call in calls)
    assert [call[0].steer is not None for call in calls] == [True, False, True, False]
    spec = ModelSpec.model_validate(CHAT)
    keys = {mix_request(mixed, spec, slot, mix_of(slot), count=3).key() for slot in calls[0]}
    assert len(keys) == 1 and calls[0][0].steer is not None
    prompt = mix_request(mixed, spec, calls[0][0], mix_of(calls[0][0]), count=3).messages[-1].content
    assert calls[0][0].steer.concept in prompt
