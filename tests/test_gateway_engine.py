"""The gateway's newer rules against a real server: cache policies, caps of a role, hedging, rates, shared endpoints."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from fake_llm import Serving

from graft.agents.gateway import Gateway, RoleRules
from graft.agents.gateway.ledger import MONEY, TOKENS
from graft.agents.gateway.openai_transport import OpenAITransport, body_of, usage_of
from graft.schemas.calls import CallRequest, Message, Reply
from graft.schemas.errors import BudgetExhausted, CallFailed
from graft.schemas.models import ModelSpec, Price


def model(url: str, **more: Any) -> ModelSpec:
    return ModelSpec(**{"name": "m", "provider": "openai", "model": "fake", "base_url": url, **more})


def ask(spec: ModelSpec, text: str = "hello", **more: Any) -> CallRequest:
    given: dict[str, Any] = {"role": "generator", "purpose": "test", "max_tokens": 32, **more}
    return CallRequest(model=spec, messages=(Message(role="user", content=text),), **given)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


async def test_a_role_may_refresh_its_replies_once_a_run(fake_llm: Serving, journal: Path) -> None:
    request, other = ask(model(fake_llm.url)), ask(model(fake_llm.url), "not asked before")
    async with Gateway(journal=journal) as gateway:
        await gateway.call(request)
    rules = {"generator": RoleRules(cache="refresh")}
    began = time.time() + 1  # the journal counts whole seconds
    await asyncio.sleep(1.1)
    async with Gateway(journal=journal, roles=rules, since=began) as gateway:
        again = await gateway.call(request)
        same = [await gateway.call(request), *await asyncio.gather(*(gateway.call(other) for _ in range(3)))]
    assert not again.cached and same[0].cached and sum(reply.cached for reply in same[1:]) == 2
    async with Gateway(journal=journal, roles=rules, since=began) as gateway:
        assert (await gateway.call(request)).cached, "a rerun of the same run pays nothing twice"
    assert fake_llm.stats()["requests"] == 3


async def test_a_role_may_keep_nothing(fake_llm: Serving, journal: Path) -> None:
    request = ask(model(fake_llm.url), "between us")
    rules = {"generator": RoleRules(cache="off")}
    for _ in range(2):
        async with Gateway(journal=journal, roles=rules) as gateway:
            first, second = await gateway.call(request), await gateway.call(request)
            assert not first.cached and second.cached and second.text == first.text
    assert fake_llm.stats()["requests"] == 2
    assert b"between us" not in b"".join(path.read_bytes() for path in journal.parent.iterdir())


async def test_the_cap_of_a_role_stops_that_role_alone(fake_llm: Serving, journal: Path) -> None:
    spec = model(fake_llm.url, price=Price(input=100, output=400), max_concurrency=64)
    rules = {"reviewer": RoleRules(money_usd=0.2)}
    async with Gateway(journal=journal, money_usd=5.0, roles=rules) as gateway:
        calls = [
            gateway.call(ask(spec, f"{role} {index}", role=role))
            for index in range(60)
            for role in ("reviewer", "generator")
        ]
        results = await asyncio.gather(*calls, return_exceptions=True)
        by_role = gateway.stats.price_by_role
    refused = [str(error) for error in results if isinstance(error, BudgetExhausted)]
    assert refused and all("role reviewer" in error for error in refused)
    assert 0.15 < by_role["reviewer"] <= 0.2 < by_role["generator"]
    assert sum(not isinstance(result, BaseException) for result in results[1::2]) == 60


async def warm_up(gateway: Gateway, spec: ModelSpec) -> None:
    await asyncio.gather(*(gateway.call(ask(spec, f"warm {index}")) for index in range(60)))


def goes_wrong_once(spec: ModelSpec) -> CallRequest:
    """A call whose first request meets a fault that half of all meet, and whose second does not."""
    for number in range(1_000):
        request = ask(spec, f"number {number}")
        raw = orjson.dumps(body_of(request, chat=True, constrained=False))
        digest = hashlib.blake2b(raw + b"0", digest_size=16).digest()
        faults = [random.Random(digest + str(calls).encode()).random() for calls in (1, 2)]
        if faults[0] < 0.5 <= faults[1]:
            return request
    raise AssertionError("no such call")


@pytest.mark.parametrize("wanted", [True, None])
async def test_a_slow_call_is_sent_a_second_time_where_that_is_free(journal: Path, wanted: bool | None) -> None:
    with Serving(median_ms=10, sigma=0) as serving:
        spec = model(serving.url, hedge=wanted, price=Price(input=0, output=0), timeout_s=20)
        async with Gateway(journal=journal, hedge=True) as gateway:
            await warm_up(gateway, spec)
            before = gateway.stats.hedged
            serving.set(hang_rate=0.5)
            reply = await asyncio.wait_for(gateway.call(goes_wrong_once(spec)), 5)
            stats = gateway.stats
        assert serving.stats()["requests"] == 2
    assert reply.text and reply.attempts == 1 and stats.hedged == before + 1 and stats.in_flight == 0
    assert stats.endpoints[0].inside == 0 and gateway.ledger.reserved[TOKENS] == 0


async def test_paid_endpoints_are_not_hedged_unless_requested(journal: Path) -> None:
    with Serving(median_ms=5, sigma=0) as serving:
        spec = model(serving.url, price=Price(input=1, output=1))
        async with Gateway(journal=journal, hedge=True) as gateway:
            await warm_up(gateway, spec)
            serving.set(median_ms=500)
            await asyncio.gather(*(gateway.call(ask(spec, f"n{i}")) for i in range(2)))
            assert gateway.stats.hedged == 0 and serving.stats()["requests"] == 2
            changed = spec.model_copy(update={"hedge": True})
            before = gateway.ledger.charged[MONEY]
            reply = await gateway.call(ask(changed, "hedged"))
            assert gateway.stats.hedged == 1 and serving.stats()["requests"] == 4
            spent = gateway.ledger.charged[MONEY] - before
    used = ((reply.usage.prompt_tokens or 0) + (reply.usage.completion_tokens or 0)) / 1_000_000
    assert reply.price_usd is None, "it is unknown if the abandoned request is billed"
    assert spent > used, "the one that was given up is charged too, at the most that it can have cost"
    assert gateway.ledger.reserved[MONEY] == 0


async def test_a_minutes_requests_are_limited_and_reported(fake_llm: Serving, journal: Path) -> None:
    spec = model(fake_llm.url, requests_per_minute=5)
    async with Gateway(journal=journal) as gateway:
        tasks = [asyncio.create_task(gateway.call(ask(spec, f"n{i}"))) for i in range(8)]
        await asyncio.sleep(0.5)
        assert gateway.stats.waiting == "a minute's allowance"
        assert fake_llm.stats()["requests"] == 5 and gateway.stats.endpoints[0].queued == 3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_two_runs_of_one_process_share_an_endpoints_limit(journal: Path) -> None:
    with Serving(median_ms=20, sigma=0) as serving:
        spec = model(serving.url, max_concurrency=4)
        async with Gateway(journal=journal) as one, Gateway(journal=journal) as two:
            calls = [
                gateway.call(ask(spec, f"{name} {i}")) for i in range(20) for name, gateway in (("a", one), ("b", two))
            ]
            await asyncio.gather(*calls)
        assert serving.stats()["most_in_flight"] == 4


async def test_a_server_that_answers_as_another_model_is_noted_once(journal: Path) -> None:
    with Serving(usage=False) as serving:
        spec = model(serving.url, model="fake-large-2026")
        async with Gateway(journal=journal) as gateway:
            await asyncio.gather(*(gateway.call(ask(spec, f"n{i}")) for i in range(3)))
            notes = gateway.stats.notes
    assert len(notes) == 1 and "reports no token counts" in notes[0]
    from graft.agents.gateway.health import same_model

    gpt = model("http://127.0.0.1:1/v1", model="openai/gpt-4o")
    assert same_model(gpt, "gpt-4o-2024-08-06") and not same_model(gpt, "llama-3-8b")


async def test_prices_may_change_between_runs_and_old_calls_keep_theirs(fake_llm: Serving, journal: Path) -> None:
    paid: list[float | None] = []
    for price in (1.0, 50.0):
        async with Gateway(journal=journal) as gateway:
            paid.append((await gateway.call(ask(model(fake_llm.url, price=Price(input=price, output=0))))).price_usd)
    assert paid[0] == paid[1] and fake_llm.stats()["requests"] == 1


async def test_an_endpoint_reports_its_latency_and_refusals(journal: Path) -> None:
    with Serving(median_ms=15, sigma=0, rate_limit_above=4) as serving:
        async with Gateway(journal=journal) as gateway:
            spec = model(serving.url)
            await asyncio.gather(*(gateway.call(ask(spec, f"n{i}")) for i in range(40)))
            (endpoint,) = gateway.stats.endpoints
    assert endpoint.model == "m" and endpoint.calls == 40 and endpoint.refused >= 1
    assert endpoint.p50_s is not None and 0.014 < endpoint.p50_s <= (endpoint.p95_s or 0)
    assert (endpoint.inside, endpoint.queued) == (0, 0)


async def test_where_the_first_of_two_fails_the_second_is_waited_for(
    fake_llm: Serving, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[float] = []
    real = OpenAITransport.send

    async def slow_and_broken_first(self: OpenAITransport, request: CallRequest) -> Reply:
        sent.append(time.monotonic())
        first = len(sent) == 1
        await asyncio.sleep(0.6 if first else 0.9)
        if first:
            raise CallFailed("server_error", "the server failed (HTTP 500)")
        return await real(self, request)

    spec = model(fake_llm.url, hedge=True)
    async with Gateway(journal=journal, retries=0) as gateway:
        await warm_up(gateway, spec)
        monkeypatch.setattr(OpenAITransport, "send", slow_and_broken_first)
        reply = await gateway.call(ask(spec, "slow"))
        stats = gateway.stats
    assert len(sent) == 2 and sent[1] - sent[0] < 0.6, "the second went out while the first was under way"
    assert reply.text and stats.hedged == 1 and stats.failed == 0 and stats.in_flight == 0
    assert gateway.ledger.reserved[TOKENS] == 0 and stats.endpoints[0].inside == 0


async def test_a_clock_that_jumps_holds_nobody_up(
    fake_llm: Serving, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, real = model(fake_llm.url, requests_per_minute=40), time.time
    fake_llm.set(fail_first=2, fail_status=429, retry_after=0.05)
    async with Gateway(journal=journal) as gateway:
        for jump in (-86_400.0, 0.0, 86_400.0):
            monkeypatch.setattr(time, "time", lambda jump=jump: real() + jump)
            calls = (gateway.call(ask(spec, f"{jump} {index}")) for index in range(10))
            assert all(not reply.cached for reply in await asyncio.wait_for(asyncio.gather(*calls), 5))
        again = [await gateway.call(ask(spec, f"{jump} 1")) for jump in (-86_400.0, 0.0, 86_400.0)]
    assert all(reply.cached for reply in again)
    assert fake_llm.stats()["calls"] == 30


async def test_a_reply_from_another_model_is_reported(journal: Path) -> None:
    with Serving(served_model="somebody-else") as serving:
        async with Gateway(journal=journal) as gateway:
            replies = [await gateway.call(ask(model(serving.url), f"n{index}")) for index in range(2)]
            notes = gateway.stats.notes
    assert notes == ("m: requested fake, but the server answered as somebody-else",)
    assert {reply.served_model for reply in replies} == {"somebody-else"}


@pytest.mark.parametrize(
    ("usage", "cached"),
    [({"prompt_tokens_details": {"cached_tokens": 7}}, 7), ({"prompt_cache_hit_tokens": 5}, 5), ({}, None),
     ({"prompt_tokens_details": None}, None)],
)  # fmt: skip
def test_cached_tokens_are_read_by_each_servers_name(usage: dict[str, Any], cached: int | None) -> None:
    assert usage_of({"prompt_tokens": 10, "completion_tokens": 2, **usage}).cached_tokens == cached
