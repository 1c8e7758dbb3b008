"""Prefect's server and one worker for this GRAFT_HOME: up, down, status.

`up` starts both as detached processes on loopback and notes their ids and start times in GRAFT_HOME/prefect/up.json;
`down` stops exactly those. Prefect and psutil are imported inside the functions.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from graft.flows.deploy import POOL, DeploymentSpec, deploy, read_deployments
from graft.flows.pause import Waiting, waiting
from graft.flows.prefect_api import ANSWER_SECONDS, PATIENT_SECONDS, client_of, page_of
from graft.flows.processes import listen, spawn, stop, wait_until
from graft.flows.schedules import RunInfo, overview, worker_online
from graft.flows.secret import prefect_folder, secret, secret_file
from graft.flows.server import server_environment
from graft.flows.settings import apply_prefect_environment, forget_server, prefect_environment
from graft.flows.state import LOOPBACK, Access, healthy, protected, read_state, running
from graft.schemas.base import Value
from graft.schemas.errors import AlreadyRunning
from graft.schemas.home import Home

DEFAULT_PORT = 4200
RUNS_AT_ONCE = 2
"""Flow runs that the worker runs at once; each has its own concurrency."""
Say = Callable[[str], None]


class Status(Value):
    """The state of a home's server and worker: `url` is None if no server responds."""

    url: str | None = None
    server_pid: int | None = None
    worker_pid: int | None = None
    worker_online: bool = False
    deployments: tuple[str, ...] = ()
    runs: tuple[RunInfo, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    """Runs that wait for review, also on other servers."""


def up(
    home: Home,
    port: int | None = None,
    say: Say = print,
    deployments: Sequence[DeploymentSpec] | None = None,
    env: Mapping[str, str] | None = None,
) -> Status:
    """Start the server and a worker unless they run, and create the deployments (by default those of prefect.yaml).

    If the port is busy the next free port is used and reported. `env` adds to the children's environment. Raises
    GraftError with the end of the log if a process does not start; nothing is left running then.
    """
    apply_prefect_environment(home)
    specs = read_deployments() if deployments is None else deployments
    with _lock(home):
        before = running(home)
        url = read_state(home).get("api_url", "")
        if {"server", "worker"} <= before.keys() and healthy(url) and protected(url):
            say(f"Prefect's server is up already: {page_of(url)}")
        else:
            if before:
                say("stopping a leftover server or worker first")
                stop(home)
            url = _start(home, port, say, env or {})
        for name in deploy(Access(url, secret(home)), specs):
            say(f"deployed {name}")
    return status(home, seconds=PATIENT_SECONDS)


def down(home: Home, say: Say = print) -> bool:
    """Stop the server and worker that `up` started, with their children; False if nothing ran.

    A process with another start time than noted is another program with the same id: it is left alone.
    """
    with _lock(home):
        for role in read_state(home).keys() & {"server", "worker"}:
            if role not in running(home):
                say(f"the {role} had already ended")
        url, stopped = read_state(home).get("api_url"), stop(home)
    if url:
        forget_server(url)
    say(f"stopped {' and '.join(stopped)}" if stopped else "nothing was running")
    return bool(stopped)


def status(home: Home, runs: int = 10, seconds: float = ANSWER_SECONDS) -> Status:
    """The state of server, worker, deployments, last runs and waiting runs. Does not raise if they are down.

    A server that takes longer than `seconds` to respond counts as down.
    """
    alive, seen = running(home), overview(home, runs, seconds)
    return Status(
        url=seen.url,
        worker_online=seen.worker_online,
        deployments=tuple(found.name for found in seen.deployments),
        runs=seen.runs,
        waiting=tuple(waiting(home)),
        **{f"{role}_pid": process.pid for role, process in alive.items()},
    )


def _child_environment(home: Home, url: str) -> dict[str, str]:
    """The children's environment: the same home, and INFO for their log files."""
    own = {"GRAFT_HOME": str(home.root), "PREFECT_LOGGING_LEVEL": "INFO"}
    return {**prefect_environment(home), **own, "PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": secret(home)}


def _start(home: Home, port: int | None, say: Say, env: Mapping[str, str]) -> str:
    wanted = DEFAULT_PORT if port is None else port
    bound = listen(wanted)
    free = bound.getsockname()[1]
    if wanted and free != wanted:
        say(f"port {wanted} is busy; using {free}")
    url = f"http://{LOOPBACK}:{free}/api"
    both = {**os.environ, **_child_environment(home, url)}
    try:
        say("starting Prefect's server (10 to 30 s)")
        with bound:
            own = {**both, **server_environment(home, free), **env}
            command = [sys.executable, "-m", "graft.flows.server", str(bound.fileno())]
            server = spawn(home, "server", command, own, url, inherit=bound.fileno())
        wait_until(lambda: healthy(url), server, home, "server")
        _make_pool(home)
        say("starting a worker")
        worker = spawn(home, "worker", _worker_command(), {**both, **env}, url)
        with client_of(home, PATIENT_SECONDS) as client:
            wait_until(lambda: worker_online(client), worker, home, "worker")
    except BaseException:
        stop(home)
        raise
    say(f"up: {page_of(url)}  (logs in {home.prefect / 'logs'})")
    say(f"password of that page: the line in {secret_file(home)}")
    return url


def _worker_command() -> list[str]:
    name = f"graft-{socket.gethostname()}"
    pool = ["--pool", POOL, "--type", "process", "--install-policy", "never"]
    return [sys.executable, "-m", "prefect", "worker", "start", *pool, "--name", name, "--limit", str(RUNS_AT_ONCE)]


@contextmanager
def _lock(home: Home) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        with FileLock(prefect_folder(home) / "up.lock", timeout=5):
            yield
    except Timeout as error:
        what = "another `graft up` or `graft down` is running"
        raise AlreadyRunning(what, where=str(home.prefect), fix="wait for it") from error


def _make_pool(home: Home) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with client_of(home, PATIENT_SECONDS) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", description="Graft's flow runs"))
        except ObjectAlreadyExists:
            return
