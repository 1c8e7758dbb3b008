"""The functions of expressions, and how a value is written as a text. Each is pure and bounded in size."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

import orjson

from graft.schemas.documents import find_quote

MOST_TEXT = 200_000
"""Characters of a text that an expression makes, at most."""


NUMBER = re.compile(r"[-−+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s?/\s?\d+(?:\.\d+)?)?(?:[eE][-+]?\d{1,2})?\s?%?")
SEARCHED = 20_000
"""Characters of a text in which a number, a pattern or common words are searched."""


class BadExpression(ValueError):
    """An expression that is not one of this grammar, or whose evaluation failed."""


def shown(value: Any) -> str:
    """A value as a text: a text as it is, a list of texts with commas, all else as JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return orjson.dumps(value).decode()


def number_in(text: str) -> float | None:
    """The last number of a text (1,200; -3.5; 3/4; 40%), as a result is written; None if it has none."""
    found = NUMBER.findall(text[-SEARCHED:])
    return read_number(found[-1]) if found else None


def read_number(text: str) -> float | None:
    """The value of a number as it is written in a text."""
    text = text.replace(",", "").replace("−", "-").replace(" ", "")
    percent, text = text.endswith("%"), text.rstrip("%")
    above, _, below = text.partition("/")
    try:
        value = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return value / 100 if percent else value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadExpression("a text is needed here")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple | dict):
        raise BadExpression("a list is needed here")
    return list(value.values()) if isinstance(value, dict) else list(value)


def _replace(text: str, old: str, new: str) -> str:
    if not _text(old):
        raise BadExpression("replace needs a text to look for")
    if len(_text(text)) + text.count(old) * len(_text(new)) > MOST_TEXT:
        raise BadExpression(f"it makes a text of more than {MOST_TEXT:,} characters")
    return text.replace(old, new)


def _join(parts: Any, between: str = ", ") -> str:
    texts = [shown(one) for one in _list(parts)]
    if sum(map(len, texts)) + len(texts) * len(_text(between)) > MOST_TEXT:
        raise BadExpression(f"it makes a text of more than {MOST_TEXT:,} characters")
    return between.join(texts)


def _round(number: float, digits: int = 0) -> float:
    if not isinstance(digits, int) or not 0 <= digits <= 12:
        raise BadExpression("round takes 0 to 12 digits")
    return round(number, digits) if digits else round(number)


def _number(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def made(value: Any) -> Any:
        if isinstance(value, str) and len(value) > 40:
            raise BadExpression("the text is too long for a number")
        return make(value.replace(",", "") if isinstance(value, str) else value)

    return made


def _unique(values: Any) -> list[Any]:
    return list({shown(one): one for one in _list(values)}.values())


def _spans(text: str, items: Any) -> list[dict[str, Any]]:
    """Where the items' texts occur in a text, with their types, in the order of their places; of overlapping ones the
    first counts, and an item that does not occur is left out."""
    taken: list[dict[str, Any]] = []
    for one in _list(items)[:1_000]:
        given, kind = (one.get("text"), one.get("type")) if isinstance(one, dict) else (one, None)
        found = find_quote(_text(given), _text(text)) if given else None
        if found and not any(found.start < other["end"] and other["start"] < found.end for other in taken):
            taken.append({"start": found.start, "end": found.end, "type": kind})
    return sorted(taken, key=lambda span: span["start"])


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "len": len, "lower": lambda text: _text(text).casefold(), "upper": lambda text: _text(text).upper(),
    "strip": lambda text: _text(text).strip(), "words": lambda text: len(_text(text).split()),
    "lines": lambda text: _text(text).splitlines(),
    "contains": lambda text, part: _text(part).casefold() in _text(text).casefold(),
    "starts": lambda text, part: _text(text).startswith(_text(part)),
    "ends": lambda text, part: _text(text).endswith(_text(part)),
    "split": lambda text, at=None: _text(text).split(None if at is None else _text(at)),
    "replace": _replace, "join": _join, "round": _round, "abs": abs, "min": min, "max": max,
    "sum": lambda values: sum(_list(values)),
    "mean": lambda values: fmean(_list(values)), "any": lambda values: any(_list(values)),
    "all": lambda values: all(_list(values)), "sorted": lambda values: sorted(_list(values)), "unique": _unique,
    "count": lambda values, one: _list(values).count(one), "keys": lambda value: list(dict(value)),
    "first": lambda values: next(iter(_list(values)), None), "last": lambda values: next(reversed(_list(values)), None),
    "int": _number(lambda value: int(float(value))), "float": _number(float), "str": shown,
    "number": lambda text: number_in(shown(text)), "spans": _spans,
    "has": lambda values, one: one in (_list(values) if not isinstance(values, dict) else values),
}  # fmt: skip
