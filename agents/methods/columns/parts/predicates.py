"""Named tests of the step `check`. A predicate gets the values of `of` and its arguments, and tells what is wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from graft.agents.gateway.structured import problem_of
from graft.agents.methods.columns.parts.alignment import keep_labels
from graft.agents.methods.columns.parts.functions import NUMBER, SEARCHED, number_in, read_number, shown
from graft.schemas.documents import find_quote

_FOLDED = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "−": "-"})


@dataclass(frozen=True)
class Arguments:
    """The arguments of a predicate; each has the fields that its entry in PREDICATES names."""

    inside: Any = None
    to: Any = None
    pattern: str = ""
    least: float | None = None
    most: float | None = None
    by: str = "chars"
    schema: Mapping[str, Any] | None = None
    window: int = 400
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class Predicate:
    """A test of one value: it returns (what is wrong, or "", and the column's value)."""

    test: Callable[[Any, Arguments], tuple[str, Any]]
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    meaning: str = ""


def normal(text: str) -> str:
    """A text as it is compared: without case, runs of space and shapes of quotation marks and dashes."""
    return " ".join(text.translate(_FOLDED).casefold().split())


def numbers_in(text: str) -> Counter[float]:
    """All numbers of a text, with how often each occurs."""
    found = (read_number(one) for one in NUMBER.findall(text[:SEARCHED]))
    return Counter(round(one, 9) for one in found if one is not None)


def same_number(left: float, right: float) -> bool:
    """Return True if two numbers differ by no more than a millionth."""
    return abs(left - right) <= 1e-6 * max(1.0, abs(left), abs(right))


def rouge_l(text: str, other: str) -> float:
    """ROUGE-L (Lin 2004): F1 of the longest common subsequence of words, 0 to 1."""
    left, right = (re.findall(r"\w+", one[:SEARCHED].casefold())[:1_000] for one in (text, other))
    if not left or not right:
        return 0.0
    row = [0] * (len(right) + 1)
    for word in left:
        before = 0
        for at, compared in enumerate(right, 1):
            before, row[at] = row[at], before + 1 if word == compared else max(row[at], row[at - 1])
    return 2 * row[-1] / (len(left) + len(right))


def _equals(value: Any, given: Arguments) -> tuple[str, Any]:
    same = value == given.to or (value is not None and normal(shown(value)) == normal(shown(given.to)))
    return "" if same else f"{_short(value)} is not {_short(given.to)}", same


def _number_equal(value: Any, given: Arguments) -> tuple[str, Any]:
    left, right = number_in(shown(value)), number_in(shown(given.to))
    if left is None or right is None:
        return f"{_short(value if left is None else given.to)} holds no number", False
    return "" if same_number(left, right) else f"{left:g} is not {right:g}", same_number(left, right)


def _same_numbers(value: Any, given: Arguments) -> tuple[str, Any]:
    left, right = numbers_in(shown(value)), numbers_in(shown(given.to))
    only = next(iter([*(left - right), *(right - left)]), None)
    return "" if only is None else f"the number {only:g} is in one of the two texts only", only is None


def _in_text(value: Any, given: Arguments) -> tuple[str, Any]:
    found = find_quote(shown(value), shown(given.inside)) is not None
    return "" if found else f"{_short(value)} does not occur in the text", found


def _regex(value: Any, given: Arguments) -> tuple[str, Any]:
    found = re.search(given.pattern, shown(value)[:SEARCHED]) is not None
    return "" if found else f"{_short(value)} does not match {given.pattern!r}", found


def _length(value: Any, given: Arguments) -> tuple[str, Any]:
    whole = (
        len(value) if isinstance(value, list) else len(shown(value).split() if given.by == "words" else shown(value))
    )
    noun = "elements" if isinstance(value, list) else "words" if given.by == "words" else "characters"
    return _within(whole, given, f"it has {whole} {noun}"), whole


def _length_ratio(value: Any, given: Arguments) -> tuple[str, Any]:
    ratio = len(shown(value)) / max(1, len(shown(given.to)))
    return _within(ratio, given, f"it is {ratio:.2f} times as long"), round(ratio, 4)


def _rouge(value: Any, given: Arguments) -> tuple[str, Any]:
    score = rouge_l(shown(value), shown(given.to))
    return _within(score, given, f"ROUGE-L is {score:.2f}"), round(score, 4)


def _labels(value: Any, given: Arguments) -> tuple[str, Any]:
    known = value in given.labels
    return "" if known else f"{_short(value)} is no label of the task", known


def _json_schema(value: Any, given: Arguments) -> tuple[str, Any]:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return "it is not JSON", False
    problem = problem_of(value, dict(given.schema or {}))
    return f"it breaks the schema: {problem}" if problem else "", not problem


def _keep(value: Any, given: Arguments) -> tuple[str, Any]:
    made = keep_labels(shown(given.inside), shown(value), given.window)
    if given.most is not None and made.variation > given.most:
        return f"{made.variation:.0%} of its words are not in the text, in order", made.value
    return "" if any(made.labels) else "it keeps no word of the text", made.value


def _holds(value: Any, given: Arguments) -> tuple[str, Any]:
    return "" if value else "it is not true", bool(value)


def _within(value: float, given: Arguments, what: str) -> str:
    if given.least is not None and value < given.least:
        return f"{what}, less than {given.least:g}"
    return f"{what}, more than {given.most:g}" if given.most is not None and value > given.most else ""


def _short(value: Any) -> str:
    text = " ".join(shown(value).split())
    return repr(text if len(text) <= 60 else text[:57] + "…")


_BOUNDS = ("least", "most")
PREDICATES: Mapping[str, Predicate] = {
    "equals": Predicate(_equals, ("to",), meaning="the same text but for case and spaces, or the same value"),
    "number_equal": Predicate(_number_equal, ("to",), meaning="the last number of each text is the same"),
    "same_numbers": Predicate(_same_numbers, ("to",), meaning="both texts hold the same numbers, equally often"),
    "in_text": Predicate(_in_text, ("inside",), meaning="its words occur in a text, in order"),
    "regex": Predicate(_regex, ("pattern",), meaning="a regular expression matches within it"),
    "length": Predicate(_length, (), (*_BOUNDS, "by"), "characters or words of a text, elements of a list"),
    "length_ratio": Predicate(_length_ratio, ("to",), _BOUNDS, "its characters over those of another text"),
    "rouge": Predicate(_rouge, ("to",), _BOUNDS, "ROUGE-L, 0 to 1, of two texts"),
    "labels_of_task": Predicate(_labels, meaning="it is a label of the task"),
    "json_schema": Predicate(_json_schema, ("schema",), meaning="JSON of this schema"),
    "keep": Predicate(_keep, ("inside",), ("most", "window"),
                      "a compressed text's words, in order, are words of a text (LLMLingua-2)"),
    "holds": Predicate(_holds, meaning="an expression is true"),
}  # fmt: skip
