"""No text holds a process up: every pattern and every reader of texts takes time by a text's length, not its square.

Times are CPU time of the thread, the best of several, so that a busy machine does not fail them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hostile import LONG, Found, Text, patterns, pieces_of, repeated, seconds, texts_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gates_text import recipe

from graft.agents.gateway.chat_templates import plain
from graft.agents.gateway.structured import parse_reply
from graft.agents.methods.columns.parts.templates import tags_of
from graft.agents.roles.asking import cleaned, ended
from graft.agents.roles.generator import _begun
from graft.agents.roles.guard import inert
from graft.agents.roles.labeler import label_in
from graft.agents.roles.mixer import texts_in
from graft.agents.roles.prompting import _fenced
from graft.agents.roles.responder import _NEXT
from graft.agents.roles.summariser import fallback_keywords
from graft.data.gates import Admission, Needs
from graft.data.gates.label_leak import LabelLeakGate
from graft.data.gates.personal import PersonalGate, PersonalSettings
from graft.data.gates.shared.held_out import TestText
from graft.data.gates.shared.near import NearIndex, jaccard
from graft.data.gates.shared.spans import redacted
from graft.data.intake.columns import ROLES, between
from graft.schemas.calls import CallRequest, Reply
from graft.schemas.errors import CallFailed, TextCut
from graft.schemas.models import ModelSpec
from graft.schemas.problems import did_you_mean
from graft.schemas.recipe import Recipe
from graft.schemas.redaction import _pattern, redact_fields
from graft.schemas.refusals import SEEN_CHARS, refusal_of
from graft.schemas.rows import Proposal
from graft.schemas.tasks.base import Label
from graft.schemas.tasks.classification import ClassificationTask

PATTERN_S = 0.1
"""CPU seconds that a pattern may take over 100,000 hostile characters."""
READER_S = 1.0
"""The same for a gate, the redaction, or the reading of a reply, each of which uses many patterns."""
PHONES_S = 1.0
"""The same for the phone numbers in the longest text that gates let through at first (4,000 characters)."""
SECRETS = ("correct-horse-battery-staple", 'a\\b"c/d e%25f+0123456789', '"quoted" key')
OF_A_RECIPE = r"\banswer: \d+"
"""A pattern as the author of a recipe writes it; docs/pipeline.md says that theirs have no limit of time."""
LABELS = ("card_arrival", "aaaa bbbb cccc", "c++", "__", "x-y_z  W")


def built() -> dict[str, list[re.Pattern[str]]]:
    """Of each function that builds patterns, some that it builds."""
    task = ClassificationTask(labels=tuple(Label(name=name) for name in LABELS))
    return {
        "graft.schemas.redaction:_pattern": [_pattern(SECRETS, escaped) for escaped in (True, False)],
        "graft.data.gates.label_leak:_pattern": [
            *LabelLeakGate(recipe().model_copy(update={"task": task}), Needs())._patterns.values()
        ],
        "graft.data.intake.columns:between": [between((*ROLES, "spans"))],
        "graft.data.gates.format:__init__": [re.compile("CJK|HIRAGANA|KATAKANA")],
        "graft.agents.methods.columns.check:_complete": [re.compile(OF_A_RECIPE)],
        "graft.agents.methods.columns.parts.predicates:_regex": [re.compile(OF_A_RECIPE)],
        "graft.agents.methods.columns.parts.templates:tags_of": [tags_of(("review", "a.b", "x"))],
    }


FOUND, MADE = patterns()
CUT = ("graft.schemas.refusals.",)
"""Patterns that see the beginning of a text alone (SEEN_CHARS)."""
ALL = [*FOUND, *(Found(place, pattern) for place, some in built().items() for pattern in some)]


def removed(pattern: re.Pattern[str]) -> Callable[[str], object]:
    """Looks for the pattern everywhere in a text."""
    return lambda text: pattern.sub("", text)


def test_every_pattern_is_timed() -> None:
    """A function that builds a pattern from its arguments must have examples above."""
    assert set(MADE) == set(built())
    assert len(FOUND) > 100
    assert {"graft.agents.gateway.structured.PIECE", "graft.data.gates.personal._IBAN"} <= {
        found.place for found in FOUND
    }


@pytest.mark.parametrize("found", ALL, ids=lambda found: found.place)
def test_no_pattern_is_slow_over_a_long_text(found: Found) -> None:
    size = SEEN_CHARS if found.place.startswith(CUT) else LONG
    work, sample = removed(found.pattern), min(size, LONG // 20)
    longest: list[tuple[float, Text]] = []
    for text in dict.fromkeys(texts_of(found.pattern)):
        longest.append((seconds(work, text.of(sample), PATTERN_S / 20), text))
        assert longest[-1][0] < PATTERN_S / 4, f"{longest[-1][0]:.3f} s over {sample} characters: {text}"
    for _, text in sorted(longest, reverse=True)[:3]:
        took = seconds(work, text.of(size), PATTERN_S / 2)
        assert took < PATTERN_S, f"{took:.3f} s over {size} characters: {text}"


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_pattern_is_slow_over_what_its_pieces_make(data: st.DataObject) -> None:
    found = data.draw(st.sampled_from([one for one in ALL if not one.place.startswith(CUT)]))
    letters, repeats, matches = pieces_of(found.pattern)
    pieces = [*dict.fromkeys((*letters, *(start for start, _ in repeats if start), *matches))] or ["x"]
    drawn = data.draw(st.lists(st.sampled_from(pieces), min_size=1, max_size=4))
    begin, end = data.draw(st.sampled_from([("", ""), ("", "\0"), (drawn[0], "\0"), (drawn[0], drawn[-1])]))
    text = begin + repeated("".join(drawn), LONG) + end
    assert seconds(removed(found.pattern), text, PATTERN_S / 2) < PATTERN_S


UNITS = (
    "a@", "1 ", "4111 ", "+1 ", "'", '"', '\\"', "\\", "[", '{"', '{"a":1}', ", ", "://a:", "AKIA", "_AKIA", "hf_AKIA_",
    "AKIA1BCDEFGHIJKLMNOP", "eyJ=", "eyJabcdefghijkl.", "sk-", "bearer+", "password: ", "token=abc123! ", "%25", "A1:",
    "a.b@c.de ", "DE89 3704 0044 0532 0130 00 ", "AA00 " + "AAAA " * 9, "AA00" + "A" * 36 + "\0",
    "4111 1111 1111 1111 ", "1.2.3.4 ", "NHS 943 476 5919 ", "aaaaaaaaaaaaaaab", "- ", "1. ", "Text: ", "\n", " ",
    "< ", "<", "(5%", "secret =", "x", "@",
    "user:\n", "label\n", "Ã©", "中", "é", "٣", "\ud800", "i'm sorry ", "word ", "don't ", "-----BEGIN ",
)  # fmt: skip
TEXTS = [
    *(repeated(unit, LONG) for unit in UNITS),
    *(begin + " " * LONG for begin in ("<", "Text", "secret", "a\n")),
    '{"a": "' + repeated('\\"', LONG), '{"[\\"' * 20 + '"' + "[]" * (LONG // 2), "no model '" + repeated("'; ", LONG),
]  # fmt: skip


def unfailing(text: str) -> object:
    """A reply's JSON, whatever it is."""
    try:
        return parse_reply(text, {"type": "object"}, "m")
    except CallFailed:
        return None


