"""A shard: open, run and settle slots continuously until its share of accepted rows is reached.

Two orders are kept apart, which makes a rerun identical whatever the timing:

- slots *run* in any order, as many at once as `width` allows, with no barrier between stages;
- they *settle* in one fixed order (by index, then label), and only settling changes state: it decides duplicates
  within the run, counts acceptance, and moves each label's horizon, the index up to which slots may be opened.

The horizon follows the yield measured on the settled prefix, so few slots are opened beyond the last one needed.
Accepted rows beyond the target are surplus: they are kept, and replace what de-duplication takes later.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from graft.schemas.calls import Call
from graft.schemas.decisions import ACROSS_SHARDS, NOT_CHOSEN, SEMANTIC
from graft.schemas.rows import Candidate, Decision, GateResult, Slot

AFTER_SHARD = frozenset({SEMANTIC, ACROSS_SHARDS, NOT_CHOSEN})
"""Codes of rows that were rejected after their shard had ended, which counts them as accepted."""

CHUNK = 8
"""Slots of one label opened in sequence, to use the server's prefix cache."""

FLUSH_S = 5.0
"""Seconds after which settled candidates are committed even if they are few, so that pages show them."""

WINDOW = 4
"""Slots ahead of the settled prefix, in multiples of `width`: enough that one slow slot blocks nothing."""

Outcome = tuple[Candidate, tuple[Call, ...]]
MakeSlot = Callable[[str, int], Slot | None]
RunSlot = Callable[[Slot], Awaitable[Outcome]]
Admit = Callable[[Candidate], tuple[GateResult, ...]]
Commit = Callable[[list[Candidate], list[Call]], Awaitable[None]]


@dataclass
class Stream:
    """One label's progress within a shard.

    A row counts for its final label: `accepted` includes rows of other streams that were relabelled to this label;
    `own` are rows of this stream that kept its label, which measure its yield.
    """

    label: str
    wanted: int
    cap: int
    window: int
    horizon: int = 0
    opened: int = 0
    settled: int = 0
    accepted: int = 0
    own: int = 0

    def look_ahead(self) -> None:
        """Move the horizon to where the missing rows are expected, by the yield so far.

        It stays within the window, so that a poor estimate from the first candidates opens no excess slots.
        """
        missing = self.wanted - self.accepted
        if missing <= 0:
            return
        likely = min(1.0, 1.1 * (self.own + 2) / (self.settled + 2))
        ahead = min(self.window, math.ceil(missing / likely))
        self.horizon = min(self.cap, max(self.horizon, self.settled + ahead))

    @property
    def drained(self) -> bool:
        """True once every slot that was or may be opened has settled."""
        return self.settled >= self.horizon


@dataclass
class ShardReport:
    """The result of a shard. `stopped_by` is target, candidates, texts or seeds (all were used), or `halt`'s reason.

    `accepted` counts rows by their final label.
    """

    accepted: dict[str, int] = field(default_factory=dict)
    settled: int = 0
    failed: int = 0
    stopped_by: str = "target"
    overshoot: int = 0
    """Slots opened after their label, in the settled order, had reached its target."""
    tried: dict[str, int] = field(default_factory=dict)
    """Settled slots of each label."""
    spent: list[str] = field(default_factory=list)
    """Labels of which no further slot could be made: their seeds are used up."""


