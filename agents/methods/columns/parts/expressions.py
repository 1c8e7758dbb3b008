"""Expressions of a recipe: `stars > 2 and len(review.text) < 300`. Pure, and bounded in size and time.

The grammar is a part of Python's: numbers, texts, lists, objects, comparisons, `and`, `or`, `not`, `in`, arithmetic
without powers, `a if b else c`, f-strings without formats, one-`for` comprehensions, and the functions of FUNCTIONS. A
name is a column. `a.b` is an object's field, of each element if `a` is a list; it is never a Python attribute.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from inspect import signature
from typing import Annotated, Any

from pydantic import BeforeValidator

from graft.agents.methods.columns.parts.functions import FUNCTIONS, MOST_TEXT, BadExpression, shown
from graft.schemas.problems import did_you_mean, field_error

MOST_CHARS = 2_000
MOST_WORK = 20_000
"""Nodes that one evaluation visits, at most."""
MOST_LIST = 10_000
MOST_NUMBER = 10**15
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Compiled:
    """An expression. `paths` are the paths into columns that it reads; `path` is its own, if it is nothing else."""

    source: str
    tree: ast.expr
    paths: tuple[Path, ...]
    path: Path | None = None

    @property
    def names(self) -> frozenset[str]:
        """The columns that it reads."""
        return frozenset(str(path[0]) for path in self.paths)


@dataclass
class _Work:
    """The budget of one evaluation, and its local names."""

    columns: Mapping[str, Any]
    left: int = MOST_WORK
    local: dict[str, Any] = field(default_factory=dict)


@lru_cache(maxsize=4_096)
def compiled(source: str) -> Compiled:
    """The expression of a text. Raises BadExpression."""
    if len(source) > MOST_CHARS:
        raise BadExpression(f"it has {len(source):,} characters, more than {MOST_CHARS:,}")
    if "{{" in source:
        raise BadExpression("it is an expression, not a template: write review.text, or f'{a.text} {b.text}'")
    try:
        tree = ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadExpression(f"it cannot be read: {str(error).partition(' (<')[0]}") from None
    try:
        paths = tuple(dict.fromkeys(_check(tree, frozenset())))
    except RecursionError:
        raise BadExpression("it is nested too deeply") from None
    return Compiled(source, tree, paths, _path(tree))


def evaluate(expression: Compiled, columns: Mapping[str, Any]) -> Any:
    """The expression's value over these columns: JSON values. Raises BadExpression if it has none."""
    try:
        return _bounded(_value(expression.tree, _Work(columns)))
    except BadExpression:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise BadExpression(f"{expression.source!r} has no value here: {error}") from None


def _valid(given: Any) -> Any:
    """The text of an expression that YAML may have read as a number or a truth value. Raises FieldErrors."""
    if isinstance(given, bool | int | float):
        given = repr(given)
    if isinstance(given, str):
        try:
            compiled(given)
        except BadExpression as bad:
            fix = "see docs/pipeline.md for what an expression may hold"
            raise field_error((), f"{given[:60]!r} is no expression: {bad}", fix) from None
    return given


Expression = Annotated[str, BeforeValidator(_valid)]
"""A field of a recipe that holds an expression."""


# ---- checking


_ALLOWED = (
    ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare, ast.IfExp,
    ast.List, ast.Tuple, ast.Dict, ast.Call, ast.JoinedStr, ast.FormattedValue, ast.ListComp, ast.DictComp,
)  # fmt: skip
_REFUSED: Mapping[type[ast.AST], str] = {
    ast.Pow: "powers are not allowed", ast.LShift: "shifts are not allowed", ast.Lambda: "no function is defined here",
    ast.NamedExpr: "names are not assigned here", ast.Set: "write a list: [a, b]",
}  # fmt: skip


