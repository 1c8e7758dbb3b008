"""The parts of pipelines: expressions, templates, order, predicates, alignment. Bounded whatever they are given."""

from __future__ import annotations

import ast
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.agents.methods.columns.parts.alignment import keep_labels
from graft.agents.methods.columns.parts.expressions import compiled, evaluate
from graft.agents.methods.columns.parts.functions import FUNCTIONS, BadExpression, number_in
from graft.agents.methods.columns.parts.order import Node, circle, reached, waves
from graft.agents.methods.columns.parts.predicates import PREDICATES, Arguments, rouge_l
from graft.agents.methods.columns.parts.shapes import PLAIN, TEXT, Shape
from graft.agents.methods.columns.parts.templates import BadTemplate, fenced, read

COLUMNS: dict[str, Any] = {
    "stars": 4, "name": "Ann", "review": {"text": "A fine boot", "tags": ["warm", "dry"]}, "nothing": None,
    "items": [{"label": "a", "score": 0.5}, {"label": "b", "score": 0.1}], "long": "x" * 150_000,
}  # fmt: skip


def value(expression: str) -> Any:
    return evaluate(compiled(expression), COLUMNS)


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("stars > 2 and len(review.text) < 300", True),
        ("review.tags[0] + '!'", "warm!"),
        ("items.label", ["a", "b"]),
        ("{one.label: one.score for one in items if one.score > 0.3}", {"a": 0.5}),
        ("f'{name}: {review.tags}'", "Ann: warm, dry"),
        ("nothing > 3", False),
        ("nothing.deep.er", None),
        ("'warm' in review.tags", True),
        ("stars / 8", 0.5),
        ("review.text[:6]", "A fine"),
        ("'high' if stars > 3 else 'low'", "high"),
        ("-stars + 1", -3),
        ("1 < stars < 5", True),
        ("mean(items.score)", 0.3),
        ("int('1,200')", 1200),
        ("number('so 3/4 of them') == 0.75", True),
        ("join(unique(['a', 'a', 'b']), '-')", "a-b"),
        (
            "spans('Ann saw Bo', [{'text': 'Bo', 'type': 'p'}, {'text': 'Cy', 'type': 'p'}])",
            [{"start": 8, "end": 10, "type": "p"}],
        ),
    ],
)
def test_an_expression_has_a_value(expression: str, found: Any) -> None:
    assert value(expression) == pytest.approx(found) if isinstance(found, float) else value(expression) == found


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9",
        "'a' * 10**9",
        "''.__class__",
        "name.__class__.__mro__",
        "review['__class__'].__x__",
        "(lambda: 1)()",
        "__import__('os')",
        "open('x')",
        "[x for x in [1] for y in [2]]",
        "{1, 2}",
        "1 << 99",
        "(y := 1)",
        "len.__self__",
        "f'{stars:999999999d}'",
        "f'{name!r}'",
        "'%9999999d' % 1",
        "1 +",
        "(" * 400 + "1" + ")" * 400,
        "9" * 500,
        "b'x'",
        "[*items]",
        "max(*items)",
        "round(stars, ndigits=2)",
        "split()",
        "len(name, name)",
        "min()",
        "await name",
        "x if",
        "{{ name }}",
        "name\nname",
        "1j",
        "...",
        "+".join(["name"] * 600),
        "{**review}",
    ],
)
def test_what_is_not_of_the_grammar_is_refused_at_once(expression: str) -> None:
    begun = time.process_time()
    with pytest.raises(BadExpression):
        value(expression)
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize(
    "expression",
    [
        "long + long",
        "join([long, long], '')",
        "replace(long, 'x', 'yy')",
        "[[a for a in long_list] for b in long_list]",
        "replace('a', '', 'b')",
        "round(stars, 10000)",
        "stars + name",
        "sum(name)",
        "min([])",
        "mean([])",
        "unknown",
        "999999999999999 * 999999999999999",
        "1 / 0",
        "int(long)",
        "name < 3",
        "first(3)",
        "sorted([1, 'a'])",
        "name()",
    ],
)
def test_an_evaluation_that_explodes_or_fails_ends_at_once(expression: str) -> None:
    begun = time.process_time()
    with pytest.raises(BadExpression):
        evaluate(compiled(expression), {**COLUMNS, "long_list": list(range(9_000))})
    assert time.process_time() - begun < 0.5


