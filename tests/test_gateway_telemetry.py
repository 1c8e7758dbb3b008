"""Telemetry: what it sends, what it never sends, and that it costs nothing while off or unreachable."""

from __future__ import annotations

import asyncio
import http.server
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from graft.agents.gateway.stats import EndpointStats, Stats
from graft.agents.gateway.telemetry import Telemetry
from graft.agents.gateway.telemetry import spans as module
from graft.schemas.calls import CallRequest, Message, Reply, Usage
from graft.schemas.errors import CallFailed
from graft.schemas.models import ModelSpec

MODEL = ModelSpec(
    name="small", provider="openai", model="org/small-7b", base_url="http://127.0.0.1:8123/v1", api_key_env="K"
).model_copy(update={"base_url": "http://me:hush@127.0.0.1:8123/v1"})  # no recipe gives such an address
REQUEST = CallRequest(
    model=MODEL, role="generator", purpose="write.text", messages=(Message(role="user", content="sell me a kettle"),),
    stop=("kettle",), seed=7, json_schema={"type": "object"},
)  # fmt: skip
REPLY = Reply(
    key="0" * 32, text="a kettle of steel", usage=Usage(prompt_tokens=100, completion_tokens=20, cached_tokens=60),
    price_usd=0.25, latency_s=0.1, attempts=2, served_model="org/small-7b-v2", finish_reason="stop",
)  # fmt: skip
STATS = Stats(
    in_flight=3, retried=5, hedged=1, damaged=2,
    endpoints=(EndpointStats("small", 8, 3, 11, 40, 4, 1.5, 0.2, 0.9),
               EndpointStats("idle", 4, 0, 0, 0, 0, 0.0, None, None)),
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)


