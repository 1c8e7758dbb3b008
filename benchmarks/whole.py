"""A run as its user experiences it, from the command to its exit: a part of `make bench` (see bench.py).

`graft run` on the GRA work of speed.py, in a process of its own, beside a bare aiohttp loop in its own process that
sends as many requests to the same server. The server notes when the first request arrived and when it sent the last
reply; the process tree's CPU is what the system accounts to it, its peak memory the largest sum of resident sizes, ten
times a second.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from figures import Figure
from harness import ROOT, behave, fake_server, stats, write_recipe

SAMPLE_S = 0.1


@dataclass(frozen=True)
class Whole:
    """One command: wall clock and CPU in seconds, peak memory of its process tree in MB, start and end in unix time."""

    seconds: float
    cpu_s: float
    peak_mb: float
    start: float
    end: float


def command(words: list[str], home: Path, server: str = "") -> Whole:
    """Run and measure a command. Raises RuntimeError with the end of its output if it fails."""
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    env |= {"GRAFT_HOME": str(home)} | ({"PREFECT_API_URL": server} if server else {})
    log = home.with_suffix(".log")
    with log.open("w") as out:
        start = time.time()
        child = subprocess.Popen([sys.executable, *words], env=env, cwd=ROOT, stdout=out, stderr=out)
        peak = [0.0]
        watcher = threading.Thread(target=_watch, args=(child.pid, peak), daemon=True)
        watcher.start()
        _, status, used = os.wait4(child.pid, 0)
        end = time.time()
        child.returncode = os.waitstatus_to_exitcode(status)
    watcher.join(5)
    if child.returncode:
        raise RuntimeError(f"{words}: exit {child.returncode}: {log.read_text()[-2000:]}")
    return Whole(end - start, used.ru_utime + used.ru_stime, peak[0], start, end)


def _watch(pid: int, peak: list[float]) -> None:
    try:
        root = psutil.Process(pid)
        while True:
            tree = [root, *root.children(recursive=True)]
            peak[0] = max(peak[0], sum(one.memory_info().rss for one in tree) / 1e6)
            time.sleep(SAMPLE_S)
    except psutil.Error:
        return


def _beside_the_loop(
    what: str, folder: Path, seed: int, aim: tuple[str, float] | None, *, candidates: int, concurrency: int,
    median_ms: int, server: str = "", at_once: int = 0, **faults: Any,
) -> list[Figure]:  # fmt: skip
    """Figures of a run on a fresh home, of the same command again, and of the loop with `at_once` requests at once."""
    home = folder / f"home-{median_ms}-{len(list(folder.iterdir()))}"
    with fake_server(median_ms=median_ms, sigma=0.5, seed=seed, **faults) as base:
        recipe = write_recipe(folder, base, candidates=candidates, concurrency=concurrency, name=home.name)
        run = ["-m", "graft", "run", str(recipe)]
        ours = command(run, home, server)
        served = stats(base)
        again = command(run, home, server)
        if stats(base)["requests"] != served["requests"]:
            raise RuntimeError("the same command made calls again")
        behave(base, **dict.fromkeys(faults, 0))
        loop = [str(ROOT / "benchmarks" / "bare_loop.py"), base]
        bare = command([*loop, "--calls", str(served["calls"]), "--concurrency", str(at_once or concurrency)], home)
    name, value = aim or ("whole process", 0.0)
    times = ours.seconds / bare.seconds
    aims = {unit: ("<=", value) if name == unit else ("", None) for unit in ("s", "times")}
    return [
        Figure(f"{what}: command to first call", "s", served["first_at"] - ours.start, "<=", 3.0),
        Figure(f"{what}: last reply to exit", "s", ours.end - served["last_at"], "<=", 2.0),
        Figure(f"{what}: whole process", "s", ours.seconds, *aims["s"], bare=bare.seconds),
        Figure(f"{what}: whole process against the loop's", "times", times, *aims["times"]),
        Figure(f"{what}: calls, first to last reply", "s", served["last_at"] - served["first_at"]),
        Figure(f"{what}: CPU of the tree a call", "ms", 1000 * ours.cpu_s / served["calls"], "<=", 2.0,
               1000 * bare.cpu_s / served["calls"]),
        Figure(f"{what}: peak memory of the tree", "MB", ours.peak_mb, "<=", 400, bare.peak_mb),
        Figure(f"{what}: the same command again", "s", again.seconds, "<=", 2.0),
    ]  # fmt: skip


def whole(number: int, folder: Path, candidates: int = 2_000) -> list[Figure]:
    """Command to exit: 200 ms and 64 at once, the same through a Prefect server, 50 ms and 256 at once, and faults."""
    server = os.environ.get("PREFECT_API_URL", "")
    steady: dict[str, Any] = {"candidates": candidates, "concurrency": 64, "median_ms": 200}
    fast: dict[str, Any] = {"candidates": candidates, "concurrency": 256, "median_ms": 50}
    faults: dict[str, Any] = {"error_rate": 0.05, "malformed_rate": 0.02, "rate_limit_above": 32, "at_once": 32}
    return [
        *_beside_the_loop("200 ms, 64 at once", folder, number, ("times", 1.15), **steady),
        *_beside_the_loop("the same with a Prefect server", folder, number, None, **steady, server=server),
        *_beside_the_loop("50 ms, 256 at once", folder, number, ("s", 8.0), **fast),
        *_beside_the_loop("200 ms, 64 at once, faults", folder, number, ("times", 1.1), **steady, **faults),
    ]
