"""GRA's texts for labels: several in one call, and attributes drawn for each."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import orjson
import pytest
from scripted import Models
from test_flows_make_dataset import here
from test_flows_policy import history_of, ran, shown, write

from graft.agents.methods import Context, Drawn, Place, method_of
from graft.agents.methods.gra import KIND
from graft.flows.feasibility import standing_out
from graft.schemas.calls import CallRequest, Reply
from graft.schemas.errors import CallFailed
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Seed

POOL = {"billing": [Seed.of(f"seed {n}", "billing") for n in range(4)]}
TONES = {"tone": ["polite", "annoyed", "in a hurry"], "length": ["one sentence", "two sentences"]}


def recipe_for(style: str = "chat", **method: Any) -> Recipe:
    models = [{"name": "m0", "provider": "openai", "model": "m0", "base_url": "http://127.0.0.1:1/v1", "style": style}]
    return Recipe.model_validate({
        "name": "t", "models": models,
        "task": {"kind": "classification", "labels": [{"name": "billing"}, {"name": "outage"}]},
        "seeds": {"rows": [{"text": "why twice?", "label": "billing"}, {"text": "it is down", "label": "outage"}]},
        "method": {"kind": "gra", "label_policy": "intended", **method},
        "roles": {"generator": {"max_tokens": 40}},
    })  # fmt: skip


def run(models: Models, recipe: Recipe, count: int, first: int = 0) -> list[Candidate]:
    method, drawn = method_of(recipe), Drawn(recipe, POOL)
    context = Context(recipe=recipe, seeds=POOL["billing"], ask=models.ask)

    async def every() -> list[Candidate]:
        slots = [method.make_slot(Place("r", 0, 0, first + index, "billing"), drawn) for index in range(count)]
        return list(await asyncio.gather(*(method.run_slot(slot, context) for slot in slots)))

    return asyncio.run(every())


def listed(*texts: str) -> str:
    return orjson.dumps({"texts": list(texts)}).decode()


def test_the_slots_of_a_group_take_their_texts_from_one_call() -> None:
    models = Models(generate_texts=[listed("a one", "a two", "a three"), listed("b one", "b two", "b three")])
    candidates = run(models, recipe_for(texts_per_call=3), 6)
    assert sorted(one.text for one in candidates) == ["a one", "a three", "a two", "b one", "b three", "b two"]
    assert models.count == {"generate.texts": 2}
    request = models.requests[0]
    assert request.max_tokens == 3 * 40 and "exactly 3 new examples" in request.messages[0].content
    assert all(one.accepted and one.slot.group for one in candidates)
    assert len({KIND.text_id(one) for one in candidates}) == 6, "the texts of a call are texts of their own"
    assert {KIND.one_of(one) for one in candidates} == {""}, "all of them may be accepted"


def test_missing_and_repeated_texts_are_requested_again() -> None:
    def reply(request: CallRequest) -> str:
        return listed("one", "One!", "seed 1") if not request.sample else listed("one", "two", "three")

    models = Models(generate_texts=reply)
    candidates = run(models, recipe_for(texts_per_call=3, few_shot=[4, 4]), 3)
    assert [one.text for one in candidates] == ["one", "two", "three"]
    assert models.count == {"generate.texts": 2}


def test_a_generator_that_writes_too_few_fails_those_slots_alone() -> None:
    models = Models(generate_texts=listed("one", "one", "one"))
    candidates = run(models, recipe_for(texts_per_call=3), 3)
    assert [one.decision.code for one in candidates] == ["accepted.intended", "failed.few_texts", "failed.few_texts"]
    assert "3 times" in candidates[1].decision.reason and models.count == {"generate.texts": 3}


def test_an_unreadable_reply_is_requested_again_and_an_absent_server_is_not() -> None:
    models = Models(generate_texts=lambda request: listed("one", "two") if request.sample else "no JSON")
    assert [one.text for one in run(models, recipe_for(texts_per_call=2), 2)] == ["one", "two"]
    gone = Models(generate_texts=CallFailed("timeout", "no answer"))
    assert {one.decision.code for one in run(gone, recipe_for(texts_per_call=2), 2)} == {"failed.timeout"}
    assert gone.count == {"generate.texts": 1}
    never = Models(generate_texts="no JSON")
    assert {one.decision.code for one in run(never, recipe_for(texts_per_call=2), 2)} == {"failed.malformed"}


def test_a_text_that_was_cut_off_is_rejected_with_a_reason_that_says_what_to_raise() -> None:
    short = Reply(key="", text=listed("one.", "two.", "three and"), finish_reason="length")
    models = Models(generate_texts=short)
    candidates = run(models, recipe_for(texts_per_call=3), 3)
    assert [one.decision.code for one in candidates] == ["accepted.intended", "accepted.intended", "rejected.cut"]
    last = candidates[2]
    assert (last.text, last.decision.route) == ("three and", "cut")
    assert "cut off" in last.decision.reason and "Raise roles.generator.max_tokens" in last.decision.reason
    assert models.count == {"generate.texts": 1}, "the others' call is not repeated for it"
    advice = standing_out(100, {last.decision.code: 60})
    assert advice.startswith("60 of 100 candidates were cut off") and "raise max_tokens" in advice


def test_a_base_model_continues_its_list() -> None:
    models = Models(generate_texts=" where is my refund?\n- why was I charged twice?\n- a third one")
    candidates = run(models, recipe_for("completion", texts_per_call=2), 2)
    assert [one.text for one in candidates] == ["where is my refund?", "why was I charged twice?"]
    assert models.requests[0].prompt is not None and models.requests[0].prompt.endswith("\n-")


@pytest.mark.parametrize("each", [1, 3])
def test_attributes_are_drawn_for_each_slot_and_stand_in_the_prompt(each: int) -> None:
    models = Models(generate_text='{"text": "one"}', generate_texts=listed("one", "two", "three"))
    recipe = recipe_for(texts_per_call=each, attributes=TONES)
    candidates = run(models, recipe, 3)
    again = run(Models(generate_text='{"text": "one"}', generate_texts=listed("one", "two", "three")), recipe, 3)
    assert [one.slot for one in candidates] == [one.slot for one in again], "the slot's seed decides"
    for candidate in candidates:
        drawn: Any = candidate.slot.payload["attributes"]
        assert drawn["tone"] in TONES["tone"] and drawn["length"] in TONES["length"]
        [(name, manner)] = KIND.describe(candidate.slot, {})
        assert name == "written as" and manner == f"tone: {drawn['tone']}; length: {drawn['length']}"
        assert any(manner in request.messages[1].content for request in models.requests)
    if each == 3:
        tones = [one.slot.payload["attributes"]["tone"] for one in candidates]  # type: ignore[index, call-overload]
        assert sorted(tones) == sorted(TONES["tone"]), "the texts of a call differ while there are values"
        asked = models.requests[0].messages[1].content
        assert asked.index(f"tone: {tones[0]}") < asked.index(f"tone: {tones[1]}") < asked.index(f"tone: {tones[2]}")


def test_without_the_new_fields_nothing_is_added_to_a_prompt_or_slot() -> None:
    models = Models(generate_text='{"text": "one"}')
    [candidate] = run(models, recipe_for(), 1)
    assert candidate.slot.group == "" and candidate.slot.payload == {}
    assert models.requests[0].messages[1].content.endswith("Write a new one that differs from these.")
    assert "Write it as" not in models.requests[0].messages[1].content


PROPOSED = {"attributes": [
    {"name": "Tone", "values": ["Polite.", "annoyed", "polite", "billing question"]},
    {"name": "outage kind", "values": ["short", "long"]}, {"name": "writer", "values": ["a student"]},
    {"name": "seed", "values": ["seed 1 again", "x" * 81, 7]}, {"name": "place", "values": ["home", "work"]},
]}  # fmt: skip
LINES = " Tone: polite, annoyed\nplace: home, work\nno values here\n"


@pytest.mark.parametrize(("style", "reply"), [("chat", orjson.dumps(PROPOSED).decode()), ("completion", LINES)])
@pytest.mark.parametrize("each", [1, 2])
def test_a_generator_proposes_attributes_once_and_slots_draw_them(style: str, reply: str, each: int) -> None:
    """A value that names a label or quotes an example is left out, and so is an attribute with less than two values."""
    one = '{"text": "one"}' if style == "chat" else " one"
    several = listed("one", "two") if style == "chat" else " one\n- two"
    models = Models(generate_attributes=["no list" if style == "chat" else "", reply], generate_text=one,
                    generate_texts=several)  # fmt: skip
    recipe = recipe_for(style, attributes="auto", texts_per_call=each)
    method, drawn = method_of(recipe), Drawn(recipe, POOL)
    context = Context(recipe=recipe, seeds=POOL["billing"], ask=models.ask)

    async def made() -> tuple[Any, list[Candidate]]:
        ready = await method.prepare(context, drawn)
        have = dataclasses.replace(drawn, attributes=ready.attributes)
        assert (await method.prepare(context, have)).attributes == ready.attributes, "it asks once"
        knows = dataclasses.replace(context, attributes=ready.attributes)
        slots = [method.make_slot(Place("r", 0, 0, index, "billing"), have) for index in range(2)]
        return ready, list(await asyncio.gather(*(method.run_slot(slot, knows) for slot in slots)))

    ready, candidates = asyncio.run(made())
    tones = ("Polite", "annoyed") if style == "chat" else ("polite", "annoyed")
    assert ready.attributes == {"tone": tones, "place": ("home", "work")} and ready.notes == ()
    assert models.count["generate.attributes"] == 2, "an unusable reply is requested once more"
    for candidate in candidates:
        meant: Any = candidate.slot.payload["attributes"]
        assert meant["tone"] in tones and meant["place"] in ("home", "work")
        manner = KIND.describe(candidate.slot, {})[0][1]
        asked = [request.prompt or request.messages[-1].content for request in models.requests]
        assert any(manner in prompt for prompt in asked)
    first = models.requests[0].prompt or models.requests[0].messages[-1].content
    assert "seed 0" in first and "billing, outage" in first
    assert [calls.calls for calls in method.estimate(recipe, 10, POOL["billing"]) if "attributes" in calls.purpose] == [
        1
    ]


def test_a_generator_without_a_proposal_leaves_the_texts_as_they_are_and_a_warning() -> None:
    models = Models(generate_attributes="no list")
    recipe = recipe_for(attributes={"propose": 2})
    ready = asyncio.run(KIND.prepare(Context(recipe=recipe, seeds=(), ask=models.ask), Drawn(recipe, POOL)))
    assert ready.attributes == {} and models.count == {"generate.attributes": 3}
    assert "no attributes vary the texts" in ready.notes[0] and "method.attributes" in ready.notes[0]
    assert models.requests[0].json_schema is not None
    assert models.requests[0].json_schema["properties"]["attributes"]["maxItems"] == 2


@pytest.mark.parametrize(
    ("method", "words"),
    [({"attributes": {"tone": []}}, "attributes.tone: it is empty"), ({"texts_per_call": 0}, "texts_per_call"),
     ({"attributes": {"tone": ["x" * 300]}}, "200 characters"), ({"attributes": {"propose": 9}}, "propose_attributes"),
     ({"attributes": "some"}, "attributes")],
)  # fmt: skip
def test_wrong_settings_are_named(tmp_path: Any, method: Any, words: str) -> None:
    done = here(tmp_path / "home", "validate", str(write(tmp_path, "http://127.0.0.1:9/v1", method=method)))
    assert done.returncode == 2 and words in done.stderr


@pytest.mark.parametrize("attributes", [TONES, "auto"], ids=["listed", "proposed"])
def test_a_run_writes_several_texts_a_call_and_a_rerun_from_the_journal_none(
    tmp_path: Any, fake_llm: Any, attributes: Any
) -> None:
    home, method = tmp_path / "home", {"label_policy": "intended", "texts_per_call": 4, "attributes": attributes}
    recipe = write(tmp_path, fake_llm.url, method=method)
    first = ran(home, recipe)
    assert first["version"]["labels"] == {"alpha": 6, "beta": 6}
    calls = fake_llm.stats()["calls"]
    assert calls <= -(-first["run"]["counts"]["opened"] // 4) + 3
    history = history_of(home, shown(home)["rows"][0]["id"])
    kept = home / "runs" / first["run"]["id"] / "attributes.json"
    named = orjson.loads(kept.read_bytes()) if attributes == "auto" else TONES
    assert kept.exists() == (attributes == "auto") and named
    assert history["meant"][0][0] == "written as" and all(f"{name}: " in history["meant"][0][1] for name in named)
    assert "Attributes that texts were written with" in first["version"]["card"]
    assert all(value in first["version"]["card"] for values in named.values() for value in values[:1])
    assert "written as" in here(home, "explain", history["id"]).stdout
    (tmp_path / "two").mkdir()
    for file in home.glob("journal.sqlite*"):
        (tmp_path / "two" / file.name).write_bytes(file.read_bytes())
    second = ran(tmp_path / "two", recipe)
    assert fake_llm.stats()["calls"] == calls
    assert second["version"]["content_hash"] == first["version"]["content_hash"]
