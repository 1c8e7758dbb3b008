"""Savings of the prefix cache on the embedded servers: `python benchmarks/prefix.py [--repeat 3] [--per-label 10]`.

The prompts, models and seeds of recipes/topics.yaml. A slot needs one text (Gemma), two judgements (SmolLM2) and, every
second one, an adjudication (Gemma); the judged texts are the hand-written test messages, so that no reply changes a
prompt. Three ways, each on servers that were just started, 8 slots at once: in the order in which a shard opens its
slots, in a random order, and in the shard's order with `cache_prompt: false`. A token was evaluated where the usage
does not say that it was cached. Seconds are the whole pass, written tokens included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from graft.agents.gateway.openai_transport import OpenAITransport  # noqa: E402
from graft.agents.local.servers import embedded_servers  # noqa: E402
from graft.agents.methods.base import Drawn, Place  # noqa: E402
from graft.agents.methods.steps.draw import make_slot  # noqa: E402
from graft.agents.roles.choice import choice_request  # noqa: E402
from graft.agents.roles.generator import write_text  # noqa: E402
from graft.flows.streaming import CHUNK  # noqa: E402
from graft.schemas.calls import CallRequest, Reply  # noqa: E402
from graft.schemas.home import Home  # noqa: E402
from graft.schemas.load import load_recipe  # noqa: E402
from graft.schemas.models import ModelSpec  # noqa: E402
from graft.schemas.recipe import Recipe  # noqa: E402
from graft.schemas.rows import Seed, Slot  # noqa: E402

WIDTH = 8
ROLES = ("generator", "reviewer", "adjudicator")
ORDERS = ("as a shard schedules", "shuffled", "no prefix cache")


@dataclass(frozen=True)
class Work:
    """The slots in a shard's order, and the two texts that each judges."""

    recipe: Recipe
    seeds: Sequence[Seed]
    slots: Sequence[Slot]
    texts: Mapping[str, tuple[str, str]]


@dataclass
class Pass:
    """Prompt tokens by role of one pass, and how long it took."""

    sent: Counter[str] = field(default_factory=Counter)
    evaluated: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def demo_work(per_label: int) -> Work:
    """The recipe's slots, `per_label` of each label."""
    folder = ROOT / "recipes"
    recipe = load_recipe(folder / "topics.yaml")
    seeds = [Seed.of(row["text"], row["label"]) for row in read_rows(folder / "data" / "topics_seeds.jsonl")]
    real = read_rows(folder / "data" / "topics_test.jsonl")
    pool = {one.name: [seed for seed in seeds if seed.label == one.name] for one in recipe.task.categories}
    drawn = Drawn(recipe, pool)
    slots, texts = [], {}
    for place, label in enumerate(pool):
        own = [row["text"] for row in real if row["label"] == label]
        for index in range(per_label):
            slot = make_slot(Place("bench", 0, 0, index, label), drawn, 2, 2)
            slots.append((index // CHUNK, place, index, slot))
            texts[slot.id] = own[2 * index % len(own)], own[(2 * index + 1) % len(own)]
    return Work(recipe, seeds, [one[-1] for one in sorted(slots, key=lambda one: one[:3])], texts)


def read_rows(file: Path) -> list[dict[str, str]]:
    """The rows of a JSON Lines file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


async def run_pass(work: Work, order: str, draw: int, home: Home, model: str) -> Pass:
    """One pass on servers of its own; a `model` that is named plays every role on one server."""
    models = {one.name: one for one in work.recipe.models if one.provider == "embedded"}
    if model:
        alone = models["smollm2"].model_copy(update={"name": "alone", "model": model})
        models = {"gemma": alone, "smollm2": alone}
    if order == "no prefix cache":
        uncached = {"extra": {"cache_prompt": False}, "timeout_s": 900.0}  # without it a reply takes minutes
        models = {name: model.model_copy(update=uncached) for name, model in models.items()}
    slots = list(work.slots)
    if order == "shuffled":
        random.Random(draw).shuffle(slots)
    served = {one.name: one for one in models.values()}
    async with embedded_servers(tuple(served.values()), home, lambda line: None) as urls:
        transport = OpenAITransport(urls, connections=4 * WIDTH)
        try:
            return await measured(work, slots, models, transport)
        finally:
            await transport.close()


async def measured(
    work: Work, slots: Sequence[Slot], models: Mapping[str, ModelSpec], transport: OpenAITransport
) -> Pass:
    """Runs the slots, WIDTH at once, and counts."""
    done, room, begin = Pass(), asyncio.Semaphore(WIDTH), time.perf_counter()

    async def ask(request: CallRequest) -> Reply:
        reply = await transport.send(request)
        sent, cached = reply.usage.prompt_tokens, reply.usage.cached_tokens
        assert sent is not None and cached is not None, "the server tells both"
        done.calls[request.role] += 1
        done.sent[request.role] += sent
        done.evaluated[request.role] += sent - cached
        return reply

    async def one(slot: Slot) -> None:
        async with room:
            await write_text(ask, work.recipe, models["gemma"], slot)
            texts = work.texts[slot.id]
            await asyncio.gather(*(judge("reviewer", models["smollm2"], text) for text in texts))
            if slot.index % 2:
                await judge("adjudicator", models["gemma"], texts[0])

    async def judge(role: str, model: ModelSpec, text: str) -> None:
        await ask(choice_request(recipe=work.recipe, model=model, role=role, seeds=work.seeds, text=text))

    await asyncio.gather(*(one(slot) for slot in slots))
    done.seconds = time.perf_counter() - begin
    return done


def table(passes: Mapping[str, Sequence[Pass]]) -> str:
    """Medians and spread, Markdown."""
    lines = [
        "| order | prompt tokens sent | evaluated | share | " + " | ".join(ROLES) + " | seconds, of those without |",
        "|---|---:|---:|---:|" + "---:|" * (len(ROLES) + 1),
    ]
    without = statistics.median(one.seconds for one in passes[ORDERS[-1]])
    for order, runs in passes.items():
        shares = [f"{_median([one.evaluated[r] / one.sent[r] for one in runs]):.1%}" for r in ROLES]
        whole = [one.evaluated.total() for one in runs]
        sent = _median([one.sent.total() for one in runs])
        spread = f"{_median(whole):,.0f} ({min(whole):,} to {max(whole):,})"
        ratios = [one.seconds / without for one in runs]
        took = f"{_median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        cells = [order, f"{sent:,.0f}", spread, f"{_median(whole) / sent:.1%}", *shares, took]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


async def main(repeat: int, per_label: int, model: str) -> None:
    """Prints one line a pass to stderr, and the table."""
    work = demo_work(per_label)
    passes: dict[str, list[Pass]] = {order: [] for order in ORDERS}
    with tempfile.TemporaryDirectory(prefix="graft-prefix-") as folder:
        for draw in range(repeat):
            for order in ORDERS:
                one = await run_pass(work, order, draw, Home(Path(folder)), model)
                passes[order].append(one)
                line = f"{order}: {dict(one.calls)}, {one.evaluated.total():,} of {one.sent.total():,} tokens evaluated"
                print(f"{line} {dict(one.evaluated)}, {one.seconds:.1f} s", file=sys.stderr, flush=True)
    print(table(passes))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="passes of each order")
    parser.add_argument("--per-label", type=int, default=10, help="slots of each of the six labels")
    parser.add_argument("--model", default="", help="built-in model that plays every role, on one server")
    given = parser.parse_args()
    asyncio.run(main(given.repeat, given.per_label, given.model))
