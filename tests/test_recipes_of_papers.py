"""The shipped pipelines: the rule that decides each paper's rows, on scripted models."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from scripted import Models

from graft.agents.methods import Context, Drawn, Place, method_of
from graft.data.gates import Admission
from graft.data.seeds import load_seeds
from graft.flows.plan import read_recipe
from graft.schemas.calls import CallRequest
from graft.schemas.documents import Document
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate

SHELF = Path(__file__).parents[1] / "recipes"
OTHERS = [Document.of(f"{n}.md", f"{n}.md", text).passage(0, len(text))
          for n, text in enumerate(("Bees fly three kilometres.", "Handles of ash last twenty years."))]  # fmt: skip
ALMANAC = (SHELF / "data" / "almanac.md").read_text(encoding="utf-8")


def run(
    name: str, models: Models, *indexes: int, label: str = "", passage: str = "", gated: bool = False
) -> list[Candidate]:
    """Candidates of a shipped recipe, all of whose models are played by a script; `gated`: its gates see them."""
    file, loaded, _ = read_recipe(str(SHELF / f"{name}.yaml"))
    pool = [
        {"name": one.name, "provider": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"}
        for one in loaded.models
    ]
    recipe = Recipe.model_validate({**loaded.model_dump(mode="json"), "models": pool})
    seeds = load_seeds(recipe, file.parent)
    passages = [Document.of("almanac.md", "almanac.md", passage or ALMANAC).passage(0, len(passage or ALMANAC))]
    method, label = method_of(recipe), label or recipe.task.names[0]
    drawn = Drawn(
        recipe, {one: [seed for seed in seeds if seed.label == one] for one in recipe.task.names}, passages=passages
    )

    async def all_of_them() -> list[Candidate]:
        gates: dict[str, Any] = {"screen": Admission(recipe).screen} if gated else {}
        context = Context(
            recipe=recipe, seeds=seeds, ask=models.ask, passages={one.id: one for one in passages},
            retrieve=lambda query, k: [*passages, *OTHERS][:k], **gates,
        )  # fmt: skip
        slots = [method.make_slot(Place("r", 0, 0, index, label), drawn) for index in indexes or (0,)]
        return [await method.run_slot(slot, context) for slot in slots]

    return asyncio.run(all_of_them())


def user(request: CallRequest) -> str:
    return request.messages[-1].content


def test_step_by_step_keeps_the_reason_and_leaves_out_what_has_no_label() -> None:
    """Distilling Step-by-Step: rationale and label of a text; an unparsable reply is no row (the authors keep it)."""

    def teach(request: CallRequest) -> str:
        assert list(request.json_schema["properties"]) == ["rationale", "label"]  # type: ignore[index]
        return json.dumps({"rationale": "The customer waits for a parcel.", "label": "delivery"})

    [made] = run("rationales", Models(ask_cot=teach))
    assert made.accepted and made.label == "delivery" and made.data == {"rationale": "The customer waits for a parcel."}
    assert made.text == made.slot.exemplars[0].text
    for reply, code in (
        ("So the answer is delivery.", "failed.malformed"),
        ('{"rationale": "?", "label": "parcel"}', "failed.schema_unmet"),
        ('{"rationale": "It is about money.", "label": "refund"}', "rejected.equals"),
    ):  # fmt: skip
        assert run("rationales", Models(ask_cot=reply))[0].decision.code == code


def test_emotions_share_their_character_and_keep_strong_feelings_softly() -> None:
    """Emo Pillars: one call writes the utterances of a character; a feeling counts from 0.3."""

    def said(request: CallRequest) -> str:
        feelings = re.search(r"these feelings: (.*)\.", user(request))[1].split(", ")  # type: ignore[index]
        return json.dumps({"items": [{"label": one, "text": f"a line of {one}"} for one in feelings]})

    def scores(request: CallRequest) -> str:
        label = re.search(r"a line of (\w+)", user(request))[1]  # type: ignore[index]
        return json.dumps({**dict.fromkeys(("joy", "anger", "fear", "sadness"), 0.1), "fear": 0.3, label: 0.9})

    models = Models(ask_said=said, ask_scores=scores, ask_context="On the first morning.")
    made = run("emotions", models, 0, 1, 2)
    assert models.count["ask.said"] == 1 and len({one.group for one in made}) == 1
    assert made[0].label == "joy" and made[0].soft_label == pytest.approx({"joy": 0.75, "fear": 0.25})
    assert all(one.accepted and one.data["context"] == "On the first morning." for one in made)
    weak = Models(ask_said=said, ask_scores=json.dumps(dict.fromkeys(("joy", "anger", "fear", "sadness"), 0.2)))
    [ended] = run("emotions", weak)
    assert ended.decision.code == "rejected.heard" and ended.decision.reason == "Step heard: it is not true."


def test_a_known_answer_decides_whether_a_solution_counts() -> None:
    def solve(request: CallRequest) -> str:
        right = {"24 jars": "= 360 jars", "15% of 240": "36.00"}
        found = next((answer for words, answer in right.items() if words in user(request)), "41")
        return json.dumps({"reasoning": "I count.", "answer": found})

    made = run("known_answers", Models(ask_answer=solve), *range(12))
    assert sum(one.accepted for one in made) == 2
    assert {one.decision.code for one in made if not one.accepted} == {"rejected.number_equal"}
    assert {one.response for one in made if one.accepted} == {
        "I count.\nAnswer: = 360 jars", "I count.\nAnswer: 36.00",
    }  # fmt: skip


def test_advice_is_for_a_drawn_person_and_a_panel_judges_its_safety() -> None:
    """SleepCoT: a profile and a shape are drawn, the reasoning is kept apart, an unsafe answer is rejected."""

    def judge(request: CallRequest) -> str:
        safe = 2 if "ten pills" in user(request) else 9
        return json.dumps({"safe": safe, "personal": 2 if safe == 2 else 9, "clear": 9, "comment": ""})

    for answer, code in (("Go to bed at ten.", "accepted.agreed"), ("Take ten pills.", "rejected.low_mean")):
        advice = json.dumps({"reasoning": "Shifts move the clock.", "answer": answer})
        models = Models(ask_question="Why am I tired?", ask_advice=advice, review_quality=judge)
        made = run("sleep_advice", models, *range(6))
        assert {one.decision.code for one in made} == {code}
        people = {user(one).partition("person of <profile>")[2][:2] for one in models.of("ask.question")}
        assert len(people) > 2 and {one.data["shape"] for one in made} <= {"report", "follow_up", "knowledge"}
        assert all(one.data["rationale"] == "Shifts move the clock." for one in made)


@pytest.mark.parametrize(
    ("second", "relations", "code"),
    [
        ("At the stalls, three men sold fish cheaply.", ("entails", "entails"), "accepted.made"),
        ("Three men sold cheap fish at their stalls.", ("entails", "entails"), "rejected.rouge"),
        ("Fish.", ("entails", "entails"), "rejected.length_ratio"),
        ("Some 4 traders offered herring for little money.", ("entails", "entails"), "rejected.same_numbers"),
        ("At the stalls, three men sold fish cheaply.", ("neutral", "entails"), "rejected.equals"),
        ("At the stalls, three men sold fish cheaply.", ("entails", "contradicts"), "rejected.equals"),
    ],
)
def test_a_pair_says_the_same_in_other_words(second: str, relations: tuple[str, str], code: str) -> None:
    """Impossible Distillation: length, numbers, ROUGE-L at most 0.75, and entailment both ways (by a stand-in)."""
    forward, back = (json.dumps({"relation": one}) for one in relations)
    models = Models(
        ask_opening="The market opened.", ask_next=["Three men sold cheap fish at the stalls.", second],
        ask_forward=forward, ask_back=back,
    )  # fmt: skip
    [made] = run("paraphrases", models)
    assert made.decision.code == code, made.decision.reason
    asked = models.count["ask.forward"] + models.count["ask.back"]
    cheap = code in ("rejected.rouge", "rejected.length_ratio", "rejected.same_numbers")
    assert asked == 0 if cheap else asked > 0, "what needs no model is checked first"
    if made.accepted:
        assert made.data["other"] == second and made.text == "Three men sold cheap fish at the stalls."


def test_the_best_of_several_long_thoughts_is_kept() -> None:
    """BOLT, stages 1 and 2."""
    samples = [json.dumps({"analysis": f"thought {mark}", "answer": str(mark)}) for mark in (4, 9, 6, 7)]

    def judge(request: CallRequest) -> str:
        mark = int(re.search(r"thought (\d)", user(request))[1])  # type: ignore[index]
        return json.dumps({"right": mark, "thorough": mark, "comment": ""})

    [made] = run("long_thoughts", Models(ask_long=samples, review_best=judge))
    assert made.accepted and made.response == "thought 9\n\n9" and made.data == {"score": 9.0}
    assert len(made.slot.exemplars) == 3, "the question, and two examples"


def test_problems_are_drawn_by_level_and_rest_on_a_passage() -> None:
    """JiuZhang3.0: a prompt for each of eight levels."""
    reply = json.dumps({"problem": "How many beans come up?", "solution": "0.8 * 100 = 80"})
    models = Models(ask_problem=reply)
    made = run("level_problems", models, *range(60))
    assert len({one.data["level"] for one in made}) == 8
    assert made[0].data["source"]["document"] == "almanac.md"  # type: ignore[index,call-overload]
    assert all(
        f"for {one.data['level']} that uses" in user(request)
        for one, request in zip(made, models.requests, strict=True)
    )
    none = Models(ask_problem=json.dumps({"problem": "Which is it?", "solution": "None can tell."}))
    assert run("level_problems", none)[0].decision.code == "rejected.regex"


@pytest.mark.parametrize(
    ("short", "code"),
    [
        ("lawn needs twenty litres water square metre dry week.", "accepted.made"),
        ("A meadow requires plenty of moisture.", "rejected.keep"),
        ("A lawn needs about twenty litres of water for each square metre in a dry week.", "rejected.shorter"),
    ],
)
def test_a_compression_labels_each_word_of_its_passage(short: str, code: str) -> None:
    """LLMLingua-2: words of its own are variation; what it keeps is labelled by alignment."""
    passage = "A lawn needs about twenty litres of water for each square metre in a dry week."
    [made] = run("compression", Models(ask_short=short), passage=passage)
    assert made.decision.code == code, made.decision.reason
    if made.accepted:
        data: dict[str, Any] = made.data
        kept = [word for word, one in zip(data["words"], data["keep"], strict=True) if one]
        assert " ".join(kept).replace(" .", ".") == short
        assert made.text == passage and len(data["words"]) == 17


def test_reviews_of_products_have_drawn_columns_stars_that_fit_and_a_length() -> None:
    models = Models(
        ask_review=json.dumps({"text": "It boils fast and the lid stays cool.", "stars": 4}),
        review_quality=json.dumps({"real": 9, "useful": 8, "comment": ""}),
    )  # fmt: skip
    made = run("product_reviews", models, *range(8))
    assert (
        all(one.accepted and one.data["length"] == 8 for one in made) and len({one.data["product"] for one in made}) > 2
    )
    assert run("product_reviews", models, label="disappointed")[0].decision.reason == "Step stars_fit: it is not true."


def test_lessons_are_written_for_mistakes_alone() -> None:
    """NesyCD: the teacher is called only where the student's number is wrong."""
    lesson = json.dumps({"summary": ["Multiply first."], "knowledge": ["A crate is a unit."]})
    models = Models(ask_attempt=lambda request: "It is 360." if "crate" in user(request) else "41?", ask_lesson=lesson)
    made = run("lessons", models, *range(12))
    assert models.count == {"ask.attempt": 12, "ask.lesson": 11}
    assert sorted(one.decision.code for one in made) == ["accepted.made"] * 11 + ["rejected.mistaken"]
    assert next(one for one in made if one.accepted).response == "Multiply first.\n\nA crate is a unit."


