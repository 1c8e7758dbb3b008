"""Schedules: one fires and publishes a version; deployments are listed, paused, started, cancelled over the API."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from test_flows_make_dataset import ROOT, write_recipe
from test_flows_pause import until
from test_flows_stopping import state

from graft.flows import schedules
from graft.flows.deploy import POOL, DeploymentSpec, deploy
from graft.flows.parameters import ParameterInfo, checked, from_form, parameters_of
from graft.flows.prefect_api import client_at
from graft.schemas.errors import GraftError, InputInvalid, NotFound
from graft.schemas.home import Home

FLOW = """
from typing import Literal
from prefect import flow

@flow(name="{name}")
def asked(word: str, count: int = 3, size: Literal["small", "large"] = "small", share: float | None = None) -> None:
    '''Says a word.

    Args:
        word: what is said
    '''
"""


def graft(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.run(
        [sys.executable, "-m", "graft", *words], cwd=ROOT, text=True, capture_output=True, timeout=180, check=False,
        env={**environment, "GRAFT_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "160"},
    )  # fmt: skip


def test_a_scheduled_recipe_is_run_by_the_worker_and_publishes_a_version(tmp_path: Path, fake_llm: Any) -> None:
    """Started at once: test_flows_serve waits for a minute to come and fire."""
    home, recipe = tmp_path / "home", write_recipe(tmp_path, fake_llm.url, rows=3)
    try:
        up = graft(home, "up", "--port", "4387")
        assert up.returncode == 0, up.stderr
        planned = graft(home, "schedule", str(recipe), "--cron", "0 3 * * *")
        assert planned.returncode == 0, planned.stderr
        info = next(one for one in schedules.schedules(Home(home)) if "shop" in one.deployment)
        assert info.schedule == "0 3 * * *"
        schedules.start(Home(home), info.deployment)
        until(lambda: state(home).get("ended"), 150)
        versions = json.loads(graft(home, "datasets", "--json").stdout)
        assert [version["dataset"] for version in versions] == ["shop"]
        (run,) = json.loads(graft(home, "status", "--json").stdout)["runs"]
        assert run["stopped_by"] == "target"
    finally:
        down = graft(home, "down")
    assert down.returncode == 0, down.stderr


@pytest.fixture
def home(tmp_path: Path, prefect_url: str) -> Home:
    """A home whose server is the session's."""
    found = Home(tmp_path / "home")
    found.prefect.mkdir(parents=True)
    (found.prefect / "up.json").write_text(json.dumps({"api_url": prefect_url}), encoding="utf-8")
    with client_at(prefect_url) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    return found


@pytest.fixture
def name(home: Home, tmp_path: Path, prefect_url: str) -> str:
    """A deployment with a nightly schedule, of a flow that no other test has."""
    flow = f"asked-{tmp_path.name}"
    (tmp_path / "asked_flow.py").write_text(FLOW.format(name=flow), encoding="utf-8")
    spec = DeploymentSpec("asked_flow.py:asked", "n", {"word": "hello"}, "0 3 * * *", "Europe/Berlin", root=tmp_path)
    return deploy(prefect_url, [spec])[0]


def one(home: Home, name: str) -> schedules.DeploymentInfo:
    return next(info for info in schedules.deployments(home) if info.name == name)


def test_a_deployment_is_seen_paused_started_and_cancelled(home: Home, name: str, tmp_path: Path) -> None:
    seen = one(home, name)
    assert seen.url.endswith(f"/deployments/deployment/{seen.id}") and seen.last_run is None
    assert seen.accepts == (
        ParameterInfo(name="word", kind="text", default="hello", description="what is said"),
        ParameterInfo(name="count", kind="whole", default=3),
        ParameterInfo(name="size", kind="choice", default="small", choices=("small", "large")),
        ParameterInfo(name="share", kind="number", nullable=True),
    )
    (timer,) = seen.schedules
    assert (timer.cron, timer.timezone, timer.active) == ("0 3 * * *", "Europe/Berlin", True)

    schedules.set_paused(home, name, True)
    schedules.set_paused(home, name, True, timer.id)
    again = DeploymentSpec("asked_flow.py:asked", "n", {"word": "hi"}, "0 3 * * *", root=tmp_path)
    deploy(schedules.overview(home).url or "", [again])
    rested = one(home, name)
    assert rested.paused and not rested.schedules[0].active, "deploying anew does not wake what a person has paused"
    schedules.set_paused(home, name, False)
    schedules.set_paused(home, name, False, rested.schedules[0].id)
    woken = one(home, name)
    assert not woken.paused and woken.schedules[0].active and woken.parameters == {"word": "hi"}
    with pytest.raises(NotFound, match="no schedule 'other'"):
        schedules.set_paused(home, name, True, "other")

    requested = schedules.start(home, name, {"count": 5})
    whole = schedules.overview(home)
    assert whole.up and not whole.worker_online
    mine = next(run for run in whole.runs if run.id == requested.id)
    assert (mine.deployment, mine.state, mine.url) == (name, "Scheduled", requested.url), "it waits for a worker"
    assert requested.url.endswith(f"/runs/flow-run/{requested.id}")
    schedules.cancel(home, requested.id)
    assert next(run for run in schedules.recent(home, 50) if run.id == requested.id).state == "Cancelled"
    last = one(home, name).last_run
    assert last is not None and last.id == requested.id
    with pytest.raises(GraftError, match="has ended already"):
        schedules.cancel(home, requested.id)
    with pytest.raises(NotFound, match="no flow run 'x'"):
        schedules.cancel(home, "x")


