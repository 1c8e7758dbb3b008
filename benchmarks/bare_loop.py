"""The least that a client can do: a bare aiohttp loop against tests/fake_llm.py: no journal, no checks.

    python benchmarks/bare_loop.py http://127.0.0.1:PORT --calls 2000 --concurrency 64

What the gateway costs beyond this is its own.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import aiohttp
import orjson


async def bare_loop(url: str, calls: int, concurrency: int) -> tuple[float, float]:
    """Send so many distinct chat requests, `concurrency` at once: (seconds of wall clock, seconds of client CPU).

    `url` is the server's address, with or without /v1. Raises aiohttp.ClientResponseError on any status but 200.
    """
    address = url.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"
    numbers = iter(range(calls))
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connector, raise_for_status=True) as session:

        async def work() -> None:
            for number in numbers:
                content = f"Write a short text, number {number}."
                body = {"model": "fake", "max_tokens": 64, "messages": [{"role": "user", "content": content}]}
                headers = {"Content-Type": "application/json"}
                async with session.post(address, data=orjson.dumps(body), headers=headers) as response:
                    orjson.loads(await response.read())["choices"][0]["message"]["content"]

        started, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        return time.perf_counter() - started, time.process_time() - cpu


def main() -> None:
    """Print the two figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=64)
    given = parser.parse_args()
    seconds, cpu = asyncio.run(bare_loop(given.url, given.calls, given.concurrency))
    print(f"{given.calls} calls in {seconds:.2f} s, {1000 * cpu / given.calls:.2f} ms of client CPU a call")


if __name__ == "__main__":
    main()
