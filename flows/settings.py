"""Prefect's settings, all under GRAFT_HOME: set them before Prefect is imported, since it reads them then."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from typing import Any

from schemas.home import Home

LOOPBACK = "127.0.0.1"
STARTUP_SECONDS = 120
"""How long a server may take to start (it takes 11 to 21 s on two cores; Prefect's own patience is 20 s)."""


def prefect_environment(home: Home) -> dict[str, str]:
    """Environment variables for Prefect 3.9: all state under `home`, loopback only, nothing sent anywhere.

    Where `graft up` has a server running for this home, runs report to it (PREFECT_API_URL); else each process
    that needs a server starts one for itself.
    """
    values = {
        "PREFECT_HOME": str(home.prefect),
        "PREFECT_LOCAL_STORAGE_PATH": str(home.prefect / "storage"),
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(STARTUP_SECONDS),
        "PREFECT_SERVER_API_HOST": LOOPBACK,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
    url = running_api_url(home)
    if url:
        values["PREFECT_API_URL"] = url
    return values


def apply_prefect_environment(home: Home) -> None:
    """Set what `prefect_environment` names, and GRAFT_HOME; a variable that the user has set stays as it is."""
    home.prefect.mkdir(parents=True, exist_ok=True)
    for name, value in {**prefect_environment(home), "GRAFT_HOME": str(home.root)}.items():
        os.environ.setdefault(name, value)


def read_state(home: Home) -> dict[str, Any]:
    """What `graft up` noted of its server and worker; empty where nothing is noted or the note cannot be read."""
    try:
        state = json.loads((home.prefect / "up.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def running_api_url(home: Home) -> str | None:
    """The API's address of this home's server where one answers within 2 s, else None."""
    url = read_state(home).get("api_url")
    return url if isinstance(url, str) and healthy(url) else None


def healthy(api_url: str, timeout_s: float = 2.0) -> bool:
    """Whether a Prefect server answers at this loopback address; never goes through a proxy."""
    if not api_url.startswith(f"http://{LOOPBACK}:"):
        return False
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{api_url}/health", timeout=timeout_s) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False