class ShardRunner:
    """Runs one shard. The module docstring describes the two orders."""

    def __init__(
        self,
        *,
        wanted: Mapping[str, int],
        caps: Mapping[str, int],
        make_slot: MakeSlot,
        run_slot: RunSlot,
        admit: Admit,
        commit: Commit,
        width: int,
        stored: Mapping[str, Candidate] | None = None,
        remember: Callable[[Candidate], None] = lambda candidate: None,
        halt: Callable[[], str] = lambda: "",
        on_settled: Callable[[Candidate], None] = lambda candidate: None,
        batch_rows: int = 250,
    ) -> None:
        labels = [label for label, count in wanted.items() if count > 0]
        window = max(2 * CHUNK, math.ceil(WINDOW * width / max(1, len(labels))))
        self.streams = [Stream(label, wanted[label], caps[label], window) for label in labels]
        self._make_slot, self._run_slot, self._admit, self._commit = make_slot, run_slot, admit, commit
        self._width, self._stored, self._remember = width, stored or {}, remember
        self._halt, self._on_settled, self._batch_rows = halt, on_settled, batch_rows
        self._running: dict[asyncio.Task[Outcome], tuple[str, int]] = {}
        self._finished: list[asyncio.Task[Outcome]] = []
        self._wake = asyncio.Event()
        self._done: dict[tuple[str, int], Outcome] = {}
        self._batch: list[Candidate] = []
        self._batch_calls: list[Call] = []
        self._flushed = time.monotonic()
        self._report = ShardReport(accepted=dict.fromkeys(labels, 0))

    async def run(self) -> ShardReport:
        """Work until the target, a cap or `halt`. Settled candidates are committed, also on cancellation."""
        for stream in self.streams:
            stream.look_ahead()
        stopped = ""
        try:
            while True:
                stopped = stopped or self._halt()
                if not stopped:
                    self._open()
                if not self._running and not self._settle_ready():
                    break
                if self._running:
                    await self._wake.wait()
                self._collect()
                self._settle_ready()
                if len(self._batch) >= self._batch_rows or time.monotonic() > self._flushed + FLUSH_S:
                    await self._flush()
            self._settle_leftovers()
        finally:
            await self._cancel_running()
            await asyncio.shield(self._flush())
        short = {stream.label for stream in self.streams if stream.accepted < stream.wanted}
        given = all(not stream.label for stream in self.streams)
        used = "texts" if given else "seeds" if short <= set(self._report.spent) else "candidates"
        self._report.tried = {stream.label: stream.settled for stream in self.streams}
        self._report.stopped_by = stopped or (used if short else "target")
        return self._report

    def _open(self) -> None:
        room = self._width - len(self._running)
        backlog = 8 * self._width - len(self._done)
        while room > 0 and backlog > 0:
            stream = min(
                (s for s in self.streams if s.opened < s.horizon), key=lambda s: s.opened // CHUNK, default=None
            )
            if stream is None:
                return
            slot = self._make_slot(stream.label, stream.opened)
            if slot is None:
                stream.horizon = stream.cap = stream.opened
                self._report.spent.append(stream.label)
                continue
            place = (stream.label, stream.opened)
            stream.opened += 1
            if slot.id in self._stored:
                self._done[place] = (self._stored[slot.id], ())
            else:
                task = asyncio.ensure_future(self._run_slot(slot))
                task.add_done_callback(self._note_finished)
                self._running[task] = place
                room -= 1
            backlog -= 1

    def _note_finished(self, task: asyncio.Task[Outcome]) -> None:
        self._finished.append(task)
        self._wake.set()

    def _collect(self) -> None:
        self._wake.clear()
        finished, self._finished = self._finished, []
        for task in finished:
            place = self._running.pop(task)
            if not task.cancelled():
                self._done[place] = task.result()

    def _settle_ready(self) -> int:
        """Settle, in the fixed order, every slot that is due. Returns their number."""
        count = 0
        while active := [stream for stream in self.streams if not stream.drained]:
            stream = min(active, key=lambda s: s.settled)
            outcome = self._done.pop((stream.label, stream.settled), None)
            if outcome is None:
                break
            self._settle(stream, outcome)
            count += 1
        return count

    def _settle(self, stream: Stream, outcome: Outcome) -> None:
        candidate, calls = outcome
        if candidate.slot.id in self._stored:
            accepted = candidate.accepted or candidate.decision.code in AFTER_SHARD
            if accepted:
                self._remember(candidate)
        else:
            candidate = self._gated(candidate)
            accepted = candidate.accepted
            self._batch.append(candidate)
            self._batch_calls.extend(calls)
        self._report.overshoot += stream.accepted >= stream.wanted
        stream.settled += 1
        if accepted:
            stream.own += candidate.label == stream.label
            self._report.accepted[candidate.label] = self._report.accepted.get(candidate.label, 0) + 1
            for other in self.streams:
                other.accepted += candidate.label == other.label
        stream.look_ahead()
        self._report.settled += 1
        self._report.failed += candidate.decision.status == "failed"
        self._on_settled(candidate)

    def _gated(self, candidate: Candidate) -> Candidate:
        if not candidate.accepted:
            return candidate
        results = self._admit(candidate)
        gates = candidate.gates + results
        failed = next((result for result in results if not result.passed), None)
        if failed is None:
            return candidate.model_copy(update={"gates": gates})
        return candidate.model_copy(update={"gates": gates, "decision": gate_decision(candidate, failed)})

    def _settle_leftovers(self) -> None:
        """After a halt, settle finished slots that follow an unopened slot."""
        for label, index in sorted(self._done, key=lambda place: (place[1], place[0])):
            stream = next(s for s in self.streams if s.label == label)
            self._settle(stream, self._done[label, index])
        self._done.clear()

    async def _cancel_running(self) -> None:
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.gather(*self._running, return_exceptions=True)
            self._running.clear()

    async def _flush(self) -> None:
        if self._batch:
            batch, calls = self._batch, self._batch_calls
            self._batch, self._batch_calls = [], []
            await self._commit(batch, calls)
            self._flushed = time.monotonic()


def gate_decision(candidate: Candidate, failed: GateResult, code: str = "") -> Decision:
    """The decision of a row that reviewers accepted and a gate then refused."""
    neighbour = f" (hit {failed.neighbour})" if failed.neighbour else ""
    score = f", score {failed.score:.3f}" if failed.score is not None else ""
    return candidate.decision.model_copy(
        update={
            "status": "rejected",
            "route": "gate",
            "code": code or f"gate.{failed.rule}",
            "reason": f"gate {failed.gate}: {failed.rule}{score}{neighbour}",
        }
    )
