"""OpenTelemetry by the extra `otel`: spans and metrics of a run. Off, and nearly free, unless asked for."""

from graft.agents.gateway.telemetry.spans import Span, Telemetry

__all__ = ["Span", "Telemetry"]
