"""Shapes: what a column's value looks like, so that every path into it is checked before a run.

A shape is declared for a reply (`reply: {stars: {number: [1, 5]}}`) or follows from a step. It gives the JSON Schema
that a model's server enforces, and whether a value may stand in a prompt as it is: numbers, and texts of the recipe.
All other texts are material, which prompts fence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import JsonValue

from graft.agents.roles.asking import object_schema
from graft.schemas.problems import Finding, did_you_mean

Type = Literal["any", "text", "number", "integer", "boolean", "enum", "list", "object"]
WORDS = ("text", "number", "integer", "boolean", "label")
BLOCKS = ("text", "number", "integer", "enum", "list", "object")
MOST_ITEMS = 1_000
"""Elements of a list in a reply, at most."""
DEEPEST = 4


@dataclass(frozen=True)
class Shape:
    """The shape of a value.

    Args:
        type: `any` is a value whose parts are not known
        options: an enum's values; empty: the task's labels
        bounds: least and most of a number; most characters of a text, or elements of a list
        item: a list's element
        fields: an object's fields
        plain: a text of the recipe's own, which a prompt shows without a fence
    """

    type: Type = "any"
    options: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = None
    item: Shape | None = None
    fields: Mapping[str, Shape] = field(default_factory=dict)
    plain: bool = False

    @property
    def trusted(self) -> bool:
        """True if no part of the value is a text from a model, a file or a document."""
        if self.type == "list":
            return (self.item or ANY).trusted
        if self.type == "object" and self.fields:
            return all(one.trusted for one in self.fields.values())
        return self.plain or self.type in ("number", "integer", "boolean", "enum")

    def at(self, name: str) -> Shape | str:
        """The shape of a field, of every element's field if it is a list; or the problem if there is none."""
        if self.type == "list":
            found = (self.item or ANY).at(name)
            return found if isinstance(found, str) else Shape("list", item=found)
        if self.type == "any":
            return replace(ANY, plain=self.plain)
        if self.type != "object":
            return f"is {NOUNS[self.type]}, without fields"
        if name in self.fields:
            return self.fields[name]
        return f"has no field {name!r}: {did_you_mean(name, self.fields)}it has {', '.join(self.fields)}"


ANY = Shape()
TEXT = Shape("text")
PLAIN = Shape("text", plain=True)
NUMBER = Shape("number")
NOUNS: Mapping[Type, str] = {
    "any": "a value", "text": "a text", "number": "a number", "integer": "a whole number",
    "boolean": "true or false", "enum": "one of a list", "list": "a list", "object": "an object",
}  # fmt: skip


def walk(shape: Shape, path: Sequence[str | int]) -> Shape | str:
    """The shape at a path into a value, or the problem of the first step that leads nowhere."""
    at = shape
    for step in path:
        if isinstance(step, int):
            if at.type not in ("list", "any"):
                return f"is {NOUNS[at.type]}, not a list"
            at = (at.item or ANY) if at.type == "list" else at
            continue
        found = at.at(step)
        if isinstance(found, str):
            return found
        at = found
    return at


def shape_in(given: Any, path: tuple[str | int, ...] = (), depth: int = 0) -> tuple[Shape, list[Finding]]:
    """The shape that a recipe declares for a reply, and what is wrong with it."""
    words = f"write one of {', '.join(WORDS)}; or {{enum: [a, b]}}, {{number: [1, 5]}}, {{list: text}}, {{object: …}}"
    if depth > DEEPEST:
        return ANY, [Finding(path, f"a reply is nested more than {DEEPEST} deep", "flatten it, or ask in two steps")]
    if isinstance(given, str):
        if given not in WORDS:
            return ANY, [Finding(path, f"{given!r} is no shape of a value", f"{did_you_mean(given, WORDS)}{words}")]
        return (Shape("enum") if given == "label" else Shape(given)), []  # type: ignore[arg-type]
    if isinstance(given, Mapping) and "list" in given and set(given) == {"list", "most"}:
        return _bounded_list(given, path, depth)
    if isinstance(given, Mapping) and len(given) == 1:
        name, inner = next(iter(given.items()))
        if name in BLOCKS:
            return _block(str(name), inner, (*path, str(name)), depth)
    return ANY, [Finding(path, "this is no shape of a value", words)]


