"""Finds every regular expression of the packages, and writes texts that are meant to make one slow."""

from __future__ import annotations

import ast
import importlib
import re
import re._constants as op
import re._parser as parser
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("schemas", "agents", "data", "students", "flows", "dashboard", "cli")
CALLS = {"compile", "search", "match", "fullmatch", "split", "findall", "finditer", "sub", "subn"}
_T = TypeVar("_T")
LONG = 100_000
"""Characters of a hostile text."""


class Found(NamedTuple):
    """A pattern and its place: module and line, or the name of the value that holds it."""

    place: str
    pattern: re.Pattern[str]


def patterns() -> tuple[list[Found], list[str]]:
    """Every pattern that the source holds or that a module's values hold; and the functions that build one."""
    found: dict[tuple[str, int], Found] = {}
    made: list[str] = []
    for file in sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        if "import re\n" not in source:
            continue
        name = ".".join(("graft", *file.relative_to(ROOT).with_suffix("").parts))
        module = importlib.import_module(name)
        for value, pattern in _held(vars(module)):
            found.setdefault((pattern.pattern, pattern.flags), Found(f"{name}.{value}", pattern))
        for function, call in _calls(ast.parse(source)):
            try:
                pattern = re.compile(*_evaluated(call, vars(module)))
            except NameError:
                if function:  # a module's own are among its values
                    made.append(f"{name}:{function}")
            else:
                found.setdefault((pattern.pattern, pattern.flags), Found(f"{name}:{call.lineno}", pattern))
    return [*found.values()], made


def _held(values: dict[str, Any]) -> Iterator[tuple[str, re.Pattern[str]]]:
    """The patterns in a module's values and in the tuples, lists and mappings among them."""

    def inside(name: str, value: object, deepest: int) -> Iterator[tuple[str, re.Pattern[str]]]:
        if isinstance(value, re.Pattern) and isinstance(value.pattern, str):
            yield name, value
        elif isinstance(value, dict) and deepest:
            for each in value.values():
                yield from inside(name, each, deepest - 1)
        elif isinstance(value, list | tuple | set | frozenset) and deepest:
            for each in value:
                yield from inside(name, each, deepest - 1)

    for name, value in list(values.items()):
        if not name.startswith("__"):
            yield from inside(name, value, 3)


def _calls(tree: ast.AST, function: str = "") -> Iterator[tuple[str, ast.Call]]:
    """Calls of the module `re` with the name of the function that they stand in."""
    for node in ast.iter_child_nodes(tree):
        inner = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CALLS:
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id == "re":
                yield inner, node
        yield from _calls(node, inner)


def _evaluated(call: ast.Call, names: dict[str, Any]) -> tuple[str, int]:
    """Pattern and flags of a call. Raises NameError where they depend on a function's own variables."""

    def value(node: ast.expr) -> Any:
        return eval(compile(ast.Expression(node), "<call>", "eval"), dict(names))

    flags = [word.value for word in call.keywords if word.arg == "flags"]
    flags += call.args[{"compile": 1, "split": 3, "sub": 4, "subn": 4}.get(call.func.attr, 2) :]  # type: ignore
    return value(call.args[0]), int(value(flags[0])) if flags else 0


class Pieces(NamedTuple):
    """Pieces of a pattern: a letter of each class and literal; the text before each repeat, with a letter that it
    repeats; and matches.
    """

    letters: list[str]
    repeats: list[tuple[str, str]]
    matches: list[str]


def pieces_of(pattern: re.Pattern[str]) -> Pieces:
    """The pieces of a pattern, some of each."""
    tree = list(parser.parse(pattern.pattern, pattern.flags & re.VERBOSE))
    letters = [*dict.fromkeys(_letters(tree))]
    before = [*dict.fromkeys(_repeats(tree, ""))]
    matches = dict.fromkeys(_match(tree, repeats, branch, {}) for repeats in (0, 1, 5, 20) for branch in range(4))
    matches.update(dict.fromkeys(_match(branch, 1, 0, {}) for branch in _branches(tree)))
    short = [match for match in matches if 1 < len(match) <= 200]
    return Pieces(_thinned(letters, 10), _thinned(before, 40), _thinned(short, 24))


class Text(NamedTuple):
    """A hostile text of any length: `unit` over and over, with something in front and behind."""

    begin: str
    unit: str
    end: str

    def of(self, size: int) -> str:
        """The text at about `size` characters."""
        return self.begin + repeated(self.unit, size) + self.end


def texts_of(pattern: re.Pattern[str]) -> Iterator[Text]:
    """Letters over and over, alone, in pairs and behind what stands before a repeat; matches, and matches that fail at
    their last letter.
    """
    letters, repeats, matches = pieces_of(pattern)
    starts = _thinned([*dict.fromkeys(start for start, _ in repeats)], 8)
    for letter in letters:
        yield Text("", letter, "\0")
        yield from (Text("", letter + other, "") for other in letters)
    for start, letter in [*repeats, *((start, letter) for start in starts for letter in letters)]:
        yield Text("", letter, "\0")
        yield Text(start, letter, "\0")
        yield Text("", start + letter, "")
        yield Text("", start + letter * 30, "")
    for match in matches:
        yield from (Text("", piece, "") for piece in (match, match[:-1], match[:-1] + "\0") if piece)


