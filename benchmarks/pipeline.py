"""CPU per call of a pipeline with one step `ask` beside GRA's plain generation, in turns, on the fake server.

    python benchmarks/pipeline.py --calls 400 --turns 7

Slots are made, run and gated by nothing; the gateway journals every call. The server's CPU does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from harness import fake_server

from graft.agents.gateway import Gateway
from graft.agents.methods import Context, Drawn, Place, method_of
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed

NAMES, TOGETHER, WARM = ("good", "bad"), 32, 40
SEEDS = [Seed.of(f"seed {at} of {name} with a few more words", name) for name in NAMES for at in range(6)]
PROMPT = """Write one new text of the label {{ label }}: {{ description }}. Here are texts of this label:
{% for one in shots %}
- {{ one.text }}
{% endfor %}
Write another that differs from all of them."""
ASK = {"ask": "made", "prompt": PROMPT, "reply": {"text": "text"}}
ARMS = {
    "GRA, plain generation": {"kind": "gra", "label_policy": "intended"},
    "pipeline, one ask": {
        "kind": "pipeline", "steps": [{"draw": "shots", "seeds": 3}, ASK], "row": {"text": "made.text"},
    },
}  # fmt: skip


def recipe_of(url: str, method: dict[str, object]) -> Recipe:
    """A recipe with that method, two labels and six seeds of each."""
    return Recipe.model_validate({
        "name": "t", "method": method,
        "task": {"kind": "classification", "labels": [{"name": name, "description": name} for name in NAMES]},
        "models": [
            {"name": "m", "provider": "openai", "model": "fake", "base_url": f"{url}/v1", "max_concurrency": TOGETHER}
        ],
        "seeds": {"rows": [{"text": one.text, "label": one.label} for one in SEEDS]},
    })  # fmt: skip


async def measured(recipe: Recipe, calls: int, turn: int) -> float:
    """Milliseconds of this process's CPU per call, after WARM calls."""
    method = method_of(recipe)
    drawn = Drawn(recipe, {name: [one for one in SEEDS if one.label == name] for name in NAMES})
    with tempfile.TemporaryDirectory() as folder:
        async with Gateway(journal=Path(folder) / "journal.sqlite", endpoints={}, concurrency=TOGETHER) as gateway:
            context = Context(recipe=recipe, seeds=SEEDS, ask=gateway.call)

            async def one(index: int) -> bool:
                slot = method.make_slot(Place(f"r{turn}", turn, 0, index, NAMES[0]), drawn)
                return (await method.run_slot(slot, context)).accepted

            await asyncio.gather(*(one(index) for index in range(WARM)))
            begun, made = time.process_time(), list[bool]()
            for first in range(WARM, WARM + calls, TOGETHER):
                made += await asyncio.gather(*(one(at) for at in range(first, min(first + TOGETHER, WARM + calls))))
            if not all(made):
                raise SystemExit("a call failed")
            return 1_000 * (time.process_time() - begun) / len(made)


def main() -> None:
    """Print the median of the turns for each arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--turns", type=int, default=7)
    given = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in ARMS}
    with fake_server() as url:
        for turn in range(given.turns):
            for name, method in ARMS.items():
                found[name].append(asyncio.run(measured(recipe_of(url, method), given.calls, turn)))
    for name, figures in found.items():
        print(f"{name}: {statistics.median(figures):.2f} ms of CPU a call ({min(figures):.2f} to {max(figures):.2f})")


if __name__ == "__main__":
    main()
