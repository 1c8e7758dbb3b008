"""Health check of a model's endpoint before anything is spent."""

from __future__ import annotations

import os
from collections.abc import Mapping

import aiohttp
from yarl import URL

from graft.agents.gateway.credentials import headers_of
from graft.agents.local.files import ENCODER_RUNS_ON, package_folder
from graft.schemas.models import ModelSpec

PATIENCE_S = 10


async def check_endpoint(model: ModelSpec, endpoints: Mapping[str, str]) -> str | None:
    """Describe the problem of a model's endpoint in one sentence; None if it answers. Sends no prompt."""
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
            status = await _status(session, f"{base}/models", headers)
            lost = status in (404, 405) and not base.endswith("/v1")
            if lost and await _status(session, f"{base}/v1/models", headers) == 200:
                return f"{model.name}: {shown} is incomplete; base_url should be {shown.rstrip('/')}/v1"
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        return f"{model.name}: {shown} does not answer ({type(error).__name__})"
    if status in (401, 403):
        return f"{model.name}: {shown} refused the key (HTTP {status})"
    return f"{model.name}: {shown} failed (HTTP {status})" if status >= 500 else None


async def _status(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> int:
    async with session.get(url, headers=headers) as response:
        return response.status


def _shown(address: str) -> str:
    """Strip user name, password and query from an address."""
    try:
        url = URL(address)
        return str(url.with_user(None).with_query(None)) if url.host else "its base_url"
    except ValueError:
        return "its base_url"
