"""Converts pydantic's errors about a recipe into messages with a fix, by a table with one entry per kind of error."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graft.schemas.redaction import redact

Path = tuple[str | int, ...]
LONGEST_GUESS = 200
"""Maximum characters of a word to match against known words; comparison time grows with the product of the lengths."""


@dataclass(frozen=True)
class Finding:
    """A problem without file and line: its path in the data, what is wrong, and the fix."""

    path: Path
    what: str
    fix: str


class FieldErrors(ValueError):
    """Raised by a validator with several problems; the paths are relative to the validated field."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__(
            "; ".join(
                f"{'.'.join(map(str, one.path))}: {one.what} ({one.fix})" if one.path else f"{one.what} ({one.fix})"
                for one in self.findings
            )
        )


@dataclass(frozen=True)
class _Error:
    path: Path
    kind: str
    value: Any
    ctx: Mapping[str, Any]
    schema: Mapping[str, Any]
    parent: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.path[-1]) if self.path else "the recipe"


def field_error(path: Path, what: str, fix: str) -> FieldErrors:
    """Return the error of a field; `path` is relative to the model whose validator raises it, () for that model."""
    return FieldErrors([Finding(path, what, fix)])


def unknown_name(path: Path, noun: str, name: str, place: str, names: Sequence[str]) -> FieldErrors:
    """Return the error of an unknown name, with the closest known name: no label 'x'; the task has …"""
    return field_error(path, f"no {noun} {name!r}", f"{did_you_mean(name, names)}{place} has {', '.join(names)}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'? ` for the closest known word, or "" if none is close."""
    by_folded = {str(item).casefold(): str(item) for item in known}
    near = difflib.get_close_matches(str(word).casefold()[:LONGEST_GUESS], list(by_folded), n=1, cutoff=0.6)
    return f"did you mean {by_folded[near[0]]!r}? " if near else ""


class Explainer:
    """Explains errors with the allowed keys, ranges and descriptions of the recipe's JSON Schema."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema, self._defs = schema, schema.get("$defs", {})

    def explain(self, error: Mapping[str, Any], data: Any) -> Finding:
        """Return the finding for an entry of `ValidationError.errors()`; `data` is the validated input."""
        path, kind = plain_path(error["loc"], data), str(error["type"])
        seen = _Error(
            path, kind, error.get("input"), error.get("ctx", {}), self._at(path, data), self._at(path[:-1], data)
        )
        if kind == "value_error":
            return _from_validator(seen)
        what, fix = _TABLE.get(kind, _unlisted(str(error["msg"])))(seen)
        return Finding(path, what, fix)

    def explain_all(self, errors: Sequence[Mapping[str, Any]], data: Any) -> list[Finding]:
        """Return the findings of all errors; a list with invalid entries is not also reported as too short."""
        places = [tuple(error["loc"]) for error in errors]
        kept = [
            error
            for error in errors
            if error["type"] != "too_short" or not any(_within(place, tuple(error["loc"])) for place in places)
        ]
        return [finding for error in kept for finding in self._findings(error, data)]

    def _findings(self, error: Mapping[str, Any], data: Any) -> list[Finding]:
        raised = (error.get("ctx") or {}).get("error")
        if isinstance(raised, FieldErrors):
            path = plain_path(error["loc"], data)
            return [Finding((*path, *one.path), one.what, one.fix) for one in raised.findings]
        return [self.explain(error, data)]

    def _at(self, path: Path, data: Any) -> Mapping[str, Any]:
        node: Mapping[str, Any] = self._schema
        for step in path:
            node = self._resolve(node, data)
            if isinstance(step, int):
                node = node.get("items") or {}
            else:
                more = node.get("additionalProperties")
                node = node.get("properties", {}).get(step) or (more if isinstance(more, dict) else {})
            data = _child(data, step)
        return self._resolve(node, data)

    def _resolve(self, node: Mapping[str, Any], data: Any) -> Mapping[str, Any]:
        outer = node
        if "discriminator" in node:
            chosen = data.get("kind") if isinstance(data, dict) else None
            mapping = node["discriminator"]["mapping"]
            if not isinstance(chosen, str) or chosen not in mapping:
                return node
            node = {"$ref": mapping[chosen]}
        for option in node.get("oneOf", ()):  # blocks that are told apart by the key that only they have
            target = self._target(option)
            if isinstance(data, dict) and target.get("required", [""])[0] in data:
                node = target
                break
        for option in node.get("anyOf", ()):
            if option.get("type") != "null":
                node = option
                break
        node = self._target(node)
        return {**node, "description": outer["description"]} if "description" in outer else node

    def _target(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._defs.get(str(node["$ref"]).rsplit("/", 1)[-1], {}) if "$ref" in node else node


def _within(place: Path, outer: Path) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer


def plain_path(loc: Sequence[str | int], data: Any) -> Path:
    """Return the path as written in the file, without the tags inserted by a discriminated union."""
    path: list[str | int] = []
    for step in loc:
        tag = isinstance(data, dict) and step not in data and data.get("kind") == step
        if tag and len(path) == 1:
            continue
        path.append(step)
        data = _child(data, step)
    return tuple(path)


def _child(data: Any, step: str | int) -> Any:
    if isinstance(data, dict):
        return data.get(step)
    if isinstance(data, list) and isinstance(step, int) and step < len(data):
        return data[step]
    return None


_NAMES = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a block"}


def _kind_of(value: Any) -> str:
    return "empty" if value is None else _NAMES.get(type(value), f"a {type(value).__name__}")


def _shown(error: _Error) -> str:
    """The value for a message; empty for a field that may hold a secret."""
    secret = any("key" in str(step) or step in ("headers_env", "extra", "base_url") for step in error.path)
    if secret or isinstance(error.value, list | dict):
        return ""
    text = redact(repr(error.value))
    return f" ({text})" if len(text) <= 60 else f" ({text[:57]}…)"


def _about(error: _Error) -> str:
    return f" ({error.schema['description']})" if error.schema.get("description") else ""


def _keys(schema: Mapping[str, Any]) -> str:
    return ", ".join(schema.get("properties", {})) or "none"


def _missing(error: _Error) -> tuple[str, str]:
    return f"{error.name} is missing", f"add {error.name}: …{_about(error)}"


def _extra(error: _Error) -> tuple[str, str]:
    guess = did_you_mean(error.name, error.parent.get("properties", {}))
    return f"unknown field {error.name!r}", f"{guess}allowed here: {_keys(error.parent)}"


def _typed(wanted: str, example: str) -> Callable[[_Error], tuple[str, str]]:
    def explain(error: _Error) -> tuple[str, str]:
        return f"{error.name} must be {wanted}, but is {_kind_of(error.value)}{_shown(error)}", f"write {example}"

    return explain


def _text(error: _Error) -> tuple[str, str]:
    what = f"{error.name} must be text, but is {_kind_of(error.value)}{_shown(error)}"
    if isinstance(error.value, bool):
        return what, 'YAML reads yes, no, on and off as true or false: quote the word, such as "no"'
    if isinstance(error.value, list | dict):
        return what, "write a single text here" + _about(error)
    return what, "write a text; quote it if it looks like a number or a date" + _about(error)


def _range_of(schema: Mapping[str, Any]) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    parts = [
        f"at least {low:g}" if low is not None else f"above {above:g}" if above is not None else "",
        f"at most {high:g}" if high is not None else f"below {below:g}" if below is not None else "",
    ]
    return " and ".join(part for part in parts if part) or "another number"


def _range(error: _Error) -> tuple[str, str]:
    return f"{error.name} is out of range{_shown(error)}", f"give a number of {_range_of(error.schema)}{_about(error)}"


def _choice(error: _Error) -> tuple[str, str]:
    known = re.findall(r"'([^']+)'", str(error.ctx.get("expected", "")))
    guess = did_you_mean(str(error.value), known)
    return f"{error.name} cannot be{_shown(error) or ' this'}", f"{guess}choose one of: {', '.join(known)}"


def _tag(error: _Error) -> tuple[str, str]:
    known = re.findall(r"'([^']+)'", str(error.ctx.get("expected_tags", "")))
    known = known or list(error.schema.get("discriminator", {}).get("mapping", {}))
    if error.kind == "union_tag_not_found":
        return f"{error.name} has no kind", f"add kind: one of {', '.join(known)}"
    tag = str(error.ctx.get("tag", ""))
    return f"{error.name} has no kind {tag!r}", f"{did_you_mean(tag, known)}choose kind from: {', '.join(known)}"


def _pattern(error: _Error) -> tuple[str, str]:
    what = f"{error.name} has characters that are not allowed{_shown(error)}"
    if error.name == "api_key_env":
        return what, "give the name of an environment variable, such as MY_API_KEY, never the key itself"
    if error.name == "language":
        return what, "give the two or three lower-case letters of the language, such as en"
    return what, "use lower-case letters, digits, dot, dash and underscore; start and end with a letter or digit"


def _count(error: _Error) -> tuple[str, str]:
    low, high = error.ctx.get("min_length"), error.ctx.get("max_length")
    have = error.ctx.get("actual_length", len(error.value) if isinstance(error.value, str | list | dict) else 0)
    bound = f"at least {low}" if low is not None else f"at most {high}"
    if isinstance(error.value, str):
        if error.value == "":
            return f"{error.name} is empty", f"write something{_about(error)}"
        return f"{error.name} has {have} characters", f"write {bound} characters"
    what = f"{error.name} is empty" if have == 0 else f"{error.name} has {have} entries"
    return what, f"give {bound}"


def _unlisted(message: str) -> Callable[[_Error], tuple[str, str]]:
    return lambda error: (f"{error.name} is not valid: {message}", f"see docs/recipes.md{_about(error)}")


_number = _typed("a number", "a number without quotes or units, such as 0.9")
_whole = _typed("a whole number", "a whole number, such as 30")
_list = _typed("a list", "one entry per line, each starting with a dash, or [a, b]")


def _block(error: _Error) -> tuple[str, str]:
    what = f"{error.name} must be a block of fields, but is {_kind_of(error.value)}{_shown(error)}"
    kinds = error.schema.get("discriminator", {}).get("mapping")
    fields = f"kind (one of {', '.join(kinds)}) and the fields of that kind" if kinds else _keys(error.schema)
    return what, f"indent its fields under it: {fields}"


_TABLE: dict[str, Callable[[_Error], tuple[str, str]]] = {
    "missing": _missing,
    "extra_forbidden": _extra,
    "string_type": _text,
    "string_pattern_mismatch": _pattern,
    **dict.fromkeys(("string_too_short", "string_too_long", "too_short", "too_long"), _count),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), _whole),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), _number),
    **dict.fromkeys(("bool_type", "bool_parsing"), _typed("true or false", "true or false")),
    **dict.fromkeys(("tuple_type", "list_type", "iterable_type"), _list),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type", "dict_attributes_type"), _block),
    **dict.fromkeys(("greater_than", "greater_than_equal", "less_than", "less_than_equal"), _range),
    "literal_error": _choice,
    **dict.fromkeys(("union_tag_invalid", "union_tag_not_found"), _tag),
}

_FIELD = re.compile(r"^(?P<field>[a-z_]+(?:\.\w+)*): (?P<rest>.*)$", re.DOTALL)
_SECTIONS = ("models", "roles", "target", "seeds", "task", "method")

# Of validators that do not raise FieldErrors yet: the methods' and the tasks'.
_VALIDATOR_FIXES: tuple[tuple[str, str, str], ...] = (
    # what the message contains, the field (under the model's own path) that it is about, the fix
)


def _from_validator(error: _Error) -> Finding:
    """Split a message of one of the schemas' own validators into path, problem and fix."""
    message, path = str(error.ctx.get("error", "")), error.path
    match = _FIELD.match(message)
    if match and not path and match["field"].split(".")[0] in _SECTIONS:
        path = tuple(int(step) if step.isdigit() else step for step in match["field"].split("."))
        message = match["rest"]
    for part, field, fix in _VALIDATOR_FIXES:
        if part in message:
            own = bool(field) and (not path or path[-1] != field)
            return Finding((*path, field) if own else path, message.split("; ")[0], fix)
    return Finding(path, message, "see docs/recipes.md")