class Kept:
    """The SDK as a program may have set it, with everything kept in memory."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers, self.meters = TracerProvider(), MeterProvider([self.reader])
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", lambda: self.tracers)
        monkeypatch.setattr("opentelemetry.metrics.get_meter_provider", lambda: self.meters)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")

    def spans(self) -> dict[str, Any]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    made = Kept(monkeypatch)
    yield made
    made.tracers.shutdown()
    made.meters.shutdown()


def found(messages: list[str] | None = None) -> Telemetry:
    telemetry = Telemetry.find((messages if messages is not None else []).append)
    assert telemetry.on
    return telemetry


def test_spans_hang_below_each_other_and_carry_the_conventions_names(kept: Kept) -> None:
    async def call(telemetry: Telemetry) -> None:
        with telemetry.call(REQUEST) as span:
            await asyncio.sleep(0)
            span.done(REPLY)

    async def run() -> None:
        telemetry = found()
        with (
            telemetry.span("graft.run", run="r1", shards=2, nothing=None),
            telemetry.span("graft.shard", shard="0") as shard,
            telemetry.span("graft.candidate", slot="s" * 500),
        ):
            await asyncio.gather(call(telemetry), call(telemetry))
            shard.note(accepted=3)
        telemetry.close()

    asyncio.run(run())
    spans = kept.spans()
    run_span, shard, candidate, one = (spans[name] for name in (
        "graft.run", "graft.shard", "graft.candidate", "chat org/small-7b"))  # fmt: skip
    assert one.parent.span_id == candidate.context.span_id
    assert candidate.parent.span_id == shard.context.span_id
    assert shard.parent.span_id == run_span.context.span_id and run_span.parent is None
    assert len(kept.exporter.get_finished_spans()) == 5
    assert dict(run_span.attributes) == {"graft.run": "r1", "graft.shards": 2}
    assert dict(shard.attributes) == {"graft.shard": "0", "graft.accepted": 3}
    assert len(candidate.attributes["graft.slot"]) == module.LONGEST
    assert dict(one.attributes) == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "org/small-7b",
        "graft.model": "small", "graft.role": "generator", "graft.purpose": "write.text",
        "gen_ai.request.temperature": 0.2, "gen_ai.request.top_p": 0.9, "gen_ai.request.max_tokens": 512,
        "gen_ai.request.seed": 7, "gen_ai.output.type": "json", "server.address": "127.0.0.1", "server.port": 8123,
        "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 20, "gen_ai.usage.cache_read.input_tokens": 60,
        "graft.price_usd": 0.25, "graft.attempts": 2, "graft.cached": False,
        "gen_ai.response.model": "org/small-7b-v2", "gen_ai.response.finish_reasons": ("stop",),
    }  # fmt: skip
    assert one.kind.name == "CLIENT"


def test_the_names_are_those_of_the_installed_conventions(kept: Kept) -> None:
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

    known = {value for value in vars(gen_ai_attributes).values() if isinstance(value, str)}
    with found().call(REQUEST) as span:
        span.done(REPLY)
    used = {name for name in kept.spans()["chat org/small-7b"].attributes if name.startswith("gen_ai.")}
    assert used <= known and len(used) > 10


def test_no_word_of_a_prompt_reply_or_error_gets_out(kept: Kept) -> None:
    telemetry = found()
    with telemetry.call(REQUEST) as span:
        span.done(REPLY.model_copy(update={"finish_reason": "the kettle is hot", "served_model": "a kettle, sir"}))
    for error in (CallFailed("malformed", "kettle", raw="kettle"), ValueError("kettle")):
        with pytest.raises(type(error)), telemetry.call(REQUEST):
            raise error
    sent = "".join(span.to_json() for span in kept.exporter.get_finished_spans())
    data = kept.reader.get_metrics_data()
    assert data is not None
    sent += data.to_json()
    for word in ("kettle", "hush", "me@"):
        assert word not in sent
    assert "malformed" in sent and "ValueError" in sent


def test_errors_are_noted_by_code_and_cancelling_is_none(kept: Kept) -> None:
    telemetry = found()
    for error in (CallFailed("timeout", "x"), asyncio.CancelledError()):
        with pytest.raises(type(error)), telemetry.call(REQUEST):
            raise error
    failed, cancelled = kept.exporter.get_finished_spans()
    assert failed.attributes["error.type"] == "timeout" and failed.status.status_code.name == "ERROR"
    assert failed.status.description is None and not failed.events
    assert cancelled.status.status_code.name == "UNSET"
    outcomes = {point.attributes["graft.outcome"]: point.value for point in kept.points("graft.calls")}
    assert outcomes == {"failed": 1, "cancelled": 1}


def test_calls_are_measured_by_model_and_role(kept: Kept) -> None:
    telemetry = found()
    for reply in (REPLY, REPLY, REPLY.model_copy(update={"cached": True})):
        with telemetry.call(REQUEST) as span:
            span.done(reply)
    with telemetry.call(REQUEST.model_copy(update={"role": "reviewer"})) as span:
        span.done(REPLY.model_copy(update={"usage": Usage(), "price_usd": None}))
    outcomes = {
        (p.attributes["graft.role"], p.attributes["graft.outcome"]): p.value for p in kept.points("graft.calls")
    }
    assert outcomes == {("generator", "replied"): 2, ("generator", "cached"): 1, ("reviewer", "replied"): 1}
    tokens = {p.attributes["gen_ai.token.type"]: p.sum for p in kept.points("gen_ai.client.token.usage")}
    assert tokens == {"input": 200, "output": 40}
    assert [p.value for p in kept.points("graft.tokens.cached")] == [120]
    assert [p.value for p in kept.points("graft.price")] == [0.5]
    assert sum(p.count for p in kept.points("gen_ai.client.operation.duration")) == 3


def test_a_gateways_stats_are_read_until_close_and_counters_stay(kept: Kept) -> None:
    first, second = found(), found()
    first.watch(lambda: STATS)
    second.watch(lambda: STATS)

    def now(name: str) -> dict[str, float]:
        return {p.attributes.get("graft.model", ""): p.value for p in kept.points(name)}

    assert now("graft.endpoint.queued") == {"small": 22, "idle": 0}
    assert now("graft.endpoint.limit") == {"small": 16, "idle": 8}
    assert now("graft.endpoint.inside")["small"] == 6
    assert now("graft.endpoint.pause") == {"small": 1.5, "idle": 0.0}
    assert now("graft.endpoint.refused")["small"] == 8
    assert now("graft.gateway.in_flight") == {"": 6}
    assert {p.attributes["graft.quantile"]: p.value for p in kept.points("graft.endpoint.latency")} == {
        "0.5": 0.2, "0.95": 0.9,
    }  # fmt: skip
    first.close()
    first.close()
    assert now("graft.endpoint.queued")["small"] == 11
    assert now("graft.endpoint.refused")["small"] == 8
    assert now("graft.gateway.retried") == {"": 10}
    second.close()
    assert not now("graft.endpoint.queued") and now("graft.endpoint.refused")["small"] == 8


class Collector(http.server.BaseHTTPRequestHandler):
    """Counts what arrives by path, and keeps the bodies."""

    got: Counter[str]
    bodies: bytes

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).got[self.path] += 1
        type(self).bodies += body
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_spans_and_metrics_arrive_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    Collector.got, Collector.bodies = Counter(), b""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        for _ in range(2):  # a second run in the same process
            telemetry = found()
            telemetry.watch(lambda: STATS)
            with telemetry.span("graft.run"), telemetry.call(REQUEST) as span:
                span.done(REPLY)
            telemetry.close()
        server.shutdown()
    assert Collector.got == {"/v1/traces": 2, "/v1/metrics": 2}
    for name in (b"graft.run", b"chat org/small-7b", b"gen_ai.client.operation.duration", b"graft.endpoint.queued"):
        assert name in Collector.bodies
    assert b"kettle" not in Collector.bodies
    from opentelemetry import trace

    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider), "ours is not set for others"


@pytest.mark.parametrize("mute", [False, True], ids=["closed", "never answers"])
def test_a_collector_that_cannot_be_reached_slows_nothing(monkeypatch: pytest.MonkeyPatch, mute: bool) -> None:
    monkeypatch.setattr(module, "CLOSE_S", 0.5)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if mute:
            listening.listen(8)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{listening.getsockname()[1]}")
        telemetry = found()
        telemetry.watch(lambda: STATS)
        since = time.thread_time()
        for _ in range(3000):  # more than the queue holds
            with telemetry.call(REQUEST) as span:
                span.done(REPLY)
        each = (time.thread_time() - since) / 3000
        since = time.perf_counter()
        telemetry.close()
        assert time.perf_counter() - since < 20
    assert each < 0.001


def test_off_is_one_shared_object_and_costs_next_to_nothing() -> None:
    telemetry = Telemetry.find(pytest.fail)
    assert not telemetry.on
    with telemetry.call(REQUEST) as span, telemetry.span("graft.candidate", slot=1) as other:
        assert span is other
        span.done(REPLY)
        span.note(rows=1)
    telemetry.watch(lambda: STATS)
    telemetry.close()

    def some(count: int) -> float:
        since = time.perf_counter()
        for _ in range(count):
            with telemetry.call(REQUEST) as span:
                span.done(REPLY)
        return (time.perf_counter() - since) / count

    assert min(some(2000) for _ in range(20)) < 2e-6


def test_off_imports_nothing() -> None:
    code = (
        "import sys; from graft.agents.gateway.telemetry import Telemetry; Telemetry.find(print); "
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_installed", lambda name: False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    messages: list[str] = []
    assert not Telemetry.find(messages.append).on
    assert len(messages) == 1 and "graft-factory[otel]" in messages[0]


@pytest.mark.parametrize(
    ("variables", "on", "says"),
    [
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}, False, ""),
        ({"OTEL_TRACES_EXPORTER": "console"}, True, ""),
        ({"OTEL_METRICS_EXPORTER": "console"}, True, ""),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}, False, ""),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, False, "supports only"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False, "http/protobuf"),
        ({"OTEL_METRICS_EXPORTER": "console", "OTEL_METRIC_EXPORT_INTERVAL": "-5"}, False, "cannot be used"),
    ],
)
def test_the_standard_variables_decide(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variables: dict[str, str], on: bool, says: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    messages: list[str] = []
    telemetry = Telemetry.find(messages.append)
    with telemetry.call(REQUEST) as span:
        span.done(REPLY)
    telemetry.close()
    assert telemetry.on is on and (says in " ".join(messages) if says else not messages)
    shown = capsys.readouterr()
    assert not shown.out and (("org/small-7b" in shown.err) is on)