def _bounded_list(given: Mapping[str, Any], path: tuple[str | int, ...], depth: int) -> tuple[Shape, list[Finding]]:
    most = given["most"]
    item, found = shape_in(given["list"], (*path, "list"), depth + 1)
    if type(most) is not int or not 0 < most <= MOST_ITEMS:
        found.append(Finding((*path, "most"), "it is no number of elements", f"write 1 to {MOST_ITEMS:,}"))
        return Shape("list", item=item), found
    return Shape("list", item=item, bounds=(0, most)), found


def _block(name: str, inner: Any, path: tuple[str | int, ...], depth: int) -> tuple[Shape, list[Finding]]:
    if name == "enum":
        return _enum(inner, path)
    if name == "list":
        item, found = shape_in(inner, path, depth + 1)
        return Shape("list", item=item), found
    if name == "object":
        return fields_in(inner, path, depth + 1)
    if name == "text":
        whole = isinstance(inner, int) and not isinstance(inner, bool) and inner > 0
        fix = "write the most characters, such as {text: 300}"
        return Shape("text", bounds=(0, inner) if whole else None), [] if whole else [
            Finding(path, "the most characters must be a whole number above 0", fix)
        ]
    number = isinstance(inner, Sequence) and len(inner) == 2 and all(type(one) in (int, float) for one in inner)
    if not number or not inner[0] < inner[1]:
        return ANY, [Finding(path, "a number's bounds are two numbers, the lower first", f"write {{{name}: [1, 5]}}")]
    return Shape(name, bounds=(inner[0], inner[1])), []  # type: ignore[arg-type]


def _enum(inner: Any, path: tuple[str | int, ...]) -> tuple[Shape, list[Finding]]:
    if inner in ("labels", "label"):
        return Shape("enum"), []
    if not isinstance(inner, Sequence) or isinstance(inner, str) or not all(isinstance(one, str) for one in inner):
        return ANY, [Finding(path, "an enum is a list of texts", "write {enum: [good, bad]}, or {enum: labels}")]
    if len(set(inner)) < 2 or len(set(inner)) < len(inner):
        what = "an enum needs two different values" if len(set(inner)) < 2 else "an enum names a value twice"
        return ANY, [Finding(path, what, "list every value once; a single possible value needs no model")]
    return Shape("enum", options=tuple(inner)), []


def fields_in(given: Any, path: tuple[str | int, ...], depth: int = 0) -> tuple[Shape, list[Finding]]:
    """The shape of an object from its fields, and what is wrong with them."""
    if not isinstance(given, Mapping) or not given:
        return ANY, [Finding(path, "an object needs fields", "write a name and a shape for each, such as {text: text}")]
    fields, problems = {}, list[Finding]()
    for name, one in given.items():
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
            fix = "use letters, digits and underscore; begin with a letter"
            problems.append(Finding((*path, str(name)), f"{name!r} is no name of a field", fix))
            continue
        fields[name], found = shape_in(one, (*path, name), depth)
        problems += found
    return Shape("object", fields=fields), problems


def texts_in(shape: Shape) -> int:
    """The texts that a reply holds, about: a list without a number of elements counts as three."""
    if shape.type == "object":
        return sum(map(texts_in, shape.fields.values()))
    if shape.type == "list":
        return int(shape.bounds[1] if shape.bounds else 3) * texts_in(shape.item or TEXT)
    return int(shape.type == "text")


