"""The limiter: never too many inside, never too much a minute, nobody forgotten, quick to find what a server bears."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.agents.gateway.limiter import Limiter, Permit, Tenant, Terms, backoff_s, drop_limiter, limiter_at
from graft.agents.gateway.rates import Window

STEP = st.sampled_from(["enter 0", "enter 1", "leave", "cancel", "success", "refusal", "turn"])


def limiter_of(limit: int, tenants: list[Tenant], **more: int) -> Limiter:
    limiter = Limiter()
    for tenant in tenants:
        limiter.join(tenant, Terms(limit, **more))
    return limiter


@settings(max_examples=200, deadline=None)
@given(st.lists(STEP, max_size=60), st.integers(1, 5), st.integers(1, 4))
def test_a_limiter_never_admits_too_many_and_loses_no_permit(steps: list[str], limit: int, places: int) -> None:
    async def play() -> None:
        tenants = [Tenant(places), Tenant(places)]
        limiter, inside = limiter_of(limit, tenants), Counter[int]()
        tasks: list[asyncio.Task[None]] = []

        async def call(who: int) -> None:
            permit = await limiter.enter(tenants[who])
            inside[who] += 1
            try:
                await turn.wait()
            finally:
                inside[who] -= 1
                limiter.leave(permit)

        turn = asyncio.Event()
        for step in steps:
            if step.startswith("enter"):
                tasks.append(asyncio.create_task(call(int(step[-1]))))
            elif step == "leave":
                turn.set()
                await asyncio.sleep(0)
                turn = asyncio.Event()
            elif step == "cancel" and tasks:
                tasks[len(tasks) // 2].cancel()
            elif step == "success":
                limiter.succeeded()
            elif step == "refusal":
                limiter.refused(time.monotonic(), 0.0)
            else:
                await asyncio.sleep(0)
            assert inside.total() <= limit and max(inside.values(), default=0) <= places
        turn.set()
        while pending := [task for task in tasks if not task.done()]:
            turn.set()
            await asyncio.wait(pending, timeout=5)
        assert not inside.total() and not limiter.inside and not any(tenant.inside for tenant in tenants)
        assert not any(limiter.queued_of(tenant) or tenant.waits_at for tenant in tenants)

    with pytest.MonkeyPatch.context() as patch:  # refusals in a row pause the limiter, by up to 20 s
        patch.setattr("graft.agents.gateway.limiter.BASE_WAIT_S", 1e-6)
        asyncio.run(asyncio.wait_for(play(), 60))


async def full(limiter: Limiter, tenant: Tenant) -> list[Permit]:
    permits = []
    while (permit := limiter.try_enter(tenant)) is not None:
        permits.append(permit)
    return permits


async def test_a_burst_counts_once_and_shows_the_servers_capacity() -> None:
    tenant = Tenant(100)
    limiter, sent = limiter_of(64, [tenant]), time.monotonic()
    permits = await full(limiter, tenant)
    assert len(permits) == 64
    assert all(limiter.refused(sent, None) for _ in range(32))
    assert limiter.places == 31, "a little less than the 32 that were not refused"
    for permit in permits:
        limiter.leave(permit)
    assert not limiter.pause_s, "one burst without Retry-After slows down, it does not stop"


async def test_a_burst_never_takes_more_than_half_of_the_places() -> None:
    tenant = Tenant(100)
    limiter, sent = limiter_of(64, [tenant]), time.monotonic()
    await full(limiter, tenant)
    assert all(limiter.refused(sent, 0.05) for _ in range(64))
    assert limiter.places == 28 and limiter.pause_s > 0


async def test_recovery_is_quicker_than_a_place_for_25_successes() -> None:
    tenant = Tenant(100)
    limiter = limiter_of(32, [tenant])
    for permit in await full(limiter, tenant):
        limiter.leave(permit)
    await full(limiter, tenant)
    for _ in range(32):
        limiter.refused(time.monotonic(), None)
    low, successes = limiter.places, 0
    while limiter.places < 16:
        await full(limiter, tenant)
        limiter.succeeded()
        successes += 1
    assert low <= 15 and successes <= 4 * (16 - low) + 4


async def simulate(bears: int, limit: int, rounds: int, retry_after: float | None = None) -> tuple[float, int]:
    """A server that serves `bears` at once and refuses more: mean share of them in use, and refusals."""
    tenant, rng = Tenant(1_000), random.Random(7)
    limiter = limiter_of(limit, [tenant])
    inside: list[Permit] = []
    used, refusals = 0.0, 0
    for _ in range(rounds):
        while (permit := limiter.try_enter(tenant)) is not None:
            if len(inside) >= bears:
                refusals += 1
                limiter.refused(permit.sent_at, retry_after)
                limiter.leave(permit)
            else:
                inside.append(permit)
        used += len(inside)
        if inside:
            limiter.succeeded()
            limiter.leave(inside.pop(rng.randrange(len(inside))))
    return used / rounds / bears, refusals


@pytest.mark.parametrize(("bears", "limit"), [(32, 64), (8, 64), (3, 256), (50, 64)])
async def test_it_settles_near_what_the_server_bears(bears: int, limit: int) -> None:
    share, refusals = await simulate(bears, limit, 6_000)
    assert share > 0.9, "at least nine tenths of what the server bears are in use"
    assert refusals < 6_000 * 0.04 + limit, "and its limit is hardly ever exceeded"


async def test_a_ceiling_that_went_up_is_found_again() -> None:
    tenant = Tenant(100)
    limiter = limiter_of(32, [tenant])
    await full(limiter, tenant)
    for _ in range(24):
        limiter.refused(time.monotonic() - 1, None) if limiter.refusals else limiter.refused(time.monotonic(), None)
    assert limiter.places < 20
    for _ in range(400):
        await full(limiter, tenant)
        limiter.succeeded()
    assert limiter.places == 32


async def test_runs_that_share_an_endpoint_are_served_in_turn() -> None:
    greedy, modest = Tenant(100), Tenant(100)
    limiter, order = limiter_of(2, [greedy, modest]), []

    async def call(who: str, tenant: Tenant) -> None:
        permit = await limiter.enter(tenant)
        order.append(who)
        await asyncio.sleep(0.001)
        limiter.leave(permit)

    calls = [call("greedy", greedy) for _ in range(60)] + [call("modest", modest) for _ in range(10)]
    await asyncio.gather(*calls)
    assert order[:24].count("modest") >= 10, "ten calls of one run do not wait for sixty of another"


async def test_a_run_without_places_of_its_own_holds_nobody_up() -> None:
    small, large = Tenant(1), Tenant(100)
    limiter = limiter_of(4, [small, large])
    held = await limiter.enter(small)
    waiting = asyncio.create_task(limiter.enter(small))
    await asyncio.sleep(0)
    permits = [await asyncio.wait_for(limiter.enter(large), 1) for _ in range(3)]
    assert not waiting.done()
    limiter.leave(held)
    limiter.leave(await asyncio.wait_for(waiting, 30))
    for permit in permits:
        limiter.leave(permit)


async def test_a_place_that_a_run_gives_back_goes_to_its_oldest_call_at_any_endpoint() -> None:
    tenant = Tenant(1)
    one, two = limiter_of(4, [tenant]), limiter_of(4, [tenant])
    permit, order = await one.enter(tenant), []

    async def call(name: str, limiter: Limiter) -> None:
        mine = await limiter.enter(tenant)
        order.append(name)
        limiter.leave(mine)

    tasks = [asyncio.create_task(call(name, limiter)) for name, limiter in (("a", two), ("b", one), ("c", two))]
    await asyncio.sleep(0.01)
    one.leave(permit)
    await asyncio.wait_for(asyncio.gather(*tasks), 1)
    assert order == ["a", "b", "c"]


async def test_the_strictest_terms_hold_while_a_run_sets_them() -> None:
    one, two = Tenant(10), Tenant(10)
    limiter = limiter_of(8, [one])
    limiter.join(two, Terms(2))
    assert limiter.places == 2
    assert not limiter.depart(two) and limiter.places == 8
    assert limiter.depart(one)


async def test_one_loop_has_one_limiter_for_a_model_and_one_address_for_all_of_its_models() -> None:
    assert limiter_at("here", "m") is limiter_at("here", "m") is not limiter_at("there", "m")
    before, beside = limiter_at("here", "m"), limiter_at("here", "n")
    assert before is not beside and before.address is beside.address is not limiter_at("there", "m").address
    drop_limiter("here", "m")
    assert limiter_at("here", "m") is not before and limiter_at("here", "m").address is beside.address


AMOUNTS = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 60), st.floats(0, 1)), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None)
@given(AMOUNTS, st.integers(20, 100))
def test_never_more_in_any_minute_than_allowed(calls: list[tuple[float, int, float]], most: int) -> None:
    window, now, sent = Window(most, 60.0), 0.0, []
    for gap, amount, share in calls:
        now += gap
        wait = window.wait_s(amount, now)
        now += wait
        assert window.wait_s(amount, now + 1e-6) == 0, "a call that waited the announced time may go"
        now += 1e-6
        taken = window.take(amount, now)
        window.correct(taken, amount * share)
        sent.append((now, amount * share, amount))
    for start, _, _ in sent:
        in_minute = [used for at, used, _ in sent if start <= at < start + 60]
        alone = max(amount for at, _, amount in sent if start <= at < start + 60)
        assert sum(in_minute) <= max(most, alone) + 1e-6


async def test_calls_wait_for_a_minutes_room_and_are_never_refused() -> None:
    tenant, limiter = Tenant(100), Limiter(window_s=0.3)
    limiter.join(tenant, Terms(100, requests=5, tokens=1_000))
    started = time.monotonic()

    async def call(tokens: int) -> float:
        limiter.leave(await limiter.enter(tenant, tokens), tokens)
        return time.monotonic() - started

    times = await asyncio.wait_for(asyncio.gather(*(call(10) for _ in range(12))), 5)
    assert sorted(times)[4] < 0.25 and sorted(times)[5] >= 0.3 and 0.6 <= max(times) < 2
    started = time.monotonic()
    heavy = await asyncio.wait_for(asyncio.gather(call(900), call(900), call(5_000)), 5)
    assert heavy[0] < heavy[1] < heavy[2], "in turn, and one that is larger than a minute's room comes too"


async def test_what_a_call_did_not_take_is_room_for_the_next() -> None:
    tenant, limiter = Tenant(100), Limiter(window_s=60)
    limiter.join(tenant, Terms(100, tokens=1_000))
    permit = await limiter.enter(tenant, 900)
    waiting = asyncio.create_task(limiter.enter(tenant, 900))
    await asyncio.sleep(0)
    assert limiter.limited_by == "a minute's allowance"
    limiter.leave(permit, 50)
    limiter.leave(await asyncio.wait_for(waiting, 30))


async def test_a_server_that_refuses_for_ever_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.agents.gateway.limiter.BASE_WAIT_S", 0.001)
    tenant, limiter = Tenant(1), Limiter(patience_s=0.05)
    limiter.join(tenant, Terms(1))
    tries, started = 0, time.monotonic()
    while True:
        permit = await limiter.enter(tenant)
        tries += 1
        worth_it = limiter.refused(permit.sent_at, None)
        limiter.leave(permit)
        if not worth_it:
            break
    assert tries > 2 and 0.05 < time.monotonic() - started < 30
    assert not limiter.refused(time.monotonic(), 3_600.0), "an hour is not waited for"


def test_waits_grow_and_are_jittered() -> None:
    for failures, middle in ((1, 0.25), (2, 0.5), (4, 2.0), (50, 20.0)):
        waits = {backoff_s(failures) for _ in range(50)}
        assert len(waits) > 1 and all(middle / 2 <= wait <= middle for wait in waits)
