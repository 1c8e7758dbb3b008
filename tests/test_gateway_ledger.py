"""The ledger and the door of an endpoint: invariants that hold whatever the interleaving."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.gateway import Ledger
from agents.gateway.ledger import Reservation
from agents.gateway.retry import Door, backoff_s
from schemas.errors import BudgetExhausted

CALL = st.tuples(st.floats(0, 0.4), st.integers(0, 40), st.floats(0, 1), st.integers(0, 3), st.booleans())


@settings(max_examples=150, deadline=None)
@given(st.lists(CALL, max_size=25), st.floats(0, 1), st.integers(0, 100), st.booleans())
def test_never_over_a_cap_and_nobody_waits_for_ever(
    calls: list[tuple[float, int, float, int, bool]], money: float, tokens: int, patient: bool
) -> None:
    ledger, ended = Ledger(money, tokens), []

    def check() -> None:
        assert ledger.spent_usd + ledger.reserved_usd <= money + 1e-9
        assert ledger.spent_tokens + ledger.reserved_tokens <= tokens

    async def one(usd: float, count: int, share: float, steps: int, pays: bool) -> None:
        reservation = Reservation(usd, count)
        try:
            if patient:
                await ledger.wait_and_reserve(reservation)
            else:
                ledger.reserve(reservation)
        except BudgetExhausted:
            ended.append("refused")
            return
        check()
        for _ in range(steps):
            await asyncio.sleep(0)
        if pays:
            ledger.settle(reservation, usd * share, int(count * share))
        else:
            ledger.release(reservation)
        check()
        ended.append("made")

    async def all_of_them() -> None:
        await asyncio.wait_for(asyncio.gather(*(one(*call) for call in calls)), 5)

    asyncio.run(all_of_them())
    assert len(ended) == len(calls)
    assert ledger.reserved_usd == 0 and ledger.reserved_tokens == 0 and not ledger.waiting


async def test_a_call_waits_for_room_that_others_only_reserved() -> None:
    ledger = Ledger(money_usd=1.0)
    ledger.reserve(Reservation(0.8, 1))
    waiting = asyncio.create_task(ledger.wait_and_reserve(Reservation(0.5, 1)))
    await asyncio.sleep(0)
    assert ledger.waiting and not waiting.done()
    ledger.settle(Reservation(0.8, 1), 0.1, 1)
    await asyncio.wait_for(waiting, 1)
    assert ledger.reserved_usd == pytest.approx(0.5) and ledger.spent_usd == pytest.approx(0.1)


async def test_a_cancelled_waiter_lets_the_next_one_in() -> None:
    ledger = Ledger(tokens=10)
    ledger.reserve(Reservation(None, 8))
    first, second = (asyncio.create_task(ledger.wait_and_reserve(Reservation(None, n))) for n in (9, 5))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    ledger.settle(Reservation(None, 8), None, 2)
    await asyncio.wait_for(second, 1)
    assert ledger.reserved_tokens == 5 and ledger.unknown


STEP = st.sampled_from(["enter", "leave", "cancel", "success", "refusal", "turn"])


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=60), st.integers(1, 5))
def test_a_door_never_holds_too_many_and_loses_no_place(steps: list[str], limit: int) -> None:
    async def play() -> None:
        door, inside, most = Door(limit, retries=1_000), [], 0
        tasks: list[asyncio.Task[None]] = []
        release = asyncio.Event()

        async def visit() -> None:
            nonlocal most
            async with door:
                inside.append(1)
                most = max(most, len(inside))
                try:
                    await turn.wait()
                finally:
                    inside.pop()

        turn = asyncio.Event()
        for step in steps:
            if step == "enter":
                tasks.append(asyncio.create_task(visit()))
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
            assert len(inside) <= limit
        turn.set()
        while pending := [task for task in tasks if not task.done()]:
            turn.set()
            await asyncio.wait(pending, timeout=1)
        assert most <= limit and not inside and not door.crowded
        for _ in range(limit * limit + 1):
            door.succeeded()
        assert door.places == limit, "success brings every place back"
        release.set()

    asyncio.run(asyncio.wait_for(play(), 10))


async def test_a_burst_halves_the_places_once() -> None:
    door, sent = Door(16, retries=4), time.monotonic()
    for _ in range(16):
        await door.__aenter__()
    assert all(door.refused(sent, 0.01) for _ in range(16))
    assert door.places == 8
    await asyncio.sleep(0.02)
    assert not door.pause_s


def test_waits_grow_and_are_jittered() -> None:
    for failures, middle in ((1, 0.25), (2, 0.5), (4, 2.0), (50, 20.0)):
        waits = {backoff_s(failures) for _ in range(50)}
        assert len(waits) > 1 and all(middle / 2 <= wait <= middle for wait in waits)
