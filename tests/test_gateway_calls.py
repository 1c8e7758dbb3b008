"""The gateway against a real server: journal, single flight, limits, budget, cancellation."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_llm import Serving

from graft.agents.gateway import Gateway, check_endpoint
from graft.agents.gateway.ledger import MONEY, TOKENS
from graft.schemas.calls import CallRequest, Message
from graft.schemas.errors import BudgetExhausted, CallFailed, KeyMissing, ModelUnreachable
from graft.schemas.models import ModelSpec, Price

SCHEMA = {"type": "object", "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 10}},
          "required": ["score"], "additionalProperties": False}  # fmt: skip


def model(url: str, **more: Any) -> ModelSpec:
    return ModelSpec(**{"name": "m", "provider": "openai", "model": "fake", "base_url": url, **more})


def ask(spec: ModelSpec, text: str = "hello", **more: Any) -> CallRequest:
    given: dict[str, Any] = {"role": "generator", "purpose": "test", "max_tokens": 32, **more}
    if "prompt" not in given:
        given["messages"] = (Message(role="user", content=text),)
    return CallRequest(model=spec, **given)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def slow() -> Iterator[Serving]:
    with Serving(median_ms=80, sigma=0) as serving:
        yield serving


async def test_a_finished_call_is_never_made_again(fake_llm: Serving, journal: Path) -> None:
    requests = [ask(model(fake_llm.url, price=Price(input=10, output=40)), f"number {i}") for i in range(20)]
    async with Gateway(journal=journal) as gateway:
        first = await asyncio.gather(*(gateway.call(request) for request in requests))
        spent = gateway.stats.price_usd
        again = await gateway.call(requests[0])
    async with Gateway(journal=journal, money_usd=0.0) as gateway:
        second = [await gateway.call(request) for request in requests]
        stats = gateway.stats
    assert fake_llm.stats()["requests"] == 20
    assert [reply.text for reply in second] == [reply.text for reply in first]
    assert all(reply.cached and reply.latency_s == 0 for reply in [*second, again])
    assert not any(reply.cached for reply in first)
    assert [reply.price_usd for reply in second] == [reply.price_usd for reply in first]
    assert spent == pytest.approx(sum(reply.price_usd or 0 for reply in first)) and spent
    assert (stats.calls, stats.cached, stats.price_usd) == (0, 20, 0.0)


async def test_everything_of_a_reply_survives_the_journal(fake_llm: Serving, journal: Path) -> None:
    fake_llm.set(cached_share=0.5)
    request = ask(model(fake_llm.url), "which word is it", json_schema=SCHEMA, top_logprobs=5)
    async with Gateway(journal=journal) as gateway:
        first = await gateway.call(request)
        second = await gateway.call(request)
    assert first.parsed["score"] in range(11) and first.logprobs and first.usage.cached_tokens
    assert second.model_dump(exclude={"cached", "latency_s"}) == first.model_dump(exclude={"cached", "latency_s"})


async def test_equal_requests_in_flight_share_one_call(slow: Serving, journal: Path) -> None:
    async with Gateway(journal=journal) as gateway:
        replies = await asyncio.gather(*(gateway.call(ask(model(slow.url))) for _ in range(10)))
        other = await gateway.call(ask(model(slow.url), sample=1))
        stats = gateway.stats
    assert slow.stats()["requests"] == 2 and len({reply.text for reply in replies}) == 1
    assert sum(not reply.cached for reply in replies) == 1
    assert not other.cached
    assert (stats.calls, stats.cached) == (2, 9)


async def test_a_failure_is_shared_but_not_remembered(slow: Serving, journal: Path) -> None:
    slow.set(fail_first=1)
    async with Gateway(journal=journal, retries=0) as gateway:
        both = await asyncio.gather(*(gateway.call(ask(model(slow.url))) for _ in range(2)), return_exceptions=True)
        assert [getattr(failure, "code", "") for failure in both] == ["server_error"] * 2
        assert (await gateway.call(ask(model(slow.url)))).text
        assert gateway.stats.failed == 1
    assert slow.stats()["requests"] == 2


async def test_a_reply_is_journaled_before_it_is_returned(fake_llm: Serving, journal: Path) -> None:
    request = ask(model(fake_llm.url))
    async with Gateway(journal=journal) as gateway:
        reply = await gateway.call(request)
        with sqlite3.connect(journal) as other:
            keys = other.execute("SELECT key FROM calls").fetchall()
        other.close()
    assert keys == [(request.key(),)] and reply.key == request.key()


async def test_a_cancelled_caller_gives_everything_back_and_harms_no_other(slow: Serving, journal: Path) -> None:
    spec = model(slow.url, max_concurrency=1, price=Price(input=1, output=1))
    async with Gateway(journal=journal, concurrency=1) as gateway:
        leader = asyncio.create_task(gateway.call(ask(spec)))
        await asyncio.sleep(0.02)
        follower = asyncio.create_task(gateway.call(ask(spec)))
        queued = asyncio.create_task(gateway.call(ask(spec, "another")))
        await asyncio.sleep(0.02)
        leader.cancel()
        queued.cancel()
        assert (await follower).text
        assert leader.cancelled() and queued.cancelled()
        assert (await asyncio.wait_for(gateway.call(ask(spec, "third")), 5)).text
        assert gateway.ledger.reserved[MONEY] == gateway.ledger.reserved[TOKENS] == 0
        assert gateway.stats.in_flight == 0


async def test_cancelled_while_the_journal_writes_still_keeps_the_reply(fake_llm: Serving, journal: Path) -> None:
    spec = model(fake_llm.url)
    async with Gateway(journal=journal) as gateway:
        await gateway.call(ask(spec, "first"))
        rival = sqlite3.connect(journal, isolation_level=None)
        rival.execute("BEGIN IMMEDIATE")  # the writer has to wait, so the caller is surely inside
        task = asyncio.create_task(gateway.call(ask(spec, "second")))
        for _ in range(500):
            await asyncio.sleep(0.01)
            if gateway.stats.calls == 2:
                break
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        rival.execute("ROLLBACK")
        rival.close()
        assert task.cancelled()
        assert (await asyncio.wait_for(gateway.call(ask(spec, "third")), 10)).text
        assert (await gateway.call(ask(spec, "second"))).cached
    assert fake_llm.stats()["requests"] == 3


async def test_no_more_than_max_concurrency_are_at_an_endpoint(slow: Serving, journal: Path) -> None:
    spec = model(slow.url, max_concurrency=3)
    async with Gateway(journal=journal) as gateway:
        tasks = [asyncio.create_task(gateway.call(ask(spec, f"n{i}"))) for i in range(12)]
        await asyncio.sleep(0.04)
        assert gateway.stats.waiting == "the model's max_concurrency"
        await asyncio.gather(*tasks)
        assert gateway.stats.waiting == "" and gateway.stats.by_model == {"m": 12}
    assert slow.stats()["most_in_flight"] == 3


async def test_no_more_than_concurrency_are_in_flight_overall(slow: Serving, journal: Path) -> None:
    specs = [model(slow.url, name=f"m{i}", model=f"fake-{i}") for i in range(3)]
    async with Gateway(journal=journal, concurrency=2) as gateway:
        await asyncio.gather(*(gateway.call(ask(spec, f"n{i}")) for i in range(4) for spec in specs))
    assert slow.stats()["most_in_flight"] == 2


async def test_hundreds_in_flight_do_not_overshoot_the_money_cap(fake_llm: Serving, journal: Path) -> None:
    spec, cap = model(fake_llm.url, price=Price(input=100, output=400), max_concurrency=256), 0.5
    async with Gateway(journal=journal, money_usd=cap, concurrency=256) as gateway:
        calls = (gateway.call(ask(spec, f"n{i}", max_tokens=64)) for i in range(300))
        results = await asyncio.gather(*calls, return_exceptions=True)
        spent = gateway.stats.price_usd
    answered = [reply for reply in results if not isinstance(reply, BaseException)]
    refused = [error for error in results if isinstance(error, BudgetExhausted)]
    assert len(answered) + len(refused) == 300 and answered and refused
    assert fake_llm.stats()["requests"] == len(answered)
    assert spent is not None and spent <= cap
    assert spent > cap - 0.05, "the cap is used up: reservations of calls in flight only delay others"


async def test_the_token_cap_sends_nothing_beyond(fake_llm: Serving, journal: Path) -> None:
    async with Gateway(journal=journal, tokens=10) as gateway:
        with pytest.raises(BudgetExhausted, match="10 tokens"):
            await gateway.call(ask(model(fake_llm.url)))
    assert fake_llm.stats()["requests"] == 0


async def test_an_unknown_price_is_none_and_refused_under_a_cap(fake_llm: Serving, journal: Path) -> None:
    async with Gateway(journal=journal) as gateway:
        assert (await gateway.call(ask(model(fake_llm.url)))).price_usd is None
        assert gateway.stats.price_usd is None
    async with Gateway(journal=journal, money_usd=100.0) as gateway:
        with pytest.raises(BudgetExhausted, match="price is unknown"):
            await gateway.call(ask(model(fake_llm.url), "other"))


async def test_cached_tokens_are_paid_at_their_own_price(fake_llm: Serving, journal: Path) -> None:
    fake_llm.set(cached_share=0.5)
    spec = model(fake_llm.url, price=Price(input=1_000_000, output=0, cached_input=0))
    async with Gateway(journal=journal) as gateway:
        reply = await gateway.call(ask(spec, "x" * 400))
    assert (reply.usage.prompt_tokens, reply.usage.cached_tokens, reply.price_usd) == (100, 50, 50.0)


async def test_embedded_models_are_found_by_name_and_free(fake_llm: Serving, journal: Path) -> None:
    spec = ModelSpec(name="little", provider="embedded", model="gemma-3-270m", style="completion")
    async with Gateway(journal=journal, endpoints={"little": fake_llm.url}, money_usd=0.0) as gateway:
        assert (await gateway.call(ask(spec, prompt="Once"))).price_usd == 0.0
        with pytest.raises(ModelUnreachable, match="the address is unknown"):
            await gateway.call(ask(spec.model_copy(update={"name": "unknown"}), prompt="Twice"))


async def test_an_encoder_is_journaled_like_any_model(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import graft.agents.local.encoder as encoder

    seen: list[str] = []

    class Stub(encoder.EncoderTransport):
        async def send(self, request: CallRequest) -> Any:
            from graft.schemas.calls import Reply

            seen.append(request.prompt or "")
            return Reply(key=request.key(), text=request.choices[0], price_usd=0.0)

    monkeypatch.setattr(encoder, "EncoderTransport", Stub)
    spec = ModelSpec(name="minilm", provider="encoder", model="all-MiniLM-L6-v2")
    request = ask(spec, prompt="a text", choices=("a", "b"))
    async with Gateway(journal=journal, money_usd=0.0) as gateway:
        first, second = await gateway.call(request), await gateway.call(request)
    assert seen == ["a text"] and second.cached and first.text == second.text == "a"


async def test_a_missing_key_names_the_variable(fake_llm: Serving, journal: Path) -> None:
    async with Gateway(journal=journal) as gateway:
        with pytest.raises(KeyMissing, match="GRAFT_NO_SUCH_KEY"):
            await gateway.call(ask(model(fake_llm.url, api_key_env="GRAFT_NO_SUCH_KEY")))
    assert fake_llm.stats()["requests"] == 0


@pytest.mark.parametrize("fault", ["echo", "refused", "journal"])
async def test_a_secret_reaches_no_error_and_no_journal(
    fake_llm: Serving, journal: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    secret = "sk-very-secret-0123456789"
    monkeypatch.setenv("GRAFT_TEST_KEY", secret + "\n")
    fake_llm.set(key="another" if fault == "refused" else secret, echo_key=fault == "echo")
    spec = model(fake_llm.url, api_key_env="GRAFT_TEST_KEY").model_copy(
        update={"extra": {"api_key": secret, "deep": [{"extra_headers": {"Authorization": secret}}], "top_k": 5}}
    )
    async with Gateway(journal=journal) as gateway:
        if fault == "journal":
            await gateway.call(ask(spec))
        else:
            with pytest.raises((CallFailed, ModelUnreachable)) as caught:
                await gateway.call(ask(spec))
            assert secret not in str(caught.value) + repr(caught.value) + getattr(caught.value, "raw", "")
            assert fault != "echo" or "(key)" in getattr(caught.value, "raw", "")
    content = b"".join(path.read_bytes() for path in journal.parent.iterdir())
    assert secret.encode() not in content
    assert fault != "journal" or b"top_k" in content


async def test_check_endpoint_reports_the_problem(fake_llm: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await check_endpoint(model(fake_llm.url), {}) is None
    short = await check_endpoint(model(fake_llm.url.removesuffix("/v1")), {})
    assert short is not None and short.endswith("/v1")
    named = model("http://127.0.0.1:9/v1").model_copy(update={"base_url": "http://name:pass@127.0.0.1:9/v1"})
    dead = await check_endpoint(named, {})
    assert dead is not None and "does not answer" in dead and "pass" not in dead
    unset = await check_endpoint(model(fake_llm.url, api_key_env="GRAFT_NO_SUCH_KEY"), {})
    assert unset is not None and "GRAFT_NO_SUCH_KEY" in unset
    fake_llm.set(key="right")
    monkeypatch.setenv("GRAFT_TEST_KEY", "wrong")
    refused = await check_endpoint(model(fake_llm.url, api_key_env="GRAFT_TEST_KEY"), {})
    assert refused is not None and "refused the key" in refused


BASE = ask(model("http://127.0.0.1:1/v1"), "hello", seed=1)
CHANGES: dict[str, dict[str, Any]] = {
    "messages": {"messages": (Message(role="user", content="hello!"),)}, "prompt": {"prompt": "hello"},
    "role of a message": {"messages": (Message(role="system", content="hello"),)}, "schema": {"json_schema": SCHEMA},
    "choices": {"choices": ("a", "b")}, "context": {"context": (("t", "a"),)}, "temperature": {"temperature": 0.3},
    "top_p": {"top_p": 0.8}, "max_tokens": {"max_tokens": 33}, "stop": {"stop": ("end",)}, "seed": {"seed": 2},
    "top_logprobs": {"top_logprobs": 3}, "sample": {"sample": 1},
}  # fmt: skip
MODEL_CHANGES: dict[str, Any] = {
    "provider": "litellm", "model": "fake-2", "revision": "2", "base_url": "http://127.0.0.1:2/v1",
    "style": "completion", "extra": {"top_k": 3}, "weights": "0" * 64, "headers_env": {"X-Key": "X_KEY"},
    "context": 4096,
}  # fmt: skip
CHANGE_NO_REPLY = {
    "purpose", "role", "name", "api_key_env", "licence", "price", "max_concurrency", "timeout_s", "requests_per_minute",
    "tokens_per_minute", "hedge",
}  # fmt: skip
"""Fields that never reach the model: purpose, role and name; key, licence and price; limits and timeouts."""
BEGUN_TURN = {"continues", "prefill", "chat_template"}
"""These count only with a prefilled turn (test_gateway_prefill); `top_logprobs` is a field of the request."""


def test_no_field_of_a_call_is_forgotten_in_the_key() -> None:
    """A new field must be listed either as changing replies (and then its change is tested above) or as not."""
    given = {"messages", "prompt", "json_schema", *CHANGES} - {"role of a message", "schema"}
    assert set(CallRequest.model_fields) - {"model"} == (given | CHANGE_NO_REPLY | BEGUN_TURN) & set(
        CallRequest.model_fields
    )
    known = {*MODEL_CHANGES, *CHANGE_NO_REPLY, *BEGUN_TURN, "top_logprobs"}
    assert set(ModelSpec.model_fields) == known & set(ModelSpec.model_fields)


@pytest.mark.parametrize("change", CHANGES)
def test_the_key_changes_with_what_changes_a_reply(change: str) -> None:
    assert BASE.model_copy(update=CHANGES[change]).key() != BASE.key()


@pytest.mark.parametrize("change", MODEL_CHANGES)
def test_the_key_changes_with_the_model(change: str) -> None:
    spec = BASE.model.model_copy(update={change: MODEL_CHANGES[change]})
    assert BASE.model_copy(update={"model": spec}).key() != BASE.key()


def test_the_key_does_not_change_with_what_cannot_change_a_reply() -> None:
    spec = BASE.model.model_copy(update={"max_concurrency": 2, "price": Price(input=1, output=1), "timeout_s": 5.0})
    assert BASE.model_copy(update={"purpose": "other", "model": spec}).key() == BASE.key()


async def test_the_burst_of_refusals_is_over_quickly_and_nothing_is_dropped(journal: Path) -> None:
    with Serving(median_ms=20, sigma=0, rate_limit_above=8, retry_after=0.1) as serving:
        spec, started = model(serving.url, max_concurrency=64), time.monotonic()
        async with Gateway(journal=journal, retries=2) as gateway:
            await asyncio.gather(*(gateway.call(ask(spec, f"n{i}")) for i in range(200)))
        stats = serving.stats()
    assert stats["calls"] == 200 and stats["duplicates"] == 0
    assert stats["statuses"]["429"] < 200, "a burst is met by fewer at once, not by everyone again"
    assert time.monotonic() - started < 5
