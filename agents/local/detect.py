"""Model servers that other programs run on this machine, at their usual loopback ports."""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import dataclass

import aiohttp

from graft.agents.gateway.health import listed

USUAL = {"Ollama": 11434, "llama.cpp": 8080, "LM Studio": 1234, "vLLM": 8000, "SGLang": 30000}
"""Program to the port that it listens on unless told otherwise."""
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
