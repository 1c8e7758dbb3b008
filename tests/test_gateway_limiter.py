"""The limiter: never too many inside, never too much a minute, nobody forgotten, quick to find what a server bears."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.agents.gateway.limiter import Door, Tenant, Terms, Visit, close_door, door_at
from graft.agents.gateway.rates import Window
from graft.agents.gateway.retry import backoff_s

STEP = st.sampled_from(["enter 0", "enter 1", "leave", "cancel", "success", "refusal", "turn"])


def door_of(limit: int, tenants: list[Tenant], **more: int) -> Door:
    door = Door()
    for tenant in tenants:
        door.join(tenant, Terms(limit, **more))
    return door


@settings(max_examples=200, deadline=None)
@given(st.lists(STEP, max_size=60), st.integers(1, 5), st.integers(1, 4))
def test_a_door_never_holds_too_many_and_loses_no_place(steps: list[str], limit: int, places: int) -> None:
    async def play() -> None:
        tenants = [Tenant(places), Tenant(places)]
        door, inside = door_of(limit, tenants), Counter[int]()
        tasks: list[asyncio.Task[None]] = []

        async def call(who: int) -> None:
            visit = await door.enter(tenants[who])
            inside[who] += 1
            try:
                await turn.wait()
            finally:
                inside[who] -= 1
                door.leave(visit)

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
                door.succeeded()
            elif step == "refusal":
                door.refused(time.monotonic(), 0.0)
            else:
                await asyncio.sleep(0)
            assert inside.total() <= limit and max(inside.values(), default=0) <= places
        turn.set()
        while pending := [task for task in tasks if not task.done()]:
            turn.set()
            await asyncio.wait(pending, timeout=5)
        assert not inside.total() and not door.inside and not any(tenant.inside for tenant in tenants)
        assert not any(door.queued_of(tenant) or tenant.waits_at for tenant in tenants)

    with pytest.MonkeyPatch.context() as patch:  # refusals in a row pause the door, by up to 20 s
        patch.setattr("graft.agents.gateway.retry.BASE_WAIT_S", 1e-6)
        asyncio.run(asyncio.wait_for(play(), 60))


async def full(door: Door, tenant: Tenant) -> list[Visit]:
    visits = []
    while (visit := door.try_enter(tenant)) is not None:
        visits.append(visit)
    return visits


async def test_a_burst_counts_once_and_tells_what_the_server_bears() -> None:
    tenant = Tenant(100)
    door, sent = door_of(64, [tenant]), time.monotonic()
    visits = await full(door, tenant)
    assert len(visits) == 64
    assert all(door.refused(sent, None) for _ in range(32))
    assert door.places == 28, "nine tenths of the 32 that were not refused"
    for visit in visits:
        door.leave(visit)
    assert not door.pause_s, "one burst without Retry-After slows down, it does not stop"


async def test_a_burst_never_takes_more_than_half_of_the_places() -> None:
    tenant = Tenant(100)
    door, sent = door_of(64, [tenant]), time.monotonic()
    await full(door, tenant)
    assert all(door.refused(sent, 0.05) for _ in range(64))
    assert door.places == 28 and door.pause_s > 0


async def test_recovery_is_quicker_than_a_place_for_25_successes() -> None:
    tenant = Tenant(100)
    door = door_of(32, [tenant])
    for visit in await full(door, tenant):
        door.leave(visit)
    await full(door, tenant)
    for _ in range(32):
        door.refused(time.monotonic(), None)
    low, successes = door.places, 0
    while door.places < 16:
        await full(door, tenant)
        door.succeeded()
        successes += 1
    assert low <= 15 and successes <= 4 * (16 - low) + 4


async def simulate(bears: int, limit: int, rounds: int, retry_after: float | None = None) -> tuple[float, int]:
    """A server that serves `bears` at once and refuses more: mean share of them in use, and refusals."""
    tenant, rng = Tenant(1_000), random.Random(7)
    door = door_of(limit, [tenant])
    inside: list[Visit] = []
    used, refusals = 0.0, 0
    for _ in range(rounds):
        while (visit := door.try_enter(tenant)) is not None:
            if len(inside) >= bears:
                refusals += 1
                door.refused(visit.sent_at, retry_after)
                door.leave(visit)
            else:
                inside.append(visit)
        used += len(inside)
        if inside:
            door.succeeded()
            door.leave(inside.pop(rng.randrange(len(inside))))
    return used / rounds / bears, refusals


@pytest.mark.parametrize(("bears", "limit"), [(32, 64), (8, 64), (3, 256), (50, 64)])
async def test_it_settles_near_what_the_server_bears(bears: int, limit: int) -> None:
    share, refusals = await simulate(bears, limit, 6_000)
    assert share > 0.9, "at least nine tenths of what the server bears are in use"
    assert refusals < 6_000 * 0.04 + limit, "and it is hardly ever asked for more"


async def test_a_ceiling_that_went_up_is_found_again() -> None:
    tenant = Tenant(100)
    door = door_of(32, [tenant])
    await full(door, tenant)
    for _ in range(24):
        door.refused(time.monotonic() - 1, None) if door.refusals else door.refused(time.monotonic(), None)
    assert door.places < 20
    for _ in range(400):
        await full(door, tenant)
        door.succeeded()
    assert door.places == 32


async def test_runs_that_share_an_endpoint_are_served_in_turn() -> None:
    greedy, modest = Tenant(100), Tenant(100)
    door, order = door_of(2, [greedy, modest]), []

    async def call(who: str, tenant: Tenant) -> None:
        visit = await door.enter(tenant)
        order.append(who)
        await asyncio.sleep(0.001)
        door.leave(visit)

    calls = [call("greedy", greedy) for _ in range(60)] + [call("modest", modest) for _ in range(10)]
    await asyncio.gather(*calls)
    assert order[:24].count("modest") >= 10, "ten calls of one run do not wait for sixty of another"


async def test_a_run_without_places_of_its_own_holds_nobody_up() -> None:
    small, large = Tenant(1), Tenant(100)
    door = door_of(4, [small, large])
    held = await door.enter(small)
    waiting = asyncio.create_task(door.enter(small))
    await asyncio.sleep(0)
    visits = [await asyncio.wait_for(door.enter(large), 1) for _ in range(3)]
    assert not waiting.done()
    door.leave(held)
    door.leave(await asyncio.wait_for(waiting, 30))
    for visit in visits:
        door.leave(visit)


async def test_a_place_that_a_run_gives_back_goes_to_its_oldest_call_at_any_endpoint() -> None:
    tenant = Tenant(1)
    one, two = door_of(4, [tenant]), door_of(4, [tenant])
    visit, order = await one.enter(tenant), []

    async def call(name: str, door: Door) -> None:
        mine = await door.enter(tenant)
        order.append(name)
        door.leave(mine)

    tasks = [asyncio.create_task(call(name, door)) for name, door in (("a", two), ("b", one), ("c", two))]
    await asyncio.sleep(0.01)
    one.leave(visit)
    await asyncio.wait_for(asyncio.gather(*tasks), 1)
    assert order == ["a", "b", "c"]


async def test_the_strictest_terms_hold_while_a_run_asks_for_them() -> None:
    one, two = Tenant(10), Tenant(10)
    door = door_of(8, [one])
    door.join(two, Terms(2))
    assert door.places == 2
    assert not door.depart(two) and door.places == 8
    assert door.depart(one)


async def test_one_loop_has_one_door_for_an_endpoint() -> None:
    assert door_at(("here", "m")) is door_at(("here", "m")) is not door_at(("there", "m"))
    before = door_at(("here", "m"))
    close_door(("here", "m"))
    assert door_at(("here", "m")) is not before


AMOUNTS = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 60), st.floats(0, 1)), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None)
@given(AMOUNTS, st.integers(20, 100))
def test_never_more_in_any_minute_than_allowed(calls: list[tuple[float, int, float]], most: int) -> None:
    window, now, sent = Window(most, 60.0), 0.0, []
    for gap, amount, share in calls:
        now += gap
        wait = window.wait_s(amount, now)
        now += wait
        assert window.wait_s(amount, now + 1e-6) == 0, "whoever waited as long as was said may go"
        now += 1e-6
        taken = window.take(amount, now)
        window.correct(taken, amount * share)
        sent.append((now, amount * share, amount))
    for start, _, _ in sent:
        in_minute = [used for at, used, _ in sent if start <= at < start + 60]
        alone = max(amount for at, _, amount in sent if start <= at < start + 60)
        assert sum(in_minute) <= max(most, alone) + 1e-6


async def test_calls_wait_for_a_minutes_room_and_are_never_refused() -> None:
    tenant, door = Tenant(100), Door(window_s=0.3)
    door.join(tenant, Terms(100, requests=5, tokens=1_000))
    started = time.monotonic()

    async def call(tokens: int) -> float:
        door.leave(await door.enter(tenant, tokens), tokens)
        return time.monotonic() - started

    times = await asyncio.wait_for(asyncio.gather(*(call(10) for _ in range(12))), 5)
    assert sorted(times)[4] < 0.25 and sorted(times)[5] >= 0.3 and 0.6 <= max(times) < 2
    started = time.monotonic()
    heavy = await asyncio.wait_for(asyncio.gather(call(900), call(900), call(5_000)), 5)
    assert heavy[0] < heavy[1] < heavy[2], "in turn, and one that is larger than a minute's room comes too"


async def test_what_a_call_did_not_take_is_room_for_the_next() -> None:
    tenant, door = Tenant(100), Door(window_s=60)
    door.join(tenant, Terms(100, tokens=1_000))
    visit = await door.enter(tenant, 900)
    waiting = asyncio.create_task(door.enter(tenant, 900))
    await asyncio.sleep(0)
    assert door.limited_by == "a minute's allowance"
    door.leave(visit, 50)
    door.leave(await asyncio.wait_for(waiting, 30))


async def test_a_server_that_refuses_for_ever_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.agents.gateway.retry.BASE_WAIT_S", 0.001)
    tenant, door = Tenant(1), Door(patience_s=0.05)
    door.join(tenant, Terms(1))
    tries, started = 0, time.monotonic()
    while True:
        visit = await door.enter(tenant)
        tries += 1
        worth_it = door.refused(visit.sent_at, None)
        door.leave(visit)
        if not worth_it:
            break
    assert tries > 2 and 0.05 < time.monotonic() - started < 30
    assert not door.refused(time.monotonic(), 3_600.0), "an hour is not waited for"


def test_waits_grow_and_are_jittered() -> None:
    for failures, middle in ((1, 0.25), (2, 0.5), (4, 2.0), (50, 20.0)):
        waits = {backoff_s(failures) for _ in range(50)}
        assert len(waits) > 1 and all(middle / 2 <= wait <= middle for wait in waits)
