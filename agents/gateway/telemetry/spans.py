"""OpenTelemetry through the extra `otel`: spans for runs, shards, candidates and calls; metrics of the gateway.

Off unless the standard variables enable it; while off, nothing is imported and a call costs well under a microsecond.
Attribute names follow OpenTelemetry's conventions for generative AI; others begin with `graft.`. Attributes hold names,
counts, codes and classes only, never prompts, replies or error texts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import PurePath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from graft.agents.gateway.stats import Stats
from graft.schemas.calls import CallRequest, Reply
from graft.schemas.errors import CallFailed
from graft.schemas.models import ModelSpec

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from graft.agents.gateway.telemetry.meters import Meters

Say = Callable[[str], None]
Read = Callable[[], Stats]
Attribute = str | int | float | bool | None

CLOSE_S = 3.0
"""Seconds that a run waits at its end for pending exports."""

LONGEST = 128
"""Longest text attribute in characters; the rest is cut."""

TRACES, METRICS = "TRACES", "METRICS"
KINDS = ("otlp", "console")
WORD = re.compile(r"[\w.:/@+-]{1,128}")
"""Valid model names and finish reasons of a server; anything else could be prose and is omitted."""


class Span:
    """Span interface; this class, used while telemetry is off, does nothing."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def done(self, reply: Reply) -> None:
        """Record a reply's tokens, price and attempts, never its text."""

    def note(self, **attributes: Attribute) -> None:
        """Add attributes, prefixed with `graft.`: counts and codes, never texts."""


_SILENT = Span()


