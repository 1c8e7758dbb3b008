"""Share of a server's limits that the gateway uses, in simulated time (tests/simulated.py): no machine is too busy.

    python benchmarks/limits.py

A candidate is a text, two reviews and in three of ten cases an adjudication, over five models; 5% of the calls fail and
2% are malformed. Each figure is the mean number of calls that the server works on, by the number that it allows.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from simulated import MODELS, Client, Server, simulate  # noqa: E402

SEEDS = (7, 8, 9)


def candidates(seed: int, bears: int, one_model: bool = False, **server: Any) -> float:
    """Share of a limit of `bears` calls at once that 2,000 candidates use, from the first call to the last."""
    there = Server(lambda _: bears, error_rate=0.05, malformed_rate=0.02, seed=seed, **server)

    async def play() -> float:
        client = Client(there)
        if one_model:
            client.models = dict.fromkeys(MODELS, client.models["m1"])
        return await client.work(2_000)

    return there.used(0, simulate(play())) / bears


def others(seed: int, **server: Any) -> float:
    """Calls of four models beside one with a limit of its own, against the same without that limit."""

    def answered(there: Server) -> int:
        async def again(client: Client, name: str) -> None:
            while asyncio.get_running_loop().time() < 30:
                await client.call(name)

        async def play() -> None:
            client = Client(there)
            await asyncio.gather(*(again(client, name) for name in MODELS for _ in range(40)))

        simulate(play())
        return sum(there.answered[name] for name in MODELS[1:])

    return answered(Server(seed=seed, bears_of={"m1": 4}, **server)) / answered(Server(seed=seed))


ROWS: dict[str, Callable[[int], float]] = {
    "one model, 32 at once": lambda seed: candidates(seed, 32, one_model=True),
    "five models, 32 at once for all": lambda seed: candidates(seed, 32),
    "five models, 8 at once for all": lambda seed: candidates(seed, 8),
    "five models, 32 at once, each refusal with Retry-After: 1": lambda seed: candidates(seed, 32, retry_after=1.0),
    "four models beside one that may have 4 calls at once": others,
    "the same, each refusal with Retry-After: 1": lambda seed: others(seed, retry_after=1.0),
}


def main() -> None:
    """Print the table."""
    logging.disable(logging.WARNING)
    for name, measured in ROWS.items():
        shares = sorted(100 * measured(seed) for seed in SEEDS)
        print(f"{name:60} {shares[1]:6.1f}%  ({shares[0]:.1f} to {shares[-1]:.1f})", flush=True)


if __name__ == "__main__":
    main()
