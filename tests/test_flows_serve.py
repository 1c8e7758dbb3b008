"""`graft up`, a schedule that fires, `graft status`, `graft down`: on a real server and worker, with a tiny flow."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import typer
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from graft.cli import ops
from graft.flows import schedules, serve
from graft.flows.deploy import DeploymentSpec, check_cron, load_checked, read_deployments
from graft.flows.prefect_api import client_of
from graft.flows.settings import prefect_environment
from graft.flows.state import read_state
from graft.schemas.errors import GraftError, InputInvalid, NotFound
from graft.schemas.home import Home

if TYPE_CHECKING:
    pass

FLOW = """
import os
import time
from pathlib import Path
from prefect import flow

@flow(name="tiny")
def tiny(word: str, fresh: bool = False, seconds: float = 0) -> str:
    out = Path(os.environ["GRAFT_HOME"]) / f"{word}.txt"
    with out.open("a") as file:
        file.write(f"{word} {fresh}\\n")
    try:
        time.sleep(seconds)
    except KeyboardInterrupt:
        out.write_text("interrupted")
        raise
    return word
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """A home of its own, no Prefect settings from outside, and the environment as it was afterwards."""
    before = dict(os.environ)
    root = tmp_path / "home"
    root.mkdir()
    found = Home(root)
    ours = {*prefect_environment(found), "GRAFT_HOME"}
    for name in before:
        if name.startswith("PREFECT_") or name in ours:
            del os.environ[name]
    yield found
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def tiny(tmp_path: Path) -> DeploymentSpec:
    (tmp_path / "tiny_flow.py").write_text(FLOW, encoding="utf-8")
    return DeploymentSpec("tiny_flow.py:tiny", "asked", {"word": "hello"}, root=tmp_path)


@pytest.fixture
def always_down(home: Home) -> Iterator[None]:
    yield
    serve.down(home, say=lambda text: None)


