"""Prompts of a recipe: Jinja with columns alone, and every text that is not the recipe's own fenced.

A template is read once, at validation. Only the constructs of ALLOWED may stand in it: no calls, macros, imports or
attributes, two nested loops at most. An output whose text comes from a model, a file or a document is then put between
tags of its column's name, inside which the text cannot close them; filters and loops do not lose that mark, as it hangs
on the template's own tree and not on the value. Model output is never a template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast

import jinja2
import orjson
from jinja2 import nodes
from jinja2.runtime import LoopContext
from jinja2.sandbox import SandboxedEnvironment

from graft.agents.methods.columns.parts.expressions import Path, field_of
from graft.agents.methods.columns.parts.functions import shown
from graft.agents.methods.columns.parts.shapes import ANY, Shape, walk
from graft.schemas.problems import did_you_mean

MOST_CHARS = 50_000
MOST_PROMPT = 400_000
"""Characters of a template, and of a prompt made from it."""
MOST_LOOPS = 2
MOST_ELEMENTS = 1_000
"""Loops inside each other, and rounds of one loop."""
TAGS = "tags_"
"""Name of the pattern of tags in a rendering; no column begins or ends like it."""
FILTERS = frozenset({
    "capitalize", "first", "join", "last", "length", "line", "list", "lower", "round", "sort", "title", "tojson",
    "trim", "unique", "upper", "words",
})  # fmt: skip
TESTS = frozenset({"defined", "none", "number", "string", "mapping", "sequence", "in", "true", "false", "even", "odd"})
LOOP = frozenset({"index", "index0", "first", "last", "length"})
ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Const, nodes.If,
    nodes.For, nodes.Filter, nodes.Test, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.CondExpr,
    nodes.List, nodes.Tuple, nodes.Neg,
)  # fmt: skip
_WORDS: Mapping[type[nodes.Node], str] = {
    nodes.Call: "calls are not allowed: columns are read, not called",
    **dict.fromkeys((nodes.Pow, nodes.Mul, nodes.Add, nodes.Sub, nodes.Div, nodes.Mod, nodes.Concat),
                    "nothing is calculated in a prompt: use a step `expr`"),
}  # fmt: skip


class BadTemplate(ValueError):
    """A template that is not allowed, or cannot be rendered."""


class _Plain(SandboxedEnvironment):
    """Reads fields of objects and places of lists, and no attribute of any Python object but a loop's counters."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, LoopContext):
            return getattr(obj, argument) if argument in LOOP else self.undefined(obj=obj, name=str(argument))
        return field_of(obj, argument)


def _fence(value: Any, tag: str, tags: re.Pattern[str]) -> str:
    """A text of unknown origin between tags; numbers and truth values as they are. It cannot close its tag."""
    if value is None or isinstance(value, bool | int | float):
        return shown(value)
    text = tags.sub("‹", shown(value))
    edge = "\n" if "\n" in text else ""
    return f"<{tag}>{edge}{text}{edge}</{tag}>"


def _line(text: Any, limit: int = 400) -> str:
    return " ".join(shown(text).split())[:limit]


def _elements(value: Any) -> list[Any]:
    """The rounds of a loop: a list's elements; none for a value that is missing."""
    if not isinstance(value, list | tuple) and value is not None:
        raise BadTemplate("a loop goes over a list")
    return list(value or ())[:MOST_ELEMENTS]


def _environment() -> _Plain:
    made = _Plain(
        undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True, finalize=shown
    )
    own = {
        "line": _line,
        "words": lambda text: len(shown(text).split()),
        "tojson": lambda one: orjson.dumps(one).decode(),
    }
    made.filters = {**{name: made.filters[name] for name in FILTERS - set(own)}, **own}
    made.filters |= {"fence": _fence, "elements": _elements}
    made.tests = {name: test for name, test in made.tests.items() if name in TESTS | {"eq", "ne"}}
    made.globals = {}
    return made


_ENVIRONMENT = _environment()