def test_entities_are_verified_in_the_passage_and_found_wherever_they_occur() -> None:
    """UniversalNER: no list of types; an entity that is not in the passage is dropped, and the row stays."""
    passage = "Beans need warm soil. Sow beans when the soil has twelve degrees."
    given = [{"text": "soil", "type": "Place"}, {"text": "twelve degrees", "type": "quantity"},
             {"text": "tomatoes", "type": "plant"}, {"text": "warm", "type": "quality"}]  # fmt: skip
    [made] = run("entities", Models(ask_found=json.dumps({"entities": given})), passage=passage, gated=True)
    assert made.accepted, made.decision.reason
    spans: Any = made.data["spans"]
    assert [(passage[one["start"] : one["end"]], one["type"]) for one in spans] == [
        ("warm", "quality"), ("soil", "place"), ("soil", "place"), ("twelve degrees", "quantity"),
    ]  # fmt: skip
    assert made.data["source"] and "left_out" in str(made.notes)
    none = Models(ask_found=json.dumps({"entities": given[2:3]}))
    assert run("entities", none, passage=passage)[0].decision.code == "rejected.some"


def test_an_adverse_event_names_a_drug_of_its_sentence() -> None:
    """ADE: drug and event are marked, both strings are in the sentence, an event of another drug is dropped."""

    def sentence(request: CallRequest) -> str:
        drug = re.search(r"takes (\w+)", user(request))[1]  # type: ignore[index]
        return f"She took {drug} and had a rash, then nausea."

    def found(request: CallRequest) -> str:
        drug = re.search(r"took (\w+)", user(request))[1]  # type: ignore[index]
        drugs = [{"text": drug, "type": "drug", "of": drug}]
        events = [("a rash", drug), ("nausea", "aspirin"), ("fever", drug)]
        return json.dumps({"entities": drugs + [{"text": a, "type": "adverse event", "of": b} for a, b in events]})

    [made] = run("adverse_events", Models(ask_sentence=sentence, ask_found=found), gated=True)
    assert made.accepted, made.decision.reason
    spans: Any = made.data["spans"]
    drug = made.text[spans[0]["start"] : spans[0]["end"]]
    assert [one["type"] for one in spans] == ["drug", "adverse event"] and {one["of"] for one in spans} == {drug}
    silent = Models(ask_sentence=sentence, ask_found=json.dumps({"entities": []}))
    assert run("adverse_events", silent)[0].decision.code == "rejected.both"


