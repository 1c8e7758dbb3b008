"""Serve the dashboard until Ctrl-C, by default on loopback."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graft.schemas.errors import GraftError, MissingExtra

if TYPE_CHECKING:
    from graft.dashboard.door import Key
    from graft.schemas.home import Home

PASSWORD = "GRAFT_DASHBOARD_PASSWORD"
USER_HEADER = "GRAFT_DASHBOARD_USER_HEADER"
"""Environment variable: the header in which a proxy names the user, such as X-Forwarded-User."""
LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(
    home: Home, *, host: str = "127.0.0.1", port: int = 4390, names: Sequence[str] = (), open_browser: bool = False
) -> None:
    """Serve the pages of this home and print the address once they respond.

    Without a password or a proxy's header the address has a token that admits one browser. It is printed to a terminal
    only, so that no log holds it; a browser is opened through a file that only its owner may read.

    `names` are further host names that a proxy uses.

    Raises:
        GraftError: the port is taken, or `host` or `names` reach beyond this machine without a password or a
            proxy's header
        LakeTooNew: a newer Graft wrote the lake
        MissingExtra: the chart library is not installed
    """
    try:
        import altair  # noqa: F401
        import pandas  # noqa: F401 (two pages that import it at once would see one half of it)
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "the dashboard's charts need altair", fix="pip install 'graft-factory[dashboard]'"
        ) from error
    import uvicorn

    from graft.dashboard.app import LOOPBACK, create_app
    from graft.dashboard.charts.shapes import warm
    from graft.dashboard.door import Door, Key
    from graft.data.lake import Lake

    password, header = os.environ.get(PASSWORD, ""), os.environ.get(USER_HEADER, "")
    door = Door(password, header, None if password or header else Key(home.root))
    if (host not in LOCAL or names) and not (door.password or door.header):
        fix = f"set {PASSWORD}, or {USER_HEADER} behind a proxy that authenticates users, or leave the option out"
        raise GraftError(
            f"{host if host not in LOCAL else names[0]} is reachable from other machines", where="--host", fix=fix
        )
    with Lake.open(home, read_only=True):
        pass  # created if absent; a lake that cannot be read is a two-line error here
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
    sys.stdout.write(f"dashboard: {key.address(address) if key and secret else address} (stop with Ctrl-C)\n")
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
        bound.listen(128)  # a browser that follows the printed address at once waits instead of being refused
    except OSError as error:
        bound.close()
        raise GraftError(
            f"port {port} is not available: {error.strerror}", where="--port", fix="choose another --port, or 0"
        ) from error
    return bound
