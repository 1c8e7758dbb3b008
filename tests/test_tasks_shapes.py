"""Tasks whose rows are more than a text: checked, shown, edited, measured, imported, exported; no model is called."""

from __future__ import annotations

import json
from typing import Any

import pytest

from graft.schemas.display import cut, marked, plain
from graft.schemas.kinds import TASKS
from graft.schemas.tasks.base import Task, Words
from graft.schemas.tool_schemas import problem_of, schema_problem

WEATHER = {
    "name": "weather", "description": "the weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                   "required": ["city"], "additionalProperties": False},
}  # fmt: skip
ASKED = {"role": "user", "content": "is it sunny in Bern?"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]}
TOLD = {"role": "tool", "name": "weather", "content": "sunny"}
ANSWER = {"role": "assistant", "content": "It is."}


def task(kind: str, **fields: Any) -> Task:
    made: Task = TASKS.get(kind)(**fields)
    return made


def faults(of: Task, text: str = "", response: str | None = None, **data: Any) -> list[tuple[str, str]]:
    row = Words(text, response, "any", data)
    return [(one.rule, one.detail) for one in of.faults(Words(text, response, "any", of.settle(row)))]


@pytest.mark.parametrize(("spans", "rule", "words"), [
    ([{"start": 14, "end": 19, "type": "city"}], None, ""),
    ([{"text": "Paris", "type": "City"}], None, ""),
    ([{"start": 14, "end": 18, "type": "city", "text": "Paris"}], "span_text",
     "span 1: offsets 14–18 hold 'Pari', not 'Paris'"),
    ([{"text": "Lyon", "type": "city"}], "span_text", "'Lyon' does not occur"),
    ([{"start": 14, "end": 99, "type": "city"}], "span_offsets", "14–99 are not within the text of 28"),
    ([{"start": True, "end": 5, "type": "city"}], "span_offsets", "True–5"),
    ([{"type": "city"}], "span_offsets", "neither offsets nor words"),
    ([{"text": "Paris"}], "span_type", "span 1: has no type"),
    ([{"text": "Paris", "type": "town"}], "span_type", "'town' is not a type"),
    ([{"start": 13, "end": 19, "type": "city"}], "span_blank", "begins or ends with a blank"),
    ([{"text": "Paris", "type": "city"}, {"start": 14, "end": 17, "type": "city"}], None, ""),
    ([{"start": 14, "end": 19, "type": "city"}, {"start": 16, "end": 19, "type": "city"}], "span_overlap",
     "span 2 ('ris') overlaps span 1 ('Paris')"),
    (["Paris"], "span_type", "has no type"),
    ("Paris", "no_spans", "an empty list"),
    ([{"text": "a", "type": "city"}] * 2_001, "too_many_spans", "2,000"),
])  # fmt: skip
def test_a_span_must_be_in_the_text(spans: Any, rule: str | None, words: str) -> None:
    found = faults(task("extraction", types=[{"name": "city"}]), "Ann flew from Paris to Rome.", spans=spans)
    assert [name for name, _ in found[:1]] == ([rule] if rule else [])
    assert not rule or words in found[0][1]


def test_spans_without_offsets_are_located_as_whole_words() -> None:
    extraction = task("extraction", types=[{"name": "art"}, {"name": "party"}])
    text = "art at the party: art 😀 artful"
    given = [{"text": "art", "type": "ART"}, {"text": "party", "type": "party", "of": "x"}]
    row = Words(text, data={"spans": given, "note": 1})
    settled = extraction.settle(row)
    assert settled == {"note": 1, "spans": [
        {"start": 0, "end": 3, "type": "art"}, {"start": 11, "end": 16, "type": "party", "of": "x"},
        {"start": 18, "end": 21, "type": "art"},
    ]}  # fmt: skip
    assert extraction.settle(Words(text, data=settled)) == settled  # settled once, settled for good
    moved = extraction.settle(Words("Art: " + text, data=settled), before=text)
    assert [span["start"] for span in moved["spans"]] == [5, 16, 23]
    nested = task("extraction", overlap=True).settle(Words("New York City", data={"spans": [
        {"text": "New York City", "type": "city"}, {"text": "New York", "type": "state"},
    ]}))  # fmt: skip
    assert len(nested["spans"]) == 2
    hostile = [{"text": "a" * n, "type": "t"} for n in range(1, 1_500)]
    assert len(extraction.settle(Words("a" * 30_000, data={"spans": hostile}))["spans"]) <= 4_000