NAMES = st.sampled_from([*COLUMNS, "unknown"])
ATOMS = st.one_of(NAMES, st.integers(-99, 99).map(str), st.text("ab{}' ", max_size=4).map(repr))
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(
            inner, st.sampled_from(["+", "-", "*", "/", "//", "%", "**", "<", "==", "in", "and", "or"]), inner
        ).map(lambda got: f"({got[0]} {got[1]} {got[2]})"),
        st.tuples(inner, st.sampled_from(["text", "tags", "__class__", "label"])).map(
            lambda got: f"({got[0]}).{got[1]}"
        ),
        st.tuples(st.sampled_from([*FUNCTIONS, "eval", "open"]), st.lists(inner, max_size=3)).map(
            lambda got: f"{got[0]}({', '.join(got[1])})"
        ),
        st.tuples(inner, inner).map(lambda got: f"[{got[0]} for x in {got[1]}]"),
        inner.map(lambda got: f"({got})[0]"),
    ),
    max_leaves=12,
)


@given(EXPRESSIONS)
def test_any_expression_is_refused_or_has_a_plain_value_or_none(source: str) -> None:
    """Whatever is written: a JSON value or BadExpression, and never a Python object, whatever it is called on."""
    try:
        tree = compiled(source)
        assert not any(isinstance(node, ast.Pow) for node in ast.walk(tree.tree)) and "__class__" not in source
        found = evaluate(tree, COLUMNS)
    except BadExpression:
        return
    assert found is None or isinstance(found, str | int | float | list | tuple | dict)
    assert evaluate(compiled(source), COLUMNS) == found


GRAPHS = st.lists(st.tuples(st.sets(st.integers(0, 9), max_size=3), st.booleans()), min_size=1, max_size=10).map(
    lambda drawn: [
        Node(f"s{at}", frozenset(f"s{one}" for one in of if one < len(drawn)), costly, at)
        for at, (of, costly) in enumerate(drawn)
    ]
)


@given(GRAPHS)
def test_every_step_runs_once_after_what_it_reads_and_circles_are_found(nodes: list[Node]) -> None:
    reads = {node.name: node.reads for node in nodes}
    found, round_ = waves(nodes), circle(reads)
    flat = [name for wave in found for name in wave]
    assert (sorted(flat) == sorted(reads)) == (not round_)
    for at, wave in enumerate(found):
        before = {name for earlier in found[:at] for name in earlier}
        assert all(reads[name] <= before for name in wave)
        costly = {node.name for node in nodes if node.costly}
        assert len(wave) == 1 or set(wave) <= costly
    for name, after in zip(round_, round_[1:] + round_[:1], strict=True):
        assert after in reads[name] and name in reached(reads, name)


@given(GRAPHS)
def test_what_costs_nothing_never_waits_for_a_call_that_it_does_not_read(nodes: list[Node]) -> None:
    done = set[str]()
    for wave in waves(nodes):
        first = next(node for node in nodes if node.name == wave[0])
        free = [node for node in nodes if not node.costly and node.name not in done and node.reads <= done]
        assert not (first.costly and free)
        done |= set(wave)


SHAPES = {
    "who": PLAIN,
    "review": Shape("object", fields={"text": TEXT, "tags": Shape("list", item=TEXT), "n": Shape("number")}),
}


def rendered(source: str, text: str) -> str:
    columns = {"who": "me", "review": {"text": text, "tags": [text, "b"], "n": 3}}
    return fenced(read(source), SHAPES, ("who", "review")).render(columns)