def _check(node: ast.expr, local: frozenset[str]) -> list[Path]:
    """The paths that a node reads. Raises BadExpression for a node that the grammar lacks."""
    if not isinstance(node, _ALLOWED):
        raise BadExpression(_REFUSED.get(type(node), f"{type(node).__name__} is not allowed"))
    path = _path(node)
    if path is not None:
        return [] if path[0] in local else [path]
    if isinstance(node, ast.Constant):
        _constant(node.value)
        return []
    if isinstance(node, ast.ListComp | ast.DictComp):
        return _check_comprehension(node, local)
    if isinstance(node, ast.Call):
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        if name not in FUNCTIONS:
            raise BadExpression(f"there is no function {name!r}: {did_you_mean(name, FUNCTIONS)}{', '.join(FUNCTIONS)}")
        if node.keywords or any(isinstance(one, ast.Starred) for one in node.args):
            raise BadExpression(f"{name} takes plain arguments")
        _check_arguments(name, len(node.args))
        return [path for one in node.args for path in _check(one, local)]
    if isinstance(node, ast.FormattedValue) and (node.format_spec is not None or node.conversion != -1):
        raise BadExpression("values of an f-string have no format")
    if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
        raise BadExpression(f"{node.attr!r} is no field: names do not begin with an underscore")
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
        parts = [one for one in (node.value, node.slice.lower, node.slice.upper, node.slice.step) if one is not None]
        return [path for one in parts for path in _check(one, local)]
    for operation in (getattr(node, "op", None), *getattr(node, "ops", ())):
        if operation is not None and type(operation) not in _OPERATIONS:
            raise BadExpression(_REFUSED.get(type(operation), f"{type(operation).__name__} is not allowed"))
    inner = [one for one in ast.iter_child_nodes(node) if isinstance(one, ast.expr)]
    return [path for one in inner for path in _check(one, local)]


def _check_arguments(name: str, given: int) -> None:
    try:
        signature(FUNCTIONS[name]).bind(*range(given))
    except TypeError:
        names = ", ".join(
            one.name + ("" if one.default is one.empty else "=…")
            for one in signature(FUNCTIONS[name]).parameters.values()
        )
        raise BadExpression(f"{name} takes ({names}), not {given} values") from None
    except ValueError:  # min and max, which tell their parameters nobody
        if not given:
            raise BadExpression(f"{name} takes at least one value") from None


def _check_comprehension(node: ast.ListComp | ast.DictComp, local: frozenset[str]) -> list[Path]:
    [first, *more] = node.generators
    if more or first.is_async or not isinstance(first.target, ast.Name):
        raise BadExpression("a comprehension has one `for` with one name")
    inside = local | {first.target.id}
    parts = [*first.ifs, *([node.elt] if isinstance(node, ast.ListComp) else [node.key, node.value])]
    return [*_check(first.iter, local), *(path for one in parts for path in _check(one, inside))]


def _path(node: ast.expr) -> Path | None:
    """The path of `a`, `a.b` or `a.b[0]`. Raises BadExpression for a hidden name; None for all else."""
    if isinstance(node, ast.Name):
        if node.id.startswith("_"):
            raise BadExpression(f"{node.id!r} is no column: names do not begin with an underscore")
        return (node.id,)
    if isinstance(node, ast.Attribute):
        inner = _path(node.value)
        if inner is not None and node.attr.startswith("_"):
            raise BadExpression(f"{node.attr!r} is no field: names do not begin with an underscore")
        return None if inner is None else (*inner, node.attr)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        inner, key = _path(node.value), node.slice.value
        return (*inner, key) if inner is not None and isinstance(key, str | int) and key is not True else None
    return None


def _constant(value: Any) -> None:
    if value is not None and not isinstance(value, str | int | float):
        raise BadExpression(f"{type(value).__name__} is not allowed")
    _bounded(value)


# ---- evaluating


def _bounded(value: Any) -> Any:
    """The value. Raises BadExpression if it is too large."""
    if isinstance(value, str) and len(value) > MOST_TEXT:
        raise BadExpression(f"it makes a text of more than {MOST_TEXT:,} characters")
    if isinstance(value, list | tuple | dict) and len(value) > MOST_LIST:
        raise BadExpression(f"it makes a list of more than {MOST_LIST:,} elements")
    if isinstance(value, int | float) and not -MOST_NUMBER <= value <= MOST_NUMBER:
        raise BadExpression("it makes a number that is too large")
    return value


def _value(node: ast.AST, work: _Work) -> Any:
    work.left -= 1
    if work.left < 0:
        raise BadExpression(f"it takes more than {MOST_WORK:,} steps")
    found = _bounded(_EVALUATE[type(node)](node, work))
    if isinstance(found, str | list | dict):
        work.left -= len(found) // 1_000
    return found


def _name(node: ast.Name, work: _Work) -> Any:
    if node.id in work.local:
        return work.local[node.id]
    if node.id not in work.columns:
        raise BadExpression(f"there is no column {node.id!r} yet")
    return work.columns[node.id]


def field_of(value: Any, name: Any) -> Any:
    """A field of an object, of each element of a list, or an element by its place; None where there is none."""
    if isinstance(value, Mapping):
        return value.get(name)
    if isinstance(value, list | tuple):
        if isinstance(name, int) and not isinstance(name, bool):
            return value[name] if -len(value) <= name < len(value) else None
        return [field_of(one, name) for one in value]
    return None


