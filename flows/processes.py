"""Prefect's detached processes: started, noted in GRAFT_HOME/prefect/up.json, found again, and stopped.

A process is known by its id and its start time, so that a number that the system gave to another program is left alone.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flows.settings import LOOPBACK, STARTUP_SECONDS, read_state
from schemas.errors import GraftError
from schemas.home import Home

if TYPE_CHECKING:
    import psutil

ROLES = ("worker", "server")
"""In the order in which they are stopped."""

PORTS_TRIED = 100
STOP_SECONDS = 20.0
"""How long a process may take to end after SIGTERM before it is killed."""

_SPAWNED: list[subprocess.Popen[bytes]] = []
"""Children of this very process, so that a notebook that calls up() and down() leaves no zombie."""


def spawn(home: Home, role: str, command: list[str], env: Mapping[str, str], url: str) -> psutil.Process:
    """Start `prefect …` in a session of its own and note it at once, so that `down` finds it whatever happens next."""
    import psutil

    log = home.prefect / "logs" / f"{role}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "prefect", *command],
            env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
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
    """Wait for `ready`; GraftError with the end of the log where the process ends or takes over STARTUP_SECONDS."""
    deadline = time.monotonic() + STARTUP_SECONDS
    while not ready():
        gone = not _lives(process)
        if gone or time.monotonic() > deadline:
            what = f"Prefect's {role} " + ("ended at once" if gone else f"did not answer in {STARTUP_SECONDS} s")
            log = home.prefect / "logs" / f"{role}.log"
            raise GraftError(f"{what}:\n{_tail(log)}", where=str(log), fix="read the log, then `graft up` again")
        time.sleep(0.25)


def _tail(log: Path, lines: int = 8) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def stop(home: Home) -> list[str]:
    """Stop worker, then server, with all that they started; forget both. Returns what was stopped.

    Flow runs get what Ctrl-C sends, so that they can note that they were interrupted; then SIGTERM, then SIGKILL.
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
            left = [process for process in family if _lives(process)]
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


def running(home: Home) -> dict[str, psutil.Process]:
    """Role to process, for those noted that still run and are the same program (start times agree to 0.01 s)."""
    import psutil

    found = {}
    for role in ROLES:
        noted = read_state(home).get(role)
        if not isinstance(noted, dict):
            continue
        try:
            process = psutil.Process(int(noted["pid"]))
            if abs(process.create_time() - float(noted["created"])) < 0.01 and _lives(process):
                found[role] = process
        except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
            continue
    return found


def _lives(process: psutil.Process) -> bool:
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def free_port(wanted: int) -> int:
    """The first free loopback port from `wanted` on (0: any). Raises GraftError after PORTS_TRIED busy ones."""
    for port in range(wanted, wanted + PORTS_TRIED) if wanted else [0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except (OSError, OverflowError):
                continue
            return int(probe.getsockname()[1])
    raise GraftError(f"no free port from {wanted} on", where="--port", fix="name another with --port")