@pytest.mark.parametrize(("turns", "rule", "words"), [
    ([ASKED, CALL, TOLD, ANSWER], None, ""),
    ([ASKED, CALL], None, ""),
    ([{"role": "system", "content": "be brief"}, ASKED, ANSWER, ASKED, ANSWER], None, ""),
    ([ASKED, {**CALL, "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Bern"}'}}]}, TOLD,
      ANSWER], None, ""),
    ([{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}], None, ""),
    ([ASKED, {**CALL, "tool_calls": [{"name": "weather", "arguments": {"city": "Bern", "days": "two"}}]}, TOLD, ANSWER],
     "call_arguments", "turn 2: weather: days: 'two' is not of type 'integer'"),
    ([ASKED, {**CALL, "tool_calls": [{"name": "weather", "arguments": {}}]}, TOLD, ANSWER], "call_arguments",
     "'city' is a required property"),
    ([ASKED, {**CALL, "tool_calls": [{"name": "rain", "arguments": {}}]}, {**TOLD, "name": "rain"}, ANSWER],
     "call_unknown", "turn 2: there is no tool 'rain'; the tools are: weather"),
    ([ASKED, {**CALL, "tool_calls": [{"name": "weather", "arguments": "Bern"}]}, TOLD, ANSWER], "call_arguments",
     "not a JSON object"),
    ([ASKED, CALL, ANSWER], "call_unanswered", "turn 3: the assistant speaks before weather"),
    ([ASKED, TOLD, ANSWER], "tool_result", "turn 2: this tool result answers no call"),
    ([ASKED, CALL, TOLD, TOLD, ANSWER], "tool_result", "turn 4"),
    ([ASKED, CALL, {**TOLD, "name": "rain"}, ANSWER], "tool_result", "turn 3"),
    ([ASKED, ASKED, ANSWER], "turn_order", "turn 2: the user may not speak after the user"),
    ([ANSWER, ASKED], "turn_order", "turn 1: the assistant may not speak after the beginning"),
    ([ASKED, ANSWER, {"role": "system", "content": "x"}], "turn_order", "turn 3"),
    ([ASKED, ANSWER, ASKED], "turn_order", "ends with the user"),
    ([ASKED, CALL, TOLD], "turn_order", "ends with the tool"),
    ([ASKED, {"role": "bot", "content": "x"}], "turn_role", "'bot'"),
    ([ASKED, {"role": "assistant", "content": " "}], "turn_empty", "turn 2"),
    ([ASKED, {"role": "assistant", "content": [1]}], "turn_content", "turn 2"),
    ([ASKED, {**CALL, "tool_calls": ["weather"]}], "turn_calls", "turn 2"),
    ([{**ASKED, "tool_calls": [{"name": "weather"}]}, ANSWER], "turn_calls", "turn 1"),
    (["hello", "you"], "turn_role", "turn 1"),
    ([ASKED], "turn_order", "ends with the user"),
    ([], "no_messages", "no messages"),
    ("hello", "no_messages", "no messages"),
    ([ASKED, ANSWER] * 201, "too_many_turns", "400"),
])  # fmt: skip
def test_each_turn_and_call_of_a_conversation_is_checked(turns: Any, rule: str | None, words: str) -> None:
    found = faults(task("conversation"), "hi", messages=turns, tools=[{"type": "function", "function": WEATHER}])
    assert [name for name, _ in found[:1]] == ([rule] if rule else [])
    assert not rule or words in found[0][1]


def test_tools_of_the_recipe_become_the_row_s_own() -> None:
    conversation = task("conversation", tools=[WEATHER], calls=True)
    assert not faults(conversation, messages=[ASKED, CALL, TOLD, ANSWER])
    assert faults(conversation, messages=[ASKED, ANSWER])[0][0] == "no_call"
    assert faults(task("conversation", least_turns=3), messages=[ASKED, ANSWER])[0][0] == "few_turns"
    assert faults(conversation, messages=[ASKED, ANSWER], tools=[WEATHER, WEATHER])[0][0] == "tool_name"
    broken = [{"name": "weather", "parameters": {"type": "objekt"}}]
    assert "type: 'objekt'" in faults(conversation, messages=[ASKED, ANSWER], tools=broken)[0][1]
    assert conversation.text_of({"messages": [ANSWER, ASKED]}) == ASKED["content"]
    with pytest.raises(ValueError, match="not a JSON schema"):
        task("conversation", tools=broken)


