"""A run pauses for review and goes on: a real Prefect server, a real lake, people's edits, time that is up, a kill."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_flows_make_dataset import ROOT, environment, write_recipe
from typer.testing import CliRunner

from graft.data.edits import decide, record
from graft.data.lake import Lake
from graft.data.versions import rows, version
from graft.flows import pause, serve
from graft.flows.prefect_api import connected
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home
from graft.schemas.load import load_recipe
from graft.schemas.recipe import ReviewSettings


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pause, "POLL_SECONDS", 0.2)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_url: str) -> Iterator[Home]:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    with connected(prefect_url):
        yield Home.find()


def recipe_with(folder: Path, url: str, review: str) -> Path:
    file = write_recipe(folder, url, rows=4)
    file.write_text(file.read_text(encoding="utf-8") + f"review: {review}\n", encoding="utf-8")
    return file


class Going:
    """A run in a thread of this process: `result` once it has ended."""

    def __init__(self, recipe: Path, prefect: str) -> None:
        self.result: dict[str, Any] = {}
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._go, args=(recipe, prefect))
        self._thread.start()

    def _go(self, recipe: Path, prefect: str) -> None:
        from graft.flows.make_dataset import make_dataset

        try:
            with connected(prefect):
                self.result = asyncio.run(make_dataset(str(recipe)))
        except BaseException as error:
            self.error = error

    def ended(self) -> dict[str, Any]:
        self._thread.join(60)
        assert not self._thread.is_alive(), "the run did not end"
        if self.error is not None:
            raise self.error
        return self.result


def until(done: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.1)
    return found


def test_a_run_waits_for_people_and_goes_on_with_their_edits(
    tmp_path: Path, home: Home, fake_llm: Any, prefect_url: str
) -> None:
    recipe = recipe_with(tmp_path, fake_llm.url, "{rows: 5, by: margin}")
    going = Going(recipe, prefect_url)
    waits = until(lambda: pause.waiting(home))[0]
    assert (waits.dataset, waits.rows, waits.by, waits.api_url) == ("shop@1", 5, "margin", prefect_url)
    assert serve.status(home).waiting == (waits,), "graft status shows it although no server of this home is up"
    with Lake.open(home) as lake:
        shown = version(lake, "shop@1")
        alpha = next(row for row in rows(lake, shown).to_pylist() if row["label"] == "alpha")
        record(lake, [decide(lake, shown, alpha["id"], "relabel", label="beta", by="Ada")])
    with pytest.raises(NotFound, match="no run 'other' waits") as caught:
        pause.resume(home, "other", by="Ada")
    assert waits.run_id in caught.value.fix
    with pytest.raises(GraftError, match="needs a name"):
        pause.resume(home, waits.run_id, by=" ")
    output = CliRunner().invoke(_app(), ["resume", waits.run_id[:9], "--by", "Ada", "--note", "one was {{ odd }}"])
    assert output.exit_code == 0, output.output
    result = going.ended()
    assert result["run"]["version"] == 1 and result["version"]["version"] == 2
    assert result["version"]["labels"] == {"alpha": 3, "beta": 5}
    assert result["notes"][-1] == (
        "shop@1 reviewed by Ada: one was {{ odd }}. shop@2 holds the decisions: 1 relabelled."
    )
    assert pause.waiting(home) == [] and not list(home.runs.glob("*/waiting.json"))

    again = Going(recipe, prefect_url).ended()
    assert again["repeated"] and again["version"] == result["version"], "an answered question is not repeated"
    with pytest.raises(NotFound):
        pause.resume(home, waits.run_id, by="Ada")


def _app() -> Any:
    from graft.cli.app import app

    return app


def test_an_open_review_is_repeated_until_somebody_or_the_time_closes_it(
    tmp_path: Path, home: Home, fake_llm: Any, prefect_url: str
) -> None:
    first = _killed_while_it_waits(recipe_with(tmp_path, fake_llm.url, "{}"), home, prefect_url)
    assert pause.waiting(home) == [] and list(home.runs.glob("*/waiting.json")), "the note is there, its process not"
    with pytest.raises(NotFound):
        pause.resume(home, first.run_id, by="Ada")

    going = Going(recipe_with(tmp_path, fake_llm.url, "{rows: 9}"), prefect_url)
    second = until(lambda: pause.waiting(home))[0]
    assert (second.run_id, second.pid, second.rows) == (first.run_id, os.getpid(), 9), "review makes no other run"
    _cancel(prefect_url, second.flow_run_id)
    with pytest.raises(GraftError, match="cancelled while shop@1 waited"):
        going.ended()

    must = Going(recipe_with(tmp_path, fake_llm.url, "{wait_minutes: 0.02, unanswered: stop}"), prefect_url)
    with pytest.raises(GraftError, match="no review of shop@1") as caught:
        must.ended()
    assert "unanswered: go_on" in caught.value.fix and _state(prefect_url) == "Failed"
    with Lake.open(home, read_only=True) as lake:
        assert version(lake, "shop").ref == "shop@1", "what was made stays published"

    may = recipe_with(tmp_path, fake_llm.url, "{wait_minutes: 0.02}")
    result = Going(may, prefect_url).ended()
    assert result["version"]["version"] == 1 and result["run"]["status"] == "finished"
    assert "not reviewed within 0.02 minutes" in result["notes"][-1] and "stays unchanged" in result["notes"][-1]
    assert _state(prefect_url) == "Completed" and not list(home.runs.glob("*/waiting.json"))
    requested = recipe_with(tmp_path, fake_llm.url, "{}")
    assert Going(requested, prefect_url).ended()["version"] == result["version"], "a closed question is not repeated"


def _killed_while_it_waits(recipe: Path, home: Home, prefect: str) -> pause.Waiting:
    process = subprocess.Popen(
        [sys.executable, "-m", "graft", "run", str(recipe)], cwd=ROOT, env=environment(home.root, prefect),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        try:
            found: pause.Waiting = until(lambda: pause.waiting(home))[0]
            output = iter(process.stdout.readline, "")
            assert any(f"graft resume {found.run_id}" in line for line in output), "graft run prints how to continue"
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(10)
    return found


def test_a_wait_whose_server_is_gone_is_reported(home: Home) -> None:
    note = {
        "run_id": "shop-1", "dataset": "shop@1", "rows": 5, "by": "random", "unanswered": "go_on",
        "api_url": "http://127.0.0.1:9/api", "flow_run_id": "0" * 32, "since": "2026-01-01T00:00:00Z",
        "until": "2026-01-02T00:00:00Z", "host": "another-machine", "pid": 1, "born": 0.0,
    }  # fmt: skip
    file = home.runs / "shop-1" / "waiting.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(note), encoding="utf-8")
    assert pause.waiting(home) == [], "another machine's wait is over when its time is up"
    file.write_text(json.dumps({**note, "until": "2126-01-02T00:00:00Z"}), encoding="utf-8")
    began = time.monotonic()
    with pytest.raises(GraftError, match="Prefect's server is not up"):
        pause.resume(home, "shop-1", by="Ada")
    assert time.monotonic() - began < 6 and file.is_file()
    file.write_text("{ broken", encoding="utf-8")
    assert pause.waiting(home) == []


def test_review_decides_no_row_and_so_makes_no_other_run(tmp_path: Path) -> None:
    bare = load_recipe(write_recipe(tmp_path, "http://127.0.0.1:9/v1"))
    changed = bare.model_copy(update={"review": ReviewSettings(rows=7)})
    assert bare.review is None and changed.fingerprint() == bare.fingerprint()
    with pytest.raises(GraftError, match="review"):
        load_recipe(recipe_with(tmp_path, "http://127.0.0.1:9/v1", "{wait_minutes: 0, unanswered: never}"))


def _state(prefect: str) -> str:
    """The state of the newest flow run on the server."""
    from graft.flows.prefect_api import client_at
    from graft.flows.schedules import _begun

    with client_at(prefect) as client:
        return str(_begun(client, 1)[0].state_name)


def _cancel(prefect: str, flow_run_id: str) -> None:
    from uuid import UUID

    from prefect.client.schemas.objects import State, StateType

    from graft.flows.prefect_api import client_at

    with client_at(prefect) as client:
        client.set_flow_run_state(UUID(flow_run_id), State(type=StateType.CANCELLING))
