"""The shape of the code: imports point down, form no cycle at any depth, and files stay short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BELOW = {
    "schemas": set[str](),
    "agents": {"schemas"},
    "data": {"schemas"},
    "students": {"schemas", "agents", "data"},
    "flows": {"schemas", "agents", "data", "students"},
    "dashboard": {"schemas", "agents", "data", "students", "flows"},
    "cli": {"schemas", "agents", "data", "students", "flows", "dashboard"},
}
"""Each room with those that it may import. The modules of `graft/` itself are above all rooms."""
MOST_LINES = 400
KNOWN_CYCLES = ({"graft.students.fit", "graft.students.launch"},)
"""To be removed with the next change of students/."""


@dataclass(frozen=True)
class Import:
    """One module that imports another. `typed`: only under TYPE_CHECKING, so that it never runs."""

    by: str
    of: str
    line: int
    typed: bool

    def __str__(self) -> str:
        return f"{_modules()[self.by].relative_to(ROOT)}:{self.line} imports {self.of}"


@cache
def _modules() -> dict[str, Path]:
    files = [file for room in BELOW for file in sorted((ROOT / room).rglob("*.py"))]
    found = {_name(file, "graft."): file for file in files}
    return found | {_name(file, ""): file for file in sorted((ROOT / "graft").glob("*.py"))}


def _name(file: Path, package: str) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return package + ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _imports() -> tuple[Import, ...]:
    return tuple(one for name in _modules() for one in _imports_of(name))


def _imports_of(name: str) -> Iterator[Import]:
    """The module's imports of ours, wherever they stand: at its top, within functions, under TYPE_CHECKING."""
    tree = ast.parse(_modules()[name].read_text(encoding="utf-8"))
    typed = {
        id(inner)
        for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body for inner in ast.walk(statement)
    }  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{name}:{node.lineno} imports relatively"
            wanted = [node.module if f"{node.module}.{a.name}" not in _modules() else f"{node.module}.{a.name}"
                      for a in node.names]  # fmt: skip
        elif isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        else:
            continue
        for of in wanted:
            if of.split(".")[0] == "graft" and of != name:
                yield Import(name, of, node.lineno, id(node) in typed)


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_imports_point_down() -> None:
    wrong = [
        str(one) for one in _imports()
        if _room(one.by) in BELOW and _room(one.of) not in {_room(one.by), *BELOW[_room(one.by)]}
    ]  # fmt: skip
    assert wrong == []


def test_every_import_names_a_module_that_exists() -> None:
    assert [str(one) for one in _imports() if one.of not in _modules()] == []


@pytest.mark.parametrize("typed", [False, True], ids=["run", "with those of types alone"])
def test_no_modules_import_each_other_in_a_circle(typed: bool) -> None:
    edges: dict[str, set[str]] = {name: set() for name in _modules()}
    for one in _imports():
        if typed or not one.typed:
            edges[one.by].add(one.of)
    assert [circle for circle in _circles(edges) if circle not in KNOWN_CYCLES] == []


def _circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules that reach each other."""
    left = {name: set(of) for name, of in edges.items()}
    while True:
        bare = {name for name, of in left.items() if not of}
        bare |= set(left) - {of for every in left.values() for of in every}
        if not bare:
            break
        left = {name: of - bare for name, of in left.items() if name not in bare}
    found: list[set[str]] = []
    for name in sorted(left):
        if not any(name in circle for circle in found):
            circle = {other for other in _reached(left, name) if name in _reached(left, other)}
            found += [circle] if circle else []
    return found


def _reached(edges: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    ahead = list(edges[start])
    while ahead:
        name = ahead.pop()
        if name not in seen:
            seen.add(name)
            ahead += edges[name]
    return seen


def test_files_stay_short() -> None:
    counted = {
        str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in _modules().values()
    }
    assert {file: lines for file, lines in counted.items() if lines > MOST_LINES} == {}


def test_a_circle_is_found() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}, "e": set[str]()}
    assert _circles(edges) == [{"b", "c"}] and _circles({"a": {"b"}, "b": set()}) == []
