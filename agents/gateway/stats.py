"""What a gateway counts, and how it looks at one moment."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class EndpointStats:
    """One endpoint and model at one moment. Latencies are of the last replies, in seconds; None before the first.

    Runs that share the endpoint in one process share these figures, but for `queued` which is the asking run's own.
    """

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


@dataclass
class Counts:
    """Counters of one gateway since it opened."""

    calls: int = 0
    cached: int = 0
    failed: int = 0
    damaged: int = 0
    """Replies that were of no use: malformed, empty, against their schema."""
    retried: int = 0
    hedged: int = 0
    """Calls that were sent a second time because they were slow."""
    in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    by_model: Counter[str] = field(default_factory=Counter)
    price_by_role: dict[str, float] = field(default_factory=dict)
    """US dollars, as far as they are known."""


@dataclass
class Stats(Counts):
    """A snapshot. `price_usd` is None once any call's price is unknown.

    `waiting` says in a few words what limits speed now; empty while nothing is under way. `notes` are sentences for a
    person, such as that a server answered with another model than was asked for.
    """

    price_usd: float | None = 0.0
    charged: dict[str, float] = field(default_factory=dict)
    """What this gateway's calls were charged, by the cap's field; an unknown price as all that was reserved."""
    charged_before: dict[str, float] = field(default_factory=dict)
    """What earlier processes of the run were charged, by the cap's field."""
    waiting: str = ""
    notes: tuple[str, ...] = ()
    endpoints: tuple[EndpointStats, ...] = ()


def percentile(values: list[float], share: float) -> float | None:
    """The value below which `share` (0 to 1) of the values lie (nearest rank); None where there is none."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
