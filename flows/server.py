"""Prefect's server as Graft starts it: `python -m graft.flows.server SOCKET`, on a loopback socket that it inherits.

Prefect's own application checks neither Host nor Origin, so each request is checked first: its Host (a foreign page can
rebind its name to this machine) and Origin (a web page may send requests without being able to read the replies; CORS
does not cover websockets at all). Prefect's authentication checks the home's secret behind it.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING

from graft.flows.secret import secret
from graft.schemas.home import Home

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

HOSTS = frozenset({"127.0.0.1", "localhost"})
_CORS = {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"}
CLOSING_SECONDS = 3
"""Seconds for open requests when the server stops."""


class Guard:
    """Rejects a request or websocket with another host name or from a page of another origin."""

    def __init__(self, app: ASGIApp, origins: frozenset[str]) -> None:
        self._app, self._origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, or respond with status 400 (host) or 403 (origin)."""
        from starlette.responses import PlainTextResponse

        if scope["type"] in ("http", "websocket"):
            headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
            hosts = [value.rsplit(":", 1)[0].lower() for name, value in headers if name == b"host"]
            origins = {value.lower() for name, value in headers if name == b"origin"}
            if not hosts or not HOSTS.issuperset(hosts):
                await PlainTextResponse("refused: unknown host\n", 400)(scope, receive, send)
                return
            if not origins <= self._origins and "*" not in self._origins:
                await PlainTextResponse("refused: a page of another origin\n", 403)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def server_environment(home: Home, port: int) -> dict[str, str]:
    """Environment variables for the server only; a user's choice of database or authentication stays."""
    from urllib.parse import quote

    own = {"PREFECT_SERVER_API_AUTH_STRING": secret(home), "PREFECT__SERVER_FINAL": "1"}
    if not _CORS & os.environ.keys():
        own["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(f"http://{host}:{port}" for host in sorted(HOSTS))
    if not any(name.startswith(("PREFECT_SERVER_DATABASE_", "PREFECT_API_DATABASE_")) for name in os.environ):
        # Prefect pastes the path into a URL as it is, where %, ? and # mean something else.
        path = quote(str(home.prefect / "prefect.db"))
        own["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{path}"
    return own


def main() -> None:
    """Serve on the inherited socket."""
    bound = socket.socket(fileno=int(sys.argv[1]))
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    settings = get_current_settings().server
    origins = frozenset(origin.strip().lower() for origin in settings.api.cors_allowed_origins.split(","))
    config = uvicorn.Config(
        Guard(create_app(), origins),
        lifespan="on",
        log_level=settings.logging_level.lower(),
        timeout_keep_alive=settings.api.keepalive_timeout,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[bound])


if __name__ == "__main__":
    main()
