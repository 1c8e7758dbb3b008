"""Values shared by the import's modules: a source's parts, their records, and the list of problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from graft.schemas.datasets import SplitName
from graft.schemas.errors import InputInvalid, Problem

MAX_PROBLEMS = 100
"""Maximum number of listed problems; any further ones are counted."""

Record = tuple[int, Mapping[str, Any]]
"""Line (or row, if the format has no lines), counted from 1, and its fields."""

SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "development": "validation", "eval": "validation", "test": "test", "testing": "test",
}  # fmt: skip


def split_of(name: str) -> SplitName | None:
    """Return the split that a word denotes, ignoring case, or None."""
    return SPLIT_NAMES.get(name.strip().casefold())


@dataclass
class Problems:
    """All problems of a source. With `skip`, an invalid row is left out and counted instead of being an error."""

    skip: bool = False
    listed: list[Problem] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    fatal: bool = False
    _unlisted: int = 0

    def row(self, file: str, line: int | None, column: str, what: str, fix: str, kind: str) -> None:
        """Record an unusable row; `kind` is the category it is counted under."""
        if self.skip:
            self.skipped[kind] = self.skipped.get(kind, 0) + 1
        self._note(Problem(file, line, column, what, fix))

    def source(self, file: str, what: str, fix: str, *, line: int | None = None, column: str = "") -> None:
        """Record a problem that leaves more than one row unread; it is never skipped."""
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
        """Raise InputInvalid with all problems, unless they are only invalid rows that may be skipped."""
        if not self.listed or (self.skip and not self.fatal):
            return
        more = []
        if self._unlisted:
            fix = "correct the problems above first, or leave invalid rows out with --skip-bad"
            more = [Problem(self.listed[-1].file, None, "", f"and {self._unlisted} more problems", fix)]
        raise InputInvalid([*self.listed, *more])


def invalid(file: str, what: str, fix: str, column: str = "") -> InputInvalid:
    """Return an InputInvalid with a single problem, which ends the import at once."""
    return InputInvalid([Problem(file, None, column, what, fix)])


@dataclass
class Part:
    """One file (or sheet, or key of a JSON file) of a source.

    `records(problems, columns)` opens it anew at each call; if `columns` is given, other columns may be skipped.
    `names` maps integer columns to their class names.
    """

    file: str
    records: Callable[[Problems, tuple[str, ...] | None], Iterator[Record]]
    split: SplitName | None = None
    names: dict[str, list[str]] = field(default_factory=dict)
    label: str | None = None


@dataclass
class Source:
    """A source: its parts, notices for the user, and the files whose bytes are hashed."""

    name: str
    format: str
    parts: list[Part]
    notices: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    licence: str = ""
