"""Several models at one address, in simulated time: a limit that they share, limits of their own, and turns."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from fake_llm import Serving
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import MODELS, Client, Server, simulate

from graft.agents.gateway import Gateway
from graft.agents.gateway.limiter import Address, Limiter, Tenant, Terms
from graft.schemas.calls import CallRequest, Message
from graft.schemas.models import ModelSpec

FAULTS = {"error_rate": 0.05, "malformed_rate": 0.02}


def worked(server: Server, candidates: int = 600) -> tuple[Client, float]:
    """Candidates of five models against a server: the client, and the seconds."""

    async def play() -> tuple[Client, float]:
        client = Client(server)
        return client, await client.work(candidates)

    return simulate(play())


def busy(server: Server, seconds: float, names: tuple[str, ...] = MODELS, concurrency: int = 64) -> Client:
    """Forty tasks for each model call it again and again, for so many seconds."""

    async def play() -> Client:
        client, loop = Client(server, concurrency), asyncio.get_running_loop()
        end = loop.time() + seconds

        async def again(name: str) -> None:
            while loop.time() < end:
                await client.call(name)

        await asyncio.gather(*(again(name) for name in names for _ in range(40)))
        return client

    return simulate(play())


@pytest.mark.parametrize(("bears", "faults"), [(32, {}), (32, FAULTS), (8, FAULTS), (48, FAULTS)])
def test_five_models_use_nine_tenths_of_the_limit_that_they_share(bears: int, faults: dict[str, float]) -> None:
    server = Server(lambda _: bears, **faults)
    client, seconds = worked(server)
    share = server.used(1, seconds - 2) / bears  # the last calls find too few to share the server with
    assert share > 0.9 and not client.failed and server.most <= bears
    assert server.refused.total() < 0.1 * server.sent.total(), "its limit is hardly ever exceeded"


def test_a_wait_that_each_refusal_requests_costs_little(bears: int = 32) -> None:
    server = Server(lambda _: bears, retry_after=1.0, **FAULTS)
    client, seconds = worked(server)
    assert server.used(0, seconds) / bears > 0.75 and not client.failed
    assert server.refused.total() < 0.05 * server.sent.total()


@pytest.mark.parametrize("retry_after", [None, 5.0])
@pytest.mark.parametrize("own", [{"bears_of": {"m2": 4}}, {"minute_of": {"m2": 60}}])
def test_a_models_own_limit_slows_no_other_model_down(
    own: dict[str, dict[str, int]], retry_after: float | None
) -> None:
    free, server = Server(), Server(retry_after=retry_after, **own)  # type: ignore[arg-type]
    others = [name for name in MODELS if name != "m2"]
    busy(free, 10)
    busy(server, 10)
    assert all(server.answered[name] > 0.95 * free.answered[name] for name in others)
    assert server.refused["m2"] < 0.3 * server.sent["m2"] + 60 and not any(server.refused[name] for name in others)
    if retry_after is None and "bears_of" in own:
        assert server.of_mean("m2", 2, 10) > 0.8 * 4


def test_own_limits_and_a_shared_limit_are_learned_side_by_side() -> None:
    server = Server(lambda _: 32, bears_of={"m2": 4})
    busy(server, 15)
    assert server.used(2, 15) > 0.85 * 32 and server.of_mean("m2", 2, 15) > 0.75 * 4


def test_models_that_each_have_a_limit_do_not_share_one() -> None:
    server = Server(bears_of=dict.fromkeys(MODELS, 6))
    busy(server, 15)
    assert server.used(2, 15) > 0.6 * 30, "the sum of all five"


def test_a_limit_that_changes_is_followed_within_seconds() -> None:
    server = Server(lambda now: 32 if now < 10 else 8 if now < 20 else 64)
    client = busy(server, 30, concurrency=128)
    assert server.used(2, 10) > 0.9 * 32 and server.used(12, 20) > 0.9 * 8 and server.used(24, 30) > 0.9 * 64
    assert not client.failed and server.refused.total() < 0.15 * server.sent.total()


def test_a_slow_and_a_rare_model_get_their_turns() -> None:
    server = Server(lambda _: 16, slow={"m1": 8.0})

    async def play() -> dict[str, float]:
        client, loop = Client(server, concurrency=64), asyncio.get_running_loop()

        async def again(name: str, pause_s: float = 0.0) -> None:
            while loop.time() < 40:
                await client.call(name)
                await asyncio.sleep(pause_s)

        tasks = [again(name) for name in ("m1", "m2") for _ in range(30)]
        await asyncio.gather(*tasks, again("m3", 1.0))
        waited: dict[str, list[float]] = {name: [] for name in MODELS}
        for name, began, ended in client.spans:
            waited[name].append(ended - began)
        return {name: sum(seconds) / len(seconds) for name, seconds in waited.items() if seconds}

    mean = simulate(play())
    assert server.answered["m1"] > 0.5 * server.answered["m2"], "the slow one is not overtaken by the quick one"
    assert mean["m3"] < 1.5 * mean["m2"], "one call in a while waits no longer than many"


ENTER = [f"enter {tenant} {model}" for tenant in "01" for model in "012"]
STEP = st.sampled_from([*ENTER, "leave", "cancel", "success", "refusal", "turn"])


@settings(max_examples=200, deadline=None)
@given(st.lists(STEP, max_size=80), st.integers(1, 5), st.integers(1, 6))
def test_an_address_never_admits_too_many_and_serves_every_waiting_call(
    steps: list[str], limit: int, places: int
) -> None:
    async def play() -> None:
        tenants, address = [Tenant(places), Tenant(places)], Address()
        limiters = [Limiter(address) for _ in range(3)]
        for limiter in limiters:
            for tenant in tenants:
                limiter.join(tenant, Terms(limit))
        inside, tasks, turn = Counter[tuple[int, int]](), [], asyncio.Event()

        async def call(who: int, which: int) -> None:
            before = max(address.limit.shared.most, sum(inside.values()))
            permit = await limiters[which].enter(tenants[who])
            inside[who, which] += 1
            assert address.limit.inside == sum(one.inside for one in limiters)
            assert sum(inside.values()) <= max(before, address.limit.shared.most)
            try:
                await turn.wait()
            finally:
                inside[who, which] -= 1
                limiters[which].leave(permit)

        loop = asyncio.get_running_loop()
        for number, step in enumerate(steps):
            if step.startswith("enter"):
                tasks.append(asyncio.create_task(call(int(step[-3]), int(step[-1]))))
            elif step == "leave":
                turn.set()
                await asyncio.sleep(0)
                turn = asyncio.Event()
            elif step == "cancel" and tasks:
                tasks[len(tasks) // 2].cancel()
            elif step == "success":
                limiters[number % 3].succeeded()
            elif step == "refusal":
                limiters[number % 3].refused(loop.time(), 0.0 if number % 2 else None)
            await asyncio.sleep(0)
            for which in range(3):
                assert sum(inside[who, which] for who in range(2)) <= limit
            for who in range(2):
                assert sum(inside[who, which] for which in range(3)) <= places
        turn.set()
        if tasks:
            await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 600)
        assert not address.limit.inside and not address.waiting
        assert not any(limiter.inside or limiter.queues for limiter in limiters)
        assert not any(tenant.inside or tenant.waits_at for tenant in tenants)

    simulate(play())


async def test_five_models_of_one_server_share_its_limit(tmp_path: Path) -> None:
    models = [
        ModelSpec(name=name, provider="openai", model=name, base_url="http://x/v1", max_concurrency=32)
        for name in MODELS
    ]
    with Serving(median_ms=20, sigma=0.3, rate_limit_above=8) as serving:
        models = [model.model_copy(update={"base_url": serving.url}) for model in models]
        async with Gateway(journal=tmp_path / "journal.sqlite", concurrency=32) as gateway:
            requests = [
                CallRequest(
                    model=models[number % 5], role="generator", purpose="test", max_tokens=32,
                    messages=(Message(role="user", content=f"number {number}"),),
                )
                for number in range(600)
            ]  # fmt: skip
            replies = await asyncio.gather(*(gateway.call(request) for request in requests))
            endpoints = gateway.stats.endpoints
        stats = serving.stats()
    assert len(replies) == stats["calls"] == 600 and stats["duplicates"] == 0
    assert stats["statuses"]["429"] < 150, "each model alone would exceed the limit again and again"
    assert len({one.limit for one in endpoints}) <= 2 and all(4 <= one.limit <= 10 for one in endpoints)


async def test_a_server_is_free_for_the_next_call_before_the_reply_is_journaled() -> None:
    limiter, tenant = Limiter(), Tenant(2)
    limiter.join(tenant, Terms(1))
    first = await limiter.enter(tenant)
    tasks = [asyncio.create_task(limiter.enter(tenant)) for _ in range(2)]
    await asyncio.sleep(0)
    limiter.served(first, 5)
    second = await asyncio.wait_for(tasks[0], 5)
    assert (limiter.inside, tenant.inside) == (1, 2), "the run still has both calls on its hands"
    limiter.served(second)
    await asyncio.sleep(0)
    assert not tasks[1].done(), "the run's own limit holds until a reply is journaled"
    for permit in (first, second):
        limiter.leave(permit)
    limiter.leave(await asyncio.wait_for(tasks[1], 5))
    assert (limiter.inside, tenant.inside) == (0, 0)
