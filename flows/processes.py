"""Start and stop Prefect's detached processes, noted in GRAFT_HOME/prefect/up.json (state.py finds them again)."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from graft.flows.secret import prefect_folder
from graft.flows.state import LOOPBACK, ROLES, read_state, running
from graft.schemas.errors import GraftError
from graft.schemas.home import Home, python_path

if TYPE_CHECKING:
    import psutil

PORTS_TRIED = 100
STARTUP_SECONDS = 120
"""Timeout of a server's start in seconds (it takes 11 to 21 s on two cores)."""
STOP_SECONDS = 20.0
"""Seconds from SIGTERM to SIGKILL."""

_SPAWNED: list[subprocess.Popen[bytes]] = []
"""Children of this process, so that a notebook that calls up() and down() leaves no zombie."""


def spawn(
    home: Home, role: str, command: list[str], env: Mapping[str, str], url: str, inherit: int | None = None
) -> psutil.Process:
    """Start a process of `graft up` in a session of its own, with a socket to `inherit`, and note it at once.

    `down` finds it whatever happens next. Its log is in GRAFT_HOME/prefect/logs.
    """
    import psutil

    log = prefect_folder(home) / "logs" / f"{role}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as out:
        child = subprocess.Popen(
            command, env={**env, "PYTHONPATH": python_path(env)}, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True, pass_fds=() if inherit is None else (inherit,),
        )  # fmt: skip
    _SPAWNED.append(child)
    process = psutil.Process(child.pid)
    noted = {"pid": child.pid, "created": process.create_time()}
    state = {**read_state(home), "api_url": url, role: noted}
    temporary = home.prefect / "up.json.tmp"
    temporary.write_text(json.dumps(state, indent=1), encoding="utf-8")
    temporary.replace(home.prefect / "up.json")
    return process


def wait_until(ready: Callable[[], bool], process: psutil.Process, home: Home, role: str) -> None:
    """Wait for `ready`. Raises GraftError with the end of the log if the process ends or takes over STARTUP_SECONDS."""
    deadline = time.monotonic() + STARTUP_SECONDS
    while not ready():
        gone = not lives(process)
        if gone or time.monotonic() > deadline:
            what = f"Prefect's {role} " + ("ended at once" if gone else f"did not answer in {STARTUP_SECONDS} s")
            log = home.prefect / "logs" / f"{role}.log"
            raise GraftError(f"{what}:\n{_tail(log)}", where=str(log), fix="read the log, then try again")
        time.sleep(0.25)


def _tail(log: Path, lines: int = 8) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def stop(home: Home) -> list[str]:
    """Stop worker, then server, with their children, and remove the note. Returns the stopped roles.

    Flow runs get SIGINT, so that they can note the interruption; then SIGTERM, then SIGKILL.
    """
    import psutil

    alive = running(home)
    for role in ROLES:
        if role not in alive:
            continue
        try:
            begun = alive[role].children()
            family = [*alive[role].children(recursive=True), alive[role]]
        except psutil.NoSuchProcess:
            continue
        for process in begun:
            _signal(process, signal.SIGINT)
        psutil.wait_procs(begun, timeout=STOP_SECONDS)
        _signal(alive[role], signal.SIGTERM)
        psutil.wait_procs([alive[role]], timeout=STOP_SECONDS)
        for sign in (signal.SIGTERM, signal.SIGKILL):
            left = [process for process in family if lives(process)]
            for process in left:
                _signal(process, sign)
            psutil.wait_procs(left, timeout=STOP_SECONDS)
    for child in _SPAWNED:
        child.poll()
    _SPAWNED[:] = [child for child in _SPAWNED if child.returncode is None]
    (home.prefect / "up.json").unlink(missing_ok=True)
    return sorted(alive)


def _signal(process: psutil.Process, sign: int) -> None:
    import psutil

    try:
        process.send_signal(sign)
    except psutil.NoSuchProcess:
        return


def listen(wanted: int) -> socket.socket:
    """A listening socket on the first free loopback port from `wanted` on (0: any), for a server to inherit.

    It reserves the port: no program can take it, and with it our secret, while the server starts.
    Raises GraftError after PORTS_TRIED busy ones.
    """
    for port in range(wanted, wanted + PORTS_TRIED) if wanted else [0]:
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((LOOPBACK, port))
            bound.listen(128)
        except (OSError, OverflowError):
            bound.close()
            continue
        return bound
    raise GraftError(f"no free port from {wanted} upwards", where="--port", fix="choose another with --port")


def lives(process: psutil.Process) -> bool:
    """Return True if the process still runs; a zombie does not."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
