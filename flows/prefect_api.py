"""One door to a Prefect server: a client that gives up soon, the addresses of its pages, errors that people can mend.

Prefect is imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from flows.settings import LOOPBACK, apply_prefect_environment, healthy, read_state
from schemas.errors import GraftError
from schemas.home import Home

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

ANSWER_SECONDS = 2.5
"""How long one request may take: a server that hangs is told to a person, not waited for."""
PATIENT_SECONDS = 60.0
"""The same while a server starts."""


def require_url(home: Home) -> str:
    """The API's address of this home's server. Raises GraftError within 2 s where none answers."""
    url = read_state(home).get("api_url")
    if not url or not healthy(url):
        raise away(str(home.root))
    return str(url)


def away(where: str) -> GraftError:
    """The error of a server that does not answer."""
    return GraftError("Prefect's server is not up", where=where, fix="start it: graft up")


@contextmanager
def client_of(home: Home, seconds: float = ANSWER_SECONDS) -> Iterator[SyncPrefectClient]:
    """A client of this home's server; errors as `require_url` and `client_at`."""
    url = require_url(home)
    apply_prefect_environment(home)
    with client_at(url, seconds) as client:
        yield client


@contextmanager
def client_at(api_url: str, seconds: float = ANSWER_SECONDS) -> Iterator[SyncPrefectClient]:
    """A client of the server at an address: `seconds` for a request, and no second try.

    Raises GraftError where the server does not answer or refuses what it is asked.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    direct = api_url.startswith(f"http://{LOOPBACK}:")
    settings: dict[str, Any] = {"timeout": seconds, "trust_env": not direct}
    retries = 0 if seconds <= ANSWER_SECONDS else PREFECT_CLIENT_MAX_RETRIES.value()
    with (
        temporary_settings({PREFECT_API_URL: api_url, PREFECT_CLIENT_MAX_RETRIES: retries}),
        get_client(httpx_settings=settings, sync_client=True) as client,
    ):
        try:
            yield client
        except httpx.HTTPStatusError as error:
            what = f"Prefect's server refused: {error.response.text[:300]}"
            raise GraftError(what, where=api_url, fix="look at its page, and at GRAFT_HOME/prefect/logs") from error
        except httpx.TransportError as error:
            raise away(api_url) from error


def page_of(api_url: str) -> str:
    """The address of a server's pages."""
    return api_url.removesuffix("/").removesuffix("/api")


def flow_run_url(api_url: str, flow_run_id: str) -> str:
    """The page of a flow run. A server that a run started for itself has no pages; one of `graft up` has."""
    return f"{page_of(api_url)}/runs/flow-run/{flow_run_id}"


def deployment_url(api_url: str, deployment_id: str) -> str:
    """The page of a deployment."""
    return f"{page_of(api_url)}/deployments/deployment/{deployment_id}"
