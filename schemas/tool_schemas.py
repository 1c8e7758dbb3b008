"""JSON schemas of tools, and values checked against them. Schemas may come from a model: no reference leaves them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson

LARGEST = 20_000
"""Most bytes of a schema or of arguments, as JSON."""
DEEPEST = 30
MOST_NODES = 5_000
SHOWN = 80
_REFERENCE = re.compile(r"#/(\$defs|definitions)/([^/~%]{1,200})")


def schema_problem(schema: Any) -> str:
    """The reason for which a schema cannot be used; empty if it can."""
    if not isinstance(schema, Mapping):
        return f"the parameters are not a JSON schema but {type(schema).__name__}"
    return _validator(_key(schema))[1] if _small(schema) else f"the schema has more than {LARGEST:,} bytes"


def problem_of(value: Any, schema: Mapping[str, Any]) -> str:
    """The first problem of a value under a sound schema, with its place in the value; empty if there is none."""
    if not _small(value):
        return f"the arguments have more than {LARGEST:,} bytes, or more than {DEEPEST} levels"
    validator, wrong = _validator(_key(schema))
    if wrong:
        return wrong
    try:
        errors = sorted(validator.iter_errors(value), key=lambda one: list(map(str, one.absolute_path)))
    except Exception as error:  # jsonschema raises its own and its libraries' errors for references that lead nowhere
        return f"the schema cannot be applied: {type(error).__name__}"
    if not errors:
        return ""
    place = ".".join(str(step) for step in errors[0].absolute_path)
    message = errors[0].message if len(errors[0].message) <= 3 * SHOWN else errors[0].message[: 3 * SHOWN - 1] + "…"
    return f"{place}: {message}" if place else message


def _small(value: Any) -> bool:
    try:
        return len(orjson.dumps(value)) <= LARGEST and _depth(value) <= DEEPEST
    except (TypeError, RecursionError):  # orjson's own limit of depth, or a value that is not JSON
        return False


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return 1 + max((_depth(one) for one in inner), default=0)


def _key(schema: Mapping[str, Any]) -> bytes:
    return orjson.dumps(schema, option=orjson.OPT_SORT_KEYS)


@lru_cache(maxsize=256)
def _validator(key: bytes) -> tuple[Any, str]:
    """The validator of a schema as JSON, or the reason why there is none."""
    from jsonschema import Draft202012Validator, validators
    from jsonschema.exceptions import SchemaError
    from referencing import Registry

    schema = orjson.loads(key)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        place = ".".join(str(step) for step in error.absolute_path)
        return None, f"not a JSON schema: {place + ': ' if place else ''}{error.message[: 3 * SHOWN]}"
    try:
        _size(schema, schema)
    except ValueError as error:
        return None, str(error)
    linear = {"pattern": _pattern, "patternProperties": _pattern_properties}
    made = validators.extend(Draft202012Validator, linear)
    return made(schema, registry=Registry()), ""  # an empty registry: nothing is fetched


def _size(node: Any, whole: Mapping[str, Any], within: tuple[str, ...] = ()) -> int:
    """Number of nodes with references written out. Raises ValueError for what is unbounded, or leads outside."""
    if isinstance(node, list):
        return sum(_size(one, whole, within) for one in node)
    if not isinstance(node, Mapping):
        return 1
    for name in ("$dynamicRef", "$recursiveRef", "$id", "$anchor"):
        if isinstance(node.get(name), str):
            raise ValueError(f"{name} is not supported: write the schema out")
    names = node.get("patternProperties")
    for pattern in (node.get("pattern"), *(names if isinstance(names, Mapping) else ())):
        if isinstance(pattern, str) and (wrong := _matcher(pattern)[1]):
            raise ValueError(wrong)
    size = 1 + sum(_size(one, whole, within) for name, one in node.items() if name not in ("$defs", "definitions"))
    if isinstance(target := node.get("$ref"), str):
        hit = _REFERENCE.fullmatch(target)
        held = whole.get(hit[1], {}) if hit else {}
        if not hit or not isinstance(held, Mapping) or hit[2] not in held:
            raise ValueError(f"the reference {target[:SHOWN]!r} leads nowhere: it must be #/$defs/NAME")
        if target in within:
            raise ValueError(f"the reference {target[:SHOWN]!r} leads to itself")
        size += _size(held[hit[2]], whole, (*within, target))
    if size > MOST_NODES:
        raise ValueError(f"the schema has more than {MOST_NODES:,} nodes with its references written out")
    return size


@lru_cache(maxsize=256)
def _matcher(pattern: str) -> tuple[Any, str]:
    """Rust's linear engine, which pydantic brings: a pattern of a model may not take exponential time."""
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex")), ""
    except SchemaError:
        return None, f"the pattern {pattern[:SHOWN]!r} is not of the regular expressions that take linear time"


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    matcher = _matcher(pattern)[0]
    if isinstance(value, str) and matcher is not None and not matcher.isinstance_python(value):
        yield ValidationError(f"{value[:SHOWN]!r} does not match {pattern[:SHOWN]!r}")


def _pattern_properties(validator: Any, patterns: Any, value: Any, schema: Any) -> Iterator[Any]:
    for pattern, own in patterns.items() if isinstance(value, dict) else ():
        for name in value:
            if _hit(pattern, name):
                yield from validator.descend(value[name], own, path=name, schema_path=pattern)


def _hit(pattern: str, name: str) -> bool:
    matcher = _matcher(pattern)[0]
    return matcher is not None and bool(matcher.isinstance_python(name))


NAME = re.compile(r"^[A-Za-z_][\w.-]{0,63}$")
"""The name of a tool, as model servers accept it."""
