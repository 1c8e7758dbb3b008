"""Whatever an endpoint answers, over either transport: a reply that can be kept, or a recorded failure."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from in_thread import InThread
from ways import WAYS, named

from graft.agents.gateway import Gateway
from graft.agents.gateway.hosted_transport import HostedTransport
from graft.agents.gateway.journal import as_reply, reply_bytes
from graft.agents.gateway.ledger import MONEY
from graft.agents.gateway.openai_transport import OpenAITransport, seconds_of
from graft.agents.gateway.payload import MOST_BYTES
from graft.agents.gateway.transport import Damaged
from graft.schemas.calls import CallRequest, Message, Reply
from graft.schemas.errors import CallFailed, GraftError
from graft.schemas.models import ModelSpec, Price

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # LiteLLM's own, and pydantic's about its classes
    pytest.mark.filterwarnings("ignore:.*Pydantic serializer warnings.*:UserWarning"),
]
SCHEMA = {"type": "object", "properties": {"score": {}}}
TOKEN = {"token": "f", "logprob": -0.1}
SOUND: dict[str, Any] = {
    "id": "x", "object": "chat.completion", "created": 1, "model": "fake",
    "choices": [{
        "index": 0, "finish_reason": "stop", "text": "fine", "message": {"role": "assistant", "content": "fine"},
        "logprobs": {"content": [{**TOKEN, "top_logprobs": [TOKEN, {"token": "g", "logprob": -2.0}]}]},
    }],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}  # fmt: skip


class Saying(InThread):
    """A server that answers every request with the bytes, status and headers that were set last."""

    def __init__(self) -> None:
        self.status, self.headers, self.body, self.requests = 200, dict[str, str](), b"", list[web.Request]()
        self.endless, self.drip_s = False, 0.0
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        super().__init__(app)

    def says(self, body: Any, status: int = 200, **headers: str) -> None:
        """Answer so from now on; what is no bytes is written as JSON."""
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.status, self.headers, self.endless = status, {"Content-Type": "application/json", **headers}, False
        self.drip_s = 0.0
        self.requests.clear()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if not self.endless and not self.drip_s:
            return web.Response(status=self.status, headers=self.headers, body=self.body)
        response = web.StreamResponse(headers=self.headers)
        await response.prepare(request)
        try:
            while not request.transport.is_closing() if request.transport else False:
                await response.write(b" " if self.drip_s else b" " * 2**20)
                await asyncio.sleep(self.drip_s)
        except (ConnectionError, asyncio.CancelledError):
            pass
        return response


@pytest.fixture(scope="module")
def server() -> Iterator[Saying]:
    with Saying() as saying:
        yield saying


@pytest.fixture(params=WAYS)
def provider(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GRAFT_TEST_KEY", "sk-test-4711")
    monkeypatch.setattr("graft.agents.gateway.limiter.BASE_WAIT_S", 0.001)
    return str(request.param)


def ask(provider: str, url: str, *, chat: bool = True, **more: Any) -> CallRequest:
    spec: dict[str, Any] = {
        **named(provider, chat=chat), "name": "m", "base_url": url, "api_key_env": "GRAFT_TEST_KEY",
        "price": Price(input=1, output=2), **more.pop("spec", {}),
    }  # fmt: skip
    more |= {"messages": (Message(role="user", content="how are you"),)} if chat else {"prompt": "how are you"}
    return CallRequest(model=ModelSpec(**spec), role="reviewer", purpose="test", max_tokens=32, **more)


async def outcome(path: Path, request: CallRequest, **more: Any) -> Reply | CallFailed:
    """The call's reply, read from the journal once more, or its failure; any other exception is the test's."""
    async with Gateway(journal=path / "journal.sqlite", **{"retries": 0, "money_usd": 1.0, **more}) as gateway:
        try:
            first = await gateway.call(request)
        except CallFailed as failure:
            found: Reply | CallFailed = failure
        else:
            found = await gateway.call(request)
            assert found.cached and found == first.model_copy(update={"cached": True, "latency_s": 0.0})
        assert gateway.stats.in_flight == 0 and not any(gateway.ledger.reserved.values()) and not gateway._flights
        return found


def with_choice(**fields: Any) -> dict[str, Any]:
    return {**SOUND, "choices": [{**SOUND["choices"][0], **fields}]}


def content(text: str) -> dict[str, Any]:
    return with_choice(message={"role": "assistant", "content": text})


async def test_half_a_surrogate_pair_and_nul_are_replaced_everywhere(
    provider: str, server: Saying, tmp_path: Path
) -> None:
    token = {"token": "\ud800", "logprob": -0.5, "top_logprobs": [{"token": "\udfff\x00", "logprob": -0.5}]}
    answer = {**with_choice(message={"role": "assistant", "content": "a\ud83d b\x00 c"}, logprobs={"content": [token]}),
              "model": "fa\udc00ke", "\ud800": "\ud800"}  # fmt: skip
    server.says(answer)
    reply = await outcome(tmp_path, ask(provider, server.url, top_logprobs=2))
    assert isinstance(reply, Reply) and reply.text == "a\ufffd b\ufffd c" and reply.usage.prompt_tokens == 3
    assert reply.logprobs[0].token == "\ufffd" and reply.logprobs[0].top == (("\ufffd\ufffd", -0.5),)
    assert "\udc00" not in (reply.served_model or "")


async def test_bytes_that_are_no_utf8_leave_the_rest_readable(provider: str, server: Saying, tmp_path: Path) -> None:
    server.says(json.dumps(content("caf#")).encode().replace(b"#", b"\xe9"))
    reply = await outcome(tmp_path, ask(provider, server.url))
    assert isinstance(reply, Reply) and reply.text == "caf\ufffd"


async def test_a_nul_in_the_reply_s_json_is_replaced(provider: str, server: Saying, tmp_path: Path) -> None:
    server.says(content('{"score": "a\\u0000b"}'))
    reply = await outcome(tmp_path, ask(provider, server.url, json_schema=SCHEMA))
    assert isinstance(reply, Reply) and reply.parsed == {"score": "a\ufffdb"}


async def test_json_that_the_token_limit_cut_off_says_so(provider: str, server: Saying, tmp_path: Path) -> None:
    server.says(with_choice(message={"role": "assistant", "content": '{"score": "lo'}, finish_reason="length"))
    failure = await outcome(tmp_path, ask(provider, server.url, json_schema=SCHEMA))
    assert isinstance(failure, Damaged) and failure.code == "cut" and failure.raw == '{"score": "lo'
    assert "cut off at max_tokens: 32" in failure.what


async def test_json_that_nests_beyond_what_the_journal_keeps_is_malformed(
    provider: str, server: Saying, tmp_path: Path
) -> None:
    server.says(content('{"score": ' + "[" * 500 + "]" * 500 + "}"))
    failure = await outcome(tmp_path, ask(provider, server.url, json_schema=SCHEMA))
    assert isinstance(failure, Damaged) and failure.code == "malformed"


@pytest.mark.parametrize("usage", [
    {"prompt_tokens": 1e30, "completion_tokens": 10**40}, {"prompt_tokens": -1, "completion_tokens": "many"},
    {"prompt_tokens": float("nan"), "completion_tokens": float("inf")},
])  # fmt: skip
async def test_counts_that_are_none_are_unknown(
    provider: str, server: Saying, tmp_path: Path, usage: dict[str, Any]
) -> None:
    server.says({**SOUND, "usage": usage})
    found = await outcome(tmp_path, ask(provider, server.url))
    assert isinstance(found, CallFailed) or found.usage.completion_tokens is None


@pytest.mark.parametrize("after", [
    "Mon, 01 Jan 99999999999", "Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "-5", "nan", "inf",
    "1e400", "9" * 400, "bientôt", "\udcff", "Wed, 21 Oct 2015 07:28:00 +99999999999999999999",
])  # fmt: skip
async def test_a_retry_after_of_any_form_is_a_rate_limit(
    provider: str, server: Saying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    monkeypatch.setattr("graft.agents.gateway.limiter.PATIENCE_S", 0.05)
    server.says({"error": {"message": "slow down"}}, 429, **({"Retry-After": after} if after.isprintable() else {}))
    failure = await asyncio.wait_for(outcome(tmp_path, ask(provider, server.url)), 60)
    assert isinstance(failure, CallFailed)
    garbled = provider == "litellm" and not after.isascii()  # LiteLLM cannot read such a header, nor the status then
    assert failure.code == ("server_error" if garbled and after.isprintable() else "rate_limited")


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, [0-9]+ [A-Z][a-z]{2} [0-9]+ [0-9:]+ [-+A-Z0-9]*", fullmatch=True))
def test_retry_after_is_seconds_or_nothing(text: str) -> None:
    seconds = seconds_of(text)
    assert seconds is None or seconds >= 0


async def test_a_reply_that_unpacks_to_gigabytes_is_refused(provider: str, server: Saying, tmp_path: Path) -> None:
    server.says(gzip.compress(b" " * (8 * MOST_BYTES)), **{"Content-Encoding": "gzip"})
    failure = await outcome(tmp_path, ask(provider, server.url))
    assert isinstance(failure, Damaged) and failure.code == "malformed" and "too large" in failure.what


@pytest.mark.parametrize("chat", [True, False])
async def test_a_reply_without_an_end_is_refused(provider: str, server: Saying, tmp_path: Path, chat: bool) -> None:
    server.says(b"")
    server.endless = True
    request = ask(provider, server.url, spec={"timeout_s": 60.0}, chat=chat)
    failure = await asyncio.wait_for(outcome(tmp_path, request), 50)
    assert isinstance(failure, Damaged) and failure.what == "the reply is too large: more than 16 MB"


async def test_a_reply_that_drips_ends_at_the_timeout(provider: str, server: Saying, tmp_path: Path) -> None:
    server.says(SOUND)
    await outcome(tmp_path / "warm", ask(provider, server.url))  # imports LiteLLM, which takes seconds
    server.says(b" ")
    server.drip_s = 0.1
    request = ask(provider, server.url, spec={"timeout_s": 1.0})
    failure = await asyncio.wait_for(outcome(tmp_path, request), 30)
    assert isinstance(failure, CallFailed) and failure.code == "timeout"


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed_with_prompt_and_key(
    provider: str, server: Saying, tmp_path: Path, status: int, chat: bool
) -> None:
    with Saying() as other:
        other.says(SOUND)
        server.says({}, status, Location=f"{other.url}/{'chat/' if chat else ''}completions")
        with pytest.raises(GraftError):
            raise await outcome(tmp_path, ask(provider, server.url, chat=chat))  # type: ignore[misc]
        assert server.requests and not other.requests


async def test_an_unexpected_exception_is_one_call_s_failure_logged_with_its_traceback(
    server: Saying, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("GRAFT_TEST_KEY", "sk-test-4711")
    server.says(SOUND)

    async def fails(self: OpenAITransport, request: CallRequest) -> Reply:
        await asyncio.sleep(0.05)
        raise ZeroDivisionError("with the key sk-test-4711")

    monkeypatch.setattr(OpenAITransport, "send", fails)
    request = ask("openai", server.url)
    async with Gateway(journal=tmp_path / "journal.sqlite", money_usd=1.0, concurrency=1) as gateway:
        both = await asyncio.gather(gateway.call(request), gateway.call(request), return_exceptions=True)
        assert [getattr(one, "code", one) for one in both] == ["unexpected"] * 2
        failure = both[0]
        assert isinstance(failure, CallFailed) and "ZeroDivisionError" in str(failure) and "4711" not in failure.raw
        assert failure.raw.startswith("ZeroDivisionError: with the key")
        assert not any(gateway.ledger.reserved.values())
        assert gateway.ledger.charged[MONEY] > 0, "it may have been billed"
        assert gateway.stats.in_flight == 0 and gateway.stats.failed == 1 and not gateway._flights
        monkeypatch.undo()
        monkeypatch.setenv("GRAFT_TEST_KEY", "sk-test-4711")
        assert (await asyncio.wait_for(gateway.call(request), 10)).text == "fine", "the place was given back"
    (record,) = [record for record in caplog.records if record.levelno >= logging.INFO and record.exc_info]
    assert record.levelno < logging.WARNING, "nothing of it is on the terminal"
    assert "Traceback" not in "".join(capfd.readouterr())


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["\ud800", "\x00", "\ud83d\ude00", '{"score": 1}', '{"score": "\\ud800"}', "NaN"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["content", "token", "logprob", "top_logprobs", "tokens", "token_logprobs", "message", "text",
                         "cached_tokens", "\ud800", "x"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
PLACES = [
    ("choices",), ("usage",), ("model",), ("choices", 0), ("choices", 0, "message"), ("choices", 0, "finish_reason"),
    ("choices", 0, "message", "content"), ("choices", 0, "text"), ("choices", 0, "logprobs"),
    ("choices", 0, "logprobs", "content"), ("choices", 0, "logprobs", "content", 0),
    ("choices", 0, "logprobs", "content", 0, "token"), ("choices", 0, "logprobs", "content", 0, "logprob"),
    ("choices", 0, "logprobs", "content", 0, "top_logprobs"), ("usage", "prompt_tokens"),
    ("usage", "completion_tokens"), ("usage", "prompt_tokens_details"), ("\ud800",), ("error",),
]  # fmt: skip


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, int, dict[str, str]]:
    """A sound answer with something else in some places, or any JSON, or any bytes; a status, and headers."""
    kind = draw(st.sampled_from(["changed"] * 6 + ["json", "bytes"]))
    if kind == "bytes":
        body = draw(st.binary(max_size=40))
    elif kind == "json":
        body = json.dumps(draw(JSONISH)).encode()
    else:
        whole = json.loads(json.dumps(SOUND))
        for place in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=3)):
            inner = whole
            for step in place[:-1]:
                fits = isinstance(inner, dict) or (isinstance(inner, list) and isinstance(step, int) and inner)
                inner = (inner.get(step) if isinstance(inner, dict) else inner[step]) if fits else None
            if isinstance(inner, dict) or (isinstance(inner, list) and inner and isinstance(place[-1], int)):
                inner[place[-1]] = draw(JSONISH)
        body = json.dumps(whole).encode()
    status = draw(st.sampled_from([200] * 8 + [201, 204, 299, 304, 400, 422, 429, 500, 503, 599]))
    printable = st.text(st.sampled_from(string.printable.strip() + "é\xff"), max_size=12)
    headers = draw(st.dictionaries(st.sampled_from(["Retry-After", "X-Request-Id", "Content-Language"]), printable))
    return body, status, headers


async def _answered(server: Saying, drawn: tuple[bytes, int, dict[str, str]], request: CallRequest) -> None:
    body, status, headers = drawn
    server.says(body, status, **headers)
    kind: Any = OpenAITransport({}, 4) if request.model.provider == "openai" else HostedTransport(4)
    try:
        reply = await kind.send(request)
    except GraftError as failure:
        assert isinstance(failure.what, str) and failure.what
        str(failure).encode()
        getattr(failure, "raw", "").encode()
    else:
        kept = json.loads(reply_bytes(reply.model_copy(update={"key": "k"})))
        again = as_reply("k", kept)
        Reply.model_validate(again.model_dump())
        assert (again.text, again.parsed, again.logprobs) == (reply.text, reply.parsed, reply.logprobs)
        assert "\x00" not in reply.text and all(-10_000 <= place.logprob <= 0 for place in reply.logprobs)
    finally:
        await kind.close()


@pytest.mark.parametrize("kind", WAYS)
def test_any_answer_is_a_reply_or_a_failure_never_another_exception(
    kind: str, server: Saying, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_TEST_KEY", "sk-test-4711")
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    url = server.url

    @settings(
        max_examples=120 if kind == "litellm" else 400, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(answers(), st.booleans())
    def check(drawn: tuple[bytes, int, dict[str, str]], constrained: bool) -> None:
        request = ask(kind, url, top_logprobs=2, json_schema=SCHEMA if constrained else None)
        runner.run(_answered(server, drawn, request))

    with asyncio.Runner() as runner:
        check()
