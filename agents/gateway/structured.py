"""Replies that must be JSON: parsed strictly, repaired where the damage is plain, checked against the schema."""

from __future__ import annotations

import re
from typing import Any

import orjson

from schemas.errors import CallFailed

FENCE = re.compile(r"^\s*```[a-zA-Z]*\s*\n?(.*?)\n?\s*```\s*$", re.DOTALL)
TRAILING_COMMA = re.compile(r",(\s*[}\]])")
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip


def parse_reply(text: str, schema: dict[str, Any], where: str) -> Any:
    """The JSON value of a reply. Raises CallFailed 'malformed' (no JSON) or 'schema_unmet' (the wrong JSON)."""
    value = _parse(text)
    if value is None:
        raise CallFailed("malformed", "the reply is not JSON, nor can it be repaired", where=where, raw=text)
    problem = check(value, schema)
    if problem:
        raise CallFailed("schema_unmet", f"the reply does not meet the schema: {problem}", where=where, raw=text)
    return value


def _parse(text: str) -> Any:
    fenced = FENCE.match(text)
    for attempt in (text, fenced.group(1) if fenced else "", _first_value(text)):
        for repaired in (attempt, TRAILING_COMMA.sub(r"\1", attempt)):
            try:
                return orjson.loads(repaired)
            except orjson.JSONDecodeError:
                continue
    return None


def _first_value(text: str) -> str:
    """The first balanced object or array in the text; empty where there is none."""
    start = min((place for place in (text.find("{"), text.find("[")) if place >= 0), default=-1)
    if start < 0:
        return ""
    depth, quoted, escaped = 0, False, False
    for place in range(start, len(text)):
        letter = text[place]
        if quoted:
            quoted, escaped = escaped or letter != '"', letter == "\\" and not escaped
        elif letter == '"':
            quoted = True
        elif letter in "{[":
            depth += 1
        elif letter in "}]":
            depth -= 1
            if depth == 0:
                return text[start : place + 1]
    return ""


def check(value: Any, schema: dict[str, Any], path: str = "$") -> str:
    """What is wrong with a value by the part of JSON Schema that our roles use; empty where it fits."""
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind in ("integer", "number"))):
        return f"{path} is not of type {kind}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{path} is none of the allowed values"
    if isinstance(value, dict):
        return _check_object(value, schema, path)
    if isinstance(value, list):
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if len(value) < least or (most is not None and len(value) > most):
            return f"{path} has {len(value)} items"
        checks = (check(item, schema.get("items", {}), f"{path}[{place}]") for place, item in enumerate(value))
        return next((problem for problem in checks if problem), "")
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return f"{path} is out of range"
    return ""


def _check_object(value: dict[str, Any], schema: dict[str, Any], path: str) -> str:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            return f"{path}.{name} is missing"
    if schema.get("additionalProperties") is False and (extra := value.keys() - properties.keys()):
        return f"{path}.{sorted(extra)[0]} is not asked for"
    checks = (check(value[name], part, f"{path}.{name}") for name, part in properties.items() if name in value)
    return next((problem for problem in checks if problem), "")