def family(home: Home) -> list[psutil.Process]:
    noted = [psutil.Process(read_state(home)[role]["pid"]) for role in ("server", "worker")]
    return [*noted, *(child for process in noted for child in process.children(recursive=True))]


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def wait_for(done, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not done within {seconds:g} s"
        time.sleep(0.5)


def schedules_after(home: Home, deployments: list[DeploymentSpec]) -> list[schedules.ScheduleInfo]:
    serve.up(home, say=lambda text: None, deployments=deployments)
    return schedules.schedules(home)


def pause(home: Home, deployment: str) -> None:
    with client_of(home) as client:
        found = client.read_deployment_by_name(deployment)
        client.update_deployment_schedule(found.id, found.schedules[0].id, active=False)


def start_long_run(home: Home, deployment: str, word: str) -> Path:
    schedules.start(home, deployment, {"word": word, "seconds": 120})
    written = home.root / f"{word}.txt"
    wait_for(written.is_file, 30)
    return written


@pytest.mark.usefixtures("always_down")
def test_a_schedule_fires_and_down_leaves_nothing_running(home: Home, tiny: DeploymentSpec) -> None:
    messages: list[str] = []
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        env = {"PREFECT_WORKER_QUERY_SECONDS": "2"}
        first = serve.up(home, port=port, say=messages.append, deployments=[tiny], env=env)
    assert any(f"port {port} is busy" in line for line in messages)
    assert first.url and first.url.startswith("http://127.0.0.1:") and str(port) not in first.url
    assert first.worker_online and first.deployments == ("tiny/asked",)

    started = family(home)
    again = serve.up(home, say=messages.append, deployments=[tiny])
    assert (again.server_pid, again.worker_pid) == (first.server_pid, first.worker_pid)
    assert any("up already" in line for line in messages)

    with pytest.raises(GraftError, match="no parameter 'wrod'"):
        schedules.add_schedule(home, DeploymentSpec(tiny.entrypoint, "x", {"wrod": "a"}, "* * * * *", root=tiny.root))
    with pytest.raises(NotFound, match="no deployment 'tiny/none'"):
        schedules.unschedule(home, "tiny/none")

    spec = DeploymentSpec(tiny.entrypoint, "ticks", {"word": "tick", "fresh": True}, "* * * * *", root=tiny.root)
    planned = schedules.add_schedule(home, spec)
    assert planned.schedule == "* * * * *" and not planned.paused and len(planned.next_runs) == 3
    assert planned.parameters == {"word": "tick", "fresh": True}
    nightly = DeploymentSpec(tiny.entrypoint, "nightly", {"word": "night"}, "0 3 * * *", root=tiny.root)
    assert {info.schedule for info in schedules_after(home, [nightly])} == {"* * * * *", "0 3 * * *"}
    pause(home, "tiny/nightly")
    assert [info.deployment for info in schedules_after(home, [nightly]) if info.paused] == ["tiny/nightly"]
    assert not schedules.add_schedule(home, nightly).paused, "asking for it again makes it active"
    schedules.unschedule(home, "tiny/nightly")
    ran = home.root / "tick.txt"
    wait_for(ran.is_file, 90)
    assert ran.read_text(encoding="utf-8").startswith("tick True\n"), "the run wrote elsewhere or got other parameters"
    wait_for(lambda: any(r.state == "Completed" and r.deployment == "tiny/ticks" for r in serve.status(home).runs), 30)
    schedules.unschedule(home, "tiny/ticks")
    assert schedules.schedules(home) == []

    long = start_long_run(home, "tiny/asked", "long")
    assert len(family(home)) >= 3, "server, worker and a flow run"
    started = [*started, *family(home)]
    assert serve.down(home, say=messages.append)
    assert not [process for process in started if lives(process)]
    assert long.read_text(encoding="utf-8") == "interrupted", "a flow run gets the chance to note that it was stopped"
    assert serve.status(home) == serve.Status()
    assert not serve.down(home, say=messages.append) and messages[-1] == "nothing was running"


def test_without_a_server_the_error_names_the_command_that_starts_one(home: Home, tiny: DeploymentSpec) -> None:
    for verb in (lambda: schedules.schedules(home), lambda: schedules.add_schedule(home, tiny)):
        with pytest.raises(GraftError, match="not up") as caught:
            verb()
        assert "graft up" in caught.value.fix


@pytest.mark.parametrize("cron", ["every night", "* * * *", "61 * * * *", ""])
def test_a_bad_cron_is_refused_with_an_example(cron: str) -> None:
    with pytest.raises(GraftError, match="is not a cron expression") as caught:
        check_cron(cron)
    assert "0 3 * * *" in caught.value.fix


def test_a_bad_time_zone_is_refused() -> None:
    with pytest.raises(GraftError, match="unknown time zone 'Mars/Base'"):
        check_cron("0 3 * * *", "Mars/Base")


def test_down_leaves_another_program_with_a_noted_number_alone(home: Home) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        home.prefect.mkdir(parents=True)
        noted = {"pid": other.pid, "created": psutil.Process(other.pid).create_time() - 5}
        (home.prefect / "up.json").write_text(json.dumps({"api_url": "http://127.0.0.1:9/api", "worker": noted}))
        messages: list[str] = []
        assert not serve.down(home, say=messages.append)
        assert other.poll() is None and "the worker had already ended" in messages
    finally:
        other.kill()
        other.wait()


def test_a_server_that_cannot_start_shows_its_log_and_leaves_nothing(home: Home, tiny: DeploymentSpec) -> None:
    env = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////proc/no/such/place.db"}
    with pytest.raises(GraftError, match="Prefect's server ended at once") as caught:
        serve.up(home, port=0, say=lambda text: None, deployments=[tiny], env=env)
    assert "server.log" in caught.value.where and read_state(home) == {}


def test_the_shipped_deployments_load_with_their_parameters_and_schedules() -> None:
    specs = read_deployments()
    loaded = [load_checked(spec).name for spec in specs]
    assert set(loaded) == {"make_dataset", "train_student", "export_dataset", "improve", "maintain"}
    timed = {spec.name: (spec.cron, spec.parameters) for spec in specs if spec.cron}
    assert timed == {"nightly": ("0 3 * * *", {"recipe": "demo", "fresh": True}), "weekly": ("0 4 * * 0", {})}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"word": "a", "wrod": "b"}, "no parameter 'wrod'; tiny takes word, fresh, seconds"),
        ({"word": "a", "seconds": "soon"}, "seconds"),
        ({}, "word"),
    ],
)
def test_a_schedule_with_parameters_that_the_flow_refuses_is_refused(
    tiny: DeploymentSpec, parameters: dict[str, str], message: str
) -> None:
    with pytest.raises(GraftError, match=message):
        load_checked(DeploymentSpec(tiny.entrypoint, "n", parameters, "* * * * *", root=tiny.root))


