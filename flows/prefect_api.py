"""Access to a Prefect server: a client with short timeouts, addresses of its pages, readable errors.

Prefect is imported inside the functions.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from graft.flows.secret import secret
from graft.flows.settings import apply_prefect_environment
from graft.flows.state import LOOPBACK, Access, server_of
from graft.schemas.errors import GraftError
from graft.schemas.home import Home

if TYPE_CHECKING:
    import httpx
    from prefect.client.orchestration import SyncPrefectClient

ANSWER_SECONDS = 2.5
"""Timeout of a request in seconds: a hanging server is reported, not waited for."""
PATIENT_SECONDS = 60.0
"""Timeout of a request while a server starts."""


def require_server(home: Home) -> Access:
    """This home's server. Raises GraftError within 2 s if it does not respond."""
    found = server_of(home)
    if found is None:
        raise away(str(home.root))
    return found


def away(where: str) -> GraftError:
    """The error for a server that does not respond."""
    return GraftError("Prefect's server is not up", where=where, fix="start it: graft up")


@contextmanager
def client_of(home: Home, seconds: float = ANSWER_SECONDS) -> Iterator[SyncPrefectClient]:
    """A client of this home's server; errors as in `require_server` and `client_at`."""
    found = require_server(home)
    apply_prefect_environment(home)
    with client_at(found, seconds) as client:
        yield client


def access_to(home: Home, api_url: str) -> Access:
    """The server noted by a run of this home: the server of this process's settings, or ours on this machine."""
    if os.environ.get("PREFECT_API_URL") == api_url:
        return Access(api_url, os.environ.get("PREFECT_API_AUTH_STRING"))
    return Access(api_url, secret(home) if api_url.startswith(f"http://{LOOPBACK}:") else None)


@contextmanager
def connected(server: Access | str) -> Iterator[None]:
    """While the block runs, Prefect's clients of this process use this server.

    Keys and secrets set for another server are not sent to it.
    """
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL, temporary_settings

    url, auth = (server, None) if isinstance(server, str) else server
    changes: dict[Any, Any] = {PREFECT_API_URL: url}
    if PREFECT_API_URL.value() != url or auth is not None:
        changes |= {PREFECT_API_AUTH_STRING: auth, PREFECT_API_KEY: None}
    with temporary_settings(changes):
        yield


@contextmanager
def client_at(server: Access | str, seconds: float = ANSWER_SECONDS) -> Iterator[SyncPrefectClient]:
    """A client of the server at an address, with a timeout of `seconds` and no retries after errors.

    After a 503 (the database was locked for a moment) the request is repeated within `seconds`.
    Raises GraftError if the server does not respond or rejects the request.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    url = server if isinstance(server, str) else server.url
    direct = url.startswith(f"http://{LOOPBACK}:")
    settings: dict[str, Any] = {"timeout": seconds, "trust_env": not direct}
    retries = PREFECT_CLIENT_MAX_RETRIES.value()
    if seconds <= ANSWER_SECONDS:
        retries = 0
        if direct:
            settings["transport"] = _asking_again(seconds)
    with (
        connected(server),
        temporary_settings({PREFECT_CLIENT_MAX_RETRIES: retries}),
        get_client(httpx_settings=settings, sync_client=True) as client,
    ):
        try:
            yield client
        except httpx.HTTPStatusError as error:
            what = f"Prefect's server refused: {error.response.text[:300]}"
            raise GraftError(what, where=url, fix="see its page and GRAFT_HOME/prefect/logs") from error
        except httpx.TransportError as error:
            raise away(url) from error


def _asking_again(seconds: float) -> httpx.HTTPTransport:
    """A transport that repeats a request after a 503, until `seconds` have passed."""
    import httpx

    class AskingAgain(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            deadline, pause = time.monotonic() + seconds, 0.1
            while True:
                response = super().handle_request(request)
                if response.status_code != 503 or time.monotonic() + pause > deadline:
                    return response
                response.close()
                time.sleep(pause)
                pause *= 2

    return AskingAgain()


def page_of(api_url: str) -> str:
    """The address of a server's pages."""
    return api_url.removesuffix("/").removesuffix("/api")


def flow_run_url(api_url: str, flow_run_id: str) -> str:
    """The page of a flow run. A server that a run started for itself has no pages."""
    return f"{page_of(api_url)}/runs/flow-run/{flow_run_id}"


def deployment_url(api_url: str, deployment_id: str) -> str:
    """The page of a deployment."""
    return f"{page_of(api_url)}/deployments/deployment/{deployment_id}"
