"""The generator: both prompt styles, what is taken off a reply, keywords that are new, named subjects."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import make_slot

from graft.agents.methods import Place, method_of
from graft.agents.methods.base import Drawn
from graft.agents.methods.promptmix import mix_of
from graft.agents.roles.asking import cleaned
from graft.agents.roles.generator import (
    name_concepts,
    write_instruction,
    write_keywords,
    write_response,
    write_text,
    write_texts,
)
from graft.agents.roles.mixer import mix_request
from graft.schemas.calls import CallRequest, Reply, Usage
from graft.schemas.errors import CallFailed, TextCut
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed, Slot

CHAT = ModelSpec(name="chat", provider="embedded", model="c")
BASE = ModelSpec(name="base", provider="embedded", model="b", style="completion")


def recipe_of(task: dict[str, Any]) -> Recipe:
    seeds = {"rows": [{"text": "Why twice?"}]}
    return Recipe.model_validate({"name": "t", "task": task, "seeds": seeds, "models": [CHAT.model_dump()]})


SUPPORT = recipe_of({
    "kind": "classification", "text": "a message to support",
    "labels": [{"name": "billing", "description": "invoices"}, {"name": "outage"}],
})  # fmt: skip
INSTRUCTION = recipe_of({"kind": "instruction"})


def slot_of(recipe: Recipe, label: str) -> Slot:
    known = [{"keywords": ("Primes", f"word {n}"), "summary": f"Sum {n}."} for n in range(3)]
    seeds = [Seed.of(f"Full text {n}.", label).model_copy(update=known[n]) for n in range(3)]
    return make_slot(run_id="r", shard=0, round=0, index=0, label=label, pool={label: seeds}, recipe=recipe)


class FixedModel:
    """A model with one fixed reply that records its requests."""

    def __init__(self, reply: Any, finish: str = "stop") -> None:
        self.replies, self.finish = reply, finish
        self.request: CallRequest | None = None

    async def __call__(self, request: CallRequest) -> Reply:
        self.request = request
        text = self.replies if isinstance(self.replies, str) else orjson.dumps(self.replies).decode()
        return Reply(key=request.key(), text=text, finish_reason=self.finish)


class Failing:
    """A model whose calls fail."""

    def __init__(self, failure: CallFailed) -> None:
        self.failure = failure

    async def __call__(self, request: CallRequest) -> Reply:
        raise self.failure


async def test_a_base_model_continues_the_list_of_exemplars() -> None:
    model, slot = FixedModel(" Where is my refund?\n- next"), slot_of(SUPPORT, "billing")
    text, key = await write_text(model, SUPPORT, BASE, slot)
    requested = model.request
    assert text == "Where is my refund?" and requested is not None and key == requested.key()
    listed = "\n".join(f"- {seed.text}" for seed in slot.exemplars)
    assert requested.prompt is not None and requested.prompt.endswith(f"\n{listed}\n-")
    assert requested.stop == ("\n",) and requested.json_schema is None and requested.messages == ()
    assert requested.seed == slot.seed and requested.role == "generator"


async def test_no_text_is_requested_that_is_longer_than_a_gate_allows() -> None:
    tight = Recipe.model_validate({**SUPPORT.model_dump(mode="json"), "gates": {"max_chars": 90}})
    for recipe, most in ((SUPPORT, 1000), (tight, 90)):
        model = FixedModel({"text": "Where is my refund?"})
        await write_text(model, recipe, CHAT, slot_of(recipe, "billing"))
        assert model.request is not None and model.request.json_schema is not None
        assert model.request.json_schema["properties"]["text"]["maxLength"] <= most


async def test_a_chat_model_is_held_to_a_json_schema() -> None:
    model = FixedModel({"text": '"Where is  my refund?"'})
    text, _ = await write_text(model, SUPPORT, CHAT, slot_of(SUPPORT, "billing"))
    assert text == "Where is my refund?"
    requested = model.request
    assert requested is not None and requested.json_schema is not None and requested.prompt is None
    assert requested.json_schema["required"] == ["text"]
    assert "which is about invoices" in requested.messages[1].content


async def test_a_text_cut_off_by_the_token_limit_ends_at_its_last_sentence() -> None:
    cut = FixedModel(" My card was charged twice. I would like to", "length")
    assert (await write_text(cut, SUPPORT, BASE, slot_of(SUPPORT, "billing")))[0] == "My card was charged twice."


async def test_a_text_without_a_whole_sentence_is_cut_off() -> None:
    for model, reply in ((BASE, " I would like to"), (CHAT, {"text": "I paid twice. I would like to"})):
        with pytest.raises(TextCut) as caught:
            await write_text(FixedModel(reply, "length"), SUPPORT, model, slot_of(SUPPORT, "billing"))
        assert caught.value.code == "cut" and caught.value.raw.endswith("I would like to")
        assert caught.value.where == "roles.generator.max_tokens" in caught.value.what


@pytest.mark.parametrize(("most", "field"), [(90, "gates.max_chars"), (300, "roles.generator.max_tokens")])
async def test_a_text_that_its_grammar_ended_in_mid_sentence_is_cut_off(most: int, field: str) -> None:
    short = {"gates": {"max_chars": most}, "roles": {"generator": {"max_tokens": 76}}}
    recipe = Recipe.model_validate({**SUPPORT.model_dump(mode="json"), **short})
    chars, slot = min(most, 3 * 60), slot_of(SUPPORT, "billing")
    for text in ("x" * (chars - 1), "x" * (chars - 1) + "!", "x" * (chars - 2) + '."'):
        assert (await write_text(FixedModel({"text": text}), recipe, CHAT, slot))[0] == text
    with pytest.raises(TextCut, match=f"chat was held to {chars} characters by {field}"):
        await write_text(FixedModel({"text": "x" * chars}), recipe, CHAT, slot)
    begun = FixedModel({"text": "My card was charged twice. " + "x" * (chars - 27)})
    assert (await write_text(begun, recipe, CHAT, slot))[0] == "My card was charged twice."
    free = CHAT.model_copy(update={"provider": "openai", "base_url": "http://127.0.0.1:1/v1"})
    assert await write_text(FixedModel({"text": "x" * chars}), recipe, free, slot)


async def test_of_several_texts_only_the_last_is_cut_off() -> None:
    slot = slot_of(SUPPORT, "billing")
    whole = FixedModel({"texts": ["One.", "Two, but"]}, "length")
    assert [one.cut is not None for one in await write_texts(whole, SUPPORT, CHAT, slot, 3, ())] == [False, True]
    lines = FixedModel("One\n- Two, but", "length")
    assert [one.cut is not None for one in await write_texts(lines, SUPPORT, BASE, slot, 3, ())] == [False, True]
    for raw, texts in (
        ('{"texts": ["He said \\"no\\".", "Two, but', ["He said \"no\".", "Two, but"]),
        ('{"texts": ["A', ["A"]), ('{"texts": ["One.", "Tw\\', ["One.", "Tw"]),
    ):  # fmt: skip
        given = await write_texts(Failing(CallFailed("cut", "…", raw=raw)), SUPPORT, CHAT, slot, 3, ())
        assert [one.text for one in given] == texts and [one.cut is None for one in given[:-1]] == [True] * (
            len(texts) - 1
        )
        assert given[-1].cut is not None
    for failure in (CallFailed("cut", "…", raw='{"te'), CallFailed("malformed", "…", raw='{"texts": ["A')):
        with pytest.raises(CallFailed):
            await write_texts(Failing(failure), SUPPORT, CHAT, slot, 3, ())


async def test_a_response_is_cut_off_by_the_token_limit() -> None:
    slot = slot_of(INSTRUCTION, "")
    with pytest.raises(TextCut):
        await write_response(FixedModel("First. Then", "length"), INSTRUCTION, CHAT, slot, "How?")
    assert (await write_response(FixedModel("First. Then", "length"), INSTRUCTION, BASE, slot, "How?"))[0] == "First."


@pytest.mark.parametrize(
    ("reply", "code"), [("", "malformed"), ({"text": ""}, "empty"), ({"text": 3}, "schema_unmet"), ([1], "malformed")]
)
async def test_an_unusable_reply_fails_with_its_code(reply: Any, code: str) -> None:
    with pytest.raises(CallFailed) as failure:
        await write_text(FixedModel(reply), SUPPORT, CHAT, slot_of(SUPPORT, "billing"))
    assert failure.value.code == code


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("- Where is it?", "Where is it?"),
        ("1. Where is it?", "Where is it?"),
        ("Example 1: Where is it?", "Where is it?"),
        ("* “Where is it?”", "Where is it?"),
        ('Text: "Where is it?"', "Where is it?"),
        ('"Where is it?', "Where is it?"),
        ("2 invoices came today", "2 invoices came today"),
        ("3.5 hours down", "3.5 hours down"),
        ('"Late" and "wrong"', '"Late" and "wrong"'),
        ("It says 'paid'", "It says 'paid'"),
    ],
)
def test_what_models_put_around_a_text_comes_off(reply: str, text: str) -> None:
    assert cleaned(reply) == text


@given(st.text())
def test_cleaning_twice_changes_nothing(text: str) -> None:
    assert cleaned(cleaned(text)) == cleaned(text)


@pytest.mark.parametrize(
    ("model", "reply"),
    [
        (CHAT, {"keywords": ["primes", "sieve", "modulo", "Sieve", "gcd"]}),
        (BASE, " primes, sieve, modulo, Sieve, gcd\n"),
    ],
)
async def test_keywords_are_new_distinct_and_at_most_three(model: ModelSpec, reply: Any) -> None:
    assert (await write_keywords(FixedModel(reply), INSTRUCTION, model, slot_of(INSTRUCTION, "math"), most=3))[0] == (
        "sieve", "modulo", "gcd",
    )  # fmt: skip


@pytest.mark.parametrize("model", [CHAT, BASE])
async def test_an_instruction_is_written_from_summaries_never_from_seeds(model: ModelSpec) -> None:
    answers = FixedModel(" Explain the sieve." if model is BASE else {"instruction": "Explain the sieve."})
    text, _ = await write_instruction(answers, INSTRUCTION, model, slot_of(INSTRUCTION, "math"), ("sieve", "gcd"))
    requested = answers.request
    assert text == "Explain the sieve." and requested is not None
    shown = requested.prompt or requested.messages[1].content
    assert "sieve, gcd" in shown and "Sum 1." in shown and "Full text" not in shown


async def test_a_response_is_free_text_for_the_instruction_alone() -> None:
    answers = FixedModel("Line one.\n\nLine two.")
    slot = slot_of(INSTRUCTION, "math")
    assert (await write_response(answers, INSTRUCTION, CHAT, slot, "Explain {{ x }}."))[0] == "Line one.\n\nLine two."
    requested = answers.request
    assert (
        requested is not None and requested.json_schema is None and requested.messages[1].content == "Explain {{ x }}."
    )
    with pytest.raises(CallFailed, match="empty response"):
        await write_response(FixedModel("  "), INSTRUCTION, CHAT, slot, "Explain.")


# ---- subjects of texts


CHAT_MODEL = {"name": "m", "provider": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}
BASE_MODEL = {**CHAT_MODEL, "style": "completion"}


def recipe_of_concepts(concepts: dict[str, list[str]], kind: str = "gra") -> Recipe:
    return Recipe.model_validate({
        "name": "desk", "models": [CHAT_MODEL], "method": {"kind": kind},
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
    [
        (CHAT_MODEL, '{"keywords": ["lost vans", "parcel late", "snow"]}'),
        (BASE_MODEL, " lost vans, parcel late, snow\nText"),
    ],
)
async def test_a_model_names_subjects_but_not_the_label_itself(model: dict[str, str], reply: str) -> None:
    seen: list[CallRequest] = []
    spec = ModelSpec.model_validate(model)
    texts = ["the van {{ never }} came", "snow again"]
    named = await name_concepts(answering(reply, seen), recipe_of_concepts({}), spec, "parcel_late", texts, seed=1)
    assert named == ("lost vans", "snow")
    prompt = seen[0].prompt or " ".join(message.content for message in seen[0].messages)
    assert "the van {{ never }} came" in prompt and "parcel late" in prompt


async def test_a_reply_without_subjects_is_a_failure() -> None:
    spec = ModelSpec.model_validate(CHAT_MODEL)
    with pytest.raises(CallFailed):
        await name_concepts(answering("sorry", []), recipe_of_concepts({}), spec, "refund", ["x"], seed=1)


@pytest.mark.parametrize("model", [CHAT_MODEL, BASE_MODEL])
async def test_every_second_slot_of_a_steered_label_is_about_a_concept(model: dict[str, str]) -> None:
    steered = recipe_of_concepts({"parcel_late": ["lost {{ vans }}"]})
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
        **recipe_of_concepts({"refund": ["vouchers", "broken goods", "returns"]}).model_dump(mode="json"),
        "method": {"kind": "promptmix", "texts_per_call": 3, "partner": "random"},
    })  # fmt: skip
    pool = {row.label: [Seed.of(row.text, row.label)] for row in mixed.seeds.rows}
    method, drawn = method_of(mixed), Drawn(mixed, pool)
    slots = [method.make_slot(Place("r", 0, 0, n, "refund"), drawn) for n in range(10)]
    calls = [slots[0:3], slots[3:6], slots[6:9], slots[9:]]
    assert all(len({slot.steer for slot in call}) == 1 for call in calls)
    assert [call[0].steer is not None for call in calls] == [True, False, True, False]
    spec = ModelSpec.model_validate(CHAT_MODEL)
    keys = {mix_request(mixed, spec, slot, mix_of(slot), count=3).key() for slot in calls[0]}
    assert len(keys) == 1 and calls[0][0].steer is not None
    prompt = mix_request(mixed, spec, calls[0][0], mix_of(calls[0][0]), count=3).messages[-1].content
    assert calls[0][0].steer.concept in prompt
