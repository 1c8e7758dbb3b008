"""Telemetry providers: the program's own, or new ones configured by the OTEL_ variables.

Imported only if telemetry is on. Our providers are not set globally: each run creates and shuts down its own.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import TracerProvider

End = Callable[[], object]
"""Sends pending data; may block, may raise."""

NOISY = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.sdk._shared_internal",
)
"""Loggers that warn at each failed export."""

QUIET_S = 600.0
"""Least seconds between two such warnings."""


def tracer_provider(kinds: tuple[str, ...]) -> tuple[TracerProvider, End]:
    """Return a tracer provider and its shutdown.

    Args:
        kinds: exporters, of "otlp" and "console"; without any, tracing is off.

    Returns:
        The program's provider if it has set one, else a new provider; and a function that flushes or ends it.
    """
    found = trace.get_tracer_provider()
    if not kinds:
        return trace.NoOpTracerProvider(), _nothing
    if _is_set(found):
        return found, _flush_of(found)
    from opentelemetry.sdk import trace as sdk
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    _hush()
    made = sdk.TracerProvider(resource=_resource(), shutdown_on_exit=False)
    for kind in kinds:
        exporter: SpanExporter
        if kind == "console":
            exporter = ConsoleSpanExporter(out=sys.stderr)
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
        made.add_span_processor(BatchSpanProcessor(exporter))
    return made, made.shutdown


def meter_provider(kinds: tuple[str, ...], close_s: float) -> tuple[MeterProvider, End, bool]:
    """Like `tracer_provider` for metrics, and whether the provider is the program's.

    `close_s` is the timeout of the shutdown in seconds.
    """
    found = metrics.get_meter_provider()
    if not kinds:
        return metrics.NoOpMeterProvider(), _nothing, False
    if _is_set(found):
        return found, _flush_of(found), True
    from opentelemetry.sdk import metrics as sdk
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricExporter, PeriodicExportingMetricReader

    _hush()
    readers = []
    for kind in kinds:
        exporter: MetricExporter
        if kind == "console":
            exporter = ConsoleMetricExporter(out=sys.stderr)
        else:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

            exporter = OTLPMetricExporter()
        readers.append(PeriodicExportingMetricReader(exporter))
    made = sdk.MeterProvider(readers, resource=_resource(), shutdown_on_exit=False)
    return made, lambda: made.shutdown(close_s * 1000), False


def _flush_of(provider: object) -> End:
    """Shutdown of the program's provider: it is flushed, not ended."""
    flush: End = getattr(provider, "force_flush", _nothing)
    return flush


def _nothing() -> None:
    return None


def _is_set(provider: object) -> bool:
    """Return True if the program has set a provider: the API's own classes are placeholders."""
    return type(provider).__module__.split(".")[:2] not in (["opentelemetry", "trace"], ["opentelemetry", "metrics"])


def _resource() -> Resource:
    given = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create({} if given else {"service.name": "graft"})


class _Seldom(logging.Filter):
    """Passes one warning per QUIET_S."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + QUIET_S
        return True


_seldom = _Seldom()


def _hush() -> None:
    for name in NOISY:
        logging.getLogger(name).addFilter(_seldom)  # adding it again changes nothing
