"""All transports, the direct ones and LiteLLM's, keep one contract: the same faults end the same way."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from fake_llm import Serving
from ways import WAYS, named

from graft.agents.gateway import Gateway
from graft.agents.gateway.openai_transport import logprobs_of, seconds_of
from graft.schemas.calls import CallRequest, Message, Reply
from graft.schemas.errors import CallFailed, ModelUnreachable
from graft.schemas.models import ModelSpec, Price

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # LiteLLM's own, and pydantic's about its classes
    pytest.mark.filterwarnings("ignore:.*Pydantic serializer warnings.*:UserWarning"),
]
SCHEMA = {"type": "object", "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 10}},
          "required": ["score"], "additionalProperties": False}  # fmt: skip
PRICE = Price(input=1, output=2)


@pytest.fixture(params=WAYS)
def provider(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GRAFT_TEST_KEY", "sk-test")
    monkeypatch.setattr("graft.agents.gateway.limiter.BASE_WAIT_S", 0.02)
    return str(request.param)


def ask(provider: str, url: str, text: str = "the cat or the dog", **more: Any) -> CallRequest:
    chat = more.pop("chat", True)
    spec: dict[str, Any] = {**named(provider, chat=chat), "name": "m", "base_url": url, "api_key_env": "GRAFT_TEST_KEY"}
    spec.update(more.pop("spec", {"price": PRICE}))
    given: dict[str, Any] = {"role": "reviewer", "purpose": "test", "max_tokens": 32, **more}
    given.update({"messages": (Message(role="user", content=text),)} if chat else {"prompt": text})
    return CallRequest(model=ModelSpec(**spec), **given)


async def once(path: Path, request: CallRequest, retries: int = 4, **more: Any) -> Reply:
    async with Gateway(journal=path / "journal.sqlite", retries=retries, **more) as gateway:
        return await gateway.call(request)


@pytest.mark.parametrize("chat", [True, False])
async def test_a_reply_comes_whole(provider: str, fake_llm: Serving, tmp_path: Path, chat: bool) -> None:
    fake_llm.set(key="sk-test")
    request = ask(provider, fake_llm.url, chat=chat, top_logprobs=3, stop=("END",), seed=7)
    reply = await once(tmp_path, request)
    assert reply.text and reply.finish_reason == "stop" and reply.attempts == 1 and reply.served_model
    prompt, completion = reply.usage.prompt_tokens, reply.usage.completion_tokens
    assert prompt == len("the cat or the dog") // 4 and completion
    assert reply.price_usd == pytest.approx((prompt + 2 * completion) / 1e6)
    assert reply.latency_s > 0


async def test_log_probabilities_of_a_chat_come_best_first(provider: str, fake_llm: Serving, tmp_path: Path) -> None:
    top = (await once(tmp_path, ask(provider, fake_llm.url, top_logprobs=3))).logprobs[0].top
    assert {token.strip() for token, _ in top} == {"the", "cat", "or", "dog"}
    assert [value for _, value in top] == sorted((value for _, value in top), reverse=True)


@pytest.mark.parametrize("older", [True, False])
async def test_log_probabilities_of_a_completion_in_both_forms(fake_llm: Serving, tmp_path: Path, older: bool) -> None:
    fake_llm.set(openai_logprobs=older)
    spec: dict[str, Any] = {"api_key_env": None}
    reply = await once(tmp_path, ask("openai", fake_llm.url, chat=False, top_logprobs=3, spec=spec))
    assert {token.strip() for token, _ in reply.logprobs[0].top} == {"the", "cat", "or", "dog"}
    assert reply.logprobs[0].top[0] == (reply.logprobs[0].token, reply.logprobs[0].logprob)


def test_log_probabilities_with_gaps_are_read() -> None:
    gaps = {"tokens": ["a", "b"], "token_logprobs": [None, -1.0], "top_logprobs": None}
    assert [(place.token, place.logprob, place.top) for place in logprobs_of(gaps)] == [("b", -1.0, ())]


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_what_passes_is_tried_again(provider: str, fake_llm: Serving, tmp_path: Path, status: int) -> None:
    fake_llm.set(fail_first=2, fail_status=status)
    reply = await once(tmp_path, ask(provider, fake_llm.url))
    assert reply.attempts == 3
    assert fake_llm.stats()["statuses"] == {str(status): 2, "200": 1}


@pytest.mark.parametrize(
    ("fault", "code"),
    [("error_rate", "server_error"), ("malformed_rate", "malformed"), ("wrong_schema_rate", "schema_unmet"),
     ("empty_rate", "empty"), ("reset_rate", "connection"), ("hang_rate", "timeout")],
)  # fmt: skip
async def test_what_does_not_pass_fails_after_the_retries(
    provider: str, fake_llm: Serving, tmp_path: Path, fault: str, code: str
) -> None:
    fake_llm.set(**{fault: 1.0})
    spec = {"price": PRICE, "timeout_s": 0.2 if fault == "hang_rate" else 10.0}
    with pytest.raises(CallFailed) as caught:
        await once(tmp_path, ask(provider, fake_llm.url, json_schema=SCHEMA, seed=1, spec=spec), retries=1)
    assert caught.value.code == code
    assert fake_llm.stats()["requests"] == 2 and caught.value.where == "m"
    if fault == "wrong_schema_rate":
        assert caught.value.raw == '{"unasked": 1}'


async def test_always_429_is_given_up_in_the_end(
    provider: str, fake_llm: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.agents.gateway.limiter.PATIENCE_S", 0.3)
    fake_llm.set(fail_first=1_000, fail_status=429, retry_after=0.01)
    with pytest.raises(CallFailed) as caught:
        await once(tmp_path, ask(provider, fake_llm.url), retries=2)
    assert caught.value.code == "rate_limited"
    assert 3 <= fake_llm.stats()["requests"] <= 16, "it is polled less and less often"


async def test_retry_after_is_obeyed_by_the_whole_endpoint(provider: str, fake_llm: Serving, tmp_path: Path) -> None:
    await once(tmp_path, ask(provider, fake_llm.url, "warm up"))
    fake_llm.set(fail_first=6, fail_status=429, retry_after=0.6)
    async with Gateway(journal=tmp_path / "j.sqlite", retries=1) as gateway:
        started = time.monotonic()
        calls = [asyncio.create_task(gateway.call(ask(provider, fake_llm.url, f"n{i}"))) for i in range(6)]
        await asyncio.sleep(0.3)
        assert gateway.stats.waiting == "the rate limit"
        late = gateway.call(ask(provider, fake_llm.url, "late"))
        await asyncio.gather(*calls, late)
        assert time.monotonic() - started >= 0.6
    assert fake_llm.stats()["statuses"] == {"429": 6, "200": 7}, "nobody was sent before the time was over"


async def test_a_wait_beyond_reason_is_not_waited_for(provider: str, fake_llm: Serving, tmp_path: Path) -> None:
    fake_llm.set(fail_first=10, fail_status=429, retry_after=86_400)
    with pytest.raises(CallFailed) as caught:
        await asyncio.wait_for(once(tmp_path, ask(provider, fake_llm.url)), 20)
    assert caught.value.code == "rate_limited" and fake_llm.stats()["requests"] == 1


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404])
async def test_what_cannot_pass_is_not_tried_again(
    provider: str, fake_llm: Serving, tmp_path: Path, status: int
) -> None:
    fake_llm.set(fail_first=9, fail_status=status)
    with pytest.raises(CallFailed if status == 400 else ModelUnreachable) as caught:
        await once(tmp_path, ask(provider, fake_llm.url))
    assert fake_llm.stats()["requests"] == 1
    if status == 400:
        assert getattr(caught.value, "code", "") == "refused_by_server"
    else:
        assert getattr(caught.value, "fix", "")


async def test_a_server_without_schemas_is_probed_once(provider: str, fake_llm: Serving, tmp_path: Path) -> None:
    fake_llm.set(refuse_schema=True, reply_text='Sure:\n```json\n{"score": 7,}\n```')
    async with Gateway(journal=tmp_path / "j.sqlite") as gateway:
        replies = [await gateway.call(ask(provider, fake_llm.url, f"n{i}", json_schema=SCHEMA)) for i in range(3)]
    assert [reply.parsed for reply in replies] == [{"score": 7}] * 3
    assert fake_llm.stats()["statuses"] == {"400": 1, "200": 3}


async def test_a_damaged_reply_is_charged_and_retried_with_another_seed(
    provider: str, fake_llm: Serving, tmp_path: Path
) -> None:
    fake_llm.set(reply_text='{"score": 11}')
    async with Gateway(journal=tmp_path / "j.sqlite", retries=2) as gateway:
        with pytest.raises(CallFailed):
            await gateway.call(ask(provider, fake_llm.url, json_schema=SCHEMA, seed=1))
        stats = gateway.stats
    served = fake_llm.stats()
    assert (served["calls"], served["duplicates"]) == (3, 0)
    assert stats.failed == 1 and stats.price_usd and stats.completion_tokens == 3 * (len('{"score": 11}') // 4)


async def test_litellm_gives_prices_and_none_where_it_has_none(
    fake_llm: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_TEST_KEY", "sk-test")
    known, unknown = {"model": "openai/gpt-4o-mini"}, {"model": "openai/fake"}
    reply = await once(tmp_path, ask("litellm", fake_llm.url, spec=known), money_usd=1.0)
    prompt, completion = reply.usage.prompt_tokens or 0, reply.usage.completion_tokens or 0
    assert completion and reply.price_usd == pytest.approx((0.15 * prompt + 0.6 * completion) / 1e6)
    assert (await once(tmp_path, ask("litellm", fake_llm.url, spec=unknown))).price_usd is None


@pytest.mark.parametrize(("text", "seconds"), [
    ("2", 2.0), ("0.5", 0.5), ("-3", 0.0), ("nan", None), ("soon", None), (None, None),
    ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
])  # fmt: skip
def test_retry_after_is_read_in_every_form(text: str | None, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("answer", [
    "[]", "null", '{"choices": [null]}', '{"choices": [{"message": "x"}]}', '{"choices": {}}',
])  # fmt: skip
async def test_an_answer_of_any_shape_fails_cleanly(tmp_path: Path, answer: str) -> None:
    from aiohttp import web

    async def handle(_: web.Request) -> web.Response:
        return web.Response(text=answer, content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        with pytest.raises(CallFailed) as caught:
            await once(tmp_path, ask("openai", url, spec={"api_key_env": None}), retries=0)
    finally:
        await runner.cleanup()
    assert caught.value.code in ("malformed", "empty")


async def test_nobody_listens_is_a_connection_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.agents.gateway.limiter.BASE_WAIT_S", 0.02)
    with pytest.raises(CallFailed) as caught:
        await once(tmp_path, ask("openai", "http://127.0.0.1:9/v1", spec={"api_key_env": None}), retries=1)
    assert caught.value.code == "connection"


async def test_an_address_without_its_end_is_named(fake_llm: Serving, tmp_path: Path) -> None:
    url = fake_llm.url.removesuffix("/v1")
    with pytest.raises(ModelUnreachable, match="/v1"):
        await once(tmp_path, ask("openai", url, spec={"api_key_env": None}))
