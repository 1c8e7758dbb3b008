"""A deployment's parameters: form fields, submitted values, and their validation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from graft.schemas.base import Value
from graft.schemas.errors import GraftError
from graft.schemas.redaction import has_key

Kind = Literal["text", "whole", "number", "truth", "choice", "json"]
KINDS: dict[str, Kind] = {"string": "text", "integer": "whole", "number": "number", "boolean": "truth"}
WORDS: dict[Kind, str] = {
    "text": "a text", "whole": "a whole number, such as 50", "number": "a number, such as 1.5",
    "truth": "true or false", "choice": "one of the choices", "json": "JSON",
}  # fmt: skip


class ParameterInfo(Value):
    """One parameter of a flow. `default` applies if it is left out: the deployment's value, else the flow's."""

    name: str
    kind: Kind
    required: bool = False
    nullable: bool = False
    default: Any = None
    description: str = ""
    choices: tuple[Any, ...] = ()


def parameters_of(schema: Mapping[str, Any] | None, values: Mapping[str, Any]) -> tuple[ParameterInfo, ...]:
    """A deployment's parameters, in the flow's order, from its JSON Schema and values."""
    found: Mapping[str, Mapping[str, Any]] = (schema or {}).get("properties") or {}
    required = set((schema or {}).get("required") or ())
    ordered = sorted(found.items(), key=lambda item: item[1].get("position", len(found)))
    return tuple(
        _parameter(name, spec, values.get(name, spec.get("default")), name in required and name not in values)
        for name, spec in ordered
    )


def _parameter(name: str, spec: Mapping[str, Any], default: Any, required: bool) -> ParameterInfo:
    forms: Sequence[Mapping[str, Any]] = spec.get("anyOf") or [spec]
    real = [form for form in forms if form.get("type") != "null"]
    kind, choices = ("json", ()) if len(real) != 1 else _kind(real[0])
    return ParameterInfo(
        name=name,
        kind=kind,
        required=required,
        nullable=len(real) < len(forms),
        default=default,
        description=spec.get("description") or "",
        choices=choices,
    )


def _kind(form: Mapping[str, Any]) -> tuple[Kind, tuple[Any, ...]]:
    if form.get("enum"):
        return "choice", tuple(form["enum"])
    return KINDS.get(str(form.get("type")), "json"), ()


def from_form(accepts: Sequence[ParameterInfo], texts: Mapping[str, str]) -> dict[str, Any]:
    """Values of a submitted web form, without empty fields. Raises GraftError that names the field."""
    known = {info.name: info for info in accepts}
    values: dict[str, Any] = {}
    for name, text in texts.items():
        if name not in known:
            raise _unknown(name, list(known))
        if text.strip():
            values[name] = _read(known[name], text.strip())
    return values


def _read(info: ParameterInfo, text: str) -> Any:
    truths = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
    try:
        if info.kind == "choice":
            return next(choice for choice in info.choices if str(choice) == text)
        if info.kind == "truth":
            return truths[text.lower()]
        if info.kind == "whole":
            return int(text)
        if info.kind == "number":
            return float(text)
        return json.loads(text) if info.kind == "json" else text
    except (ValueError, KeyError, StopIteration, RecursionError) as error:
        raise _mistyped(info, text) from error


def checked(
    deployment: str, schema: Mapping[str, Any] | None, values: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """`given`, if the deployment's flow accepts it on top of the deployment's `values`.

    Raises GraftError that names the parameter (`where`) that is unknown, missing or of another type.
    """
    from prefect.utilities.schema_tools.validation import validate

    accepts = {info.name: info for info in parameters_of(schema, values)}
    for name in given:
        if name not in accepts:
            raise _unknown(name, list(accepts), deployment)
    for info in accepts.values():
        if info.required and info.name not in given:
            fix = f"give {info.name} {WORDS[info.kind]}"
            raise GraftError(f"{deployment} needs {info.name}", where=info.name, fix=fix)
    for name, value in given.items():
        if has_key(json.dumps(value, default=str)):  # Prefect stores parameters and shows them
            fix = "name an environment variable in the recipe instead: api_key_env"
            raise GraftError("a key must not be a parameter", where=name, fix=fix)
    for problem in validate({**values, **given}, dict(schema or {})):
        name = str(next(iter(problem.absolute_path), ""))
        if name not in accepts:
            raise GraftError(f"{deployment} rejects this: {problem.message[:200]}", where=deployment)
        raise _mistyped(accepts[name], {**values, **given}[name])
    return dict(given)


def _unknown(name: str, known: Sequence[str], deployment: str = "it") -> GraftError:
    what = f"no parameter {name!r}; {deployment} takes {', '.join(known) or 'none'}"
    return GraftError(what, where=name, fix="leave it out, or use one of those")


def _mistyped(info: ParameterInfo, value: Any) -> GraftError:
    wanted = f"one of: {', '.join(map(str, info.choices))}" if info.choices else WORDS[info.kind]
    empty = ", or leave it out" if info.nullable or not info.required else ""
    return GraftError(f"{str(value)[:100]!r} is not valid", where=info.name, fix=f"give {info.name} {wanted}{empty}")
