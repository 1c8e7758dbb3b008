"""A recipe's text as a form: a few fields beside the YAML, problems by line, and one field changed in its place.

The text is the recipe; the form only shows and changes parts of it. Comments and every other field stay as they are.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from graft.agents.local.detect import model_spec
from graft.flows.first_recipe import Look, compose, problems_of, task_fields
from graft.schemas.base import Value
from graft.schemas.errors import InputInvalid, Problem
from graft.schemas.kinds import TASKS
from graft.schemas.plain_yaml import plain

FIELDS = ("name", "task.text", "task.policy", "target.rows_per_label", "limits.money_usd")
"""Fields that the form shows as they are, by their dotted path."""
LISTS = ("labels", "domains")
"""Fields of a task with an entry for each label or domain."""
EXAMPLES = ("first-label", "second-label")
"""Labels of a new recipe until a person names them."""
WORDS = re.compile(r"[^\W\d_](?:[\w '/.@()-]*[\w)])?")
NUMBERS: dict[str, type[int] | type[float]] = {"target.rows_per_label": int, "limits.money_usd": float}


class Draft(Value):
    """A recipe's text, the form's fields and their values, and its problems."""

    text: str
    fields: dict[str, Any]
    problems: tuple[dict[str, Any], ...]


def begun(
    name: str, kind: str, labels: Mapping[str, str], look: Look | None, path: str, model: Mapping[str, Any],
    test: str = "",
) -> str:  # fmt: skip
    """The text of a new recipe.

    Args:
        name: of the dataset
        kind: of task
        labels: name to meaning, which may be empty; none: those of the file
        look: contents of the person's file; None: no file
        path: the file as the recipe names it
        model: the entry of `models`
        test: labelled file that tests the student, as the recipe names it; empty: none
    """
    task = TASKS.get(kind)
    named = dict(labels) or dict.fromkeys(look.labels if look else (), "")
    if task.labelled and not task.sides and len(named) < len(EXAMPLES):
        named = {**named, **dict.fromkeys(EXAMPLES[len(named) :], "")}
    fields = task_fields(task, named, look, "")
    return compose(name, task, fields, look, path, model, "Written on the page New", test)


def read(text: str, target: Path) -> Draft:
    """The text's fields and problems, as of the file `target`. Nothing is written there."""
    problems = problems_of(target, text)
    return Draft(text=text, fields=fields_of(text), problems=tuple(shown(problems)))


