"""Caps hold against the true bill: across restarts, kills, processes, faults, and usage that is absent or untrue."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from budget_drill import EVENTS, PRICE, Event, Run, caps, serving
from fake_faults import USAGES
from fake_llm import Serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ways import WAYS, named

from graft.agents.gateway import Gateway
from graft.agents.gateway.ledger import MONEY, TOKENS, role_cap
from graft.schemas.calls import CallRequest, Message
from graft.schemas.errors import BudgetExhausted, CallFailed
from graft.schemas.models import ModelSpec, Price


def ask(url: str, text: str = "hello", role: Any = "generator", **spec: Any) -> CallRequest:
    given_spec = {"name": "m", "provider": "openai", "model": "fake", "base_url": url, "price": PRICE, **spec}
    message = Message(role="user", content=text)
    return CallRequest(model=ModelSpec(**given_spec), role=role, purpose="t", messages=(message,), max_tokens=64)


def on_the_bill(**behaviour: Any) -> Serving:
    return Serving(input_usd=PRICE.input, output_usd=PRICE.output, bill_lost=True, **behaviour)


async def until_refused(gateway: Gateway, url: str, name: str = "") -> int:
    """Calls that were answered or failed until a cap refused one."""
    for made in range(2_000):
        try:
            await gateway.call(ask(url, f"{name} {made}", timeout_s=0.3))
        except BudgetExhausted:
            return made
        except CallFailed:
            continue
    raise AssertionError("no cap was reached")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(EVENTS, min_size=1, max_size=8), st.sampled_from([None, 0.02]))
def test_the_bill_never_exceeds_the_cap_whatever_the_order_of_events(
    monkeypatch: pytest.MonkeyPatch, events: list[Event], reviewer_usd: float | None
) -> None:
    monkeypatch.setattr("graft.agents.gateway.limiter.BASE_WAIT_S", 0.001)

    async def play(home: Path) -> float:
        return await Run(home, server, **caps(0.1, reviewer_usd)).play(events)

    with tempfile.TemporaryDirectory() as folder, serving() as server:
        assert asyncio.run(play(Path(folder))) <= 0.1


@pytest.mark.parametrize("usage_as", ["", *(name for name in USAGES if name != "cached")])
async def test_a_missing_or_false_usage_is_charged_as_reserved(tmp_path: Path, usage_as: str) -> None:
    with on_the_bill(usage=bool(usage_as), usage_as=usage_as) as server:
        async with Gateway(journal=tmp_path / "j", money_usd=0.05, concurrency=4) as gateway:
            reply = await gateway.call(ask(server.url, "the first"))
            assert await until_refused(gateway, server.url) < 20
            stats = gateway.stats
        assert server.stats()["cost_usd"] <= 0.05
    assert reply.text and reply.price_usd is None and stats.price_usd is None, "what it cost stays unknown"
    assert 0.04 < stats.charged[MONEY] <= 0.05
    assert any("reports no token counts" in note for note in stats.notes)


async def test_more_cached_tokens_than_there_were_give_no_discount(tmp_path: Path) -> None:
    price = Price(input=PRICE.input, cached_input=0, output=PRICE.output)
    with on_the_bill(usage_as="cached") as server:
        async with Gateway(journal=tmp_path / "j", money_usd=1) as gateway:
            reply = await gateway.call(ask(server.url, "hello " * 20, price=price))
        assert reply.price_usd == pytest.approx(server.stats()["cost_usd"])


async def test_answers_without_choices_are_charged_as_reserved(tmp_path: Path) -> None:
    with on_the_bill(empty_rate=1.0) as server:
        async with Gateway(journal=tmp_path / "j", money_usd=0.05, retries=0) as gateway:
            assert await until_refused(gateway, server.url) < 20
            assert gateway.stats.price_usd is None
        assert server.stats()["cost_usd"] <= 0.05


LOST = [{"hang_rate": 1.0}, {"reset_rate": 1.0}, {"half_rate": 1.0}, {"error_rate": 1.0, "error_status": 504}]


@pytest.mark.parametrize("fault", LOST, ids=lambda fault: next(iter(fault)))
async def test_an_attempt_that_may_be_billed_is_charged_as_reserved(tmp_path: Path, fault: dict[str, Any]) -> None:
    with on_the_bill(**fault) as server:
        async with Gateway(journal=tmp_path / "j", money_usd=0.05, tokens=10_000, retries=0) as gateway:
            failed = await until_refused(gateway, server.url)
            charged, price = gateway.stats.charged, gateway.stats.price_usd
        assert 1 <= failed == server.stats()["requests"] < 20 and server.stats()["cost_usd"] <= 0.05
    assert charged[MONEY] == charged[role_cap("generator")] and 0.04 < charged[MONEY] <= 0.05
    assert charged[TOKENS] > 64 * failed and price is None


@pytest.mark.parametrize("status", [400, 429, 500, 502, 503])
async def test_an_error_that_no_provider_bills_is_not_charged(tmp_path: Path, status: int) -> None:
    with on_the_bill(error_rate=1.0, error_status=status) as server:
        async with Gateway(journal=tmp_path / "j", money_usd=0.05, retries=0) as gateway:
            calls = [asyncio.create_task(gateway.call(ask(server.url, f"n{n}"))) for n in range(3)]
            await asyncio.wait(calls, timeout=1.0)
            for call in calls:
                call.cancel()  # a 429 is waited for; nothing is under way meanwhile
            await asyncio.gather(*calls, return_exceptions=True)
            assert not gateway.stats.charged.get(MONEY) and gateway.stats.price_usd == 0.0


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/v1", "http://nowhere.invalid/v1"])
@pytest.mark.parametrize("provider", WAYS)
async def test_a_request_that_was_never_sent_is_not_charged(
    tmp_path: Path, url: str, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    async with Gateway(journal=tmp_path / "j", money_usd=0.05, retries=0) as gateway:
        with pytest.raises(CallFailed) as failure:
            await gateway.call(ask(url, **named(provider)))
        assert failure.value.code == "connection"
        assert not gateway.stats.charged.get(MONEY) and gateway.stats.price_usd == 0.0


@pytest.mark.parametrize("way", ["hosted", "litellm"])
@pytest.mark.parametrize("fault", [*LOST, {"error_rate": 1.0}], ids=lambda fault: "-".join(map(str, fault.items())))
async def test_hosted_providers_charge_by_the_same_rule(
    tmp_path: Path, fault: dict[str, Any], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with on_the_bill(**fault) as server:
        async with Gateway(journal=tmp_path / "j", money_usd=0.05, retries=0) as gateway:
            with pytest.raises(CallFailed):
                await gateway.call(ask(server.url, **named(way), timeout_s=1.0))
            charged = gateway.stats.charged.get(MONEY, 0.0)
    assert (charged == 0) == (fault == {"error_rate": 1.0})


async def test_a_cancelled_call_is_charged_once_it_was_sent(tmp_path: Path) -> None:
    with on_the_bill(median_ms=400, sigma=0) as server:
        async with Gateway(journal=tmp_path / "j", money_usd=1, concurrency=2) as gateway:
            calls = [asyncio.create_task(gateway.call(ask(server.url, f"n{n}"))) for n in range(5)]
            await asyncio.sleep(0.2)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            stats = gateway.stats
            assert gateway.ledger.reserved[MONEY] == 0
        each = 64 * PRICE.output / 1e6
    assert 2 * each < stats.charged[MONEY] < 3 * each, "two were sent, three waited for a place"
    assert stats.price_usd is None


async def test_the_same_command_again_has_no_new_cap(tmp_path: Path) -> None:
    answered = []
    with on_the_bill(usage=True) as server:
        for start in range(3):
            async with Gateway(journal=tmp_path / "j", money_usd=0.1, run="r-1") as gateway:
                answered.append(await until_refused(gateway, server.url, f"start {start}"))
                with pytest.raises(BudgetExhausted, match=r"the money cap of \$0\.10 leaves no room") as refusal:
                    await gateway.call(ask(server.url, "one more"))
            assert server.stats()["cost_usd"] <= 0.1
        async with Gateway(journal=tmp_path / "j", money_usd=0.1, run="r-2") as gateway:
            assert await until_refused(gateway, server.url, "another run") > 5
        async with Gateway(journal=tmp_path / "j", money_usd=0.2, run="r-1") as gateway:
            assert "of the $0.20 of limits.money_usd was charged by earlier attempts" in gateway.stats.notes[0]
            assert await until_refused(gateway, server.url, "raised") > 5
    assert answered[0] > 5 and answered[1:] == [0, 0]
    assert "charged by earlier attempts of this run" in str(refusal.value)
    assert "raise limits.money_usd to continue" in str(refusal.value)


async def test_a_clean_end_charges_exactly_what_was_spent_and_journaled_calls_are_free(tmp_path: Path) -> None:
    with on_the_bill() as server:
        for _ in range(3):
            async with Gateway(journal=tmp_path / "j", money_usd=1, run="r-1") as gateway:
                for number in range(5):
                    await gateway.call(ask(server.url, f"n{number}"))
        async with Gateway(journal=tmp_path / "j", money_usd=1, run="r-1") as gateway:
            assert gateway.ledger.before[MONEY] == pytest.approx(server.stats()["cost_usd"])
        async with Gateway(journal=tmp_path / "j", money_usd=1, run="r-2") as gateway:
            assert (await gateway.call(ask(server.url, "n1"))).cached
        async with Gateway(journal=tmp_path / "j", money_usd=1, run="r-2") as gateway:
            assert not gateway.ledger.before, "what another run paid for is free"


async def test_role_and_token_caps_hold_across_starts(tmp_path: Path) -> None:
    from graft.agents.gateway import RoleRules

    with on_the_bill() as server:
        limits: list[dict[str, Any]] = [{"tokens": 400}, {"roles": {"generator": RoleRules(money_usd=0.05)}}]
        for place, limit in enumerate(limits):
            async with Gateway(journal=tmp_path / "j", run=f"r-{place}", **limit) as gateway:
                assert await until_refused(gateway, server.url, f"{place} first") > 0
            async with Gateway(journal=tmp_path / "j", run=f"r-{place}", **limit) as gateway:
                assert await until_refused(gateway, server.url, f"{place} second") == 0


async def test_two_processes_of_a_run_share_its_cap(tmp_path: Path) -> None:
    with on_the_bill() as server:
        both = [Gateway(journal=tmp_path / "j", money_usd=0.2, run="r-1") for _ in range(2)]
        async with both[0], both[1]:
            made = await asyncio.gather(*(until_refused(g, server.url, f"{n}") for n, g in enumerate(both)))
        assert 0.15 < server.stats()["cost_usd"] <= 0.2 and all(made)


async def test_charges_found_only_in_the_lake_count_once(tmp_path: Path) -> None:
    for _ in range(2):
        async with Gateway(journal=tmp_path / "j", money_usd=1, run="r-1", recorded={MONEY: 0.9}) as gateway:
            assert gateway.ledger.before[MONEY] == pytest.approx(0.9)
    with on_the_bill() as server:
        async with Gateway(journal=tmp_path / "j", money_usd=0.905, run="r-1", recorded={MONEY: 0.9}) as gateway:
            with pytest.raises(BudgetExhausted):
                await gateway.call(ask(server.url))


CHILD = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = {path!r}
from budget_drill import Run, Event, caps
from fake_llm import Serving

class There:
    url = {url!r}
    def turn(self, **more): ...

async def main():
    run = Run(Path({home!r}), There(), **caps(0.1))
    run._asked = {start} * 1_000_000
    print("begun", flush=True)
    await run.play([Event(calls=12)] * 1_000)

asyncio.run(main())
"""


def test_a_killed_process_leaves_no_room_that_it_used(tmp_path: Path) -> None:
    tests = Path(__file__).parent
    with on_the_bill(median_ms=30) as server:
        for start in range(1, 7):
            code = CHILD.format(path=[str(tests), str(tests.parent)], url=server.url, home=str(tmp_path), start=start)
            child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
            try:
                assert child.stdout is not None and child.stdout.readline() == b"begun\n"
                before = server.stats()["requests"]
                for _ in range(100):  # killed with calls on their way, unless the cap lets none out
                    if server.stats()["requests"] >= before + 4:
                        break
                    try:
                        child.wait(0.05)
                        break
                    except subprocess.TimeoutExpired:
                        continue
            finally:
                child.kill()
                child.wait()
                child.stdout.close() if child.stdout else None
        assert 0.01 < server.stats()["cost_usd"] <= 0.1