def repeated(piece: str, size: int) -> str:
    """`piece` over and over, `size` characters in all."""
    return (piece * (size // len(piece) + 1))[:size]


def _thinned(items: list[_T], most: int) -> list[_T]:
    """At most `most` of the items, evenly spaced."""
    return items[:: -(-len(items) // most)] if items else []


def seconds(work: Callable[[str], object], text: str, most: float) -> float:
    """CPU time of this thread for `work(text)`: the best of three, or the first that stays under `most`."""
    best = float("inf")
    for _ in range(3):
        begun = time.thread_time()
        work(text)
        best = min(best, time.thread_time() - begun)
        if best <= most:
            break
    return best


def _letters(tree: Iterable[Any]) -> Iterator[str]:
    for kind, value in tree:
        if kind in (op.LITERAL, op.NOT_LITERAL):
            yield chr(value)
        elif kind is op.IN:
            yield from (_of_class(value, place) for place in range(3))
        elif kind is op.ANY:
            yield "x"
        else:
            for part in _parts(kind, value):
                yield from _letters(part)


def _repeats(tree: Iterable[Any], before: str) -> Iterator[tuple[str, str]]:
    """For each repeat, the shortest text that matches everything in front of it, and a letter that it takes."""
    for kind, value in tree:
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
            yield from ((before, letter) for letter in _letters(value[2]))
        for part in _parts(kind, value):
            yield from _repeats(part, before)
        before += _match([(kind, value)], 0, 0, {})


def _branches(tree: Iterable[Any]) -> Iterator[Any]:
    for kind, value in tree:
        if kind is op.BRANCH:
            yield from value[1]
        for part in _parts(kind, value):
            yield from _branches(part)


def _parts(kind: Any, value: Any) -> list[Any]:
    """The patterns inside a part of a pattern."""
    if kind is op.BRANCH:
        return list(value[1])
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
        return [value[2]]
    if kind is op.SUBPATTERN:
        return [value[3]]
    if kind in (op.ASSERT, op.ASSERT_NOT):
        return [value[1]]
    if kind is op.ATOMIC_GROUP:
        return [value]
    return []


SAMPLES = {
    op.CATEGORY_DIGIT: "0", op.CATEGORY_NOT_DIGIT: "z", op.CATEGORY_SPACE: " ", op.CATEGORY_NOT_SPACE: "z",
    op.CATEGORY_WORD: "a", op.CATEGORY_NOT_WORD: ".",
}  # fmt: skip


def _of_class(items: list[Any], place: int) -> str:
    """A letter that a class of letters holds: of its `place`-th part."""
    if items[0][0] is op.NEGATE:
        refused = re.compile("|".join(re.escape(_of_class([item], 0)) for item in items[1:]))
        options = [letter for letter in 'z 0.-_\n"<é' if not refused.match(letter)]
        fits = [letter for letter in options if not any(_has(item, letter) for item in items[1:])]
        return fits[place % len(fits)] if fits else "z"
    kind, value = items[place % len(items)]
    if kind is op.LITERAL:
        return chr(value)
    if kind is op.RANGE:
        return chr(value[0])
    return SAMPLES.get(value, "a")


def _has(item: Any, letter: str) -> bool:
    kind, value = item
    if kind is op.LITERAL:
        return chr(value) == letter
    if kind is op.RANGE:
        return bool(value[0] <= ord(letter) <= value[1])
    tests = {
        op.CATEGORY_DIGIT: letter.isdigit(), op.CATEGORY_SPACE: letter.isspace(),
        op.CATEGORY_WORD: letter.isalnum() or letter == "_",
        op.CATEGORY_NOT_WORD: not (letter.isalnum() or letter == "_"),
        op.CATEGORY_NOT_DIGIT: not letter.isdigit(), op.CATEGORY_NOT_SPACE: not letter.isspace(),
    }  # fmt: skip
    return bool(tests.get(value, False))


def _match(tree: Iterable[Any], repeats: int, branch: int, groups: dict[int, str]) -> str:
    """A text that the pattern is likely to match: its repeats `repeats` times more than they must, one branch."""
    written = ""
    for kind, value in tree:
        if kind is op.LITERAL:
            written += chr(value)
        elif kind is op.NOT_LITERAL:
            written += "z"
        elif kind is op.ANY:
            written += "x"
        elif kind is op.IN:
            written += _of_class(value, branch)
        elif kind is op.BRANCH:
            written += _match(value[1][branch % len(value[1])], repeats, branch, groups)
        elif kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
            least, most, part = value
            count = min(least + repeats, most if isinstance(most, int) else least + repeats)
            written += _match(part, repeats, branch, groups) * min(count, 80)
        elif kind is op.SUBPATTERN:
            inner = _match(value[3], repeats, branch, groups)
            groups[value[0]] = inner
            written += inner
        elif kind is op.ATOMIC_GROUP:
            written += _match(value, repeats, branch, groups)
        elif kind is op.GROUPREF:
            written += groups.get(value, "")
    return written