FRAGMENT = "write one short message that a customer sends to the shop please now"
NO_PHONES = tuple(kind for kind in PersonalSettings().kinds if kind != "phone")
BIG: Recipe = recipe(max_chars=10 * LONG, personal={"action": "redact", "kinds": NO_PHONES}, secrets="redact")
GATES = Admission(BIG, Needs(fragments=[FRAGMENT])).gates
CUT_OFF = Reply(text="", finish_reason="length", key="k")
WRITTEN = CallRequest(model=ModelSpec(name="m", provider="embedded", model="m"), role="generator", purpose="text")


def shortened(text: str) -> str:
    """The whole sentences of a text that was cut off."""
    try:
        return ended(CUT_OFF, text, WRITTEN)
    except TextCut:
        return ""


def near(text: str) -> object:
    """Looks for a near duplicate of a text that is in the index."""
    index = NearIndex(0.8)
    index.add("a", text)
    return index.find(text), jaccard(text, text)


READERS: dict[str, Callable[[str], Any]] = {
    **{f"gate {gate.name}": lambda text, gate=gate: gate.check(Proposal(text, None, "a")) for gate in GATES},
    **{f"redact {gate.name}": partial(redacted, find=gate.find) for gate in GATES if gate.redacts},
    "redact fields": lambda text: redact_fields({"a": text, text[:50]: [text[:1000]]}),
    "parse reply": unfailing, "cleaned": cleaned, "inert": inert, "plain": plain, "fenced": _fenced,
    "ended": shortened, "begun": _begun, "next turn": lambda text: _NEXT.split(text, maxsplit=1),
    "label in": lambda text: label_in(text, [f"label {number}" for number in range(150)]),
    "texts in": lambda text: texts_in("1. " + text, ["a"]),
    "keywords": lambda text: fallback_keywords(text, 3),
    "refusal": refusal_of, "near": near,
    "held-out text": lambda text: TestText.of("f", 1, text), "guess": lambda text: did_you_mean(text, [text, "a"]),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_no_reader_of_texts_is_slow_over_a_long_one(name: str) -> None:
    for text in TEXTS:
        took = seconds(READERS[name], text, READER_S / 2)
        assert took < READER_S, f"{name}: {took:.2f} s over {text[:40]!r}"


@pytest.mark.parametrize("unit", ["1/", "650-253-0000 ", "1.2.3.4 ", "4111 ", "+1 ", "(1"])
def test_phone_numbers_take_time_by_the_length_of_a_text_and_little_at_the_limit(unit: str) -> None:
    gate = PersonalGate(recipe(), Needs())
    assert seconds(gate.find, repeated(unit, recipe().gates.max_chars), PHONES_S / 2) < PHONES_S
    short, long = (seconds(gate.find, repeated(unit, size), 0.0) for size in (1_000, 8_000))
    assert long < 24 * short, "8 times the length takes 64 times as long where it is by the square"


def test_a_text_over_the_limit_meets_no_gate_but_the_length_gate() -> None:
    admission = Admission(recipe())
    for text, response, rule in (("1/" * LONG, None, "too_long"), ("ok then", "1/" * LONG, "response_too_long"),
                                 ("a" + " " * LONG, None, "too_long")):  # fmt: skip
        assert [result.rule for result in admission.screen(Proposal(text, response, "a"))] == [rule]


@pytest.mark.parametrize("unit", ["a@b.co ", "4111 1111 1111 1111 ", "AKIA1BCDEFGHIJKLMNOP ", "\\\"'"])
def test_a_text_over_the_limit_is_cut_before_it_is_redacted(unit: str) -> None:
    admission = Admission(recipe(personal={"action": "redact"}, secrets="redact"))
    assert seconds(lambda text: admission.clean(text, text), repeated(unit, 10 * LONG), READER_S / 2) < READER_S


def test_nothing_stays_of_what_the_limit_cuts_in_two_or_off() -> None:
    admission = Admission(recipe(personal={"action": "redact"}, max_chars=100))
    for before in range(70, 101):
        text, response, results = admission.clean("a" * before + " 4111 1111 1111 1111 b@example.com", "fine")
        if before + 20 + 14 > 100:
            assert [(result.rule, result.passed) for result in results[:1]] == [("too_long", False)]
        assert not set(text) & set("1@") and len(text) <= 106 and response == "fine"
    short, _, results = admission.clean("write to b@example.com", None)
    assert short == "write to <EMAIL>" and [result.rule for result in results] == ["redacted"]
