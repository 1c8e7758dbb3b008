"""Live state of a run, read by another process: while it runs, after its end, and after a kill."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_flows_make_dataset import ROOT, environment, run_json, write_recipe
from typer.testing import CliRunner

from graft.agents.gateway.stats import EndpointStats, Stats
from graft.flows.live import Notes, noted
from graft.flows.progress import Progress
from graft.schemas.errors import GraftError
from graft.schemas.home import Home
from graft.schemas.live import Live, live_file, read_live

STATS = Stats(
    calls=7, cached=2, in_flight=3, retried=1, price_usd=None, waiting="the rate limit",
    notes=("m1: the server at http://me:hunter22@host says no",),
    endpoints=(EndpointStats("m1", 16, 3, 4, 7, 1, 0.5, 0.2, None),),
)  # fmt: skip


def progress(home: Home, run_id: str = "r1") -> Progress:
    (home.runs / run_id).mkdir(parents=True)
    made = Progress("shop", run_id, {"a": 10, "b": 10}, stage="writing", accepted={"a": 4, "b": 12}, settled=20)
    made.gateway = lambda: STATS
    return made


def seen(home: Home, run_id: str, wanted: Callable[[Live], bool], seconds: float = 90) -> Live:
    """The first note that is as wanted."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = read_live(home, run_id)
        if found is not None and wanted(found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"no such note: {read_live(home, run_id)}")


