"""A home's Prefect server and worker, as noted by `graft up` in GRAFT_HOME/prefect/up.json.

A process is identified by id and start time, so that a reused id of another program is left alone.
"""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, NamedTuple

from graft.flows.secret import secret
from graft.schemas.home import Home
from graft.schemas.live import process_of

if TYPE_CHECKING:
    import psutil

LOOPBACK = "127.0.0.1"
ROLES = ("worker", "server")
"""Roles, in the order in which they are stopped."""


class Access(NamedTuple):
    """The address of a server's API, and its secret (None: it needs none of ours)."""

    url: str
    secret: str | None


def server_of(home: Home) -> Access | None:
    """This home's server if it responds within 2 s, else None.

    The secret is sent only to the noted process: if it has ended, another user's program may have its port.
    """
    state = read_state(home)
    url, noted = state.get("api_url"), "server" in state
    if not isinstance(url, str) or (noted and "server" not in running(home)) or not healthy(url):
        return None
    return Access(url, secret(home) if noted else None)


def read_state(home: Home) -> dict[str, Any]:
    """The note of `graft up`; empty if it is absent or unreadable."""
    try:
        state = json.loads((home.prefect / "up.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def running(home: Home) -> dict[str, psutil.Process]:
    """Role to noted process, if it still runs."""
    found = {}
    for role in ROLES:
        noted = read_state(home).get(role)
        with contextlib.suppress(KeyError, TypeError, ValueError):
            process = process_of(int(noted["pid"]), float(noted["created"])) if isinstance(noted, dict) else None
            if process is not None:
                found[role] = process
    return found


def healthy(api_url: str, timeout_s: float = 2.0) -> bool:
    """Return True if a Prefect server responds at this loopback address; no proxy is used."""
    return _status(f"{api_url}/health", timeout_s) == 200


def protected(api_url: str) -> bool:
    """Return True if the server rejects a client without a secret; a server started by an earlier Graft does not."""
    return _status(f"{api_url}/version") == 401


def _status(url: str, timeout_s: float = 2.0) -> int | None:
    if not url.startswith(f"http://{LOOPBACK}:"):
        return None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_s) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code
    except (OSError, ValueError):
        return None
