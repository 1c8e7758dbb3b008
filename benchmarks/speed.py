"""Speed, memory and faults of `make_dataset` against the fake server: rows of `make bench` (see bench.py).

One generator call, two reviewers, adjudication on disagreement. Journal, validation, gates and lake commits are on; the
clock runs from the first slot to the last commit. Ideal time is the sum of the reply times that were needed, over the
calls allowed at once. The bare loop sends as many requests to the same server right after.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from bare_loop import bare_loop
from figures import Figure
from harness import ROOT, behave, fake_server, run_flow, stats, write_recipe

sys.path.insert(0, str(ROOT))


def _bare(base: str, calls: int, concurrency: int) -> tuple[float, float]:
    """The bare loop's seconds and its CPU seconds."""
    behave(base)
    return asyncio.run(bare_loop(base, calls, concurrency))


def ideal(number: int, folder: Path, candidates: int = 2_000) -> list[Figure]:
    """Median 200 ms lognormal, 64 at once: share of ideal speed, and client CPU a call."""
    with fake_server(median_ms=200, sigma=0.5, seed=number) as base:
        ours = run_flow(folder / "home", write_recipe(folder, base, candidates=candidates))[0]
        served = stats(base)
        bare_seconds, bare_cpu = _bare(base, served["calls"], 64)
        bare_ideal = stats(base)["latency_s"] / 64
    seconds, calls = ours["end"] - ours["start"], served["calls"]
    share = 100 * served["latency_s"] / 64 / seconds
    return [
        Figure(
            "share of ideal speed, median 200 ms, 64 at once", "%", share, ">=", 95, 100 * bare_ideal / bare_seconds
        ),
        Figure(
            "client CPU a call, all included", "ms", 1000 * ours["cpu_s"] / calls, "<=", 1.5, 1000 * bare_cpu / calls
        ),
    ]


def fast(number: int, folder: Path, candidates: int = 2_000) -> list[Figure]:
    """Median 50 ms, 256 at once: time against the bare loop's; one process, then two with half of the work each.

    The two share one GRAFT_HOME: one lake, one journal. Their time is from the first slot of either to the last commit.
    """
    figures = []
    with fake_server(median_ms=50, sigma=0.5, seed=number) as base:
        for processes in (1, 2):
            behave(base)
            recipes = [
                write_recipe(
                    folder, base, name=f"fast-{processes}-{part}", seed=100 + part,
                    candidates=candidates // processes, concurrency=256 // processes,
                )
                for part in range(processes)
            ]  # fmt: skip
            runs = run_flow(folder / f"home-{processes}", *recipes)
            calls = stats(base)["calls"]
            seconds = max(run["end"] for run in runs) - min(run["start"] for run in runs)
            bare_seconds, _ = _bare(base, calls, 256)
            what = "one process" if processes == 1 else "two processes"
            times = seconds / bare_seconds
            figures.append(
                Figure(f"time against the bare loop, median 50 ms, 256 at once, {what}", "times", times, "<=", 2.5, 1.0)
            )
            figures.append(Figure(f"seconds of the same, {what}", "s", seconds, bare=bare_seconds))
    return figures


def memory(number: int, folder: Path, candidates: int = 20_000) -> list[Figure]:
    """20,000 candidates with one reviewer, median 5 ms: growth of resident memory a row over the second half."""
    with fake_server(median_ms=5, sigma=0.5, seed=number) as base:
        recipe = write_recipe(folder, base, candidates=candidates, reviewers=1)
        ours = run_flow(folder / "home", recipe, memory=True)[0]
    grown = ours["grown_bytes_a_row"] / 1000
    return [
        Figure(f"memory growth a row, {candidates:,} candidates", "KB", grown, "<=", 1.0),
        Figure("peak memory grown in the same run", "MB", ours["grown_kb"] / 1000),
    ]


def faults(number: int, folder: Path, candidates: int = 2_000) -> list[Figure]:
    """5% 500s, 2% malformed, 429 above 32 at once, median 200 ms: outcomes, and the speed against 32 at once.

    The speed is the sum of every served reply time (also of those that went wrong) over 32, by the seconds taken. The
    server serves one model; beside it five models that it limits together.
    """
    figures = []
    for one_model in (True, False):
        behaviour: dict[str, Any] = {"error_rate": 0.05, "malformed_rate": 0.02, "rate_limit_above": 32}
        place = folder / ("one" if one_model else "five")
        place.mkdir()
        with fake_server(median_ms=200, sigma=0.5, seed=number, **behaviour) as base:
            recipe = write_recipe(place, base, candidates=candidates, one_model=one_model)
            ours = run_flow(place / "home", recipe)[0]
            served = stats(base)
            behave(base, error_rate=0.0, malformed_rate=0.0, rate_limit_above=0)
            bare_seconds, _ = _bare(base, served["calls"], 32)
            bare = 100 * stats(base)["latency_s"] / 32 / bare_seconds
        speed = 100 * served["latency_s"] / 32 / (ours["end"] - ours["start"])
        if not one_model:
            what = "the same speed, five models that the server limits together"
            figures.append(Figure(what, "%", speed, ">=", 90, bare))
            continue
        ended = _with_a_reason(place / "home", ours["run_id"])
        figures += [
            Figure("slots with an outcome and a reason, under faults", "%", 100 * ended / candidates, ">=", 100),
            Figure("speed under faults, of what 32 at once allow", "%", speed, ">=", 90, bare),
            Figure("candidates that failed under faults", "", ours["counts"]["failed"]),
            Figure("refusals (429) in the same run", "", served["statuses"].get("429", 0)),
        ]
    return figures


def _with_a_reason(home: Path, run_id: str) -> int:
    """Slots of a run that the lake holds once, with a status, a code and a reason."""
    from graft.data.lake import Lake
    from graft.schemas.home import Home

    query = """SELECT count(DISTINCT slot_id) AS n FROM lake.candidates
               WHERE run_id = ? AND status IN ('accepted', 'rejected', 'failed') AND code <> '' AND reason <> ''"""
    with Lake.open(Home(home), read_only=True) as lake:
        return int(lake.query(query, [run_id])[0]["n"])
