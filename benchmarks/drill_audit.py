"""Checks after each life of the drill: its notes, the journal and the lake, each read from its own file."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from harness import ROOT, stats

sys.path.insert(0, str(ROOT))


@dataclass(kw_only=True)
class Verdict:
    """Outcome of a drill: sound, or with problems."""

    problems: list[str] = field(default_factory=list)

    def check(self, holds: bool, otherwise: str) -> None:
        """Add a problem if something does not hold."""
        if not holds:
            self.problems.append(otherwise)

    @property
    def verdict(self) -> str:
        """A cell of the drill's tables."""
        return "yes" if not self.problems else f"**no**: {'; '.join(self.problems)}"


@dataclass
class Notes:
    """The notes of one run's lives. Each life: kind to the names in their order."""

    lives: list[dict[str, list[str]]] = field(default_factory=list)

    def last(self, kind: str) -> list[str]:
        """Of the newest life."""
        return self.lives[-1].get(kind, []) if self.lives else []

    def every(self, kind: str) -> set[str]:
        """Of all lives."""
        return {name for life in self.lives for name in life.get(kind, [])}

    def since(self, lives: int, kind: str) -> set[str]:
        """Of the lives after the first `lives`: of none, where a kill came before the first note."""
        return {name for life in self.lives[lives:] for name in life.get(kind, [])}

    @property
    def rows(self) -> set[str]:
        """Candidates whose commit returned."""
        return {name for names in self.every("rows") for name in names.split(",") if name}

    @property
    def ended(self) -> dict[str, Any]:
        """The end of the newest life; empty if it was killed."""
        ends = self.last("end")
        return dict(json.loads(ends[-1])) if ends else {}


@dataclass
class Kept:
    """The state on disk: keys of the journal, candidate ids, their slots, and the number of slots with no outcome."""

    keys: set[str]
    rows: list[str]
    slots: list[str]
    unexplained: int

    @property
    def doubled(self) -> int:
        """Rows or slots that are there more than once."""
        return max(len(self.rows) - len(set(self.rows)), len(self.slots) - len(set(self.slots)))


@dataclass
class Run:
    """One run under the drill: where it lives, and its lives so far."""

    context: ForkServerContext
    recipe: Path
    home: Path
    base: str
    space: int = 0
    """Bytes of the disk that its home lies on; 0: all there is."""

    @property
    def notes_file(self) -> Path:
        """The file to which its lives write notes."""
        return self.home.parent / f"{self.home.name}.notes"

    def start(self) -> BaseProcess:
        """A new life."""
        from drill_life import live

        words = (str(self.recipe), str(self.home), str(self.notes_file), self.space)
        process = self.context.Process(target=live, args=words)
        process.start()
        return process

    def to_the_end(self, seconds: float = 90) -> Notes:
        """One life until it ends by itself. RuntimeError where it doesn't in time (it is killed then)."""
        process = self.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
            raise RuntimeError(f"a run did not end within {seconds:g} s")
        return self.notes()

    def notes(self) -> Notes:
        """Everything that its lives noted; a line that a kill cut short is left out."""
        notes = Notes()
        if not self.notes_file.exists():
            return notes
        for line in self.notes_file.read_text(encoding="utf-8").split("\n")[:-1]:
            kind, _, what = line.partition(" ")
            if kind == "life":
                notes.lives.append({})
            elif notes.lives:
                notes.lives[-1].setdefault(kind, []).append(what)
        return notes

    def kept(self) -> Kept:
        """The contents of the journal and the lake."""
        return Kept(self._keys(), *self._rows())

    def _keys(self) -> set[str]:
        file = self.home / "journal.sqlite"
        if not file.exists():
            return set()
        with contextlib.closing(sqlite3.connect(file, timeout=10)) as journal:
            if not journal.execute("SELECT 1 FROM sqlite_master WHERE name = 'calls'").fetchone():
                return set()
            return {str(row[0]) for row in journal.execute("SELECT key FROM calls")}

    def _rows(self) -> tuple[list[str], list[str], int]:
        from graft.data.lake import Lake
        from graft.schemas.errors import GraftError
        from graft.schemas.home import Home

        query = "SELECT candidate_id, slot_id, code <> '' AND reason <> '' AS told FROM lake.candidates"
        try:
            with Lake.open(Home(self.home), read_only=True) as lake:
                rows = lake.query(query)
        except GraftError as error:
            if "meta does not exist" in error.what and not self.notes().rows:
                return [], [], 0  # killed while its tables were made: the next writer makes them
            raise
        return [r["candidate_id"] for r in rows], [r["slot_id"] for r in rows], sum(not r["told"] for r in rows)


def settle_down(base: str, seconds: float = 10) -> dict[str, Any]:
    """The server's counters once it answers nothing any more."""
    deadline = time.monotonic() + seconds
    while (found := stats(base))["in_flight"] and time.monotonic() < deadline:
        time.sleep(0.02)
    return found