@pytest.mark.parametrize(
    ("file", "code", "cause"),
    [
        ("absent.py", None, "No such file"),
        ("empty.py", "x = 1", "name 'flow' not found"),
        ("broken.py", "def flow(:", "invalid syntax"),
    ],
)
def test_a_flow_that_does_not_load_is_named_with_the_cause(
    tmp_path: Path, file: str, code: str | None, cause: str
) -> None:
    if code is not None:
        (tmp_path / file).write_text(code, encoding="utf-8")
    with pytest.raises(GraftError, match=cause) as caught:
        load_checked(DeploymentSpec(f"{file}:flow", "n", root=tmp_path))
    assert file in caught.value.where


def test_every_broken_deployment_is_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "prefect.yaml"
    file.write_text("deployments:\n  - name: a\n  - entrypoint: b.py:c\n", encoding="utf-8")
    with pytest.raises(InputInvalid) as caught:
        read_deployments(file)
    assert [problem.field for problem in caught.value.problems] == ["deployments.0", "deployments.1"]


def test_prefect_settings_have_names_that_prefect_defines(home: Home) -> None:
    script = "import prefect.settings as s; c = s.get_current_settings(); print(c.home, c.server.analytics_enabled, "
    script += "c.server.api.host, c.results.local_storage_path, c.results.default_serializer, "
    script += "c.telemetry.enable_resource_metrics, c.server.ui.show_promotional_content, c.logging.level, "
    script += "c.server.ephemeral.enabled, c.profiles_path, c.logging.config_path)"
    env = {**os.environ, **prefect_environment(home)}
    out = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True).stdout
    *settings, profiles, logging = out.split()
    storage = str(home.prefect / "storage")
    assert settings == [
        str(home.prefect), "False", "127.0.0.1", storage, "json", "False", "False", "WARNING", "False",
    ]  # fmt: skip
    for file in (profiles, logging):
        assert Path(file).is_file() and not file.startswith(str(home.root)), "a home brings no code along"


def graft(*args: str) -> Result:
    app = typer.Typer()
    for verb in (ops.up, ops.down, ops.schedule):
        app.command()(verb)
    return CliRunner().invoke(app, list(args))


def test_overrides_are_plain_values_and_a_bad_one_is_refused() -> None:
    given = ["rows_per_label=50", "fresh=false", "money_usd=1.5", "recipe=a=b"]
    expected = {"rows_per_label": 50, "fresh": False, "money_usd": 1.5, "recipe": "a=b"}
    assert ops.read_overrides(given) == expected
    for bad in ("rows_per_label", "=5", "seed=[1, 2]", "seed={a: 1}"):
        with pytest.raises(GraftError, match="is not NAME=VALUE"):
            ops.read_overrides([bad])


def test_the_schedule_command_reports_missing_options(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(home.root))
    assert "no time is given for demo" in str(graft("schedule", "demo").exception)
    assert "no recipe is named" in str(graft("schedule", "--cron", "0 3 * * *").exception)
    assert "graft up" in str(graft("schedule", "--json").exception)
    assert graft("down").output == "nothing was running\n"


def test_tables_show_the_next_firing_in_its_own_zone_and_never_read_markup() -> None:
    moment = datetime(2026, 7, 1, 1, 0, tzinfo=UTC)
    info = schedules.ScheduleInfo(
        deployment="make_dataset/[red]x", schedule="0 3 * * *", timezone="Europe/Berlin", paused=False,
        parameters={"recipe": "demo"}, next_runs=(moment,),
    )  # fmt: skip
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(ops.schedule_table([info, info.model_copy(update={"paused": True, "next_runs": ()})]))
    console.print(ops.status_table(serve.Status()))
    shown = console.export_text()
    assert "2026-07-01 03:00" in shown and "make_dataset/[red]x" in shown and "paused" in shown
    assert "down (start it: graft up)" in shown