def test_another_process_sees_a_run_go_on_be_killed_and_end(
    tmp_path: Path, fake_llm: Any, prefect_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_llm.set(median_ms=150, sigma=0.2)
    recipe, home = write_recipe(tmp_path, fake_llm.url, rows=30), Home(tmp_path / "home")
    process = subprocess.Popen(
        [sys.executable, "-m", "graft", "run", str(recipe), "--json"], cwd=ROOT,
        env=environment(home.root, prefect_url), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while not (files := list(home.runs.glob("*/live.json"))) and time.monotonic() < deadline:
            time.sleep(0.1)
        run_id = files[0].parent.name
        first = seen(home, run_id, lambda live: live.settled > 0 and live.in_flight > 0)
        later = seen(home, run_id, lambda live: live.settled > first.settled)
        assert first.state == later.state == "live" and later.at > first.at and later.calls > first.calls
        assert later.pid == process.pid and later.dataset == "shop" and later.wanted == {"alpha": 30, "beta": 30}
        assert later.waiting and later.stage.startswith("round 1")
        assert {one.model for one in later.endpoints} >= {"m1", "m2"}
        assert all(one.limit >= 1 for one in later.endpoints) and any(one.p50_s for one in later.endpoints)
        assert later.flow_run_id is not None and later.api_url == prefect_url
        monkeypatch.setenv("GRAFT_HOME", str(home.root))
        shown = status()
        accepted, opened, calls = (int(n.replace(",", "")) for n in listed(shown, run_id))
        assert f"{run_id}: round 1" in shown and 0 < accepted <= opened and calls >= later.calls
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    killed = read_live(home, run_id)
    assert killed is not None and (killed.state, killed.ended) == ("silent", False)
    shown = status()
    assert "silent since" in shown
    assert [int(n) for n in listed(shown, run_id)] == [sum(killed.accepted.values()), killed.settled, killed.calls], (
        "the table keeps the last known counts of a killed run"
    )
    fake_llm.set(median_ms=0)
    assert run_json(home.root, recipe)["run"]["id"] == run_id
    ended = read_live(home, run_id)
    assert ended is not None and (ended.state, ended.total_accepted) == ("ended", 60)


def listed(shown: str, run_id: str) -> tuple[str, ...]:
    """The accepted and opened candidates and the calls of a run on local models in the table of `graft status`."""
    found = re.search(rf"{run_id}.* ([\d,]+) of ([\d,]+) +([\d,]+) +local ", shown)
    assert found, shown
    return found.groups()


def status() -> str:
    from graft.cli.app import app

    shown = CliRunner().invoke(app, ["status"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    return shown.output


@pytest.mark.parametrize("end", [None, GraftError("no"), asyncio.CancelledError(), KeyboardInterrupt()])
async def test_the_last_state_is_written_however_a_run_ends(tmp_path: Path, end: BaseException | None) -> None:
    home = Home(tmp_path)
    given = progress(home)

    async def block() -> None:
        async with noted(home, given):
            during = read_live(home, "r1")
            assert during is not None and during.state == "live"
            if end is not None:
                raise end

    if end is None:
        await block()
    else:
        with pytest.raises(type(end)):
            await block()
    found = read_live(home, "r1")
    assert found is not None and (found.state, found.ended, found.stage) == ("ended", True, "writing")


def test_a_note_holds_the_counts_and_no_password(tmp_path: Path) -> None:
    home = Home(tmp_path)
    given = progress(home)
    notes = Notes(live_file(home, "r1"), given, {"flow_run_id": None, "api_url": None})
    assert notes.write()
    found = read_live(home, "r1")
    assert found is not None and found.total_accepted == 14 and found.per_minute is None
    assert (found.calls, found.cached, found.price_usd, found.waiting) == (7, 2, None, "the rate limit")
    assert (found.endpoints[0].queued, found.endpoints[0].pause_s, found.endpoints[0].p95_s) == (4, 0.5, None)
    assert "hunter22" not in live_file(home, "r1").read_text()


def test_the_rate_is_of_the_last_minute_and_gives_the_time_left(tmp_path: Path) -> None:
    home = Home(tmp_path)
    given = progress(home)
    notes = Notes(live_file(home, "r1"), given, {})
    for seconds, accepted in ((100, 1), (150, 2), (180, 5), (200, 7)):
        given.started, given.accepted = time.monotonic() - seconds, {"a": accepted}
        assert notes.write()
    found = read_live(home, "r1")
    assert found is not None
    assert found.per_minute == pytest.approx((7 - 2) * 60 / 50, abs=0.1)  # since the note of 50 s before
    assert found.eta_s == pytest.approx((20 - 7) / 6 * 60, abs=3)


@pytest.mark.parametrize("broken", ["no folder", "no room for the file"])
async def test_a_disk_that_takes_nothing_stops_the_notes_only(tmp_path: Path, broken: str) -> None:
    home = Home(tmp_path)
    given = progress(home)
    if broken == "no folder":
        (home.runs / "r1").rmdir()
    else:
        live_file(home, "r1").mkdir()
    done = False
    async with noted(home, given):
        done = True
    assert done and read_live(home, "r1") is None


def test_a_count_that_cannot_be_read_costs_a_note(tmp_path: Path) -> None:
    def fails() -> Stats:
        raise RuntimeError("deque mutated during iteration")

    home = Home(tmp_path)
    given = progress(home)
    notes = Notes(live_file(home, "r1"), given, {})
    given.gateway = fails
    assert not notes.write()
    given.gateway = lambda: STATS
    assert notes.write()


def test_notes_cost_under_half_a_percent_of_a_core(tmp_path: Path) -> None:
    home = Home(tmp_path)
    notes = Notes(live_file(home, "r1"), progress(home), {})
    notes.write()
    begun = time.thread_time()
    for _ in range(40):
        assert notes.write()
    assert (time.thread_time() - begun) / 40 < 0.005


def test_a_silent_run_is_distinguished_from_a_live_one(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert Notes(live_file(home, "r1"), progress(home), {}).write()
    time.sleep(0.05)
    assert [read_live(home, "r1", stale_s).state for stale_s in (15, 0.01)] == ["live", "silent"]  # type: ignore[union-attr]
    found = read_live(home, "r1")
    assert found is not None

    def state(**changes: Any) -> str:
        live_file(home, "r1").write_text(found.model_copy(update=changes).model_dump_json())
        again = read_live(home, "r1")
        assert again is not None
        return again.state

    parent = os.getppid()
    assert state(pid=parent, born=None) == "live"
    assert state(pid=parent, born=1.0) == "silent"  # the number was given to another process
    assert state(pid=parent, born=1.0, host="another") == "live"  # it cannot be looked for there
    assert state(pid=parent, born=1.0, ended=True) == "ended"
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert state(pid=done.pid, born=None) == "silent"


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"run_id": "r1"}', b"\xff" * 100])
def test_what_is_no_note_is_none(tmp_path: Path, content: bytes | None) -> None:
    home = Home(tmp_path)
    (home.runs / "r1").mkdir(parents=True)
    if content is not None:
        live_file(home, "r1").write_bytes(content)
    assert read_live(home, "r1") is None


@pytest.mark.parametrize("name", ["", ".", "..", "../r1", "r1/../r1", "/etc", "r\x001"])
def test_a_run_id_is_no_path(tmp_path: Path, name: str) -> None:
    home = Home(tmp_path / "home")
    made = progress(home)
    assert Notes(live_file(home, "r1"), made, {}).write()
    (home.runs / "live.json").write_bytes(live_file(home, "r1").read_bytes())
    assert read_live(home, name) is None
