"""Access to the pages: a request's host and origin; the home's key, a password or a proxy's header; the person's name.

The key's secret is in a file that only its owner may read, which keeps out other users of this machine. A one-time
token in the printed address is exchanged for a cookie.
"""

from __future__ import annotations

import base64
import getpass
import hashlib
import hmac
import html
import os
import re
import secrets
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from graft.schemas.secret import secret_in

FILE = "dashboard.secret"
TOKEN = "token"
ENTER = "/enter"
"""The address that accepts the secret itself, pasted into a form."""
COOKIE = "graft_person"
LONGEST_NAME = 80
A_YEAR_S = 365 * 24 * 3600


def host_known(request: Request, hosts: Collection[str]) -> bool:
    """Return True if the request names one of these hosts, at any port (a tunnel uses its own); `*` means any host.

    A foreign page may bind its own name to this machine's address (DNS rebinding); the host name reveals it.
    """
    if "*" in hosts:
        return True
    found = HOST.fullmatch(request.headers.get("host", "").lower())
    return found is not None and found["name"] in hosts


OURS = ("same-origin", "none")
"""Values of Sec-Fetch-Site for our own pages, and for an address typed or opened from outside the browser.

`same-site` is not among them: another port of this machine is the same site, and may be another user's server.
"""
SAFE_METHODS = ("GET", "HEAD")
LONGEST_QUERY = 100_000
"""Maximum bytes of an address's query."""
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:\[\]/?#@\s]+)(?::\d{1,5})?")


def malformed(request: Request) -> str:
    """The reason why an address cannot be used; empty if it can."""
    query = request.scope["query_string"]
    if len(query) > LONGEST_QUERY:
        return f"this address has more than {LONGEST_QUERY:,} characters"
    nul = "\x00" in request.url.path or any(
        "\x00" in part for one in request.query_params.multi_items() for part in one
    )
    return "this address holds a NUL character" if nul else ""


def from_elsewhere(request: Request) -> bool:
    """Return True if a page of another origin caused this request.

    Browsers declare it in Sec-Fetch-Site, or at least in Origin or Referer. A request that changes something must prove
    that it comes from our own page.
    """
    site, origin, referer = (request.headers.get(name) for name in ("sec-fetch-site", "origin", "referer"))
    if site is not None and site not in OURS:
        return True
    if origin is not None:
        return not _same(origin, request)
    if request.method in SAFE_METHODS:
        return site is None and referer is not None and not _same(referer, request)
    return site != "same-origin" and (referer is None or not _same(referer, request))


def opens_page(request: Request) -> bool:
    """Return True if the response becomes a page of its own: no image, script, fetch or frame."""
    if request.method not in SAFE_METHODS:
        return False
    mode, target = (request.headers.get(f"sec-fetch-{name}") for name in ("mode", "dest"))
    if mode is None and target is None:
        return "text/html" in request.headers.get("accept", "")
    return mode == "navigate" and target == "document"


def is_plain(request: Request, plain: Collection[str] | None) -> bool:
    """Return True if the address uses only a page's parameters `plain`; for None it is always false."""
    return plain is not None and all(not value or name in plain for name, value in request.query_params.multi_items())


def _same(address: str, request: Request) -> bool:
    try:
        return urlsplit(address).netloc.lower() == request.headers.get("host", "").lower()
    except ValueError:
        return False


