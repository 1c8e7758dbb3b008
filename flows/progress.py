"""What a run is doing right now: read by the terminal's display while the flow works in the same process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from schemas.rows import Candidate


@dataclass
class Progress:
    """Counts that grow while a run goes on. Reading it from another thread is safe: it holds only plain numbers."""

    dataset: str
    run_id: str
    wanted: dict[str, int]
    stage: str = "planning"
    accepted: dict[str, int] = field(default_factory=dict)
    settled: int = 0
    rejected: int = 0
    failed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    gateway: Callable[[], Any] | None = None
    shards: set[tuple[int, int]] = field(default_factory=set)

    def note(self, candidate: Candidate, shard: tuple[int, int] = (0, 0)) -> None:
        """Count one settled candidate of a shard (round, number)."""
        self.shards.add(shard)
        self.settled += 1
        if candidate.accepted:
            self.accepted[candidate.label] = self.accepted.get(candidate.label, 0) + 1
            return
        if candidate.decision.status == "failed":
            self.failed += 1
        else:
            self.rejected += 1
        self.reasons[candidate.decision.code] = self.reasons.get(candidate.decision.code, 0) + 1

    def note_shard(self, shard: tuple[int, int], report: dict[str, Any]) -> None:
        """Count a shard that an earlier attempt finished, so that nothing of it ran in this process."""
        if shard in self.shards:
            return
        self.shards.add(shard)
        self.settled += report["settled"]
        for label, count in report["accepted"].items():
            self.accepted[label] = self.accepted.get(label, 0) + count

    @property
    def total_accepted(self) -> int:
        """Accepted rows over all labels, no label counted beyond what was wanted of it."""
        return sum(min(count, self.wanted.get(label, 0)) for label, count in self.accepted.items())

    @property
    def yield_share(self) -> float | None:
        """Share of the settled candidates that were accepted and are wanted; None before the first."""
        return self.total_accepted / self.settled if self.settled else None

    @property
    def refused_share(self) -> float:
        """Share of the settled candidates that a generator refused to write."""
        return self.reasons.get("rejected.refusal", 0) / self.settled if self.settled else 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    @property
    def eta_seconds(self) -> float | None:
        """Seconds until the target at the speed so far; None while it cannot be told."""
        done = self.total_accepted
        missing = sum(self.wanted.values()) - done
        return self.seconds / done * missing if done else None


_current: Progress | None = None


def current() -> Progress | None:
    """The progress of the run that goes on in this process, if any."""
    return _current


def begin(progress: Progress) -> Progress:
    """Make `progress` the one that `current` returns."""
    global _current
    _current = progress
    return progress