def shown(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Problems as a page lists them: without the file, which is the text beside them."""
    return [{"line": one.line, "field": one.field, "what": one.what, "fix": one.fix} for one in problems]


def changed(text: str, field: str, value: Any, known: Mapping[str, Mapping[str, Any]]) -> str:
    """The text with one of the form's fields changed; an empty value removes the field.

    Args:
        text: the recipe
        field: one of FIELDS, `labels` (a list of name and description), `model` or `key`
        value: the new value
        known: models of this machine by the line that the form shows: entries of `models`

    Raises InputInvalid if the text is no YAML, or the value does not fit the field.
    """
    data = _round_trip(text)
    if field == "labels":
        _set_labels(data, value)
    elif field in ("model", "key"):
        _set_model(data, field, str(value).strip(), known)
    elif field in FIELDS:
        *blocks, last = field.split(".")
        block = data
        for name in blocks:
            block = _inner(block, name)
        if str(value).strip():
            block[last] = _number(field, str(value)) if field in NUMBERS else _scalar(str(value).strip())
        else:
            block.pop(last, None)
    else:
        raise InputInvalid([Problem("form", None, field, "is no field of the form", "change it in the YAML")])
    out = io.StringIO()
    _writer().dump(data, out)
    return out.getvalue()


def plain_or_empty(text: str) -> dict[str, Any]:
    """The recipe's data; empty if the text is no YAML or no block of fields."""
    try:
        data = plain(text)
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


def fields_of(text: str) -> dict[str, Any]:
    """The form's values; a field that the task does not have is left out. Empty if the text is no YAML."""
    data = plain_or_empty(text)
    return _fields(data) if data else {}


def _fields(data: Mapping[str, Any]) -> dict[str, Any]:
    task = data.get("task") if isinstance(data.get("task"), dict) else {}
    kind = task.get("kind") if isinstance(task, dict) else None
    own = TASKS.get(kind).model_fields if isinstance(kind, str) and kind in TASKS.names else {}
    found: dict[str, Any] = {"task.kind": kind}
    for field in FIELDS:
        block, _, last = field.rpartition(".")
        if block != "task" or last in own:
            holder = data if not block else data.get(block)
            found[field] = holder.get(last, "") if isinstance(holder, dict) else ""
    named = next((name for name in LISTS if name in own), None)
    if named and isinstance(task, dict):
        entries = task.get(named)
        found["labels"] = [
            {"name": str(one.get("name", "")), "description": str(one.get("description") or "")}
            for one in (entries if isinstance(entries, list) else ()) if isinstance(one, dict)
        ]  # fmt: skip
    first = _first_model(data)
    return {**found, "model": line_of(first), "key": str(first.get("api_key_env", "")), "models": _count(data)}


def _first_model(data: Mapping[str, Any]) -> Mapping[str, Any]:
    pool = data.get("models")
    return pool[0] if isinstance(pool, list) and pool and isinstance(pool[0], dict) else {}


def _count(data: Mapping[str, Any]) -> int:
    pool = data.get("models")
    return len(pool) if isinstance(pool, list) else 0


def line_of(model: Mapping[str, Any]) -> str:
    """A model in one line, as `model_spec` reads it; empty if there is none."""
    name, address = str(model.get("model", "")), model.get("base_url")
    return f"{name}@{address}" if address else name


def _set_labels(data: CommentedMap, value: Any) -> None:
    task = _inner(data, "task")
    name = next((one for one in LISTS if one in TASKS.get(str(task.get("kind"))).model_fields), None)
    if name is None or not isinstance(value, Sequence):
        raise InputInvalid([Problem("form", None, "labels", "this task has no labels", "change the task")])
    if not isinstance(task.get(name), CommentedSeq):
        task[name] = CommentedSeq()
    entries, wanted = task[name], [one["name"] for one in value]
    if len(entries) > len(value):
        for place in reversed(range(len(entries))):
            if not isinstance(entries[place], CommentedMap) or entries[place].get("name") not in wanted:
                del entries[place]
    for place, given in enumerate(value):
        if place == len(entries):
            entries.append(CommentedMap())
            entries[place].fa.set_flow_style()
        elif not isinstance(entries[place], CommentedMap):
            entries[place] = CommentedMap()
        entries[place]["name"] = _scalar(given["name"])
        if given.get("description") or "description" in entries[place]:
            entries[place]["description"] = _scalar(given.get("description", ""))


def _set_model(data: CommentedMap, field: str, line: str, known: Mapping[str, Mapping[str, Any]]) -> None:
    if not isinstance(data.get("models"), CommentedSeq):
        data["models"] = CommentedSeq()
    pool = data["models"]
    if not pool:
        pool.append(CommentedMap())
        pool[0].fa.set_flow_style()
    entry = pool[0]
    if field == "key":
        entry.update(api_key_env=_scalar(line)) if line else entry.pop("api_key_env", None)
        return
    if not line:
        raise InputInvalid([Problem("form", None, "model", "no model is given", "choose one, or write provider/model")])
    before, spec = entry.get("name"), dict(known.get(line) or model_spec(line))
    kept = {name: entry[name] for name in ("api_key_env",) if name in entry and spec["provider"] != "embedded"}
    entry.clear()
    entry.update({**{name: _scalar(one) if isinstance(one, str) else one for name, one in spec.items()}, **kept})
    for role in (data.get("roles") or {}).values():
        names = role.get("models") if isinstance(role, CommentedMap) else None
        if isinstance(names, CommentedSeq):
            names[:] = [spec["name"] if one == before else one for one in names]


def _inner(block: CommentedMap, name: str) -> CommentedMap:
    if not isinstance(block.get(name), CommentedMap):
        block[name] = CommentedMap()
    inner: CommentedMap = block[name]
    return inner


def _scalar(text: str) -> str:
    """The text for the YAML: in quotes unless it is plain words, which every reader of YAML takes for text."""
    plain_words = WORDS.fullmatch(text) and plain(text) == text
    return text if plain_words else DoubleQuotedScalarString(text)


def _number(field: str, value: str) -> int | float:
    try:
        return NUMBERS[field](value)
    except ValueError:
        kind = "a whole number" if NUMBERS[field] is int else "a number"
        raise InputInvalid([Problem("form", None, field, f"{value[:40]!r} is not {kind}", "write digits")]) from None


def _round_trip(text: str) -> CommentedMap:
    """The text with its comments. Raises InputInvalid if it is no YAML, or larger or deeper than a recipe may be."""
    try:
        plain(text)
        data = _writer().load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line, what = (mark.line + 1 if mark else None), str(getattr(error, "problem", None) or error).splitlines()[0]
        problem = Problem("recipe", line, "", what, "mend the YAML first; the form can change it then")
        raise InputInvalid([problem]) from None
    if not isinstance(data, CommentedMap):
        raise InputInvalid([Problem("recipe", 1, "", "the text is no block of fields", "begin with name: my-dataset")])
    return data


def _writer() -> YAML:
    made = YAML()
    made.width, made.preserve_quotes = 100_000, True
    made.indent(mapping=2, sequence=4, offset=2)
    made.representer.add_representer(
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return made
