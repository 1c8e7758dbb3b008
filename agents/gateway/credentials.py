"""A model's keys and headers from environment variables, and their removal from servers' texts."""

from __future__ import annotations

import os

from graft.agents.gateway.payload import storable
from graft.schemas.errors import KeyMissing
from graft.schemas.models import ModelSpec

RAW = 2_000
"""Characters kept of a server's error."""


def headers_of(model: ModelSpec) -> dict[str, str]:
    """Build the request headers: content type, the model's key, and `headers_env`.

    Raises KeyMissing with the variable's name.
    """
    headers = {"Content-Type": "application/json"} | own_headers(model)
    if model.api_key_env:
        headers["Authorization"] = f"Bearer {_required(model.api_key_env, model)}"
    return headers


def own_headers(model: ModelSpec) -> dict[str, str]:
    """Headers of `headers_env` with their values. Raises KeyMissing."""
    return {name: _required(variable, model) for name, variable in model.headers_env.items()}


def keys_of(model: ModelSpec) -> tuple[str, ...]:
    """Values of the model's key variables that are set, longest first."""
    return tuple(sorted(filter(None, (_secret(name, model) for name in model.key_variables)), key=len, reverse=True))


def raw_of(payload: bytes, model: ModelSpec) -> str:
    """Beginning of a server's response for the record, with the key removed."""
    return storable(without_keys(payload.decode(errors="replace"), model)[:RAW])


def without_keys(text: str, model: ModelSpec) -> str:
    """Replace the model's keys in a text by `(key)`."""
    for key in keys_of(model):
        text = text.replace(key, "(key)")
    return text


def _required(variable: str, model: ModelSpec) -> str:
    value = _secret(variable, model)
    if not value:
        raise KeyMissing(
            f"the environment variable {variable} is not set",
            where=model.name,
            fix=f"export {variable}=… before the run",
        )
    return value


def _secret(variable: str, model: ModelSpec) -> str:
    """Value of a variable without surrounding whitespace; empty if it is not set."""
    value = os.environ.get(variable, "").strip()
    if value and not (value.isascii() and value.isprintable()):
        raise KeyMissing(
            f"the environment variable {variable} does not hold a key: it contains characters that no key has",
            where=model.name, fix=f"export {variable}=… again, on one line",
        )  # fmt: skip
    return value