@dataclass(frozen=True)
class Template:
    """A template that was read. `paths` are those into columns, for checks, without names that the template binds."""

    source: str
    paths: tuple[Path, ...]

    @property
    def names(self) -> frozenset[str]:
        """The columns that it reads."""
        return frozenset(str(path[0]) for path in self.paths)


@dataclass(frozen=True)
class Fenced:
    """A template with its fences. `material` are the tags that it fences."""

    made: jinja2.Template
    material: tuple[str, ...]
    tags: re.Pattern[str]

    def render(self, columns: Mapping[str, Any]) -> str:
        """The prompt. Raises BadTemplate if it is too long or a value does not fit the template."""
        parts, length = list[str](), 0
        try:
            for part in self.made.generate({**columns, TAGS: self.tags}):
                length += len(part)
                if length > MOST_PROMPT:
                    raise BadTemplate(f"the prompt has more than {MOST_PROMPT:,} characters")
                parts.append(part)
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise BadTemplate(str(error)) from None
        return "".join(parts).strip()


@lru_cache(maxsize=1_024)
def read(source: str) -> Template:
    """The template of a text. Raises BadTemplate for anything that is not allowed."""
    walked = _Walk()
    try:
        walked.body(_parse(source).body, {})
    except RecursionError:
        raise BadTemplate("it is nested too deeply") from None
    return Template(source, tuple(dict.fromkeys(walked.paths)))


def fenced(template: Template, shapes: Mapping[str, Shape], columns: Sequence[str]) -> Fenced:
    """The template with fences where these shapes are not trusted; `columns` are the tags that no text may close."""
    tree, walked = _parse(template.source), _Walk(shapes)
    walked.body(tree.body, {})
    return Fenced(_ENVIRONMENT.from_string(tree), tuple(dict.fromkeys(walked.material)), tags_of(tuple(columns)))


@lru_cache(maxsize=256)
def tags_of(columns: tuple[str, ...]) -> re.Pattern[str]:
    """The `<` of every tag, opening or closing, of these names: a text that is fenced loses it."""
    names = "|".join(sorted(map(re.escape, columns), key=len, reverse=True))
    return re.compile(rf"[<＜](?=\s*+(?:/\s*+)?(?:{names})\b)", re.IGNORECASE)


def _parse(source: str) -> nodes.Template:
    if len(source) > MOST_CHARS:
        raise BadTemplate(f"it has {len(source):,} characters, more than {MOST_CHARS:,}")
    try:
        return _ENVIRONMENT.parse(source)
    except jinja2.TemplateSyntaxError as error:
        raise BadTemplate(f"line {error.lineno}: {error.message}") from None
    except RecursionError:
        raise BadTemplate("it is nested too deeply") from None


def path_of(node: nodes.Node) -> Path | None:
    """The path of `a`, `a.b` or `a['b'][0]`; None for all else."""
    if isinstance(node, nodes.Name):
        return (node.name,)
    if isinstance(node, nodes.Getattr):
        inner = path_of(node.node)
        return None if inner is None else (*inner, node.attr)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        inner, key = path_of(node.node), node.arg.value
        return (*inner, key) if inner is not None and type(key) in (str, int) else None
    return None


@dataclass(frozen=True)
class _Source:
    """Where a part of an output comes from: its shape, and the column that names its tag."""

    shape: Shape
    tag: str


Scope = Mapping[str, Sequence[_Source]]