@given(
    st.text("<>/review {}%#\n who", max_size=40),
    st.sampled_from(
        [
            "{{ review.text }}",
            "{{ review }}",
            "{% for t in review.tags %}{{ t }}{% endfor %}",
            "{{ review.text | trim | line }}",
            "{% if who %}{{ [review.text, who] | join('; ') }}{% endif %}",
            "{{ review['text'] if review.n else who }}",
            "{{ review.tags | first }}{{ review.text | upper }}",
        ]
    ),
)
def test_no_text_of_a_model_closes_its_tag_or_becomes_a_template(text: str, source: str) -> None:
    shown = rendered(source, text)
    tags = re.findall(r"[<＜]\s*/?\s*(?:review|who)\b[^>]*>?", shown, re.IGNORECASE)
    assert tags == ["<review>", "</review>"] * (len(tags) // 2), "only our own tags, in pairs"
    assert shown.startswith("<review>") and shown.endswith("</review>")


@pytest.mark.parametrize(
    "source",
    [
        "{% set a = 1 %}",
        "{{ x() }}",
        "{% macro m() %}{% endmacro %}",
        "{{ 9 * 9 }}",
        "{{ who ~ who }}",
        "{% for a in b recursive %}{% endfor %}",
        "{% for a, b in c %}{% endfor %}",
        "{{ who | join(who) }}",
        "{{",
        "{{ who is fine }}",
        "{% for a in b %}{% for c in b %}{% for d in b %}{% endfor %}{% endfor %}{% endfor %}",
        "x" * 50_001,
        "{{ _x }}",
        '{{ who["__class__"] }}',
        "{% import 'x' as y %}",
        "{% block b %}{% endblock %}",
        "{{ caller }}{% call x() %}{% endcall %}",
    ],
)
def test_a_template_that_does_more_than_show_columns_is_refused(source: str) -> None:
    with pytest.raises(BadTemplate):
        read(source)


@pytest.mark.parametrize("source", ["{% for c in review.text %}x{% endfor %}", "{% if review.text < 3 %}{% endif %}"])
def test_a_value_that_does_not_fit_its_template_is_a_failure(source: str) -> None:
    with pytest.raises(BadTemplate):
        rendered(source, "text")


def test_a_prompt_is_bounded_and_missing_values_are_empty() -> None:
    with pytest.raises(BadTemplate, match="more than 400,000"):
        rendered(
            "{% for a in review.tags %}{% for b in review.tags %}{{ review.text }}{% endfor %}{% endfor %}",
            "x" * 150_000,
        )
    assert rendered("a{{ review.none }}b{{ review.tags[7] }}", "t") == "ab"


@pytest.mark.parametrize(
    ("rule", "given_value", "arguments", "passes"),
    [
        ("equals", "Yes ", {"to": "yes"}, True),
        ("equals", 3, {"to": 3}, True),
        ("equals", None, {"to": ""}, False),
        ("number_equal", "so it is 1,200.", {"to": "1200"}, True),
        ("number_equal", "3/4", {"to": "0.75"}, True),
        ("number_equal", "40%", {"to": "0.4"}, True),
        ("number_equal", "-3", {"to": "3"}, False),
        ("number_equal", "x", {"to": "3"}, False),
        ("same_numbers", "2 of 3", {"to": "3, not 2"}, True),
        ("same_numbers", "2 of 3", {"to": "2 of 2"}, False),
        ("in_text", "the  Fox", {"inside": "See the fox."}, True),
        ("in_text", "ox", {"inside": "fox"}, False),
        ("in_text", "", {"inside": "a"}, False),
        ("regex", "A-12", {"pattern": r"^[A-Z]-\d+$"}, True),
        ("regex", "a-12", {"pattern": r"^[A-Z]"}, False),
        ("length", "a b c", {"most": 2, "by": "words"}, False),
        ("length", ["a", "b"], {"least": 2}, True),
        ("length_ratio", "abcd", {"to": "ab", "most": 1.5}, False),
        ("length_ratio", "abc", {"to": "abcd", "least": 0.5}, True),
        ("rouge", "a b c d", {"to": "a b c e", "most": 0.7}, False),
        ("rouge", "a b", {"to": "c d", "most": 0.7}, True),
        ("labels_of_task", "x", {"labels": ["x"]}, True),
        ("labels_of_task", "y", {"labels": ["x"]}, False),
        ("json_schema", '{"a": 1}', {"schema": {"type": "object", "required": ["a"]}}, True),
        ("json_schema", "{", {"schema": {}}, False),
        ("json_schema", {"b": 1}, {"schema": {"required": ["a"], "type": "object"}}, False),
        ("holds", [], {}, False),
        ("holds", 1, {}, True),
        ("keep", "Item big", {"inside": "Item 15 is big."}, True),
        ("keep", "Thing huge", {"inside": "Item 15 is big.", "most": 0.1}, False),
    ],
)
def test_a_predicate_tells_what_is_wrong(rule: str, given_value: Any, arguments: dict[str, Any], passes: bool) -> None:
    what, _ = PREDICATES[rule].test(given_value, Arguments(**arguments))
    assert (what == "") == passes, what


def test_alignment_labels_the_words_that_a_compression_kept() -> None:
    """LLMLingua-2, section 3.2: in order, without case, forward before backward, each word once."""
    text = "Item 15, report from City Manager. The report recommends to adopt the report."
    found = keep_labels(text, "item 15 report City Manager recommends adopt report")
    kept = [word for word, label in zip(found.words, found.labels, strict=True) if label]
    assert kept == ["Item", "15", "report", "City", "Manager", "recommends", "adopt", "report"]
    assert found.words[-2] == "report" and found.labels[-2] == 1, "the nearest one after `adopt`"
    assert found.variation == 0 and found.gap > 0, "a third `report` is in the text and not kept"
    assert keep_labels("a b", "a c").variation == 0.5 and keep_labels("", "").labels == ()
    assert sum(keep_labels("far " + "x " * 500 + "near", "near far", window=400).labels) == 1, "beyond the window"


@given(st.text("ab c1,.", max_size=60), st.text("ab c1,.", max_size=60))
def test_alignment_and_rouge_stay_within_their_bounds(text: str, other: str) -> None:
    found = keep_labels(text, other)
    assert len(found.words) == len(found.labels) and set(found.labels) <= {0, 1} and 0 <= found.variation <= 1
    assert 0 <= rouge_l(text, other) <= 1 and rouge_l(text, other) == pytest.approx(rouge_l(other, text))
    number_in(text)
