"""What the parts of an import hand to each other: a file of the source, its records, and the list of what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from graft.schemas.datasets import SplitName
from graft.schemas.errors import InputInvalid, Problem

MAX_PROBLEMS = 100
"""Problems that are listed; the rest of a thoroughly broken source is counted."""

Record = tuple[int, Mapping[str, Any]]
"""Line (or row, where the format has no lines), counted from 1, and its fields."""

SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "development": "validation", "eval": "validation", "test": "test", "testing": "test",
}  # fmt: skip


def split_of(name: str) -> SplitName | None:
    """The split that a word means, in any case; None where it means none."""
    return SPLIT_NAMES.get(name.strip().casefold())


@dataclass
class Problems:
    """Everything that is wrong with a source. With `skip` a bad row is left out and counted, not an error."""

    skip: bool = False
    listed: list[Problem] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    fatal: bool = False
    _unlisted: int = 0

    def row(self, file: str, line: int | None, column: str, what: str, fix: str, kind: str) -> None:
        """One row that cannot be used; `kind` is what it is counted under."""
        if self.skip:
            self.skipped[kind] = self.skipped.get(kind, 0) + 1
        self._note(Problem(file, line, column, what, fix))

    def source(self, file: str, what: str, fix: str, *, line: int | None = None, column: str = "") -> None:
        """Something that leaves more unread than a row: never skipped."""
        self.fatal = True
        self._note(Problem(file, line, column, what, fix), first=True)

    def _note(self, problem: Problem, *, first: bool = False) -> None:
        if first:
            self.listed.insert(0, problem)
        elif len(self.listed) < MAX_PROBLEMS:
            self.listed.append(problem)
        else:
            self._unlisted += 1

    def finish(self) -> None:
        """Raises InputInvalid with all that was found, unless only rows are bad and these may be left out."""
        if not self.listed or (self.skip and not self.fatal):
            return
        more = []
        if self._unlisted:
            fix = "correct those above first, or leave bad rows out with --skip-bad"
            more = [Problem(self.listed[-1].file, None, "", f"and {self._unlisted} more problems", fix)]
        raise InputInvalid([*self.listed, *more])


def invalid(file: str, what: str, fix: str, column: str = "") -> InputInvalid:
    """One problem that ends the import at once."""
    return InputInvalid([Problem(file, None, column, what, fix)])


@dataclass
class Part:
    """One file (or sheet, or key of a JSON file) of a source.

    `records` opens it anew each time it is called; with columns named, other columns need not be read. `names` are the
    class names of integer columns.
    """

    file: str
    records: Callable[[Problems, tuple[str, ...] | None], Iterator[Record]]
    split: SplitName | None = None
    names: dict[str, list[str]] = field(default_factory=dict)
    label: str | None = None


@dataclass
class Source:
    """What was found: its parts, what a person should know of it, and the files whose bytes are hashed."""

    name: str
    format: str
    parts: list[Part]
    notices: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    licence: str = ""
