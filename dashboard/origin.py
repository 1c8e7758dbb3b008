"""The origin of a request: the host that it names, and whether another site's page caused it."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.requests import Request

OURS = ("same-origin", "none")
"""Values of Sec-Fetch-Site for our own pages, and for an address typed or opened from outside the browser.

`same-site` is not among them: another port of this machine is the same site, and may be another user's server.
"""
SAFE_METHODS = ("GET", "HEAD")
LONGEST_QUERY = 100_000
"""Maximum bytes of an address's query."""
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:\[\]/?#@\s]+)(?::\d{1,5})?")


def host_known(request: Request, hosts: Collection[str]) -> bool:
    """Return True if the request names one of these hosts, at any port (a tunnel uses its own); `*` means any host.

    A foreign page may bind its own name to this machine's address (DNS rebinding); the host name reveals it.
    """
    if "*" in hosts:
        return True
    found = HOST.fullmatch(request.headers.get("host", "").lower())
    return found is not None and found["name"] in hosts


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