@pytest.mark.parametrize(
    ("grades", "code"),
    [
        ([(2, 0), (1, 3), (3, 1)], "accepted.made"),
        ([(1, 3), (2, 0)], "rejected.each_once"),
        ([(1, 3), (2, 0), (2, 1)], "rejected.each_once"),
        ([(1, 3), (2, 0), (5, 1)], "rejected.known"),
        ([(1, 2), (2, 2), (3, 2)], "gate.one_grade"),
    ],
)
def test_every_candidate_is_graded_once_and_not_all_alike(grades: list[tuple[int, int]], code: str) -> None:
    """FIRST: candidates are retrieved, and graded in one reply."""
    reply = {"grades": [{"passage": passage, "grade": grade} for passage, grade in grades]}
    models = Models(ask_question="How far do bees fly?", ask_graded=json.dumps(reply))
    [made] = run("reranking", models, passage="Beans go into warm soil.", gated=True)
    assert made.decision.code == code, made.decision.reason
    if made.accepted:
        candidates: Any = made.data["candidates"]
        assert candidates[1] == {"text": "Beans go into warm soil.", "grade": 3} and len(candidates) == 3
        assert "Passage 3:" in user(models.of("ask.graded")[0])


@pytest.mark.parametrize(
    ("tool", "arguments", "code", "reason"),
    [
        ("weather", {"city": "Bern", "day": "today"}, "accepted.made", ""),
        ("weather", {"city": "Bern", "day": "monday"}, "failed.schema_unmet", "day is none of the values"),
        ("weather", {"city": "Bern"}, "failed.schema_unmet", "no field 'day'"),
        ("convert", {"amount": 20, "from": "EUR", "to": "USD"}, "accepted.made", ""),
        ("convert", {"amount": 0, "from": "EUR", "to": "USD"}, "gate.call_arguments", "turn 2: convert: amount: 0"),
        ("convert", {"amount": 20, "from": "eur", "to": "USD"}, "gate.call_arguments", "turn 2: convert: from: 'eur'"),
    ],
)
def test_a_tool_call_fits_the_schema_of_its_tool(tool: str, arguments: dict[str, Any], code: str, reason: str) -> None:
    """A typed reply gives the arguments their shape; what a type cannot say is left to the tool's own schema."""
    reply = json.dumps(arguments)
    models = Models(
        ask_question="Is it sunny in Bern today?", ask_forecast=reply, ask_exchange=reply, ask_result="sunny",
        ask_answer="It is sunny in Bern.",
    )  # fmt: skip
    candidates = run("tool_calls", models, *range(8), gated=True)
    step = {"weather": "forecast", "convert": "exchange"}[tool]
    made = next(
        one
        for one in candidates
        if f"Step {step}:" in one.decision.reason or f"'{tool}'" in str(one.data.get("messages"))
    )
    assert made.decision.code == code and reason in made.decision.reason
    if made.accepted:
        messages: Any = made.data["messages"]
        assert [one["role"] for one in messages] == ["user", "assistant", "tool", "assistant"]
        assert messages[1]["tool_calls"] == [{"name": tool, "arguments": arguments}]
        assert [one["name"] for one in made.data["tools"]] == ["weather", "convert"]  # type: ignore[union-attr,call-overload,index]


def test_a_support_chat_takes_turns_and_a_panel_judges_the_whole() -> None:
    def judge(request: CallRequest) -> str:
        mark = 2 if "buy a new one" in user(request) else 9
        return json.dumps({"helpful": mark, "natural": mark, "comment": ""})

    for answer, code in (("It comes on Monday.", "accepted.agreed"), ("Just buy a new one.", "rejected.low_mean")):
        models = Models(ask_opening="Where is it?", ask_back="Which order is it?", ask_told="The blue one.",
                        ask_answer=answer, review_quality=judge)  # fmt: skip
        [made] = run("support_chats", models, label="refund", gated=True)
        assert made.decision.code == code, made.decision.reason
        messages: Any = made.data["messages"]
        assert [one["content"] for one in messages] == ["Where is it?", "Which order is it?", "The blue one.", answer]
