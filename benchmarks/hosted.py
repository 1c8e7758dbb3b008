"""Hosted models, sent directly and through LiteLLM: a part of `make bench` (see bench.py).

The fake server stands in for the provider: its address is in the provider's own variable. CPU per call is that of a
process that makes 2,000 calls through the gateway, 64 at once, journal included, after 64 calls that import what they
need. The clock to the first call runs from the command `graft run` of five hosted models, on a fresh home.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from figures import Figure
from harness import ROOT, fake_server, stats, write_recipe
from whole import command

sys.path.insert(0, str(ROOT))

CALLS, AT_ONCE = 2_000, 64
WAYS = {"directly": "openai/gpt-4o-mini", "through LiteLLM": "custom_openai/gpt-4o-mini"}
"""The same protocol; LiteLLM sends the second."""


async def _calls(model: str, base: str, folder: Path) -> float:
    """CPU of a call in milliseconds."""
    from graft.agents.gateway import Gateway
    from graft.schemas.calls import CallRequest, Message
    from graft.schemas.models import ModelSpec

    spec = ModelSpec(
        name="m", provider="litellm", model=model, base_url=base, api_key_env="OPENAI_API_KEY", max_concurrency=AT_ONCE
    )

    def ask(number: int) -> CallRequest:
        turns = (Message(role="user", content=f"Write a short text, number {number}."),)
        return CallRequest(model=spec, role="generator", purpose="bench", messages=turns, max_tokens=64, seed=number)

    async with Gateway(journal=folder / "journal.sqlite", concurrency=AT_ONCE) as gateway:
        await asyncio.gather(*(gateway.call(ask(-1 - number)) for number in range(AT_ONCE)))
        started = time.process_time()
        await asyncio.gather(*(gateway.call(ask(number)) for number in range(CALLS)))
        return 1000 * (time.process_time() - started) / CALLS


def hosted(number: int, folder: Path) -> list[Figure]:
    """CPU of a call, and the command to its first call, of both ways in turns."""
    return [figure for way, model in WAYS.items() for figure in _of(way, model, number, folder / way.split()[-1])]


def _of(way: str, model: str, number: int, folder: Path) -> list[Figure]:
    folder.mkdir()
    with fake_server(median_ms=20, sigma=0.5, seed=number) as base, _provider(base):
        words = [sys.executable, __file__, model, f"{base}/v1", str(folder)]
        cpu_ms = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    with fake_server(median_ms=20, sigma=0.5, seed=number) as base, _provider(base):
        recipe = write_recipe(folder, base, candidates=50)
        named = f"provider: litellm, api_key_env: OPENAI_API_KEY, model: {model}"
        text = re.sub(r"provider: openai, model: fake-.", named, recipe.read_text(encoding="utf-8"))
        recipe.write_text(text, encoding="utf-8")
        run = command(["-m", "graft", "run", str(recipe)], folder / "home")
        first = stats(base)["first_at"] - run.start
    return [
        Figure(f"hosted models {way}: CPU of a call", "ms", cpu_ms, "<=", 1.5),
        Figure(f"hosted models {way}: command to first call", "s", first, "<=", 3.0),
        Figure(f"hosted models {way}: CPU of that command", "s", run.cpu_s),
        Figure(f"hosted models {way}: its peak memory", "MB", run.peak_mb, "<=", 400),
    ]


@contextmanager
def _provider(base: str) -> Iterator[None]:
    """The fake server as OpenAI's address."""
    before = dict(os.environ)
    os.environ.update({"OPENAI_API_KEY": "sk-bench", "OPENAI_BASE_URL": f"{base}/v1"})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    print(asyncio.run(_calls(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