class Telemetry:
    """Telemetry interface; this class does nothing. `find` returns the active one if it is enabled."""

    on = False

    @staticmethod
    def find(say: Say) -> Telemetry:
        """Set telemetry up from the OTEL_ variables; problems go to `say` as one sentence. Never raises."""
        chosen = {signal: _chosen(signal, say) for signal in (TRACES, METRICS)}
        if not any(chosen.values()) or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return Telemetry()
        if not _installed("opentelemetry.sdk") or not _installed("opentelemetry.exporter.otlp.proto.http"):
            say("telemetry is enabled (OTEL_ variables) but not installed: pip install 'graft-factory[otel]'")
            return Telemetry()
        try:
            return _Live(chosen[TRACES], chosen[METRICS])
        except (ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
            say(f"telemetry stays off: the OTEL_ variables cannot be used ({type(error).__name__})")
            return Telemetry()

    def call(self, request: CallRequest) -> Span:
        """Span around one model call, including all attempts: `with ... as span: span.done(reply)`."""
        return _SILENT

    def span(self, name: str, **attributes: Attribute) -> Span:
        """Span such as `graft.run`, `graft.shard` or `graft.candidate`; spans opened inside become its children."""
        return _SILENT

    def watch(self, read: Read) -> None:
        """Report a gateway's counters at each collection until `close`. `read` is called from another thread."""

    def close(self) -> None:
        """Send pending data within CLOSE_S seconds. Blocks; safe to call again."""


class _Live(Telemetry):
    on = True

    def __init__(self, traces: tuple[str, ...], metrics: tuple[str, ...]) -> None:
        from graft.agents.gateway.telemetry.exporters import meter_provider, tracer_provider
        from graft.agents.gateway.telemetry.meters import meters_of

        tracers, end = tracer_provider(traces)
        meters, end_too, shared = meter_provider(metrics, CLOSE_S)
        self._tracer: Tracer = tracers.get_tracer("graft")
        self._meters: Meters = meters_of(meters, shared)
        self._ends, self._reads, self._closed = (end, end_too), list[Read](), False

    def call(self, request: CallRequest) -> Span:
        return _CallSpan(self._tracer, self._meters, request)

    def span(self, name: str, **attributes: Attribute) -> Span:
        return _LiveSpan(self._tracer, name, _own(attributes))

    def watch(self, read: Read) -> None:
        self._reads.append(read)
        self._meters.watch(read)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        threads = [threading.Thread(target=_quietly, args=(end,), daemon=True) for end in self._ends]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + CLOSE_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for read in self._reads:
            self._meters.retire(read)


class _LiveSpan(Span):
    __slots__ = ("_attributes", "_call", "_name", "_span", "_token", "_tracer")

    def __init__(self, tracer: Tracer, name: str, attributes: dict[str, Any], call: bool = False) -> None:
        self._tracer, self._name, self._attributes, self._call = tracer, name, attributes, call

    def __enter__(self) -> Self:
        from opentelemetry import context, trace

        kind = trace.SpanKind.CLIENT if self._call else trace.SpanKind.INTERNAL
        self._span = self._tracer.start_span(self._name, kind=kind, attributes=self._attributes)
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from opentelemetry import context
        from opentelemetry.trace import StatusCode

        if error is not None:
            self._span.set_attribute("error.type", _code(error))
            if not isinstance(error, asyncio.CancelledError | GeneratorExit):
                self._span.set_status(StatusCode.ERROR)
        context.detach(self._token)
        self._span.end()

    def note(self, **attributes: Attribute) -> None:
        self._span.set_attributes(_own(attributes))


class _CallSpan(_LiveSpan):
    __slots__ = ("_labels", "_meters", "_reply", "_since")

    def __init__(self, tracer: Tracer, meters: Meters, request: CallRequest) -> None:
        labels = _labels(request)
        name = f"{labels['gen_ai.operation.name']} {labels['gen_ai.request.model']}"
        super().__init__(tracer, name, labels | _of_request(request), call=True)
        self._meters, self._labels = meters, labels
        self._reply: Reply | None = None
        self._since = time.monotonic()

    def done(self, reply: Reply) -> None:
        self._reply = reply
        if self._span.is_recording():
            self._span.set_attributes(_of_reply(reply))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        seconds = time.monotonic() - self._since
        self._meters.count(self._labels, seconds, self._reply, None if error is None else _code(error))


def _chosen(signal: str, say: Say) -> tuple[str, ...]:
    """Exporters of a signal, of KINDS, according to the standard variables; empty if off."""
    named = os.environ.get(f"OTEL_{signal}_EXPORTER", "").strip().lower()
    own, common = f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
    if not named:
        named = "otlp" if os.environ.get(own) or os.environ.get(common) else "none"
    kinds = [kind.strip() for kind in named.split(",")]
    if any(kind not in (*KINDS, "none") for kind in kinds):
        say(f"OTEL_{signal}_EXPORTER supports only otlp, console and none")
    protocol = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if "otlp" in kinds and protocol and protocol.strip() != "http/protobuf":
        say(f"telemetry ({signal.lower()}) stays off: OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf (port 4318)")
        kinds.remove("otlp")
    return tuple(kind for kind in KINDS if kind in kinds)


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _labels(request: CallRequest) -> dict[str, Any]:
    """Metric labels of a call, each of low cardinality."""
    model = request.model
    operation = "chat" if request.messages else "text_completion"
    return {
        "gen_ai.operation.name": "embeddings" if model.provider == "encoder" else operation,
        "gen_ai.provider.name": _provider(model),
        "gen_ai.request.model": _model_id(model),
        "graft.model": model.name,
        "graft.role": request.role,
    }


def _of_request(request: CallRequest) -> dict[str, Any]:
    """Further span attributes from the request."""
    attributes: dict[str, Any] = {
        "graft.purpose": request.purpose[:LONGEST],
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.output.type": "text" if request.json_schema is None else "json",
    }
    if request.seed is not None:
        attributes["gen_ai.request.seed"] = request.seed
    return attributes | _server(request.model.base_url)


def _of_reply(reply: Reply) -> dict[str, Any]:
    """Span attributes from the reply, without its text."""
    usage = reply.usage
    attributes: dict[str, Any] = {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "graft.price_usd": reply.price_usd,
        "graft.attempts": reply.attempts,
        "graft.cached": reply.cached,
    }
    if reply.served_model and WORD.fullmatch(reply.served_model):
        attributes["gen_ai.response.model"] = reply.served_model
    if WORD.fullmatch(reply.finish_reason):
        attributes["gen_ai.response.finish_reasons"] = (reply.finish_reason,)
    return {name: value for name, value in attributes.items() if value is not None}


def _provider(model: ModelSpec) -> str:
    if model.provider == "litellm":
        return model.model.partition("/")[0] if "/" in model.model else "litellm"
    return {"embedded": "llama.cpp", "encoder": "graft"}.get(model.provider, model.provider)


def _model_id(model: ModelSpec) -> str:
    """The model's id; for a local file, its name without the folder."""
    return PurePath(model.model).name if model.provider in ("embedded", "encoder") else model.model[:LONGEST]


def _server(base_url: str | None) -> dict[str, Any]:
    if not base_url:
        return {}
    try:
        parts = urlsplit(base_url)
        return {"server.address": parts.hostname or ""} | ({"server.port": parts.port} if parts.port else {})
    except ValueError:
        return {}


def _own(attributes: Mapping[str, Attribute]) -> dict[str, Any]:
    return {
        f"graft.{name}": value[:LONGEST] if isinstance(value, str) else value
        for name, value in attributes.items()
        if value is not None
    }


def _code(error: BaseException) -> str:
    return error.code if isinstance(error, CallFailed) else type(error).__name__


def _quietly(end: Callable[[], object]) -> None:
    """Run a provider's shutdown and ignore its exceptions (the SDK raises plain Exceptions here)."""
    try:
        end()
    except BaseException as error:  # runs in its own thread, without a caller
        logging.getLogger(__name__).info("telemetry ended with %s", type(error).__name__)
