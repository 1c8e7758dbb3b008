"""The key of a home's dashboard: a one-time token in the printed address is exchanged for a cookie.

The secret is in a file that only its owner may read, which keeps out other users of this machine.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import os
import secrets
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from graft.schemas.secret import secret_in

FILE = "dashboard.secret"
TOKEN = "token"
ENTER = "/enter"
"""The address that accepts the secret itself, pasted into a form."""


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
