"""Where telemetry goes: the providers that the program has set, or ones of our own, as the OTEL_ variables say.

Imported only while telemetry is on. Our own providers are not set for others: each run makes and ends its own.
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
"""Sends what is left; may block, may raise."""

NOISY = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.sdk._shared_internal",
)
"""Loggers that complain at each batch that cannot be sent."""

QUIET_S = 600.0
"""Seconds between two complaints that are let through."""


def tracer_provider(kinds: tuple[str, ...]) -> tuple[TracerProvider, End]:
    """The program's provider where it has set one, else one of our own, and how it ends. No kinds: one that is off."""
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
    """As `tracer_provider`, and whether the provider is the program's. `close_s`: seconds that its end may take."""
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
    """A provider of the program's is flushed, not ended."""
    flush: End = getattr(provider, "force_flush", _nothing)
    return flush


def _nothing() -> None:
    return None


def _is_set(provider: object) -> bool:
    """Whether the program has put a provider there: the API's own ones stand for none."""
    return type(provider).__module__.split(".")[:2] not in (["opentelemetry", "trace"], ["opentelemetry", "metrics"])


def _resource() -> Resource:
    given = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create({} if given else {"service.name": "graft"})


class _Seldom(logging.Filter):
    """Lets one complaint through in QUIET_S."""

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
