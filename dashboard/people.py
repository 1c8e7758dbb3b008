"""Who is let in (by the home's key, a password or a proxy's header), and the name under which decisions are kept."""

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
    """What lets a person in: the home's key, or a password, or the `header` in which a proxy in front names the person.

    With `header` nobody but the proxy may reach us. Without any of them the door is open.
    """

    password: str = ""
    header: str = ""
    key: Key | None = None

    def refused(self, request: Request) -> str:
        """Why this request may not come in; empty where it may."""
        if self.header and not request.headers.get(self.header, "").strip():
            return f"the proxy did not say who asks ({self.header})"
        if self.password and not hmac.compare_digest(_given(request)[1].encode(), self.password.encode()):
            return "a password is wanted"
        if self.key and not self.key.holds(request):
            return "this dashboard is locked"
        return ""

    def person(self, request: Request) -> str:
        """The name that decisions are kept under: the proxy's word, what the person chose, or the login's name."""
        said = request.headers.get(self.header, "") if self.header else ""
        named = said or unquote(request.cookies.get(COOKIE, "")) or _given(request)[0] or _login()
        return clean(named) or "unknown"


def clean(name: str) -> str:
    """A name as it is kept: one line, no control character, at most LONGEST_NAME characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in name).split())[:LONGEST_NAME]


def remember(answer: Response, name: str) -> Response:
    """The answer, with the name that the person chose in a cookie of a year."""
    answer.set_cookie(COOKIE, quote(clean(name)), max_age=A_YEAR_S, httponly=True, samesite="strict", path="/")
    return answer


def _given(request: Request) -> tuple[str, str]:
    """User name and password of HTTP's basic authentication; empty where there is none."""
    kind, _, said = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(said, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return user, password


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return ""
