"""Caps of whole runs: through the command line, the lake's records, and batches that outlive their process."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from fake_batches import ServingBatches
from test_flows_make_dataset import run_json, write_recipe

from graft.agents.gateway import Gateway, RoleRules
from graft.agents.gateway.batch.store import BatchStore, listed_at
from graft.agents.gateway.ledger import MONEY, TOKENS, role_cap
from graft.agents.gateway.stats import Stats
from graft.data.lake import Lake
from graft.flows.plan import run_id_of
from graft.flows.progress import Progress
from graft.flows.run_context import spent_in
from graft.schemas.base import utc_now
from graft.schemas.calls import Call, CallRequest, Message
from graft.schemas.home import Home
from graft.schemas.load import load_recipe
from graft.schemas.models import ModelSpec, Price
from graft.schemas.recipe import Limits

PRICE = ", price: {input: 10, output: 40}"


def test_a_raised_cap_continues_the_run_and_counts_what_it_has_spent(tmp_path: Path, fake_llm: Any) -> None:
    fake_llm.turn(input_usd=10, output_usd=40)
    recipe = write_recipe(tmp_path, fake_llm.url, rows=200, model=PRICE, limits=", money_usd: 1.2, out_of_reach: go_on")
    first = run_json(tmp_path / "home", recipe)
    spent = fake_llm.stats()["cost_usd"]
    assert (first["run"]["stopped_by"], 1.0 < spent <= 1.2) == ("budget", True), spent
    more = run_json(tmp_path / "home", recipe, "--money-usd", "2.0")
    assert more["run"]["id"] == first["run"]["id"] and more["run"]["stopped_by"] == "budget"
    assert spent + 0.5 < fake_llm.stats()["cost_usd"] <= 2.0
    assert sum(more["version"]["labels"].values()) > sum(first["version"]["labels"].values())
    assert any("of limits.money_usd was charged by earlier attempts" in note for note in more["notes"])


def test_caps_decide_no_row_and_so_make_no_other_run(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, "http://127.0.0.1:9/v1"))
    capped = recipe.model_dump(mode="json")
    capped["limits"].update(money_usd=1.0, tokens=1000, minutes=5.0)
    capped["roles"]["reviewer"]["money_usd"] = 0.5
    other = recipe.model_dump(mode="json")
    other["limits"]["candidates"] += 1
    ids = [run_id_of(type(recipe).model_validate(one), []) for one in (recipe.model_dump(mode="json"), capped, other)]
    assert ids[0] == ids[1] != ids[2]


def test_the_lake_counts_each_call_of_a_run_once(tmp_path: Path) -> None:
    def call(key: str, **more: Any) -> Call:
        given = {
            "key": key, "run_id": "r", "candidate_id": "c", "role": "generator", "purpose": "p", "model": "m",
            "provider": "openai", "served_model": None, "revision": None, "request": "{}", "reply": "x",
            "prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": None, "price_usd": 0.5, "latency_s": 0.1,
            "attempts": 1, "cached": False, "at": utc_now(), **more,
        }  # fmt: skip
        return Call(**given)

    calls = [
        call("a"), call("a"), call("b", role="reviewer", price_usd=0.25), call("c", cached=True),
        call("d", run_id="other"), call("e", price_usd=None, completion_tokens=None),
    ]  # fmt: skip
    with Lake.open(Home(tmp_path)) as lake:
        assert spent_in(lake, "r")[MONEY] == 0
        lake.commit("r", "one", [], calls)
        spent = spent_in(lake, "r")
    assert spent == {MONEY: 0.75, TOKENS: 30, role_cap("generator"): 0.5, role_cap("reviewer"): 0.25}


def test_the_outlook_counts_what_earlier_attempts_were_charged() -> None:
    progress = Progress("shop", "r", {"a": 100})
    for value in (0.01, 0.01):
        progress.spent.usd.add(value)

    progress.gateway = lambda: Stats(charged_before={MONEY: 0.5})
    (money,) = (room for room in progress.rooms(Limits(money_usd=1)) if room.cap == MONEY)
    assert money.used == pytest.approx(0.52)


@pytest.mark.parametrize("killed", [False, True])
async def test_a_batch_that_outlives_its_process_is_charged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    monkeypatch.setattr("graft.agents.gateway.batch.desk.LINGER_S", 0.3)
    monkeypatch.setattr("graft.agents.gateway.batch.desk.POLL_S", 0.05)
    monkeypatch.setenv("GRAFT_TEST_KEY", "key")
    cap, rules = 0.05, {"reviewer": RoleRules(batch=True)}

    def gateway() -> Gateway:
        return Gateway(journal=tmp_path / "journal.sqlite", money_usd=cap, roles=rules, run="r-1")

    def ask(number: int) -> CallRequest:
        spec = ModelSpec(
            name="m", provider="litellm", model="openai/fake", base_url=provider.url, api_key_env="GRAFT_TEST_KEY",
            price=Price(input=10, output=40),
        )  # fmt: skip
        given = (Message(role="user", content=f"question {number}"),)
        return CallRequest(model=spec, role="reviewer", purpose="t", messages=given, max_tokens=32)

    with ServingBatches(key="key", seconds=3600) as provider:
        async with gateway() as first:
            calls = [asyncio.create_task(first.call(ask(number))) for number in range(20)]
            await until(lambda: sent(tmp_path / "batches.sqlite") == 20)
            reserved, created = first.ledger.reserved[MONEY], provider.requests["create"]
            if killed:
                first.ledger._charges = None  # its lease stays, as kill -9 leaves it
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        assert cap / 2 < reserved <= cap, "they could not be reserved a second time"
        provider.fake.habits.seconds = 0
        async with gateway() as second:
            assert second.ledger.before[MONEY] == pytest.approx(reserved, rel=0.02)
            replies = await asyncio.gather(*(second.call(ask(number)) for number in range(20)))
            assert second.ledger.reserved[MONEY] == 0
        price = sum(reply.price_usd or 0 for reply in replies)
        assert provider.requests["create"] == created and 0 < price < reserved
        async with gateway() as third:
            assert price <= third.ledger.before[MONEY] <= price + 0.02 * cap


def test_an_older_batch_file_is_read_and_charges_are_added(tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "batches.sqlite") as old:
        old.execute("CREATE TABLE batch_keys (key TEXT PRIMARY KEY, batch TEXT, answer BLOB)")
        old.execute("INSERT INTO batch_keys VALUES ('k', 'b', NULL)")
    old.close()
    store = BatchStore(tmp_path / "batches.sqlite")
    assert store.charge_of("k") is None
    store.close()
    with sqlite3.connect(tmp_path / "batches.sqlite") as new:
        assert new.execute("SELECT key, batch, charge FROM batch_keys").fetchall() == [("k", "b", None)]
    new.close()


def sent(path: Path) -> int:
    """Calls that are in a batch at the provider."""
    return sum(calls for batch, calls in listed_at(path) if batch.state == "sent")


async def until(true: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.02)
