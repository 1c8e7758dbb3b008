"""What a gateway counts, and how it looks at one moment."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class EndpointStats:
    """One endpoint and model at one moment. Latencies are of the last replies, in seconds; None before the first."""

    model: str
    limit: int
    """Calls that may be inside now."""
    inside: int
    queued: int
    calls: int
    refused: int
    """Replies that asked to wait (429, or 503 with Retry-After)."""
    pause_s: float
    p50_s: float | None
    p95_s: float | None


@dataclass(frozen=True)
class Stats:
    """A snapshot of a gateway's counters since it opened. `price_usd` is None once any call's price is unknown.

    `waiting` says in a few words what limits speed now; empty while nothing is under way. `notes` are sentences for a
    person, such as that a server answered with another model than was asked for.
    """

    calls: int = 0
    cached: int = 0
    failed: int = 0
    damaged: int = 0
    """Replies that were of no use: malformed, empty, against their schema."""
    retried: int = 0
    hedged: int = 0
    in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    price_usd: float | None = 0.0
    waiting: str = ""
    notes: tuple[str, ...] = ()
    by_model: Counter[str] = field(default_factory=Counter)
    endpoints: tuple[EndpointStats, ...] = ()
