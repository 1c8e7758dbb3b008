"""One door to a Prefect server: a client that gives up soon, the addresses of its pages, errors that people can mend.

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
"""How long one request may take: a server that hangs is told to a person, not waited for."""
PATIENT_SECONDS = 60.0
"""The same while a server starts."""


def require_server(home: Home) -> Access:
    """This home's server. Raises GraftError within 2 s where it does not answer."""
    found = server_of(home)
    if found is None:
        raise away(str(home.root))
    return found


def away(where: str) -> GraftError:
    """The error of a server that does not answer."""
    return GraftError("Prefect's server is not up", where=where, fix="start it: graft up")


@contextmanager
def client_of(home: Home, seconds: float = ANSWER_SECONDS) -> Iterator[SyncPrefectClient]:
    """A client of this home's server; errors as `require_server` and `client_at`."""
    found = require_server(home)
    apply_prefect_environment(home)
    with client_at(found, seconds) as client:
        yield client


def access_to(home: Home, api_url: str) -> Access:
    """The server that a run of this home noted: the one that this process is set to, or one of ours on this machine."""
    if os.environ.get("PREFECT_API_URL") == api_url:
        return Access(api_url, os.environ.get("PREFECT_API_AUTH_STRING"))
    return Access(api_url, secret(home) if api_url.startswith(f"http://{LOOPBACK}:") else None)


@contextmanager
def connected(server: Access | str) -> Iterator[None]:
    """Inside, Prefect's clients of this process talk to this server, whatever its settings said before.

    Keys and secrets that are set for another server are not sent to it.
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
    """A client of the server at an address: `seconds` for a request, and no second try after an error.

    Where the server answers 503 (its database was locked for a moment) it is asked again within `seconds`.
    Raises GraftError where the server does not answer or refuses what it is asked.
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
            raise GraftError(what, where=url, fix="look at its page, and at GRAFT_HOME/prefect/logs") from error
        except httpx.TransportError as error:
            raise away(url) from error


def _asking_again(seconds: float) -> httpx.HTTPTransport:
    """A transport that repeats a request that was answered with 503, until `seconds` have passed."""
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
    """The page of a flow run. A server that a run started for itself has no pages; one of `graft up` has."""
    return f"{page_of(api_url)}/runs/flow-run/{flow_run_id}"


def deployment_url(api_url: str, deployment_id: str) -> str:
    """The page of a deployment."""
    return f"{page_of(api_url)}/deployments/deployment/{deployment_id}"