def schema_of(shape: Shape, labels: Sequence[str], chars: int = 0) -> dict[str, Any]:
    """The JSON Schema of a shape. With `chars` (for embedded models, whose grammar ends a text) texts have that length
    at most, and lists an end; hosted servers refuse both in strict schemas."""
    if shape.type == "object":
        return object_schema({name: schema_of(one, labels, chars) for name, one in shape.fields.items()})
    if shape.type == "list":
        most = {"maxItems": int(shape.bounds[1]) if shape.bounds else 10} if chars else {}
        return {"type": "array", "items": schema_of(shape.item or TEXT, labels, chars), **most}
    if shape.type == "enum":
        return {"type": "string", "enum": list(shape.options or labels)}
    if shape.type in ("number", "integer"):
        low_high = dict(zip(("minimum", "maximum"), shape.bounds, strict=True)) if shape.bounds else {}
        return {"type": shape.type, **low_high}
    if shape.type == "boolean":
        return {"type": "boolean"}
    longest = int(min(chars, shape.bounds[1] if shape.bounds else chars))
    return {"type": "string", "maxLength": longest} if chars else {"type": "string"}


def unmet_by(value: JsonValue, shape: Shape, labels: Sequence[str], where: str = "") -> str:
    """Why a reply's value does not have a shape; empty if it has. A field that was not requested is no problem."""
    named = f"{where or 'the reply'} "
    if shape.type == "object":
        if not isinstance(value, dict):
            return named + "is no object"
        missing = [name for name in shape.fields if name not in value]
        if missing:
            return f"{named}has no field {missing[0]!r}"
        inner = (unmet_by(value[name], one, labels, _join(where, name)) for name, one in shape.fields.items())
        return next(filter(None, inner), "")
    if shape.type == "list":
        if not isinstance(value, list):
            return named + "is no list"
        most = int(shape.bounds[1]) if shape.bounds else MOST_ITEMS
        if len(value) > most:
            return f"{named}is a list of {len(value):,} elements, more than {most:,}"
        inner = (unmet_by(one, shape.item or TEXT, labels, f"{where}[{at}]") for at, one in enumerate(value))
        return next(filter(None, inner), "")
    return named + problem if (problem := _scalar(value, shape, labels)) else ""


def _scalar(value: JsonValue, shape: Shape, labels: Sequence[str]) -> str:
    if shape.type == "enum":
        return "" if value in (shape.options or labels) else "is none of the values that were listed"
    if shape.type == "boolean":
        return "" if isinstance(value, bool) else "is not true or false"
    if shape.type in ("number", "integer"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "is no number"
        if shape.type == "integer" and value != int(value):
            return "is no whole number"
        low, high = shape.bounds or (value, value)
        return "" if low <= value <= high else f"is {value:g}, outside {low:g} to {high:g}"
    if not isinstance(value, str):
        return "is no text"
    if not value.strip():
        return "is empty"
    return "" if shape.bounds is None or len(value) <= shape.bounds[1] else f"has {len(value)} characters, too many"


def kept(value: JsonValue, shape: Shape) -> JsonValue:
    """A value that has the shape, with only its fields, and texts without space around them."""
    if shape.type == "object" and isinstance(value, dict):
        return {name: kept(value[name], one) for name, one in shape.fields.items()}
    if shape.type == "list" and isinstance(value, list):
        return [kept(one, shape.item or TEXT) for one in value]
    return value.strip() if isinstance(value, str) else value


def described(shape: Shape, labels: Sequence[str]) -> str:
    """The JSON that a reply is, in words for a prompt."""
    if shape.type == "object":
        inner = ", ".join(f'"{name}": {described(one, labels)}' for name, one in shape.fields.items())
        return f"{{{inner}}}"
    if shape.type == "list":
        least = f" (at most {shape.bounds[1]:g})" if shape.bounds else ""
        return f"[{described(shape.item or TEXT, labels)}, …{least}]"
    if shape.type == "enum":
        return "one of " + ", ".join(f'"{one}"' for one in (shape.options or labels))
    if shape.type in ("number", "integer"):
        words = "a whole number" if shape.type == "integer" else "a number"
        return f"{words} from {shape.bounds[0]:g} to {shape.bounds[1]:g}" if shape.bounds else words
    if shape.type == "text" and shape.bounds:
        return f'"… (at most {shape.bounds[1]:g} characters)"'
    return "true or false" if shape.type == "boolean" else '"…"'


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
