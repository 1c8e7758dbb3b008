"""The web application: its routes, what every answer carries, and who may ask.

Server-rendered pages over one read-only lake. A reader opened once sees each commit as soon as it is made.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from dashboard.pages import PAGES
from dashboard.views import Desk, failure_page

if TYPE_CHECKING:
    from schemas.home import Home

STATIC = Path(__file__).parent / "static"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""What a browser may load: our own files alone, so that a text which slips through as markup still loads nothing."""


def create_app(home: Home, *, hosts: tuple[str, ...] = LOOPBACK, password: str = "") -> Starlette:
    """The application over this home's lake, opened when the server starts and closed when it ends.

    Requests for another host name than `hosts` are refused (a page elsewhere cannot rebind a name to this machine).
    With `password`, each request must carry it (HTTP basic authentication, any user name).
    """

    @asynccontextmanager
    async def opened(app: Starlette) -> AsyncIterator[None]:
        with Desk.open(home) as desk:
            app.state.desk = desk
            yield

    routes = [Route(page.path, page.answer, name=page.name) for page in PAGES]
    guards = [
        Middleware(TrustedHostMiddleware, allowed_hosts=[*hosts], www_redirect=False),
        Middleware(BaseHTTPMiddleware, dispatch=_guarded(password)),
    ]
    return Starlette(
        routes=[*routes, Mount("/static", StaticFiles(directory=STATIC), name="static")],
        middleware=guards,
        lifespan=opened,
        exception_handlers={404: failure_page, 500: failure_page},
    )


Next = Callable[[Request], Awaitable[Response]]


def _guarded(password: str) -> Callable[[Request, Next], Awaitable[Response]]:
    async def dispatch(request: Request, call_next: Next) -> Response:
        if password and not _may(request, password):
            return PlainTextResponse("a password is wanted", 401, {"WWW-Authenticate": 'Basic realm="graft"'})
        answer = await call_next(request)
        answer.headers.setdefault("Content-Security-Policy", POLICY)
        answer.headers.setdefault("X-Content-Type-Options", "nosniff")
        answer.headers.setdefault("Referrer-Policy", "no-referrer")
        if not request.url.path.startswith("/static"):
            answer.headers.setdefault("Cache-Control", "no-store")
        return answer

    return dispatch


def _may(request: Request, password: str) -> bool:
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return False
    try:
        said = base64.b64decode(given, validate=True).decode().partition(":")[2]
    except ValueError:
        return False
    return hmac.compare_digest(said.encode(), password.encode())
