"""Speed and memory of `make_dataset` against tests/fake_llm.py in a process of its own, beside a bare aiohttp loop.

    python benchmarks/throughput.py --candidates 2000

2,000 candidates, one generator call, two reviewers, adjudication on disagreement; reply time lognormal, median 200 ms,
sigma 0.5, 64 at once. Ideal time is the sum of the reply times that were needed, over 64. Journal, validation and lake
commits are on; the clock starts when the first slot opens and stops when the last batch is committed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

RECIPE = """
name: bench
task: {{kind: classification, labels: [{{name: alpha, description: one}}, {{name: beta, description: two}}]}}
seeds:
  rows:
    - {{text: the quick brown fox jumps over a lazy dog, label: alpha}}
    - {{text: a calm river runs below the old stone bridge, label: beta}}
models:
{models}
roles:
  generator: {{models: [m1], max_tokens: 64}}
  reviewer: {{models: [m2, m3, m4], max_tokens: 64}}
  adjudicator: {{models: [m5], max_tokens: 64}}
method: {{kind: gra, reviewers: 2, max_cosine: null, early_exit: false}}
target: {{rows_per_label: {rows}}}
limits: {{candidates: {candidates}, concurrency: 64, shard_rows: 1000000, min_yield: 0}}
"""


def start_server(*more: str) -> tuple[subprocess.Popen[str], str]:
    """fake_llm in its own process, on a free port of loopback: (process, base address)."""
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "fake_llm.py"), "--port", "0", *more], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    return server, server.stdout.readline().split()[-1].rstrip("/").removesuffix("/v1")


def stats(base: str) -> dict[str, float]:
    """The server's own counters."""
    with urllib.request.urlopen(f"{base}/stats") as reply:
        return dict(json.loads(reply.read()))


def measure(candidates: int, base: str, folder: Path) -> dict[str, float]:
    """One run of the flow in a fresh GRAFT_HOME."""
    os.environ["GRAFT_HOME"] = str(folder / "home")
    models = "\n".join(
        f"  - {{name: m{i}, provider: openai, model: fake-{i}, base_url: {base}/v1, max_concurrency: 64}}"
        for i in range(1, 6)
    )
    recipe = folder / "bench.yaml"
    recipe.write_text(RECIPE.format(models=models, rows=candidates, candidates=candidates))
    from flows.settings import apply_prefect_environment
    from schemas.home import Home

    apply_prefect_environment(Home.find())
    from flows import make_dataset as module

    clock: dict[str, float] = {}
    inner = module._run_shards

    async def timed(shop, specs):  # type: ignore[no-untyped-def]
        clock.setdefault("cpu", time.process_time())
        clock.setdefault("start", time.perf_counter())
        clock["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            return await inner(shop, specs)
        finally:
            clock["seconds"] = time.perf_counter() - clock["start"]
            clock["cpu_s"] = time.process_time() - clock["cpu"]
            clock["grown_kb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - clock["rss"]

    module._run_shards = timed
    try:
        result = asyncio.run(module.make_dataset(str(recipe)))
    finally:
        module._run_shards = inner
    served = stats(base)
    return {
        "seconds": clock["seconds"],
        "calls": served["calls"],
        "ideal": served["latency_s"] / 64,
        "cpu_ms_a_call": 1000 * clock["cpu_s"] / served["calls"],
        "grown_kb": clock["grown_kb"],
        "opened": result["run"]["counts"]["opened"],
    }


def main() -> None:
    """Run it `--repeat` times, print a Markdown table with medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--median-ms", type=float, default=200.0, help="the server's median reply time")
    options = parser.parse_args()
    runs = []
    from bare_loop import bare_loop

    for number in range(options.repeat):
        server, base = start_server("--median-ms", str(options.median_ms), "--sigma", "0.5", "--seed", str(number))
        try:
            with tempfile.TemporaryDirectory() as folder:
                ours = measure(options.candidates, base, Path(folder))
            urllib.request.urlopen(urllib.request.Request(f"{base}/reset", method="POST")).read()
            bare_seconds, bare_cpu = asyncio.run(bare_loop(base, int(ours["calls"]), 64))
            bare_ideal = stats(base)["latency_s"] / 64
        finally:
            server.terminate()
            server.wait(10)
        runs.append(
            {**ours, "share": ours["ideal"] / ours["seconds"], "bare": bare_ideal / bare_seconds,
             "bare_cpu": 1000 * bare_cpu / ours["calls"]}
        )  # fmt: skip
        print(f"# run {number + 1}: {runs[-1]}", flush=True)
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; {len(runs)} runs\n")
    print("| figure | median | least | most |\n|---|---:|---:|---:|")
    for name, key, unit in (
        ("share of ideal speed, Graft", "share", "%"), ("share of ideal speed, bare loop", "bare", "%"),
        ("client CPU a call, Graft (ms)", "cpu_ms_a_call", ""), ("client CPU a call, bare loop (ms)", "bare_cpu", ""),
        ("model calls", "calls", ""), ("peak memory grown in the run (KB)", "grown_kb", ""),
    ):  # fmt: skip
        values = [run[key] * (100 if unit else 1) for run in runs]
        print(f"| {name} | {statistics.median(values):.2f}{unit} | {min(values):.2f} | {max(values):.2f} |")


if __name__ == "__main__":
    main()
