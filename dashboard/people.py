"""Access by the home's key, a password or a proxy's header, and the name under which decisions are recorded."""

from __future__ import annotations

import base64
import getpass
import hmac
from dataclasses import dataclass
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.responses import Response

from graft.dashboard.entry import Key

COOKIE = "graft_person"
LONGEST_NAME = 80
A_YEAR_S = 365 * 24 * 3600


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
