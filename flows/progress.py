"""Live counts of a run, read by the terminal's display in the same process."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graft.flows.feasibility import COST_SAMPLE, LabelCounts, Room, Sample, row_price
from graft.schemas.calls import Call
from graft.schemas.decisions import OUT_OF_BUDGET
from graft.schemas.recipe import Limits
from graft.schemas.rows import Accepted, Candidate

RECENT = 3
"""Accepted texts kept for the display."""
ETA_FROM = 10
"""Rows accepted in this process before an end is estimated."""
KEYS_KEPT = 4_000
"""Number of recent call keys kept: equal calls follow each other closely."""


@dataclass
class Spent:
    """Costs of candidates in this process. A candidate served by the journal, even in part, is no measure of cost:
    it is left out of the samples, and its payment is counted separately."""

    usd: Sample = field(default_factory=Sample)
    tokens: Sample = field(default_factory=Sample)
    finished: set[str] = field(default_factory=set)
    """Ids of candidates that ran here and are not settled."""
    other_usd: float = 0.0
    other_tokens: int = 0
    _keys: dict[str, None] = field(default_factory=dict)

    def end(self, candidate_id: str, calls: Sequence[Call]) -> None:
        """Count a finished candidate with its calls."""
        self.finished.add(candidate_id)
        paid = [call for call in calls if not call.cached]
        self._keys.update(dict.fromkeys(call.key for call in paid))
        while len(self._keys) > KEYS_KEPT:
            del self._keys[next(iter(self._keys))]
        usd = _sum([call.price_usd for call in paid if call.failure is None])
        tokens = _sum([_tokens(call) for call in paid if call.failure is None])
        if any(call.cached and call.key not in self._keys for call in calls):
            self.other_usd += usd or 0.0
            self.other_tokens += int(tokens or 0)
        else:
            self.usd.add(usd)
            self.tokens.add(tokens)

    def others(self, cap: str) -> float:
        """Money or tokens paid outside the samples."""
        return self.other_usd if cap == "limits.money_usd" else self.other_tokens


def _sum(values: list[Any]) -> float | None:
    return None if None in values else float(sum(values))


def _tokens(call: Call) -> int | None:
    if call.prompt_tokens is None or call.completion_tokens is None:
        return None
    return call.prompt_tokens + call.completion_tokens


@dataclass
class Progress:
    """Counts of a run. Reading them from another thread is safe: they are plain numbers."""

    dataset: str
    run_id: str
    wanted: dict[str, int]
    target: dict[str, int] = field(default_factory=dict)
    """The recipe's target, where more rows are made than it has; a target out of reach is this one."""
    local: bool = False
    """Whether all models of the recipe are local (`schemas.money`)."""
    stage: str = "planning"
    accepted: dict[str, int] = field(default_factory=dict)
    settled: int = 0
    rejected: int = 0
    failed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    gateway: Callable[[], Any] | None = None
    shards: set[tuple[int, int]] = field(default_factory=set)
    tried: dict[str, int] = field(default_factory=dict)
    """Settled candidates by intended label, without those of `unpaid`; under "" a person's texts."""
    texts: int = 0
    """A person's texts that the run labels."""
    given: dict[str, int] = field(default_factory=dict)
    """Accepted ones of these texts, by label; all of them count as accepted rows, also beyond a target."""
    unpaid: int = 0
    """Candidates ended by a cap: they say nothing about the yield under a higher cap."""
    overshoot: int = 0
    """Candidates opened after their label had reached its target in their shard."""
    shown_notes: set[str] = field(default_factory=set)
    """Notes that were shown already."""
    spent: Spent = field(default_factory=Spent)
    pending: set[str] = field(default_factory=set)
    """Ids of candidates that the method accepted here and the gates have not screened: they settle in a fixed order."""
    recent: deque[Candidate] = field(default_factory=lambda: deque(maxlen=RECENT))
    """The last accepted rows, also pending ones, without restricted ones."""
    _pace: tuple[float, int] | None = None
    """Time at which this process accepted its first row, and the rows accepted by then."""

    def make(self, more: Mapping[str, int], kept: Sequence[Accepted]) -> None:
        """Show how many rows are made in all, which may exceed the target: `more` of each label beside kept ones."""
        have = Counter(row.label for row in kept)
        self.target = self.target or self.wanted
        self.wanted = {label: max(count, have[label] + more.get(label, 0)) for label, count in self.target.items()}

    def end(self, candidate: Candidate, calls: Sequence[Call]) -> None:
        """Count a candidate that the method has finished with; it settles when those before it have."""
        self.spent.end(candidate.id, calls)
        if candidate.accepted:
            self.pending.add(candidate.id)
            self._show(candidate)

    def note(self, candidate: Candidate, shard: tuple[int, int] = (0, 0)) -> None:
        """Count one settled candidate of a shard (round, number)."""
        self.shards.add(shard)
        self.settled += 1
        self.spent.finished.discard(candidate.id)
        shown = candidate.id in self.pending
        self.pending.discard(candidate.id)
        if candidate.decision.code == OUT_OF_BUDGET:
            self.unpaid += 1
        else:
            self.tried[candidate.slot.label] = self.tried.get(candidate.slot.label, 0) + 1
        if candidate.accepted:
            self.accepted[candidate.label] = self.accepted.get(candidate.label, 0) + 1
            if not candidate.slot.label:
                self.given[candidate.label] = self.given.get(candidate.label, 0) + 1
            self._pace = self._pace or (time.monotonic(), self.total_accepted)
            if not shown:
                self._show(candidate)
            return
        if shown:
            self.recent = deque((one for one in self.recent if one.id != candidate.id), RECENT)
        if candidate.decision.status == "failed":
            self.failed += 1
        else:
            self.rejected += 1
        self.reasons[candidate.decision.code] = self.reasons.get(candidate.decision.code, 0) + 1

    def _show(self, candidate: Candidate) -> None:
        if not candidate.restricted:
            self.recent.append(candidate)

    def note_shard(self, shard: tuple[int, int], report: dict[str, Any]) -> None:
        """Count a finished shard; candidates only if an earlier attempt finished it and none settled here."""
        self.overshoot += report.get("overshoot", 0)
        if shard in self.shards:
            return
        self.shards.add(shard)
        self.settled += report["settled"]
        for label, count in report.get("tried", {}).items():
            self.tried[label] = self.tried.get(label, 0) + count
        for label, count in report["accepted"].items():
            self.accepted[label] = self.accepted.get(label, 0) + count
            if "" in report.get("tried", {}):
                self.given[label] = self.given.get(label, 0) + count

    @property
    def total_accepted(self) -> int:
        """Accepted rows over all labels, each counted up to its target or to the number of its given texts."""
        most = {label: max(self.wanted.get(label, 0), self.given.get(label, 0)) for label in self.accepted}
        return sum(min(count, most[label]) for label, count in self.accepted.items())

    @property
    def total_wanted(self) -> int:
        """The target over all labels; without one as many rows as there are texts."""
        return sum(self.wanted.values()) or self.texts

    @property
    def yield_share(self) -> float | None:
        """Share of settled, paid candidates that were accepted within the target; None before the first."""
        paid = self.settled - self.unpaid
        return self.total_accepted / paid if paid else None

    @property
    def refused_share(self) -> float:
        """Share of settled candidates that a generator refused to write."""
        return self.reasons.get("rejected.refusal", 0) / self.settled if self.settled else 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    @property
    def price(self) -> str:
        """The price of an accepted row so far in words, from candidates paid in this process."""
        usd, share = self.spent.usd, sum(self.accepted.values()) / self.settled if self.settled else None
        return row_price(usd.mean / share if usd.count and share else None, unknown=usd.unknown, local=self.local)

    def labels(self) -> list[LabelCounts]:
        """Every label's counts over the whole run."""
        return [
            LabelCounts(
                label, max(0, self.target.get(label, wanted) - (got := self.accepted.get(label, 0))),
                self.tried.get(label, 0),
                got - self.given.get(label, 0),
            )
            for label, wanted in self.wanted.items()
        ]  # fmt: skip

    def rooms(self, limits: Limits) -> list[Room]:
        """The recipe's caps with their use. A cap with an unknown cost is left out.

        limits.minutes is not included: the same command continues after it, so it puts no target out of reach.
        """
        spent, settled = self.spent, self.settled
        found = [Room("limits.candidates", limits.candidates, settled, 1.0, 1.0, sampled=settled + COST_SAMPLE)]
        ahead = len(spent.finished)
        earlier = self.gateway().charged_before if self.gateway is not None else {}
        for cap, has, sample in (
            ("limits.money_usd", limits.money_usd, spent.usd),
            ("limits.tokens", limits.tokens, spent.tokens),
        ):
            if has is not None and sample.count and not sample.unknown:
                used = sample.total + spent.others(cap) + earlier.get(cap, 0.0)
                found.append(Room(cap, has, used, sample.low, sample.mean, ahead, sample.count))
        return found

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until the target at this process's pace; None before its first ETA_FROM accepted rows."""
        done = self.total_accepted
        since, before = self._pace or (0.0, done)
        if done - before < ETA_FROM:
            return None
        return (time.monotonic() - since) / (done - before) * max(0, self.total_wanted - done)


_current: Progress | None = None


def current() -> Progress | None:
    """The progress of this process's current run, if any."""
    return _current


def begin(progress: Progress) -> Progress:
    """Set the progress that `current` returns."""
    global _current
    _current = progress
    return progress