class Key:
    """The key of one home's dashboard. Raises GraftError as `secret_in` does."""

    def __init__(self, root: Path) -> None:
        self.file = root / FILE
        self._secret = secret_in(self.file)
        self._tokens: set[str] = set()
        self._lock = threading.Lock()
        self._leads_here: Path | None = None

    def address(self, base: str) -> str:
        """The address `base` with a new token."""
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._tokens.add(token)
        return f"{base}?{urlencode({TOKEN: token})}"

    @property
    def cookie(self) -> tuple[str, str]:
        """Name and value. A browser sends a host's cookies to all its ports, so each home's has a name of its own."""
        return f"graft_key_{self._derived('name')[:8]}", self._derived("cookie")

    def holds(self, request: Request) -> bool:
        """Return True if the request has the cookie."""
        name, value = self.cookie
        return hmac.compare_digest(request.cookies.get(name, "").encode(), value.encode())

    def opens(self, secret: str) -> bool:
        """Return True if this is the secret itself."""
        return hmac.compare_digest(secret.strip().encode(), self._secret.encode())

    def redeemed(self, request: Request, *, elsewhere: bool) -> Response | None:
        """A redirect to the same address without its token, with the cookie; None if the token is invalid or used.

        A browser withholds the cookie from a redirect that began `elsewhere`, so a page of ours redirects then.
        """
        token = request.query_params.get(TOKEN, "")
        with self._lock:
            good = token in self._tokens  # 192 random bits: the time of a lookup reveals nothing
            self._tokens.discard(token)
        if not good and not self.holds(request):
            return None
        self.forget()
        rest = [(name, value) for name, value in request.query_params.multi_items() if name != TOKEN]
        clean = local(request.scope["path"] + (f"?{urlencode(rest)}" if rest else ""))
        if not elsewhere:
            return self.let_in(RedirectResponse(clean, 303))
        answer = HTMLResponse(f'<!doctype html><meta http-equiv="refresh" content="0;url={html.escape(clean)}">')
        answer.headers["Referrer-Policy"] = "no-referrer"
        return self.let_in(answer)

    def let_in(self, answer: Response) -> Response:
        """The response with the cookie, which lasts until the browser is closed."""
        answer.set_cookie(*self.cookie, httponly=True, samesite="strict", path="/")
        return answer

    def page_that_opens(self, address: str, port: int) -> Path:
        """A file that redirects a browser to the address: other users can read arguments, but not this file.

        It is deleted when a token is used, or by `forget`.
        """
        file = self._leads_here = self.file.with_name(f"dashboard-{port}.html")
        file.unlink(missing_ok=True)
        with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as opened:
            opened.write(
                '<!doctype html><meta name="referrer" content="no-referrer">'
                f'<meta http-equiv="refresh" content="0;url={html.escape(address)}">'
            )
        return file

    def forget(self) -> None:
        """Delete the file that redirects a browser here."""
        if self._leads_here is not None:
            with suppress(OSError):
                self._leads_here.unlink()

    def _derived(self, purpose: str) -> str:
        return hmac.new(self._secret.encode(), f"dashboard {purpose}".encode(), hashlib.sha256).hexdigest()


def local(address: str) -> str:
    """The address as a local address, without another host."""
    return "/" + address.lstrip("/\\")


@dataclass(frozen=True)
class Door:
    """Admission of people: by the home's key, a password, or the `header` in which a proxy names the person.

    With `header` only the proxy may reach the server. Without any of them everybody is admitted.
    """

    password: str = ""
    header: str = ""
    key: Key | None = None

    def refused(self, request: Request) -> str:
        """The reason for rejecting this request; empty if it is allowed."""
        if self.header and not request.headers.get(self.header, "").strip():
            return f"the proxy's header {self.header} names nobody"
        if self.password and not hmac.compare_digest(_given(request)[1].encode(), self.password.encode()):
            return "a password is required"
        if self.key and not self.key.holds(request):
            return "this dashboard is locked"
        return ""

    def person(self, request: Request) -> str:
        """The name that decisions are recorded under: from the proxy, the person's choice, or the login."""
        proxied = request.headers.get(self.header, "") if self.header else ""
        named = proxied or unquote(request.cookies.get(COOKIE, "")) or _given(request)[0] or _login()
        return clean(named) or "unknown"


def clean(name: str) -> str:
    """The name on one line, without control characters, at most LONGEST_NAME characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in name).split())[:LONGEST_NAME]


def remember(answer: Response, name: str) -> Response:
    """The response, with the chosen name in a cookie that lasts a year."""
    answer.set_cookie(COOKIE, quote(clean(name)), max_age=A_YEAR_S, httponly=True, samesite="strict", path="/")
    return answer


def _given(request: Request) -> tuple[str, str]:
    """User name and password of HTTP basic authentication; empty if absent."""
    kind, _, credentials = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return user, password


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user of a container may have no name
        return ""