@dataclass
class _Walk:
    """Checks every node of a template, collects the paths that it reads, and puts fences around outputs."""

    shapes: Mapping[str, Shape] = field(default_factory=dict)
    paths: list[Path] = field(default_factory=list)
    material: list[str] = field(default_factory=list)

    def body(self, body: Sequence[nodes.Node], scope: Scope, loops: int = 0) -> None:
        """Walk statements; raises BadTemplate."""
        for node in body:
            self._allowed(node)
            if isinstance(node, nodes.Output):
                node.nodes = [self._output(one, scope) for one in node.nodes]
            elif isinstance(node, nodes.If):
                self._sources(node.test, scope)
                for part in (node.body, node.elif_, node.else_):
                    self.body(part, scope, loops)
            elif isinstance(node, nodes.For):
                self._loop(node, scope, loops + 1)

    def _loop(self, node: nodes.For, scope: Scope, loops: int) -> None:
        if loops > MOST_LOOPS:
            raise BadTemplate(f"line {node.lineno}: more than {MOST_LOOPS} loops inside each other")
        if node.recursive or not isinstance(node.target, nodes.Name):
            raise BadTemplate(f"line {node.lineno}: a loop has one name: for item in items")
        over = self._sources(node.iter, scope)
        items = [_Source(one.shape.item or ANY, one.tag) if one.shape.type == "list" else one for one in over]
        inside = {**scope, node.target.name: items}
        if node.test is not None:
            self._sources(node.test, inside)
        node.iter = _filtered(node.iter, "elements", [])
        self.body(node.body, inside, loops)
        self.body(node.else_, scope, loops)

    def _output(self, node: nodes.Expr, scope: Scope) -> nodes.Expr:
        if isinstance(node, nodes.TemplateData):
            return node
        tags = [one.tag for one in self._sources(node, scope) if not one.shape.trusted]
        if not tags:
            return node
        self.material += tags
        return _filtered(node, "fence", [nodes.Const(tags[0]), nodes.Name(TAGS, "load")])

    def _sources(self, node: nodes.Node, scope: Scope) -> list[_Source]:
        """The sources of an expression's text; none for a number or a truth value."""
        self._allowed(node)
        path = path_of(node)
        if path is not None:
            return self._read(path, scope)
        if isinstance(node, nodes.Filter):
            return self._filter(node, scope)
        if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
            raise BadTemplate(f"{node.attr!r} is not a field: names do not begin with an underscore")
        if isinstance(node, nodes.Test) and node.name not in TESTS:
            raise BadTemplate(f"line {node.lineno}: no test {node.name!r}: {', '.join(sorted(TESTS))}")
        found = [one for inner in node.iter_child_nodes() for one in self._sources(inner, scope)]
        return [] if isinstance(node, nodes.Test | nodes.Compare | nodes.Not) else found

    def _filter(self, node: nodes.Filter, scope: Scope) -> list[_Source]:
        if node.name not in FILTERS:
            near = did_you_mean(node.name, FILTERS)
            raise BadTemplate(f"line {node.lineno}: no filter {node.name!r}: {near}{', '.join(sorted(FILTERS))}")
        if node.node is None or node.kwargs or not all(isinstance(one, nodes.Const) for one in node.args):
            raise BadTemplate(f"line {node.lineno}: {node.name} takes plain texts and numbers only")
        found = self._sources(node.node, scope)
        return [] if node.name in ("length", "words", "round") else found

    def _read(self, path: Path, scope: Scope) -> list[_Source]:
        hidden = next((one for one in path if str(one).startswith("_")), None)
        if hidden is not None:
            raise BadTemplate(f"{hidden!r} is not a column or field: names do not begin with an underscore")
        root, *rest = path
        if root == "loop":
            return []
        if root not in scope:
            self.paths.append(path)
        found = list[_Source]()
        for one in scope.get(str(root), [_Source(self.shapes.get(str(root), ANY), str(root))]):
            shape = walk(one.shape, rest)
            found.append(_Source(ANY if isinstance(shape, str) else shape, one.tag))
        return found

    def _allowed(self, node: nodes.Node) -> None:
        if not isinstance(node, ALLOWED):
            name = type(node).__name__
            what = _WORDS.get(type(node), f"{name} is not allowed: only outputs, if, for and filters are")
            raise BadTemplate(f"line {node.lineno}: {what}")


def _filtered(node: nodes.Node, name: str, arguments: list[nodes.Expr]) -> nodes.Filter:
    made = nodes.Filter(cast("nodes.Expr", node), name, arguments, [], None, None)
    made.set_lineno(node.lineno)
    made.set_environment(_ENVIRONMENT)
    return made
