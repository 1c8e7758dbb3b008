"""JSON replies: strict first, repaired where the damage is plain, checked against the schema, never guessed."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.agents.gateway.structured import parse_reply
from graft.schemas.errors import CallFailed

SCORE = {"type": "object", "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 10}},
         "required": ["score"], "additionalProperties": False}  # fmt: skip


@pytest.mark.parametrize("text", [
    '{"score": 7}', ' {"score":7}\n', '```json\n{"score": 7}\n```', '```\n{"score": 7}```', '{"score": 7,}',
    'Here it is: {"score": 7}. I hope that helps {you}.', 'As in [1]: {"score": 7}',
    'Thinking {hm} ... {"score": 7,\n}',
    'Well:\n```json\n{"score": 7}\n```\nbye', 'so [ {"score": 7}',
])  # fmt: skip
def test_plain_damage_is_repaired(text: str) -> None:
    assert parse_reply(text, SCORE, "m") == {"score": 7}


@pytest.mark.parametrize(("text", "code"), [
    ("", "malformed"), ("seven", "malformed"), ('{"score": 7', "malformed"), ('{"score": NaN}', "malformed"),
    ("[" * 5_000, "malformed"), ('{"score": 11}', "schema_unmet"), ('{"score": true}', "schema_unmet"),
    ('{"score": "7"}', "schema_unmet"), ("{}", "schema_unmet"), ('{"score": 7, "more": 1}', "schema_unmet"),
    ("[7]", "schema_unmet"), ("null", "schema_unmet"),
])  # fmt: skip
def test_a_reply_that_violates_the_schema_fails_with_the_raw_text(text: str, code: str) -> None:
    with pytest.raises(CallFailed) as caught:
        parse_reply(text, SCORE, "m")
    assert (caught.value.code, caught.value.raw, caught.value.where) == (code, text, "m")


@pytest.mark.parametrize(("value", "schema", "fits"), [
    ("a", {"enum": ["a", "b"]}, True), ("c", {"enum": ["a", "b"]}, False),
    ([1, 2], {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}, True),
    ([1], {"type": "array", "items": {"type": "integer"}, "minItems": 2}, False),
    ([1, "x"], {"type": "array", "items": {"type": "integer"}}, False),
    ("abc", {"type": "string", "minLength": 4}, False), ("abc", {"type": "string", "maxLength": 3}, True),
    (None, {"type": ["string", "null"]}, True), (3, {"type": ["string", "null"]}, False),
    ({"a": 1}, {"anyOf": [{"type": "string"}, {"type": "object", "required": ["a"]}]}, True),
    ({"b": 1}, {"anyOf": [{"type": "string"}, {"type": "object", "required": ["a"]}]}, False),
    ("x1", {"type": "string", "pattern": "^[a-z]+$"}, False), (1.5, {"type": "number", "maximum": 1}, False),
    ({"a": "x"}, {"$ref": "#/$defs/t", "$defs": {"t": {"type": "object", "required": ["b"]}}}, False),
])  # fmt: skip
def test_the_whole_of_json_schema_is_checked(value: Any, schema: dict[str, Any], fits: bool) -> None:
    text = orjson.dumps(value).decode()
    if fits:
        assert parse_reply(text, schema, "m") == value
    else:
        with pytest.raises(CallFailed, match="schema"):
            parse_reply(text, schema, "m")


TEXTS = st.dictionaries(st.text(max_size=8), st.text(alphabet=st.sampled_from('ab,]}[{"\\ \n')), max_size=4)


@given(TEXTS, st.sampled_from(["{}", "```json\n{}\n```", "Sure! {} Done.", "x, ] {}"]))
def test_no_repair_changes_what_stands_inside_strings(value: dict[str, str], around: str) -> None:
    text = around.replace("{}", orjson.dumps(value).decode(), 1)
    assert parse_reply(text, {"type": "object"}, "m") == value


@given(TEXTS)
def test_dropping_a_trailing_comma_changes_nothing_else(value: dict[str, str]) -> None:
    text = orjson.dumps(value).decode()[:-1] + (", }" if value else "}")
    assert parse_reply(text, {"type": "object"}, "m") == value