def _subscript(node: ast.Subscript, work: _Work) -> Any:
    value = _value(node.value, work)
    if isinstance(node.slice, ast.Slice):
        low, high, step = (None if one is None else _value(one, work) for one in (
            node.slice.lower, node.slice.upper, node.slice.step
        ))  # fmt: skip
        if not isinstance(value, str | list):
            raise BadExpression("only a text or a list is cut")
        return value[low:high:step]
    return field_of(value, _value(node.slice, work))


def _bool(node: ast.BoolOp, work: _Work) -> Any:
    whole = isinstance(node.op, ast.And)
    found: Any = whole
    for one in node.values:
        found = _value(one, work)
        if bool(found) != whole:
            return found
    return found


def _binary(node: ast.BinOp, work: _Work) -> Any:
    left, right = _value(node.left, work), _value(node.right, work)
    numbers = all(isinstance(one, int | float) for one in (left, right))
    joined = isinstance(node.op, ast.Add) and type(left) is type(right) and isinstance(left, str | list)
    if not numbers and not joined:
        raise BadExpression("only numbers are calculated with, and only + joins two texts or two lists")
    return _OPERATIONS[type(node.op)](left, right)


def _compare(node: ast.Compare, work: _Work) -> bool:
    left = _value(node.left, work)
    for operation, other in zip(node.ops, node.comparators, strict=True):
        right = _value(other, work)
        ordered = isinstance(operation, ast.Lt | ast.LtE | ast.Gt | ast.GtE)
        missing = right is None if isinstance(operation, ast.In | ast.NotIn) else ordered and None in (left, right)
        if missing or not _OPERATIONS[type(operation)](left, right):
            return False
        left = right
    return True


def _call(node: ast.Call, work: _Work) -> Any:
    given = [_value(one, work) for one in node.args]
    work.left -= sum(len(one) // 100 for one in given if isinstance(one, str | list | dict))
    return FUNCTIONS[node.func.id](*given)  # type: ignore[attr-defined]


def _comprehension(node: ast.ListComp | ast.DictComp, work: _Work) -> Any:
    [generator] = node.generators
    name, made = generator.target.id, list[Any]()  # type: ignore[attr-defined]
    over = _value(generator.iter, work)
    if not isinstance(over, list | tuple | dict):
        raise BadExpression("a comprehension goes over a list")
    before = work.local
    for one in over:
        work.local = {**before, name: one}
        if all(_value(test, work) for test in generator.ifs):
            if isinstance(node, ast.ListComp):
                made.append(_value(node.elt, work))
            else:
                made.append((str(_value(node.key, work)), _value(node.value, work)))
    work.local = before
    return made if isinstance(node, ast.ListComp) else dict(made)


def _dict(node: ast.Dict, work: _Work) -> dict[str, Any]:
    if any(key is None for key in node.keys):
        raise BadExpression("** is not allowed")
    keys = [str(_value(key, work)) for key in node.keys if key is not None]
    return dict(zip(keys, [_value(one, work) for one in node.values], strict=True))


_OPERATIONS: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.And: operator.and_, ast.Or: operator.or_, ast.Not: operator.not_, ast.USub: operator.neg,
    ast.UAdd: operator.pos, ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Eq: operator.eq,
    ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right, ast.NotIn: lambda left, right: left not in right,
    ast.Is: operator.is_, ast.IsNot: operator.is_not,
}  # fmt: skip
_EVALUATE: Mapping[type[ast.AST], Callable[[Any, _Work], Any]] = {
    ast.Constant: lambda node, work: node.value,
    ast.Name: _name,
    ast.Attribute: lambda node, work: field_of(_value(node.value, work), node.attr),
    ast.Subscript: _subscript,
    ast.BoolOp: _bool,
    ast.UnaryOp: lambda node, work: _OPERATIONS[type(node.op)](_value(node.operand, work)),
    ast.BinOp: _binary,
    ast.Compare: _compare,
    ast.IfExp: lambda node, work: _value(node.body if _value(node.test, work) else node.orelse, work),
    ast.List: lambda node, work: [_value(one, work) for one in node.elts],
    ast.Tuple: lambda node, work: [_value(one, work) for one in node.elts],
    ast.Dict: _dict,
    ast.Call: _call,
    ast.JoinedStr: lambda node, work: "".join(_value(one, work) for one in node.values),
    ast.FormattedValue: lambda node, work: shown(_value(node.value, work)),
    ast.ListComp: _comprehension,
    ast.DictComp: _comprehension,
}
