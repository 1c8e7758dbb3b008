"""Counters of a gateway and snapshots of its endpoints."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class EndpointStats:
    """Snapshot of one model at its address. Latencies cover recent replies, in seconds; None before the first.

    Runs that share the model in one process share these figures, except `queued`, which counts this run's calls.
    """

    model: str
    limit: int
    """Calls allowed in flight now: the model's own limit or, if it is lower, the limit of all models of its address."""
    inside: int
    queued: int
    calls: int
    refused: int
    """Rate-limited replies (429, or 503 with Retry-After)."""
    pause_s: float
    p50_s: float | None
    p95_s: float | None


@dataclass
class Counts:
    """Counters of one gateway since it opened."""

    calls: int = 0
    cached: int = 0
    failed: int = 0
    damaged: int = 0
    """Unusable replies: malformed, empty, or in breach of their schema."""
    retried: int = 0
    hedged: int = 0
    """Calls sent a second time because they were slow."""
    in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    by_model: Counter[str] = field(default_factory=Counter)
    price_by_role: dict[str, float] = field(default_factory=dict)
    """Known prices, in US dollars."""


@dataclass
class Stats(Counts):
    """A snapshot. `price_usd` is None once any call's price is unknown.

    `waiting` names the current bottleneck in a few words; empty if nothing is in flight. `notes` are sentences for a
    person, such as that a server answered with another model than requested.
    """

    price_usd: float | None = 0.0
    charged: dict[str, float] = field(default_factory=dict)
    """Charges of this gateway's calls, by the cap's field; an unknown price is charged at its reservation."""
    charged_before: dict[str, float] = field(default_factory=dict)
    """Charges of the run's earlier processes, by the cap's field."""
    waiting: str = ""
    notes: tuple[str, ...] = ()
    endpoints: tuple[EndpointStats, ...] = ()


def percentile(values: list[float], share: float) -> float | None:
    """Nearest-rank quantile of the values for a `share` from 0 to 1; None for an empty list."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
