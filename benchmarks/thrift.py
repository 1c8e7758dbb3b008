"""Cost of the committee and size of the journal: rows of `make bench` (see bench.py)."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from figures import Figure
from harness import ROOT, fake_server, run_flow, stats, write_recipe

sys.path.insert(0, str(ROOT))

Outcomes = dict[tuple[str, int], tuple[str, str, str]]
POOR = 0.5
"""Share of texts that every judge scores low on most points; the rest get one low score in seven."""


def committee(number: int, folder: Path, candidates: int = 1_000) -> list[Figure]:
    """GRA with three reviewers, with and without early exit on the same draws: decisions equal, and the calls saved.

    Without shared judgement (the server's plain scores, each drawn alone) nothing is settled early; with texts that all
    judges find poor it is. Both are measured; the aim is for the second.
    """
    figures = []
    for what, poor in (("half of the texts poor", POOR), ("scores drawn alone", 0.0)):
        calls: dict[bool, int] = {}
        reviewed: dict[bool, int] = {}
        outcomes: dict[bool, Outcomes] = {}
        with fake_server(median_ms=2, seed=number, poor_rate=poor) as base:
            for early in (False, True):
                home, before = folder / f"home-{poor}-{early}", stats(base)["calls"]
                recipe = write_recipe(folder, base, candidates=candidates, reviewers=3, early_exit=early)
                run = run_flow(home, recipe)[0]
                calls[early] = stats(base)["calls"] - before
                outcomes[early], reviewed[early] = _outcomes(home, run["run_id"])
        accepted = sum(status == "accepted" for status, *_ in outcomes[True].values()) or 1
        same = sum(outcomes[True][place] == ended for place, ended in outcomes[False].items())
        ratio, reviews = 100 * calls[True] / calls[False], 100 * reviewed[True] / reviewed[False]
        reach = {"sign": "<=", "reach": 75} if poor else {}
        figures += [
            Figure(f"decisions unchanged by early exit, {what}", "%", 100 * same / len(outcomes[False]), ">=", 100),
            Figure(f"calls of asking everybody, {what}", "%", ratio, **reach),  # type: ignore[arg-type]
            Figure(f"reviews of asking everybody, {what}", "%", reviews),
            Figure(f"calls an accepted row, {what}", "", calls[True] / accepted),
            Figure(f"calls an accepted row without early exit, {what}", "", calls[False] / accepted),
        ]
    return figures


def _outcomes(home: Path, run_id: str) -> tuple[Outcomes, int]:
    """(label, index) to (status, code, text), and the number of reviewers called."""
    from graft.data.lake import Lake
    from graft.schemas.home import Home

    query = 'SELECT slot_label, "index", status, code, text, asked FROM lake.candidates WHERE run_id = ?'
    with Lake.open(Home(home), read_only=True) as lake:
        rows = lake.query(query, [run_id])
    ended = {(r["slot_label"], r["index"]): (r["status"], r["code"], r["text"]) for r in rows}
    return ended, sum(row["asked"] for row in rows)


def journal(number: int, folder: Path, rows: int = 60_000, writers: int = 64) -> list[Figure]:
    """Rows a second that the journal takes from 64 writers at once: a request of about 1 KB, a reply of 300 letters."""
    return [Figure("journal: rows a second from 64 writers", "", asyncio.run(_journal(folder, rows, writers)),
                   ">=", 20_000)]  # fmt: skip


async def _journal(folder: Path, rows: int, writers: int) -> float:
    import orjson

    from graft.agents.gateway.journal import Journal
    from graft.schemas.base import stable_hash
    from graft.schemas.calls import Reply, Usage

    ask = "Write one message that a customer of an online shop would send about a parcel. " * 12
    say = '{"fit": 9, "usability": 8, "clarity": 9, "naturalness": 8, "comment": "a plain question of a customer"} ' * 3
    work = [
        (
            orjson.dumps({"model": "fake", "seed": n, "messages": [{"role": "user", "content": f"{n} {ask}"}]}),
            Reply(key=stable_hash("row", n, length=32), text=f"{n} {say}", price_usd=0.0001,
                  usage=Usage(prompt_tokens=240, completion_tokens=75)),
        )
        for n in range(rows)
    ]  # fmt: skip
    left, store = iter(work), Journal(folder / "journal.sqlite")

    async def write() -> None:
        for request, reply in left:
            await store.add(request, reply)

    started = time.perf_counter()
    await asyncio.gather(*(write() for _ in range(writers)))
    seconds = time.perf_counter() - started
    store.close()
    return rows / seconds
