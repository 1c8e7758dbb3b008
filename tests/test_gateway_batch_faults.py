"""Batches that the provider refuses line by line, or whose creation it never confirmed: bounded, and paid once."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_batches import ServingBatches
from test_gateway_batches import KEY, ask, asks, codes, desk_at, kill_a_sender, send_all, until

from graft.agents.gateway import Gateway, RoleRules
from graft.agents.gateway.batch.store import listed_at
from graft.schemas.calls import CallRequest, Reply
from graft.schemas.errors import CallFailed


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServingBatches]:
    monkeypatch.setenv("GRAFT_TEST_KEY", KEY)
    monkeypatch.setattr("graft.agents.gateway.batch.desk.LINGER_S", 0.05)
    monkeypatch.setattr("graft.agents.gateway.batch.desk.POLL_S", 0.05)
    monkeypatch.setattr("graft.agents.gateway.limiter.BASE_WAIT_S", 0.01)
    with ServingBatches(key=KEY) as serving:
        yield serving


@pytest.fixture(autouse=True, scope="module")
def swept() -> Iterator[None]:
    """Collect the objects that LiteLLM leaves behind, so that their warnings appear in this file."""
    yield
    gc.collect()


async def through_gateway(path: Path, requests: list[CallRequest], **more: Any) -> list[Reply | BaseException]:
    rules = {"reviewer": RoleRules(batch=True)}
    async with Gateway(journal=path / "journal.sqlite", roles=rules, **more) as gateway:
        return await asyncio.gather(*(gateway.call(one) for one in requests), return_exceptions=True)


async def test_calls_that_batches_always_refuse_end_as_rate_limited_after_few_batches(
    provider: ServingBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.agents.gateway.limiter.BATCH_WAIT_S", 0.05, raising=False)
    provider.set(failing=1.0, fail_status=429)
    pending = asyncio.ensure_future(through_gateway(tmp_path, asks(provider.url, 5), retries=2, money_usd=1.0))
    outcomes = await asyncio.wait_for(pending, 60)
    assert codes(outcomes) == ["rate_limited"] * 5
    assert [len(lines) for lines in provider.sent()] == [5, 5, 5], "one batch, and two tries, of all five together"


async def test_a_refused_line_waits_and_joins_a_later_batch(
    provider: ServingBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.agents.gateway.limiter.BATCH_WAIT_S", 0.5, raising=False)
    provider.set(failing=0.4, fail_status=429)
    pending = asyncio.ensure_future(through_gateway(tmp_path, asks(provider.url, 20), retries=2))
    await until(lambda: provider.requests["content"] > 0, 60)
    provider.set(failing=0.0)
    outcomes = await asyncio.wait_for(pending, 60)
    assert codes(outcomes) == ["ok"] * 20
    first, second = provider.sent()
    assert len(first) == 20 and 0 < len(second) < 20
    assert {one.attempts for one in outcomes if isinstance(one, Reply)} == {1, 2}


@pytest.mark.parametrize("late", [False, True])
async def test_a_batch_whose_creation_timed_out_is_found_not_made_again(
    provider: ServingBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    monkeypatch.setattr("graft.agents.gateway.batch.provider.SLOWEST_S", 0.5)
    provider.set(hold_created_s=2.0, late_created=late)
    slow = {"spec": {"timeout_s": 0.5}}
    async with desk_at(tmp_path, poll_s=1.0) as desk:
        assert codes(await send_all(desk, asks(provider.url, 3, **slow))) == ["ok"] * 3
    assert provider.requests["create"] == 1 and len(provider.sent()) == 1


async def test_without_a_list_of_batches_a_doubtful_one_is_not_handed_in_again(
    provider: ServingBatches, tmp_path: Path
) -> None:
    provider.set(drop_created=1, no_list=True)
    outcomes = await through_gateway(tmp_path, asks(provider.url, 2), retries=3)
    assert codes(outcomes) == ["unexpected"] * 2 and "may run and bill it" in str(outcomes[0])
    assert provider.requests["create"] == 1
    assert codes(await through_gateway(tmp_path, asks(provider.url, 2))) == ["ok"] * 2


async def test_a_process_killed_before_it_heard_of_its_batch_leaves_it_to_the_next(
    provider: ServingBatches, tmp_path: Path
) -> None:
    provider.set(hold_created_s=3600)
    await kill_a_sender(provider.url, tmp_path, lambda: bool(provider.fake.batches))
    ((batch, _),) = listed_at(tmp_path / "batches.sqlite")
    assert batch.state == "uploaded" and batch.remote is None, "it was killed before it could note the id"
    provider.set(hold_created_s=0.0)
    async with desk_at(tmp_path) as desk:
        assert codes(await send_all(desk, asks(provider.url, 4))) == ["ok"] * 4
    assert provider.requests["create"] == 1 and len(provider.sent()) == 1


async def test_an_answer_about_a_batch_that_makes_no_sense_fails_its_calls(
    provider: ServingBatches, tmp_path: Path
) -> None:
    provider.set(seconds=3600)
    async with desk_at(tmp_path) as desk:
        sending = asyncio.create_task(send_all(desk, asks(provider.url, 2)))
        await until(lambda: bool(provider.fake.batches), 60)
        for batch in provider.fake.batches.values():
            batch.update(status="failed", errors={"data": [["no object"]]}, request_counts={"total": "many"})
        outcomes = await asyncio.wait_for(sending, 60)
    assert codes(outcomes) == ["unexpected"] * 2
    assert all(isinstance(one, CallFailed) and one.where == "m" and one.raw for one in outcomes)


async def test_a_wait_beyond_reason_to_create_a_batch_is_not_waited_for(
    provider: ServingBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.set(refuse_created=429, retry_after="86400")
    outcomes = await asyncio.wait_for(through_gateway(tmp_path, [ask(provider.url)], retries=3), 60)
    assert codes(outcomes) == ["rate_limited"] and provider.requests["create"] == 1
