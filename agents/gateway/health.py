"""Health check of a model's endpoint before anything is spent."""

from __future__ import annotations

import os
from collections.abc import Mapping

import aiohttp
from yarl import URL

from graft.agents.gateway.credentials import headers_of
from graft.agents.gateway.ledger import FREE
from graft.agents.gateway.payload import body_within, json_of
from graft.agents.local.files import ENCODER_RUNS_ON, package_folder
from graft.schemas.models import ModelSpec

PATIENCE_S = 10
NAMED = 8
"""Models named in a message."""
ONE_UNDER_ANY_NAME = "llamacpp"
"""How llama.cpp signs its list: it serves its one model whatever the requested name."""


async def check_endpoint(model: ModelSpec, endpoints: Mapping[str, str], *, by_name: bool = False) -> str | None:
    """Describe the problem of a model's endpoint in one sentence; None if it answers. Sends no prompt.

    Args:
        model: the model.
        endpoints: base address of each model that runs on this machine, by the model's name.
        by_name: also check that the server has the model, if it lists those that it has.
    """
    if unset := [name for name in model.key_variables if not os.environ.get(name, "").strip()]:
        return f"{model.name}: the environment variable {unset[0]} is not set"
    if model.provider == "encoder":
        missing = not all(package_folder(name) for name in ENCODER_RUNS_ON)
        return f"{model.name}: needs pip install 'graft-factory[local]'" if missing else None
    address = model.base_url or endpoints.get(model.name)
    if not address:
        return None if model.provider == "litellm" else f"{model.name}: the address is unknown; set base_url"
    shown, headers = _shown(address), headers_of(model)
    try:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            base = address.rstrip("/")
            status, served = await listed(session, base, headers)
            lost = status in (404, 405) and not base.endswith("/v1")
            if lost and (await listed(session, f"{base}/v1", headers))[0] == 200:
                return f"{model.name}: {shown} is incomplete; base_url should be {shown.rstrip('/')}/v1"
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        return f"{model.name}: {shown} does not answer ({type(error).__name__})"
    if status in (401, 403):
        return f"{model.name}: {shown} refused the key (HTTP {status})"
    if status >= 500:
        return f"{model.name}: {shown} failed (HTTP {status})"
    if by_name and served and not any(same_model(model, name) for name in served):
        has = ", ".join(served[:NAMED]) + (" …" if len(served) > NAMED else "")
        return f"{model.name}: {shown} has no model {model.model!r}; it has: {has}"
    return None


async def listed(
    session: aiohttp.ClientSession, base: str, headers: Mapping[str, str], *, whatever: bool = False
) -> tuple[int, list[str]]:
    """Status of a server's list of models, and their names; no names if it serves its one model under any name.

    Args:
        session: the session.
        base: the server's base address.
        headers: further headers, such as the key.
        whatever: return the names in that case too.
    """
    async with session.get(f"{base}/models", headers=headers, allow_redirects=False) as response:
        if response.status != 200:
            return response.status, []
        try:
            answer = json_of(await body_within(response))
            models = [one for one in answer["data"] if isinstance(one["id"], str)]
        except (ValueError, LookupError, TypeError):  # too large, not JSON, or another shape
            return 200, []
    lenient = any(one.get("owned_by") == ONE_UNDER_ANY_NAME for one in models)
    return 200, [] if lenient and not whatever else [one["id"] for one in models]


def same_model(model: ModelSpec, served: str) -> bool:
    """Return True if the server's model name is a form of the requested name (a path, a dated release)."""
    if model.provider in FREE:
        return True
    requested, returned = (name.lower().rsplit("/", 1)[-1] for name in (model.model, served))
    return requested.startswith(returned) or returned.startswith(requested)


def _shown(address: str) -> str:
    """Strip user name, password and query from an address."""
    try:
        url = URL(address)
        return str(url.with_user(None).with_query(None)) if url.host else "its base_url"
    except ValueError:
        return "its base_url"
