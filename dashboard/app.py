"""The web application: routes, response headers and access.

Server-rendered pages over one read-only lake. A reader opened once sees each commit as soon as it is made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Match, Mount, Route
from starlette.staticfiles import StaticFiles

from graft.dashboard.context import Form, PageContext, context_of, failure_page, posted
from graft.dashboard.door import ENTER, TOKEN, Door, from_elsewhere, host_known, is_plain, local, malformed, opens_page
from graft.dashboard.pages import CHARTS, PAGES
from graft.schemas.errors import GraftError

if TYPE_CHECKING:
    from graft.schemas.home import Home

STATIC = Path(__file__).parent / "static"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""Content security policy: a browser loads our own files only, even if a text slips through as markup."""


def create_app(home: Home, *, door: Door, hosts: tuple[str, ...] = LOOPBACK) -> Starlette:
    """The application over this home's lake, opened when the server starts and closed when it ends.

    Requests for another host name than `hosts` are refused (a page elsewhere cannot rebind a name to this machine), and
    so is every cross-site request, except a link to a page that runs no search.
    `door` decides who is admitted.
    """

    @asynccontextmanager
    async def opened(app: Starlette) -> AsyncIterator[None]:
        with PageContext.open(home, door, PAGES, CHARTS) as context:
            app.state.context = context
            try:
                yield
            finally:
                if door.key:
                    door.key.forget()

    routes = [
        Route(page.path, page.answer, name=page.name, methods=["POST"] if page.posts else ["GET"]) for page in PAGES
    ]
    plain = {page.name: page.plain for page in PAGES}
    guard = Middleware(BaseHTTPMiddleware, dispatch=_guarded(_Guard(door, hosts, tuple(routes), plain)))
    return Starlette(
        routes=[
            *routes,
            Route(ENTER, enter, methods=["POST"]),
            Mount("/static", StaticFiles(directory=STATIC), name="static"),
        ],
        middleware=[guard],
        lifespan=opened,
        exception_handlers={404: failure_page, GraftError: failure_page, 500: failure_page},
    )


@posted
def enter(request: Request, form: Form) -> Response:
    """Admit a browser that sends the key (POST)."""
    key, back = context_of(request).door.key, local(form.get("back", ""))
    if key is None:
        return RedirectResponse(back, 303)
    if not key.opens(form.get("secret", "")):
        return _door_page(request, 401, "Not the key", wrong="That is not the key in the file.", back=back)
    return key.let_in(RedirectResponse(back, 303))


Next = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class _Guard:
    """Rejects a request that is not allowed before any page is made."""

    door: Door
    hosts: tuple[str, ...]
    routes: tuple[Route, ...]
    plain: Mapping[str, tuple[str, ...] | None]

    def answer(self, request: Request) -> Response | None:
        """The response to a rejected request; None if it is allowed."""
        if not host_known(request, self.hosts):
            return PlainTextResponse("Invalid host header", 400)
        if why := malformed(request):
            return PlainTextResponse(why, 400)
        elsewhere = from_elsewhere(request)
        if elsewhere and not opens_page(request):
            return PlainTextResponse("another site's page sent this request", 403)
        key = self.door.key
        if key and request.method == "GET" and TOKEN in request.query_params:
            if entered := key.redeemed(request, elsewhere=elsewhere):
                return entered
        elif elsewhere and not is_plain(request, self._plain(request)):
            note = "Another site linked to this page with a search or a download. No search was run."
            return _door_page(request, 403, "Open this page?", elsewhere=note)
        return self._refused(request, elsewhere=elsewhere)

    def _refused(self, request: Request, *, elsewhere: bool) -> Response | None:
        why = "" if request.url.path == ENTER else self.door.refused(request)
        if not why:
            return None
        if self.door.key:
            note = "You followed a link on another site, so your browser did not send its cookie." if elsewhere else ""
            return _door_page(request, 401, "This dashboard is locked", elsewhere=note)
        return PlainTextResponse(why, 401, {"WWW-Authenticate": 'Basic realm="graft"'} if self.door.password else {})

    def _plain(self, request: Request) -> tuple[str, ...] | None:
        """The parameters that a link on another site may use for this address."""
        found = next((one.name for one in self.routes if one.matches(request.scope)[0] == Match.FULL), "")
        return self.plain.get(found, ())


def _door_page(
    request: Request, status: int, title: str, *, wrong: str = "", elsewhere: str = "", back: str = ""
) -> Response:
    """The page for a visitor who is not admitted (or only after a click): it loads nothing and explains access."""
    query = [(name, value) for name, value in request.query_params.multi_items() if name != TOKEN]
    key = context_of(request).door.key if status == 401 else None
    body = context_of(request).templates.get_template("door.html.jinja").render(
        title=title, wrong=wrong, elsewhere=elsewhere, enter=ENTER, file=str(key.file) if key else "",
        address=back or local(quote(request.scope["path"]) + (f"?{urlencode(query)}" if query else "")),
    )  # fmt: skip
    return HTMLResponse(body, status)


def _guarded(guard: _Guard) -> Callable[[Request, Next], Awaitable[Response]]:
    async def dispatch(request: Request, call_next: Next) -> Response:
        answer = guard.answer(request) or await call_next(request)
        answer.headers.setdefault("Content-Security-Policy", POLICY)
        answer.headers.setdefault("X-Content-Type-Options", "nosniff")
        answer.headers.setdefault("Referrer-Policy", "same-origin")
        answer.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
        answer.headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
        if not request.url.path.startswith("/static"):
            answer.headers.setdefault("Cache-Control", "no-store")
        return answer

    return dispatch
