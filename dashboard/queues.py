"""Review queues: read from the lake from time to time and handed out row by row.

A row that one person has open is not offered to another for some minutes, so that two people
decide the same row only on purpose.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.data.review import QueueRule
    from graft.schemas.datasets import DatasetVersion

BATCH = 200
"""Ids fetched at once: choosing rows takes a scan, handing one out a lookup."""
IN_HAND_S = 180.0
KEPT = 64
"""Number of queues kept; the oldest is dropped."""


@dataclass(frozen=True)
class Ask:
    """Identifies a queue: version, rule and person."""

    ref: str
    by: str
    rule: QueueRule = "disagreement"
    blind: bool = False
    gate: str = ""
    where: str = ""


@dataclass
class _Line:
    ids: list[str]
    left: int


@dataclass
class Queues:
    """The queues of all people. Thread-safe."""

    _lines: dict[Ask, _Line] = field(default_factory=dict)
    _hands: dict[tuple[str, str], tuple[str, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, lake: Lake, found: DatasetVersion, ask: Ask) -> tuple[str | None, int]:
        """The id of the person's next row (None if the queue is empty) and the number of rows left."""
        for fresh in (False, True):
            line = self._line(lake, found, ask, fresh=fresh)
            self._strike(lake, found, ask, line)
            with self._lock:
                free = [row for row in line.ids if ask.blind or self._free(found.dataset, row, ask.by)]
                if free:
                    self._hands[found.dataset, free[0]] = (ask.by, time.monotonic() + IN_HAND_S)
                    return free[0], max(line.left, len(line.ids))
        return None, 0

    def done(self, ask: Ask, row_id: str) -> None:
        """Remove a decided row from all queues of this person."""
        with self._lock:
            for other, line in self._lines.items():
                if other.ref == ask.ref and other.by == ask.by and row_id in line.ids:
                    line.ids.remove(row_id)
                    line.left -= 1
            self._hands = {at: held for at, held in self._hands.items() if at[1] != row_id or held[0] != ask.by}

    def forget(self, by: str) -> None:
        """Reload all queues of this person: after an undo a row is open again."""
        with self._lock:
            self._lines = {ask: line for ask, line in self._lines.items() if ask.by != by}

    def _line(self, lake: Lake, found: DatasetVersion, ask: Ask, *, fresh: bool) -> _Line:
        from graft.data.review import chosen

        with self._lock:
            known = self._lines.get(ask)
        if known is not None and known.ids and not fresh:
            return known
        ids, total = chosen(
            lake, found, ask.rule, by=ask.by, blind=ask.blind, gate=ask.gate, where=ask.where, size=BATCH
        )  # fmt: skip
        line = _Line(list(ids), total)
        with self._lock:
            self._lines[ask] = line
            while len(self._lines) > KEPT:
                del self._lines[next(iter(self._lines))]
        return line

    def _strike(self, lake: Lake, found: DatasetVersion, ask: Ask, line: _Line) -> None:
        """Drop rows that were decided since the queue was loaded, by anybody (blind: by this person)."""
        from graft.data.edits import DECISIONS

        query = """
            SELECT DISTINCT row_id FROM lake.edits WHERE dataset = $1 AND list_contains($2::VARCHAR[], row_id)
            AND list_contains($3::VARCHAR[], action) AND ($4 = '' OR "by" = $4)
            AND id NOT IN (SELECT undoes FROM lake.edits WHERE dataset = $1 AND action = 'undo')"""
        given = [found.dataset, list(line.ids), list(DECISIONS), ask.by if ask.blind else ""]
        decided = set(lake.sql(query, given).column("row_id").to_pylist())
        with self._lock:
            line.left -= sum(row in decided for row in line.ids)
            line.ids = [row for row in line.ids if row not in decided]

    def _free(self, dataset: str, row_id: str, by: str) -> bool:
        holder, until = self._hands.get((dataset, row_id), ("", 0.0))
        return not holder or holder == by or time.monotonic() > until
