"""The ledger: invariants that hold whatever the interleaving."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.agents.gateway import Ledger
from graft.agents.gateway.ledger import MONEY, TOKENS, Reservation, role_cap
from graft.schemas.errors import BudgetExhausted

CALL = st.tuples(st.floats(0, 0.4), st.integers(0, 40), st.floats(0, 1), st.integers(0, 3), st.booleans())


@settings(max_examples=150, deadline=None)
@given(st.lists(CALL, max_size=25), st.floats(0, 1), st.integers(0, 100), st.booleans())
def test_never_over_a_cap_and_nobody_waits_for_ever(
    calls: list[tuple[float, int, float, int, bool]], money: float, tokens: int, patient: bool
) -> None:
    ledger, ended = Ledger(money, tokens), []

    def check() -> None:
        assert ledger.charged[MONEY] + ledger.reserved[MONEY] <= money + 1e-9
        assert ledger.charged[TOKENS] + ledger.reserved[TOKENS] <= tokens

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
    assert ledger.reserved[MONEY] == 0 and ledger.reserved[TOKENS] == 0 and not ledger.waiting


async def test_a_call_waits_for_room_that_others_only_reserved() -> None:
    ledger = Ledger(money_usd=1.0)
    ledger.reserve(Reservation(0.8, 1))
    waiting = asyncio.create_task(ledger.wait_and_reserve(Reservation(0.5, 1)))
    await asyncio.sleep(0)
    assert ledger.waiting and not waiting.done()
    ledger.settle(Reservation(0.8, 1), 0.1, 1)
    await asyncio.wait_for(waiting, 30)
    assert ledger.reserved[MONEY] == pytest.approx(0.5) and ledger.charged[MONEY] == pytest.approx(0.1)


async def test_a_cancelled_waiter_lets_the_next_one_in() -> None:
    ledger = Ledger(tokens=10)
    ledger.reserve(Reservation(None, 8))
    first, second = (asyncio.create_task(ledger.wait_and_reserve(Reservation(None, n))) for n in (9, 5))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    ledger.settle(Reservation(None, 8), None, 2)
    await asyncio.wait_for(second, 30)
    assert ledger.reserved[TOKENS] == 5 and ledger.unknown


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 0.4), st.floats(0, 1), st.integers(0, 3)), max_size=25),
    st.floats(0, 1), st.floats(0, 1),
)  # fmt: skip
def test_never_over_the_cap_of_a_role(calls: list[tuple[str, float, float, int]], cap: float, whole: float) -> None:
    ledger, ended = Ledger(whole, None, {"a": cap}), []

    async def one(role: str, usd: float, share: float, steps: int) -> None:
        reservation = Reservation(usd, 0, role)
        try:
            await ledger.wait_and_reserve(reservation)
        except BudgetExhausted as refusal:
            ended.append(role)
            assert role == "a" or "role" not in str(refusal)
            return
        for _ in range(steps):
            await asyncio.sleep(0)
        assert ledger.charged[role_cap("a")] + ledger.reserved[role_cap("a")] <= cap + 1e-9
        assert ledger.charged[MONEY] + ledger.reserved[MONEY] <= whole + 1e-9
        ledger.settle(reservation, usd * share, 0)
        ended.append(role)

    async def all_of_them() -> None:
        await asyncio.wait_for(asyncio.gather(*(one(*call) for call in calls)), 5)

    asyncio.run(all_of_them())
    assert len(ended) == len(calls) and not any(ledger.reserved.values())
