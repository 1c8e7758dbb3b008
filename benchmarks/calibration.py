"""Label judging by the shipped models, raw and calibrated: `python benchmarks/calibration.py [TEXTS]`.

CLINC150's ten domains, two examples a domain, a fixed random sample of test texts; real servers, the real choice
prompt. Needs ../shared/data/clinc150; 200 texts take about two minutes on 2 cores.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from graft.agents.local.encoder import EncoderTransport  # noqa: E402
from graft.agents.local.servers import embedded_servers  # noqa: E402
from graft.agents.methods import Ask  # noqa: E402
from graft.agents.roles.calibration import batch_means, calibrate, content_free_means  # noqa: E402
from graft.agents.roles.choice import judge_label  # noqa: E402
from graft.schemas.calls import CallRequest, Reply, TokenLogprob  # noqa: E402
from graft.schemas.home import Home  # noqa: E402
from graft.schemas.models import EMBEDDED_POOL, ModelSpec  # noqa: E402
from graft.schemas.recipe import Recipe, SeedRow, SeedSettings  # noqa: E402
from graft.schemas.rows import Seed  # noqa: E402
from graft.schemas.tasks.base import Label  # noqa: E402
from graft.schemas.tasks.classification import ClassificationTask  # noqa: E402

DATA = ROOT.parent / "shared" / "data" / "clinc150"


def direct_ask(session: aiohttp.ClientSession, urls: Mapping[str, str], encoder: EncoderTransport) -> Ask:
    """Call the servers directly: no journal, no retries, so that only the judging is measured."""

    async def ask(request: CallRequest) -> Reply:
        if request.model.provider == "encoder":
            return await encoder.send(request)
        body: dict[str, Any] = {"max_tokens": request.max_tokens, "temperature": request.temperature}
        if request.prompt is not None:
            address, body["prompt"], body["logprobs"] = "/completions", request.prompt, request.top_logprobs
        else:
            address, body["messages"] = "/chat/completions", [m.model_dump() for m in request.messages]
            body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        async with session.post(urls[request.model.name] + address, json=body) as answer:
            answer.raise_for_status()
            choice = (await answer.json())["choices"][0]
        first = choice["logprobs"]["content"][0]
        top = tuple((entry["token"], entry["logprob"]) for entry in first["top_logprobs"])
        return Reply(
            key=request.key(),
            text=first["token"],
            logprobs=(TokenLogprob(token=first["token"], logprob=first["logprob"], top=top),),
        )

    return ask


def read_rows(name: str) -> list[dict[str, str]]:
    """Rows of one CLINC150 file."""
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def accuracy(rows: Sequence[Mapping[str, float]], means: Mapping[str, float] | None, wanted: Sequence[str]) -> float:
    """Share of rows whose best calibrated label is the wanted one."""
    right = 0
    for raw, label in zip(rows, wanted, strict=True):
        scores = calibrate(raw, means)
        right += max(scores, key=scores.__getitem__) == label
    return right / len(wanted)


async def measure(
    ask: Ask, recipe: Recipe, seeds: Sequence[Seed], model: ModelSpec, test: Sequence[dict[str, str]]
) -> str:
    """One line of the table: accuracy raw, content-free and batch, and the time of a judgement."""
    begin = time.perf_counter()

    async def judge(text: str) -> dict[str, float]:
        async with room:
            return (await judge_label(ask, recipe=recipe, model=model, role="reviewer", seeds=seeds, text=text)).raw

    room = asyncio.Semaphore(8)
    rows = await asyncio.gather(*(judge(row["text"]) for row in test))
    took = (time.perf_counter() - begin) / len(test)
    wanted = [row["domain"] for row in test]
    free = await content_free_means(ask, recipe=recipe, model=model, role="reviewer", seeds=seeds)
    figures = [accuracy(rows, means, wanted) for means in (None, free, batch_means(rows))]
    return f"{model.name:10}" + "".join(f"{figure:>14.1%}" for figure in figures) + f"{took * 1000:>12.0f} ms"


async def main(size: int) -> None:
    """Prints the table."""
    seed_rows = read_rows("train_2shot_seed0.jsonl")
    test = random.Random(0).sample(read_rows("test.jsonl"), size)
    names = sorted({row["domain"] for row in seed_rows})
    recipe = Recipe(
        name="clinc150",
        task=ClassificationTask(labels=tuple(Label(name=name) for name in names), text="a request to an assistant"),
        seeds=SeedSettings(rows=tuple(SeedRow(text=row["text"], label=row["domain"]) for row in seed_rows)),
    )
    seeds = [Seed.of(row["text"], row["domain"]) for row in seed_rows]
    encoder = EncoderTransport()
    async with embedded_servers(EMBEDDED_POOL, Home.find(), print) as urls, aiohttp.ClientSession() as session:
        print(f"\n{'model':10}{'raw':>14}{'content-free':>14}{'batch':>14}{'a text':>15}")
        for model in EMBEDDED_POOL:
            print(await measure(direct_ask(session, urls, encoder), recipe, seeds, model, test), flush=True)
    await encoder.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
