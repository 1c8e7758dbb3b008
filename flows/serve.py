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
"""Flow runs that the worker takes on together; each has its own concurrency inside."""
Say = Callable[[str], None]


class Status(Value):
    """What is up for a home: `url` is None where no server answers."""

    url: str | None = None
    server_pid: int | None = None
    worker_pid: int | None = None
    worker_online: bool = False
    deployments: tuple[str, ...] = ()
    runs: tuple[RunInfo, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    """Runs that wait for people's review, whether or not this home's server is theirs."""


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
        if {"server", "worker"} <= before.keys() and healthy(url) and protected(url):
            say(f"Prefect's server is up already: {page_of(url)}")
        else:
            if before:
                say("a server or worker that was left over is stopped first")
                stop(home)
            url = _start(home, port, say, env or {})
        for name in deploy(Access(url, secret(home)), specs):
            say(f"deployed {name}")
    return status(home, seconds=PATIENT_SECONDS)


def down(home: Home, say: Say = print) -> bool:
    """Stop the server and worker that `up` started, and what they started; False where nothing ran.

    A process whose start time is not the noted one is another program that got the same number: it is left alone.
    """
    with _lock(home):
        for role in read_state(home).keys() & {"server", "worker"}:
            if role not in running(home):
                say(f"the {role} was gone already")
        url, stopped = read_state(home).get("api_url"), stop(home)
    if url:
        forget_server(url)
    say(f"stopped {' and '.join(stopped)}" if stopped else "nothing was up")
    return bool(stopped)


def status(home: Home, runs: int = 10, seconds: float = ANSWER_SECONDS) -> Status:
    """Whether server and worker are up, what is deployed, the last runs, what waits. Never raises for 'down'.

    A server that takes longer than `seconds` for an answer counts as down.
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
    """The children write to the same home, and to log files: there, INFO is wanted."""
    own = {"GRAFT_HOME": str(home.root), "PREFECT_LOGGING_LEVEL": "INFO"}
    return {**prefect_environment(home), **own, "PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": secret(home)}


def _start(home: Home, port: int | None, say: Say, env: Mapping[str, str]) -> str:
    wanted = DEFAULT_PORT if port is None else port
    bound = listen(wanted)
    free = bound.getsockname()[1]
    if wanted and free != wanted:
        say(f"port {wanted} is busy; taking {free}")
    url = f"http://{LOOPBACK}:{free}/api"
    both = {**os.environ, **_child_environment(home, url)}
    try:
        say("starting Prefect's server (10 to 30 s)")
        with bound:
            own = {**both, **server_environment(home, free, of_run=False), **env}
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
    say(f"that page asks for a password: the line in {secret_file(home)}")
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
        what = "another `graft up` or `graft down` is at work"
        raise AlreadyRunning(what, where=str(home.prefect), fix="wait for it") from error


def _make_pool(home: Home) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with client_of(home, PATIENT_SECONDS) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", description="Graft's flow runs"))
        except ObjectAlreadyExists:
            return
