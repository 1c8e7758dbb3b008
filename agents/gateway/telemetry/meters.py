"""Metrics: counted per call, and read from the gateways' stats at each collection.

Imported only if telemetry is on.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from graft.agents.gateway.stats import EndpointStats, Stats
from graft.schemas.calls import Reply

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)
"""Bucket bounds of the histograms, as the conventions advise."""

ADDED = ("queued", "inside", "limit")
"""Gauges of an endpoint, summed over its gateways."""

TOTALS = ("retried", "hedged", "damaged")
"""Counters of a gateway."""


class Meters:
    """Instruments of one provider. Safe to use from several gateways and threads."""

    def __init__(self, meter: Meter) -> None:
        self._lock = threading.Lock()
        self._reads: list[Callable[[], Stats]] = []
        self._past: Counter[tuple[str, str]] = Counter()
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", "Duration of a model call, including retries",
            explicit_bucket_boundaries_advisory=SECONDS,
        )  # fmt: skip
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Tokens of a model call", explicit_bucket_boundaries_advisory=TOKENS
        )
        self._cached_tokens = meter.create_counter("graft.tokens.cached", "{token}", "Prompt tokens read from a cache")
        self._price = meter.create_counter("graft.price", "USD", "Price of model calls")
        self._calls = meter.create_counter("graft.calls", "{call}", "Model calls by outcome: replied, cached, failed")
        self._observe(meter)

    def count(self, labels: dict[str, Any], seconds: float, reply: Reply | None, error: str | None) -> None:
        """Count a finished call. A reply from the journal adds to the calls only: nothing was sent or paid."""
        if reply is not None and reply.cached:
            self._calls.add(1, labels | {"graft.outcome": "cached"})
            return
        if error is not None:
            labels = labels | {"error.type": error}
        cancelled = error == "CancelledError"
        outcome = "replied" if error is None else "cancelled" if cancelled else "failed"
        self._calls.add(1, labels | {"graft.outcome": outcome})
        if not cancelled:
            self._duration.record(seconds, labels)
        if reply is not None:
            self._paid(labels, reply)

    def _paid(self, labels: dict[str, Any], reply: Reply) -> None:
        usage = reply.usage
        if usage.prompt_tokens is not None:
            self._tokens.record(usage.prompt_tokens, labels | {"gen_ai.token.type": "input"})
        if usage.completion_tokens is not None:
            self._tokens.record(usage.completion_tokens, labels | {"gen_ai.token.type": "output"})
        if usage.cached_tokens:
            self._cached_tokens.add(usage.cached_tokens, labels)
        if reply.price_usd:
            self._price.add(reply.price_usd, labels)

    def watch(self, read: Callable[[], Stats]) -> None:
        """Report a gateway's stats until `retire`."""
        with self._lock:
            self._reads.append(read)

    def retire(self, read: Callable[[], Stats]) -> None:
        """Stop reading a gateway's stats; its counts stay in the counters."""
        stats = _stats(read)
        with self._lock:
            if read in self._reads:
                self._reads.remove(read)
                self._past.update(_counted(stats))

    def _observe(self, meter: Meter) -> None:
        for name in ADDED:
            meter.create_observable_gauge(f"graft.endpoint.{name}", [_gauge(self, name)], "{call}")
        meter.create_observable_gauge("graft.endpoint.pause", [self._pause], "s", "Pause that an endpoint requested")
        meter.create_observable_gauge("graft.endpoint.latency", [self._latency], "s", "Latency of recent replies")
        meter.create_observable_counter(
            "graft.endpoint.refused", [_counter(self, "refused")], "{reply}", "Rate-limited replies (429)"
        )
        for name in TOTALS:
            meter.create_observable_counter(f"graft.gateway.{name}", [_counter(self, name)], "{call}")
        meter.create_observable_gauge("graft.gateway.in_flight", [self._in_flight], "{call}")

    def all_stats(self) -> list[Stats]:
        """Return the stats of every watched gateway."""
        with self._lock:
            reads = list(self._reads)
        return [_stats(read) for read in reads]

    def counted(self, what: str) -> dict[str, int]:
        """Return a counter by model ("" for a gateway's own counter), including retired gateways."""
        stats = self.all_stats()
        with self._lock:
            total = Counter(self._past)
        for one in stats:
            total.update(_counted(one))
        return {model: count for (name, model), count in total.items() if name == what}

    def _in_flight(self, options: CallbackOptions) -> Iterator[Observation]:
        yield Observation(sum(stats.in_flight for stats in self.all_stats()))

    def _pause(self, options: CallbackOptions) -> Iterator[Observation]:
        for model, found in _by_model(self.all_stats()).items():
            yield Observation(max(endpoint.pause_s for endpoint in found), {"graft.model": model})

    def _latency(self, options: CallbackOptions) -> Iterator[Observation]:
        for model, found in _by_model(self.all_stats()).items():
            for quantile, name in (("0.5", "p50_s"), ("0.95", "p95_s")):
                known = [seconds for endpoint in found if (seconds := getattr(endpoint, name)) is not None]
                if known:
                    yield Observation(max(known), {"graft.model": model, "graft.quantile": quantile})


_shared: WeakKeyDictionary[MeterProvider, Meters] = WeakKeyDictionary()
_lock = threading.Lock()


def meters_of(provider: MeterProvider, shared: bool) -> Meters:
    """Return a provider's instruments; a `shared` provider gets them once, because it keeps the first of each name."""
    if not shared:
        return Meters(provider.get_meter("graft"))
    with _lock:
        if provider not in _shared:
            _shared[provider] = Meters(provider.get_meter("graft"))
        return _shared[provider]


Callback = Callable[[CallbackOptions], Iterator[Observation]]


def _gauge(meters: Meters, name: str) -> Callback:
    def read(options: CallbackOptions) -> Iterator[Observation]:
        for model, found in _by_model(meters.all_stats()).items():
            yield Observation(sum(getattr(endpoint, name) for endpoint in found), {"graft.model": model})

    return read


def _counter(meters: Meters, name: str) -> Callback:
    def read(options: CallbackOptions) -> Iterator[Observation]:
        for model, count in meters.counted(name).items():
            yield Observation(count, {"graft.model": model} if model else {})

    return read


def _counted(stats: Stats) -> Counter[tuple[str, str]]:
    found = Counter({(name, ""): getattr(stats, name) for name in TOTALS})
    for endpoint in stats.endpoints:
        found["refused", endpoint.model] += endpoint.refused
    return found


def _by_model(all_stats: list[Stats]) -> dict[str, list[EndpointStats]]:
    found: dict[str, list[EndpointStats]] = {}
    for stats in all_stats:
        for endpoint in stats.endpoints:
            found.setdefault(endpoint.model, []).append(endpoint)
    return found


def _stats(read: Callable[[], Stats]) -> Stats:
    """Snapshot taken outside the gateway's thread; retried if the gateway changes it meanwhile."""
    for _ in range(3):
        try:
            return read()
        except RuntimeError:
            continue
    return Stats()
