"""A Prefect server for this process's flow runs, if neither `graft up` nor the user runs a server.

It is protected like that of `graft up`, and ends with this process.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading

from graft.flows.processes import launch, listen, wait_until
from graft.flows.secret import secret
from graft.flows.server import server_environment
from graft.flows.settings import apply_prefect_environment, connect_environment, forget_server, prefect_environment
from graft.flows.state import LOOPBACK, healthy
from graft.schemas.home import Home

ROLE = "run-server"
CLOSING_SECONDS = 5.0
OWN = set[str]()
"""Addresses of servers that this process started: they have no pages for people."""
_STARTING = threading.Lock()


def start_prefect(home: Home) -> None:
    """Prepare this process for flows: Prefect's settings, and a server if PREFECT_API_URL names none (10 to 20 s).

    Raises GraftError with the end of the log if the server does not start.
    """
    apply_prefect_environment(home)
    with _STARTING:
        if not os.environ.get("PREFECT_API_URL"):
            url = _start(home)
            OWN.add(url)
            connect_environment(url, secret(home))
    context = sys.modules.get("prefect.context")
    if context is not None:  # imported before: it has read the environment already
        context.refresh_global_settings_context()


def _start(home: Home) -> str:
    import psutil

    with listen(0) as bound:
        port = bound.getsockname()[1]
        url = f"http://{LOOPBACK}:{port}/api"
        env = {
            **os.environ, **prefect_environment(home), **server_environment(home, port, of_run=True),
            "PREFECT_API_URL": url, "PREFECT_LOGGING_LEVEL": "WARNING",
        }  # fmt: skip
        command = [sys.executable, "-m", "graft.flows.server", str(bound.fileno()), "--of-run"]
        server = launch(home, ROLE, command, env, stdin=subprocess.PIPE, inherit=bound.fileno())
    atexit.register(_stop, server, url)
    try:
        wait_until(lambda: healthy(url), psutil.Process(server.pid), home, ROLE)
    except BaseException:
        _stop(server, url)
        raise
    return url


def _stop(server: subprocess.Popen[bytes], url: str) -> None:
    forget_server(url)
    if server.stdin is not None:
        server.stdin.close()
    server.terminate()
    try:
        server.wait(CLOSING_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