def test_what_a_flow_would_not_take_is_refused_before_it_starts(home: Home, name: str) -> None:
    cases = [
        ({"wrod": "a"}, "wrod", "no parameter 'wrod'; .* takes word, count, size, share"),
        ({"count": "many"}, "count", "'many'"),
        ({"size": "huge"}, "size", "'huge'"),
        ({"word": None}, "word", "'None'"),
    ]
    for given, field, what in cases:
        with pytest.raises(GraftError, match=what) as caught:
            schedules.start(home, name, given)
        assert caught.value.where == field and caught.value.fix
    with pytest.raises(NotFound, match="no deployment 'asked/none'") as unknown:
        schedules.start(home, "asked/none", {})
    assert name in unknown.value.fix
    assert one(home, name).last_run is None


def test_a_form_is_parsed_to_the_types_of_the_flow() -> None:
    from graft.flows.make_dataset import make_dataset

    schema = make_dataset.parameters.model_dump()
    accepts = parameters_of(schema, {"recipe": "demo"})
    kinds = {"recipe": "text", "rows_per_label": "whole", "seed": "whole", "money_usd": "number", "minutes": "number"}
    assert {info.name: info.kind for info in accepts} == {**kinds, "fresh": "truth", "more": "whole"}
    assert all(info.description for info in accepts)
    sent = {"recipe": " demo ", "rows_per_label": "20", "seed": "", "money_usd": "1.5", "minutes": " ", "fresh": "on"}
    values = from_form(accepts, sent)
    assert values == {"recipe": "demo", "rows_per_label": 20, "money_usd": 1.5, "fresh": True}
    assert checked("make_dataset/x", schema, {}, values) == values
    with pytest.raises(GraftError, match="make_dataset/x needs recipe"):
        checked("make_dataset/x", schema, {}, {})
    for text in ("1.5", "many", "[" * 5_000):
        with pytest.raises(GraftError) as caught:
            from_form(accepts, {"rows_per_label": text})
        assert caught.value.where == "rows_per_label" and "whole number" in caught.value.fix


def test_a_recipe_that_is_not_there_starts_no_run(home: Home, prefect_url: str) -> None:
    (full,) = deploy(prefect_url, [DeploymentSpec("graft.flows.make_dataset.make_dataset", "asked-for", {})])
    with pytest.raises(InputInvalid, match="there is no such file"):
        schedules.start(home, full, {"recipe": "no-such-recipe"})
    with pytest.raises(GraftError, match="needs recipe"):
        schedules.start(home, full, {})
    schedules.unschedule(home, full)


class Stuck(BaseHTTPRequestHandler):
    """A server that reports to be healthy and serves nothing else."""

    def do_GET(self) -> None:
        if not self.path.endswith("/health"):
            time.sleep(5)
        with suppress(OSError):
            self.send_response(200)
            self.end_headers()

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def stuck() -> Iterator[int]:
    """The port of a server that hangs on every request."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stuck)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.socket.close()


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@pytest.mark.parametrize("kind", ["silent", "stuck"])
def test_a_server_that_hangs_is_reported_within_seconds(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    home = Home(tmp_path)
    home.prefect.mkdir(parents=True)
    url = f"http://127.0.0.1:{request.getfixturevalue(kind)}/api"
    (home.prefect / "up.json").write_text(json.dumps({"api_url": url}), encoding="utf-8")
    began = time.monotonic()
    with pytest.raises(GraftError, match="Prefect's server is not up") as caught:
        schedules.start(home, "make_dataset/nightly", {})
    assert "graft up" in caught.value.fix
    if kind == "stuck":
        assert schedules.overview(home) == schedules.Overview()
    assert time.monotonic() - began < 20
