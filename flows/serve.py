"""Prefect's server and one worker for this GRAFT_HOME: up, down, schedule, status.

`up` starts both as detached processes on loopback and notes their ids and start times in GRAFT_HOME/prefect/up.json;
`down` stops exactly those. Prefect and psutil are imported inside the functions.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flows.deploy import POOL, DeploymentSpec, connected, deploy, read_deployments
from flows.processes import free_port, running, spawn, stop, wait_until
from flows.settings import (
    LOOPBACK,
    apply_prefect_environment,
    healthy,
    prefect_environment,
    read_state,
)
from schemas.base import Value
from schemas.errors import AlreadyRunning, GraftError, NotFound
from schemas.home import Home

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

DEFAULT_PORT = 4200
RUNS_AT_ONCE = 2
"""Flow runs that the worker takes on together; each has its own concurrency inside."""
PLANNING_SECONDS = 20.0
"""How long Prefect's scheduler is given to plan a new schedule's first runs (it looks every 5 s)."""
Say = Callable[[str], None]


class ScheduleInfo(Value):
    """One schedule: what fires, when, and whether it is paused. Times carry their zone."""

    deployment: str
    schedule: str
    timezone: str
    paused: bool
    parameters: dict[str, Any]
    next_runs: tuple[datetime, ...]


class RunInfo(Value):
    """One flow run as Prefect knows it; `seconds` is its time in the running state."""

    id: str
    name: str
    deployment: str
    state: str
    started: datetime | None
    seconds: float


class Status(Value):
    """What is up for a home: `url` is None where no server answers."""

    url: str | None = None
    server_pid: int | None = None
    worker_pid: int | None = None
    worker_online: bool = False
    deployments: tuple[str, ...] = ()
    runs: tuple[RunInfo, ...] = ()


def up(
    home: Home,
    port: int | None = None,
    say: Say = print,
    deployments: Sequence[DeploymentSpec] | None = None,
    env: Mapping[str, str] | None = None,
) -> Status:
    """Start the server and a worker where they do not run yet, and deploy (by default what prefect.yaml names).

    A busy port gives way to the next free one, and that is said. `env` adds to the children's environment. Raises
    GraftError with the end of the log where a process does not come up; nothing that it started stays then.
    """
    apply_prefect_environment(home)
    specs = read_deployments() if deployments is None else deployments
    with _lock(home):
        before = running(home)
        url = read_state(home).get("api_url", "")
        if {"server", "worker"} <= before.keys() and healthy(url):
            say(f"Prefect's server is up already: {_page(url)}")
        else:
            if before:
                say("a server or worker that was left over is stopped first")
                stop(home)
            url = _start(home, port, say, {**os.environ, **_child_environment(home), **(env or {})})
        for name in deploy(url, specs):
            say(f"deployed {name}")
    return status(home)


def down(home: Home, say: Say = print) -> bool:
    """Stop the server and worker that `up` started, and what they started; False where nothing ran.

    A process whose start time is not the noted one is another program that got the same number: it is left alone.
    """
    with _lock(home):
        for role in read_state(home).keys() & {"server", "worker"}:
            if role not in running(home):
                say(f"the {role} was gone already")
        url, stopped = read_state(home).get("api_url"), stop(home)
    if url and os.environ.get("PREFECT_API_URL") == url:
        del os.environ["PREFECT_API_URL"]
    say(f"stopped {' and '.join(stopped)}" if stopped else "nothing was up")
    return bool(stopped)


def schedule(
    home: Home,
    recipe: str,
    cron: str,
    name: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    timezone: str = "UTC",
) -> ScheduleInfo:
    """Make `recipe` (a shipped name or a path) run at the times of `cron`; the same `name` again replaces it.

    `overrides` are parameters of make_dataset; `fresh` is true unless it says otherwise, so that each firing makes
    new rows. Raises NotFound (no such recipe) and GraftError (bad cron, unknown override, server not up).
    """
    from schemas.load import find_recipe

    file = find_recipe(recipe).resolve()
    spec = DeploymentSpec(
        entrypoint="flows/make_dataset.py:make_dataset",
        name=name or file.stem,
        parameters={"recipe": str(file), "fresh": True, **(overrides or {})},
        cron=cron,
        timezone=timezone,
        description=f"Scheduled by `graft schedule {recipe}`",
        tags=("graft", "scheduled"),
    )
    return add_schedule(home, spec)


def add_schedule(home: Home, spec: DeploymentSpec) -> ScheduleInfo:
    """Deploy one scheduled deployment on the running server and tell when it fires next (planned within seconds)."""
    apply_prefect_environment(home)
    full_name = deploy(_require_url(home), [spec], activate=True)[0]
    deadline = time.monotonic() + PLANNING_SECONDS
    while True:
        found = next(info for info in schedules(home) if info.deployment == full_name)
        if found.next_runs or found.paused or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


def unschedule(home: Home, deployment: str) -> None:
    """Delete a deployment (`flow/name`, as `schedules` lists it) with its schedule. Raises NotFound."""
    from prefect.exceptions import ObjectNotFound

    with _client(home) as client:
        try:
            client.delete_deployment(client.read_deployment_by_name(deployment).id)
        except (ObjectNotFound, ValueError) as error:
            names = ", ".join(found.deployment for found in schedules(home)) or "none"
            raise NotFound(f"no deployment {deployment!r}", fix=f"scheduled are: {names}") from error


def schedules(home: Home, upcoming: int = 3) -> list[ScheduleInfo]:
    """Every schedule on the server with the next firings that it has planned. Raises GraftError where it is not up."""
    with _client(home) as client:
        names, planned = _deployment_names(client), _upcoming(client)
        found = [(deployment, item) for deployment in client.read_deployments() for item in deployment.schedules]
        return [
            ScheduleInfo(
                deployment=names[deployment.id],
                schedule=str(getattr(item.schedule, "cron", None) or item.schedule),
                timezone=getattr(item.schedule, "timezone", None) or "UTC",
                paused=deployment.paused or not item.active,
                parameters=deployment.parameters,
                next_runs=tuple(planned.get(deployment.id, [])[:upcoming]),
            )
            for deployment, item in found
        ]


def status(home: Home, runs: int = 10) -> Status:
    """Whether server and worker are up, what is deployed, and the last runs (newest first). Never raises for 'down'."""
    alive, url = running(home), read_state(home).get("api_url")
    pids = {f"{role}_pid": process.pid for role, process in alive.items()}
    if not url or not healthy(url):
        return Status(**pids)
    with _client(home) as client:
        names = _deployment_names(client)
        return Status(
            url=url,
            worker_online=_worker_online(client),
            deployments=tuple(sorted(names.values())),
            runs=tuple(_last_runs(client, names, runs)),
            **pids,
        )


def _child_environment(home: Home) -> dict[str, str]:
    """The children write to the same home, and to log files: there, INFO is wanted."""
    return {**prefect_environment(home), "GRAFT_HOME": str(home.root), "PREFECT_LOGGING_LEVEL": "INFO"}


def _start(home: Home, port: int | None, say: Say, env: Mapping[str, str]) -> str:
    wanted = DEFAULT_PORT if port is None else port
    free = free_port(wanted)
    if wanted and free != wanted:
        say(f"port {wanted} is busy; taking {free}")
    url = f"http://{LOOPBACK}:{free}/api"
    children = {**env, "PREFECT_API_URL": url}
    address = ["--host", LOOPBACK, "--port", str(free)]
    try:
        say("starting Prefect's server (10 to 30 s)")
        server = spawn(home, "server", ["server", "start", *address], children, url)
        wait_until(lambda: healthy(url), server, home, "server")
        _make_pool(home)
        say("starting a worker")
        worker = spawn(home, "worker", _worker_command(), children, url)
        with _client(home) as client:
            wait_until(lambda: _worker_online(client), worker, home, "worker")
    except BaseException:
        stop(home)
        raise
    say(f"up: {_page(url)}  (logs in {home.prefect / 'logs'})")
    return url


def _worker_command() -> list[str]:
    name = f"graft-{socket.gethostname()}"
    pool = ["--pool", POOL, "--type", "process", "--install-policy", "never"]
    return ["worker", "start", *pool, "--name", name, "--limit", str(RUNS_AT_ONCE)]


def _page(url: str) -> str:
    return url.removesuffix("/api")


@contextmanager
def _lock(home: Home) -> Iterator[None]:
    from filelock import FileLock, Timeout

    home.prefect.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home.prefect / "up.lock", timeout=5):
            yield
    except Timeout as error:
        what = "another `graft up` or `graft down` is at work"
        raise AlreadyRunning(what, where=str(home.prefect), fix="wait for it") from error


def _require_url(home: Home) -> str:
    url = read_state(home).get("api_url")
    if not url or not healthy(url):
        raise GraftError("Prefect's server is not up", where=str(home.root), fix="start it: graft up")
    return str(url)


@contextmanager
def _client(home: Home) -> Iterator[SyncPrefectClient]:
    apply_prefect_environment(home)
    url = _require_url(home)
    from prefect.client.orchestration import get_client

    with connected(url), get_client(sync_client=True) as client:
        yield client


def _make_pool(home: Home) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with _client(home) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", description="Graft's flow runs"))
        except ObjectAlreadyExists:
            return


def _worker_online(client: SyncPrefectClient) -> bool:
    return any(
        str(worker.status) in ("ONLINE", "WorkerStatus.ONLINE") for worker in client.read_workers_for_work_pool(POOL)
    )


def _deployment_names(client: SyncPrefectClient) -> dict[Any, str]:
    from prefect.client.schemas.filters import FlowFilter

    flows = {flow.id: flow.name for flow in client.read_flows(flow_filter=FlowFilter())}
    return {found.id: f"{flows.get(found.flow_id, '?')}/{found.name}" for found in client.read_deployments()}


def _upcoming(client: SyncPrefectClient) -> dict[Any, list[datetime]]:
    """Deployment to the times of its runs that the server has planned, soonest first."""
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    planned = FlowRunFilter.model_validate({"state": {"type": {"any_": ["SCHEDULED"]}}})
    times: dict[Any, list[datetime]] = {}
    for run in client.read_flow_runs(flow_run_filter=planned, sort=FlowRunSort.EXPECTED_START_TIME_ASC):
        if run.auto_scheduled and run.next_scheduled_start_time:
            times.setdefault(run.deployment_id, []).append(run.next_scheduled_start_time)
    return times


def _last_runs(client: SyncPrefectClient, names: Mapping[Any, str], count: int) -> Iterator[RunInfo]:
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    begun = FlowRunFilter.model_validate({"state": {"type": {"not_any_": ["SCHEDULED"]}}})
    newest = FlowRunSort.EXPECTED_START_TIME_DESC
    for run in client.read_flow_runs(flow_run_filter=begun, sort=newest, limit=count):
        yield RunInfo(
            id=str(run.id),
            name=run.name,
            deployment=names.get(run.deployment_id, ""),
            state=run.state_name or "",
            started=run.start_time,
            seconds=run.total_run_time.total_seconds(),
        )
