"""OpenTelemetry through the extra `otel`: spans and metrics of a run. Off, and nearly free, by default."""

from graft.agents.gateway.telemetry.spans import Span, Telemetry

__all__ = ["Span", "Telemetry"]
