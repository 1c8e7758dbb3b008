"""Whether a model's endpoint answers, asked before anything is spent."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping

import aiohttp

from schemas.models import ModelSpec

PATIENCE_S = 10


async def check_endpoint(model: ModelSpec, endpoints: Mapping[str, str]) -> str | None:
    """A sentence that says what is wrong with a model's endpoint, or None. Sends no prompt, spends nothing."""
    if model.api_key_env and not os.environ.get(model.api_key_env):
        return f"{model.name}: the environment variable {model.api_key_env} is not set"
    if model.provider == "encoder":
        missing = importlib.util.find_spec("transformers") is None or importlib.util.find_spec("torch") is None
        return f"{model.name}: needs pip install 'graft-factory[local]'" if missing else None
    address = model.base_url or endpoints.get(model.name)
    if not address:
        return None if model.provider == "litellm" else f"{model.name}: no address is known"
    headers = {"Authorization": f"Bearer {os.environ[model.api_key_env]}"} if model.api_key_env else {}
    try:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(f"{address.rstrip('/')}/models", headers=headers) as response,
        ):
            if response.status in (401, 403):
                return f"{model.name}: {address} refused the key (HTTP {response.status})"
            return f"{model.name}: {address} failed (HTTP {response.status})" if response.status >= 500 else None
    except (TimeoutError, aiohttp.ClientError, ValueError) as error:
        return f"{model.name}: {address} does not answer ({type(error).__name__})"
