"""Serve the pages until Ctrl-C, on loopback unless told otherwise."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graft.schemas.errors import GraftError, MissingExtra

if TYPE_CHECKING:
    from graft.dashboard.entry import Key
    from graft.schemas.home import Home

PASSWORD = "GRAFT_DASHBOARD_PASSWORD"
USER_HEADER = "GRAFT_DASHBOARD_USER_HEADER"
"""Environment variable: the header in which a proxy in front of us says who asks, such as X-Forwarded-User."""
LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(
    home: Home, *, host: str = "127.0.0.1", port: int = 4390, names: Sequence[str] = (), open_browser: bool = False
) -> None:
    """Serve the pages of this home; prints the address once they answer.

    Without a password or a proxy's header the address has a token that lets one browser in. It is printed to a terminal
    alone, so that no log holds it; a browser is opened through a file that only its owner may read.

    `names` are further host names under which a proxy asks. Raises GraftError where the port is taken, where `host` or
    `names` reach beyond this machine and there is neither password nor a proxy's header; LakeTooNew where a newer Graft
    wrote the lake; MissingExtra where the charts' library is not installed.
    """
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "the dashboard's charts need altair", fix="pip install 'graft-factory[dashboard]'"
        ) from error
    import uvicorn

    from graft.dashboard.app import LOOPBACK, create_app
    from graft.dashboard.charts.shapes import warm
    from graft.dashboard.entry import Key
    from graft.dashboard.people import Door
    from graft.data.lake import Lake

    password, header = os.environ.get(PASSWORD, ""), os.environ.get(USER_HEADER, "")
    door = Door(password, header, None if password or header else Key(home.root))
    if (host not in LOCAL or names) and not (door.password or door.header):
        fix = f"set {PASSWORD}, or {USER_HEADER} behind a proxy that says who asks, or leave it out"
        raise GraftError(
            f"{host if host not in LOCAL else names[0]} is not this machine alone", where="--host", fix=fix
        )
    with Lake.open(home, read_only=True):
        pass  # made where there is none; one that cannot be read says so here, in two lines
    hosts = (*LOOPBACK, *names) if host in LOCAL else ("*",)
    bound = _bind(host, port)
    port = bound.getsockname()[1]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    _print_address(address, door.key)
    app = create_app(home, hosts=hosts, door=door)
    threading.Thread(target=warm, daemon=True, name="warm").start()
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on")
    if open_browser:
        _open_browser(address, port, door.key)
    uvicorn.Server(config).run(sockets=[bound])


def _print_address(address: str, key: Key | None) -> None:
    secret = key is not None and sys.stdout.isatty()
    sys.stdout.write(f"the dashboard is at {key.address(address) if key and secret else address} (Ctrl-C ends it)\n")
    if key is not None and not secret:
        sys.stdout.write(f"its key is in {key.file}\n")
    sys.stdout.flush()


def _open_browser(address: str, port: int, key: Key | None) -> None:
    import webbrowser

    webbrowser.open(key.page_that_opens(key.address(address), port).as_uri() if key else address)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(128)  # who follows the printed address at once waits for the server, and is not refused
    except OSError as error:
        bound.close()
        raise GraftError(
            f"port {port} cannot be had: {error.strerror}", where="--port", fix="another --port, or 0"
        ) from error
    return bound
