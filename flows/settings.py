"""Prefect's settings, all under GRAFT_HOME: set them before Prefect is imported, since it reads them then."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from graft.flows.secret import prefect_folder
from graft.flows.state import LOOPBACK, server_of
from graft.schemas.home import Home

_OURS = set[str]()
"""Addresses of servers of `graft up` that this process was pointed to."""
_OF_SERVER = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")


def prefect_environment(home: Home) -> dict[str, str]:
    """Environment variables for Prefect 3.9: all state under `home`, loopback only, nothing sent anywhere.

    If `graft up` runs a server for this home, flows go through it (PREFECT_API_URL, with its secret); else they run
    without Prefect. Prefect's own temporary server is off, because it is open to everybody.
    A home may be somebody else's, so nothing of it is run: results are JSON, and Prefect's profiles and logging
    configuration, which can name any callable, are those of its package.
    """
    values = {
        "PREFECT_HOME": str(home.prefect),
        "PREFECT_LOCAL_STORAGE_PATH": str(home.prefect / "storage"),
        "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "PREFECT_SERVER_API_HOST": LOOPBACK,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        **_shipped_files(),
    }
    server = server_of(home)
    if server is not None:
        values["PREFECT_API_URL"] = server.url
        if server.secret is not None:
            values["PREFECT_API_AUTH_STRING"] = server.secret
    return values


def _shipped_files() -> dict[str, str]:
    """Prefect's packaged files instead of those in the home; a user's choice stays."""
    found = importlib.util.find_spec("prefect")
    root = Path(found.origin if found and found.origin else "").parent
    ours = {
        "PREFECT_PROFILES_PATH": str(root / "settings" / "profiles.toml"),
        "PREFECT_LOGGING_SETTINGS_PATH": str(root / "logging" / "logging.yml"),
    }
    return {name: os.environ.get(name, value) for name, value in ours.items()}


def apply_prefect_environment(home: Home) -> None:
    """Set what `prefect_environment` names, and GRAFT_HOME; a variable that the user has set stays as it is.

    The address of a server and its secret go together: a server that the user names never gets this home's secret.
    """
    prefect_folder(home)
    values = {**prefect_environment(home), "GRAFT_HOME": str(home.root)}
    for ours in _OURS - {values.get("PREFECT_API_URL", "")}:
        forget_server(ours)  # it has ended since
    url = os.environ.get("PREFECT_API_URL") or values.get("PREFECT_API_URL")
    if url is not None and url == values.get("PREFECT_API_URL"):
        if os.environ.get("PREFECT_API_URL") != url:
            _OURS.add(url)
        os.environ |= {name: values[name] for name in _OF_SERVER if name in values}
    for name, value in values.items():
        if name not in _OF_SERVER:
            os.environ.setdefault(name, value)


def forget_server(url: str) -> None:
    """Remove a stopped server of ours from this process's environment."""
    if os.environ.get("PREFECT_API_URL") == url:
        for name in _OF_SERVER:
            os.environ.pop(name, None)
