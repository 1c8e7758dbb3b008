"""The shape of the code: imports point down, form no cycle at any depth, and files stay short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from graft.schemas.kinds import FAMILIES, Kinds

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
WORDS = frozenset((
    "ask", "check", "classifier", "conversation", "csv", "damage", "draw", "explode", "expr", "format", "guard",
    "instruct", "instruction", "jsonl", "label", "language", "length", "messages", "pairs", "parquet", "refusal",
    "retrieve", "review", "schema", "vote",
))  # fmt: skip
"""Kinds whose names also mean something else, such as a column, a file type or a role: they count where a `kind` is
compared with them, or a kind is looked up by them."""
NAMED = {
    ("schemas/binding.py", "gra"): "the method of a recipe that names none",
    ("schemas/students.py", "sft"): "the stages of a recipe that names none",
    ("schemas/students.py", "dpo"): "the stages of a recipe that names none",
    ("students/heads/single.py", "cross_entropy"): "a head's objective in a recipe that names none",
    ("students/heads/single.py", "distillation"): "a head's objective in a recipe that names none",
    ("students/heads/multi_label.py", "binary_cross_entropy"): "a head's objective in a recipe that names none",
    ("data/audits/poison.py", "learned"): "the audit measures how many planted rows this gate finds",
    ("cli/predict.py", "jsonl"): "a kind of file",
    ("cli/predict.py", "csv"): "a kind of file",
}
"""(file, kind) to the reason why the file may name it."""


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
    assert _circles(edges) == []


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


# ---- kinds


def test_no_kind_is_named_outside_its_own_family() -> None:
    """In code that runs: as a text, in a comparison with a `kind`, or by an import of its module."""
    found = {
        (str(file.relative_to(ROOT)), name): line
        for file in _modules().values()
        for name, line in _named(file.read_text(encoding="utf-8"), file.parent)
    }
    wrong = [f"{file}:{line} names {name}" for (file, name), line in found.items() if (file, name) not in NAMED]
    assert wrong == [] and set(NAMED) <= set(found), "a reason that is no longer needed goes too"


def _named(source: str, folder: Path) -> Iterator[tuple[str, int]]:
    """(a kind's name, line) of every place that names a kind of a family of another folder."""
    others = {name for one in FAMILIES if ROOT / one.folder not in (folder, *folder.parents) for name in one.own}
    families = {one.family.upper() for one in FAMILIES}
    tree = ast.parse(source)
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
            yield from ((name, node.lineno) for module in modules for name in _kinds_of(module, folder))
        elif isinstance(node, ast.Constant) and id(node) not in documents:
            if node.value in others and node.value not in WORDS:
                yield str(node.value), node.lineno
        elif isinstance(node, ast.Compare | ast.Match) and _about_kinds(node, families):
            inner = ast.walk(node) if isinstance(node, ast.Compare) else _patterns(node)
            yield from ((str(one.value), one.lineno) for one in inner
                        if isinstance(one, ast.Constant) and one.value in WORDS & others)  # fmt: skip
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[0] in families:
            names = [one.value for one in node.args if isinstance(one, ast.Constant)]
            yield from ((str(name), node.lineno) for name in names if name in WORDS & others)


def _about_kinds(node: ast.Compare | ast.Match, families: set[str]) -> bool:
    given = ast.unparse(node.subject if isinstance(node, ast.Match) else node)
    return "kind" in given or any(family in given for family in families)


def _patterns(node: ast.Match) -> Iterator[ast.AST]:
    return (inner for case in node.cases for inner in ast.walk(case.pattern))


def _kinds_of(module: str, folder: Path) -> list[str]:
    """The kind that a module holds, if its family is one of another folder."""
    package, _, name = module.removeprefix("graft.").replace(".", "/").rpartition("/")
    family: Kinds[object] | None = next((one for one in FAMILIES if one.folder == package), None)
    return [name] if family and ROOT / package not in (folder, *folder.parents) and name in family._modules else []


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("if recipe.method.kind == 'gra': pass", ["gra"]),
        ("x = {'near_duplicate': False}", ["near_duplicate"]),
        ("if task.kind in ('guard', 'other'): pass", ["guard"]),
        ("if recipe.method.kind == 'label': pass", ["label"]),
        ("match task.kind:\n    case 'instruction': pass", ["instruction"]),
        ("GATES.get('length')", ["length"]),
        ("from graft.agents.methods.gra import GraSettings", ["gra"]),
        ("from graft.data.gates import length", ["length"]),
        ("'gra'\nrole = 'guard'\nif finish == 'length': pass", []),
        ("from graft.agents.methods import method_of", []),
    ],
)
def test_a_named_kind_is_found(source: str, names: list[str]) -> None:
    assert [name for name, _ in _named(source, ROOT / "flows")] == names
