"""The web application: its routes, what every answer carries, and who may ask.

Server-rendered pages over one read-only lake. A reader opened once sees each commit as soon as it is made.
"""

from __future__ import annotations

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

from dashboard.desk import Desk, failure_page
from dashboard.pages import CHARTS, PAGES
from dashboard.people import Door, from_elsewhere
from schemas.errors import GraftError

if TYPE_CHECKING:
    from schemas.home import Home

STATIC = Path(__file__).parent / "static"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""What a browser may load: our own files alone, so that a text which slips through as markup still loads nothing."""


def create_app(home: Home, *, hosts: tuple[str, ...] = LOOPBACK, door: Door | None = None) -> Starlette:
    """The application over this home's lake, opened when the server starts and closed when it ends.

    Requests for another host name than `hosts` are refused (a page elsewhere cannot rebind a name to this machine), and
    so are those that would change something and come from another site's page. `door` says who may come in.
    """
    guard = door or Door()

    @asynccontextmanager
    async def opened(app: Starlette) -> AsyncIterator[None]:
        with Desk.open(home, guard, PAGES, CHARTS) as desk:
            app.state.desk = desk
            yield

    routes = [
        Route(page.path, page.answer, name=page.name, methods=["POST"] if page.posts else ["GET"]) for page in PAGES
    ]
    guards = [
        Middleware(TrustedHostMiddleware, allowed_hosts=[*hosts], www_redirect=False),
        Middleware(BaseHTTPMiddleware, dispatch=_guarded(guard)),
    ]
    return Starlette(
        routes=[*routes, Mount("/static", StaticFiles(directory=STATIC), name="static")],
        middleware=guards,
        lifespan=opened,
        exception_handlers={404: failure_page, GraftError: failure_page, 500: failure_page},
    )


Next = Callable[[Request], Awaitable[Response]]


def _guarded(door: Door) -> Callable[[Request, Next], Awaitable[Response]]:
    async def dispatch(request: Request, call_next: Next) -> Response:
        if why := door.refused(request):
            asks = {"WWW-Authenticate": 'Basic realm="graft"'} if door.password else {}
            return PlainTextResponse(why, 401, asks)
        if from_elsewhere(request):
            return PlainTextResponse("this was sent by another site's page", 403)
        answer = await call_next(request)
        answer.headers.setdefault("Content-Security-Policy", POLICY)
        answer.headers.setdefault("X-Content-Type-Options", "nosniff")
        answer.headers.setdefault("Referrer-Policy", "same-origin")
        if not request.url.path.startswith("/static"):
            answer.headers.setdefault("Cache-Control", "no-store")
        return answer

    return dispatch