def test_a_tool_s_schema_cannot_take_unbounded_time_or_fetch_anything() -> None:
    doubling: dict[str, Any] = {f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(60)}
    assert "5,000 nodes" in schema_problem({"$defs": {**doubling, "a60": {}}, "$ref": "#/$defs/a0"})
    assert "leads to itself" in schema_problem({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"})
    assert "leads nowhere" in schema_problem({"$ref": "http://127.0.0.1:9/schema.json"})
    assert "linear time" in schema_problem({"properties": {"x": {"pattern": "(?=a)b"}}})
    assert "not supported" in schema_problem({"$id": "http://127.0.0.1:9/", "type": "object"})
    assert "20,000 bytes" in schema_problem({"enum": ["x" * 30_000]})
    slow = {"properties": {"x": {"pattern": "^(a+)+$"}}, "patternProperties": {"^n": {"type": "integer"}}}
    assert not schema_problem(slow)
    assert "does not match" in problem_of({"x": "a" * 10_000 + "!"}, slow)
    assert problem_of({"n1": "one"}, slow) == "n1: 'one' is not of type 'integer'"
    deep: Any = {}
    for _ in range(200):
        deep = {"x": deep}
    assert "30 levels" in problem_of(deep, slow)
    shared = {"$defs": {"city": {"type": "string"}}, "properties": {"a": {"$ref": "#/$defs/city"}}}
    assert problem_of({"a": 1}, shared) == "a: 1 is not of type 'string'" and not problem_of({"a": "b"}, shared)


PASSAGE = "The shop opens at nine.\nIt closes at five."


@pytest.mark.parametrize(("kind", "fields", "text", "response", "data", "rule"), [
    ("qa", {}, "When?", "At nine.", {}, None),
    ("qa", {}, "When?", " ", {}, "no_answer"),
    ("qa", {"passage": True}, PASSAGE, "nine", {}, "no_question"),
    ("qa", {"evidence": True}, PASSAGE, "nine", {"question": "When?"}, "no_evidence"),
    ("qa", {}, PASSAGE, "nine", {"question": "When?", "evidence": "opens at nine. It"}, None),
    ("qa", {}, PASSAGE, "nine", {"question": "When?", "evidence": "opens at ten"}, "evidence_not_found"),
    ("qa", {"extractive": True}, PASSAGE, "ten", {"question": "When?"}, "answer_not_found"),
    ("qa", {}, PASSAGE, "nine", {"question": ""}, "no_question"),
    ("pairs", {"labels": [{"name": "any"}]}, "a b", None, {"other": "c d"}, None),
    ("pairs", {"labels": [{"name": "any"}]}, "a b", None, {"other": "A  b"}, "equal_texts"),
    ("pairs", {"labels": [{"name": "any"}]}, "a b", None, {}, "no_other"),
    ("pairs", {"labels": [{"name": "any"}], "length_ratio": (0.5, 2)}, "a b", None, {"other": "c" * 9}, "length_ratio"),
    ("ranking", {}, "q", None, {"candidates": [{"text": "a", "grade": 1}, {"text": "b", "grade": 0.5}]}, None),
    ("ranking", {}, "q", None, {"candidates": [{"text": "a", "grade": 1}]}, "few_candidates"),
    ("ranking", {}, "q", None, {"candidates": [{"text": "a", "grade": 1}, {"text": "b", "grade": 1.0}]}, "one_grade"),
    ("ranking", {}, "q", None, {"candidates": [{"text": "a", "grade": 1}, {"text": " a", "grade": 2}]},
     "candidate_repeats"),
    ("ranking", {}, "q", None, {"candidates": [{"text": "a", "grade": True}, {"text": "b", "grade": 2}]},
     "candidate_grade"),
    ("ranking", {"grades": (0, 1)}, "q", None, {"candidates": [{"text": "a", "grade": 3}, {"text": "b", "grade": 1}]},
     "candidate_grade"),
    ("ranking", {}, "q", None, {"candidates": [{"text": "", "grade": 3}, 1]}, "candidate_empty"),
    ("ranking", {}, "q", None, {"candidates": '[{"text": "a", "grade": 1}, {"text": "b", "grade": 0}]'}, None),
    ("rewrite", {"numbers": "keep"}, "12 cups cost 3.50", "For 3.50 you get 12 cups", {}, None),
    ("rewrite", {"numbers": "keep"}, "12 cups cost 3.50", "13 cups cost 3.50", {}, "numbers_differ"),
    ("rewrite", {}, "a b", "a  b", {}, "unchanged"),
    ("rewrite", {}, "a b", "", {}, "no_rewrite"),
    ("rewrite", {"length_ratio": (0, 1.0)}, "a b", "longer than it", {}, "length_ratio"),
])  # fmt: skip
def test_the_other_tasks_check_their_rows(
    kind: str, fields: dict[str, Any], text: str, response: str | None, data: dict[str, Any], rule: str | None
) -> None:
    assert [name for name, _ in faults(task(kind, **fields), text, response, **data)[:1]] == ([rule] if rule else [])


ROWS: dict[str, Words] = {
    "extraction": Words("Ann met Ann in Bern.", None, "any", {"spans": [
        {"start": 8, "end": 11, "type": "a: b"}, {"start": 15, "end": 19, "type": "city", "of": "Ann"},
    ]}),
    "conversation": Words(ASKED["content"], None, "any", {"messages": [
        {"role": "user", "content": "look:\n>>> user\n\\>>> x\n"}, {**CALL, "tool_calls": [
            {"name": "weather", "arguments": {"city": "Bern"}, "id": "c1"}]}, {**TOLD, "tool_call_id": "c1"}, ANSWER,
    ], "tools": [WEATHER]}),
    "ranking": Words("q", None, "any", {"candidates": [
        {"text": "two\nlines", "grade": 2}, {"text": ">>> 3", "grade": 0.5}]}),
    "qa": Words(PASSAGE, "nine", "any", {"question": "When?", "evidence": "opens at nine"}),
    "pairs": Words("a", None, "any", {"other": "b"}),
    "rewrite": Words("a", "b", "any", {}),
}  # fmt: skip
PAIRS = {"pairs": {"labels": [{"name": "any"}]}}


@pytest.mark.parametrize("kind", ROWS)
def test_a_form_that_is_not_changed_changes_nothing(kind: str) -> None:
    of, row = task(kind, **PAIRS.get(kind, {})), ROWS[kind]
    form = {field.name: field.value for field in of.form(row)}
    made = of.of_form(form, row)
    if kind == "conversation":
        made["messages"][0]["content"] += "\n"  # blank lines at the end of a turn are not kept
    assert made == row.data and not of.faults(row)
    assert plain(of.view(row)) and of.measures(row)
    assert set(form) <= set(of.columns) and set(of.needed) <= set(row.data)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("odd", [None, "x", 3, [], [None], {}, {"role": 1}, [{"role": [], "content": {}}], [[]]])
def test_odd_columns_are_faults_and_never_errors(kind: str, odd: Any) -> None:
    of = task(kind, **PAIRS.get(kind, {}))
    row = Words("a", "b", "any", dict.fromkeys(of.columns, odd))
    settled = Words("a", "b", "any", of.settle(row))
    of.faults(settled), of.view(settled), of.faults(row), of.view(row)
    json.dumps(of.settle(settled))


def test_what_a_form_cannot_read_is_named() -> None:
    for kind, name, value, words in (
        ("extraction", "spans", "Bern", "line 1: 'Bern' is not of the form type: words"),
        ("ranking", "candidates", ">>> good\nx", "'good' is not a grade"),
        ("conversation", "messages", ">>> bot\nx", "'bot' begins no turn"),
        ("conversation", "messages", ">>> assistant\n>>> call weather\n{", "'call weather' are not JSON"),
    ):
        with pytest.raises(ValueError, match=words):
            task(kind).of_form({name: value}, ROWS[kind])


def test_views_mark_spans_and_are_cut() -> None:
    pieces = marked("abcdef", [{"start": 0, "end": 4, "type": "x"}, {"start": 2, "end": 9, "type": "y"},
                               {"start": 2, "end": 6, "type": "z"}])  # fmt: skip
    assert [(one.text, one.mark) for one in pieces] == [("ab", "x"), ("cd", "x + z"), ("ef", "z")]
    view = task("conversation").view(ROWS["conversation"])
    assert [part.title for part in view] == ["user", "calls weather", "tool weather", "assistant", "tools"]
    assert plain(cut(view, 4)) == "user: look…" and plain(view, 5) == "user…"
