"""JSON replies: strict parsing, repair of simple damage, and schema validation."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from typing import Any

import orjson

from graft.schemas.errors import CallFailed

STARTS = 20
"""Most positions in a reply at which a JSON value is tried."""
SCANS = 4
"""Most fruitless scans to a reply's end. One scan finds every value that begins outside apparent strings, so another is
needed only if a quotation mark before a value is not JSON."""
MISSING = object()
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip
UNDERSTOOD = frozenset({
    "type", "enum", "const", "properties", "required", "additionalProperties", "items", "minItems", "maxItems",
    "minimum", "maximum", "minLength", "maxLength", "title", "description", "default", "examples", "$schema",
})  # fmt: skip


def parse_reply(text: str, schema: dict[str, Any], where: str) -> Any:
    """Parse a reply and validate it.

    Args:
        text: the reply.
        schema: the JSON Schema that the value must satisfy.
        where: the model's name, for the error.

    Raises:
        CallFailed: code 'malformed' (not JSON) or 'schema_unmet' (JSON that violates the schema).
    """
    first = ""
    for value in _values(text):
        problem = problem_of(value, schema)
        if not problem:
            return value
        first = first or problem
    if first:
        raise CallFailed("schema_unmet", f"the reply does not meet the schema: {first}", where=where, raw=text)
    raise CallFailed("malformed", "the reply is not JSON and cannot be repaired", where=where, raw=text)


def _values(text: str) -> Iterator[Any]:
    """Yield the whole text as JSON, or else its balanced parts; code fences and trailing commas are ignored."""
    value = _load(text)
    if value is not MISSING:
        yield value
        return
    for piece in _balanced(text):
        value = _load(piece)
        if value is not MISSING:
            yield value


def _load(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        return orjson.loads(_without_trailing_commas(text))
    except orjson.JSONDecodeError:
        return MISSING


PIECE = re.compile(r'"(?:[^"\\]++|\\.)*+"?|,(?=\s*+[}\]])', re.DOTALL)
"""A string, also unterminated (otherwise each quotation mark in it would start another scan), or a comma."""
OPENING = re.compile(r"[{\[]")
SIGN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[{}\[\]]', re.DOTALL)


def _without_trailing_commas(text: str) -> str:
    return PIECE.sub(lambda found: "" if found.group() == "," else found.group(), text)


def _balanced(text: str) -> Iterator[str]:
    """Yield objects and arrays of the text in order, outermost first."""
    ends: dict[int, int] = {}
    place, scans = 0, 0
    for _ in range(STARTS):
        start = OPENING.search(text, place)
        if start is None:
            return
        if start.start() not in ends:
            if scans == SCANS:
                return
            ends |= _ends_from(text, start.start())
            scans += not ends[start.start()]
        end = ends[start.start()]
        if end:
            yield text[start.start() : end]
        place = end or start.end()


def _ends_from(text: str, start: int) -> dict[int, int]:
    """End of each value that begins within the value at `start`; 0 if it is unterminated."""
    ends: dict[int, int] = {}
    begun: list[int] = []
    for found in SIGN.finditer(text, start):
        sign = found[0]
        if sign in "{[":
            begun.append(found.start())
            ends[found.start()] = 0
        elif sign in "}]":
            ends[begun.pop()] = found.end()
            if not begun:
                break
    return ends


def problem_of(value: Any, schema: dict[str, Any]) -> str:
    """Describe how a value violates a schema; empty if it is valid.

    Schemas of the roles take a fast path; any other schema is validated by jsonschema.
    """
    return check(value, schema) if _understood(schema) else _check_fully(value, schema)


def _understood(schema: Any) -> bool:
    if not isinstance(schema, dict) or not schema.keys() <= UNDERSTOOD or isinstance(schema.get("type"), list):
        return False
    if not isinstance(schema.get("additionalProperties", True), bool):
        return False
    parts = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    return all(_understood(part) for part in parts)


def _check_fully(value: Any, schema: dict[str, Any]) -> str:
    jsonschema: Any = importlib.import_module("jsonschema")  # untyped; LiteLLM brings it
    error = next(jsonschema.Draft202012Validator(schema).iter_errors(value), None)
    return "" if error is None else f"{error.json_path} violates the rule {error.validator!r}"


def check(value: Any, schema: dict[str, Any], path: str = "$") -> str:
    """Validate a value by the subset of JSON Schema that the roles use; returns the problem, empty if valid."""
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind in ("integer", "number"))):
        return f"{path} is not of type {kind}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{path} is not an allowed value"
    if "const" in schema and value != schema["const"]:
        return f"{path} is not the required constant"
    if isinstance(value, dict):
        return _check_object(value, schema, path)
    if isinstance(value, list):
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if len(value) < least or (most is not None and len(value) > most):
            return f"{path} has {len(value)} items"
        checks = (check(item, schema.get("items", {}), f"{path}[{place}]") for place, item in enumerate(value))
        return next((problem for problem in checks if problem), "")
    if isinstance(value, str) and not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        return f"{path} has {len(value)} characters"
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return f"{path} is out of range"
    return ""


def _check_object(value: dict[str, Any], schema: dict[str, Any], path: str) -> str:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            return f"{path}.{name} is missing"
    if schema.get("additionalProperties") is False and (extra := value.keys() - properties.keys()):
        return f"{path} has {len(extra)} unexpected fields"
    checks = (check(value[name], part, f"{path}.{name}") for name, part in properties.items() if name in value)
    return next((problem for problem in checks if problem), "")
