"""A long run: speed and memory from the first of 200,000 candidates to the last, a part of `make bench` (see bench.py).

The part writes every sample (seconds, CPU seconds, settled rows, resident bytes, whether slots still ran) and a plot:

    python benchmarks/bench.py long                                      # a quarter of an hour on two quiet cores
    python benchmarks/long.py samples.json docs/images/memory.svg        # the plot again
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from unittest.mock import patch

from figures import Figure
from harness import fake_server, run_flow, write_recipe

Samples = list[tuple[float, float, int, int, bool]]
POINTS = 500
"""Samples in the plot."""
SETTLED_IN = 2_000
"""Candidates after which every library is loaded and every pool filled."""


def long(number: int, folder: Path, candidates: int = 200_000) -> list[Figure]:
    """200,000 candidates (GRAFT_LONG: another number), one reviewer, median 5 ms, 256 at once.

    Without a Prefect server and the sentence encoder. Raises RuntimeError if the run fails.
    """
    candidates = int(os.environ.get("GRAFT_LONG", candidates))
    noted = Path(os.environ.get("GRAFT_LONG_SAMPLES", folder / "samples.json"))
    with fake_server(median_ms=5, sigma=0.5, seed=number) as base, patch.dict(os.environ):
        os.environ.pop("PREFECT_API_URL", None)
        recipe = write_recipe(folder, base, candidates=candidates, reviewers=1, concurrency=256)
        ours = run_flow(folder / "home", recipe, memory=True, noted=noted, seconds=7_200)[0]
    samples: Samples = json.loads(noted.read_text(encoding="utf-8"))
    running = [sample for sample in samples if sample[4]]
    begin = next(size for _, _, rows, size, _ in running if rows >= SETTLED_IN)
    first, last = _tenth(running, 0), _tenth(running, 9)
    what = f"{candidates:,} candidates"
    return [
        Figure(f"{what}: rows a second, last tenth against first", "times", last[0] / first[0], ">=", 0.95),
        Figure(f"{what}: rows a CPU second, last tenth against first", "times", last[1] / first[1], ">=", 0.95),
        Figure(f"{what}: rows a second over all", "", running[-1][2] / running[-1][0]),
        Figure(f"{what}: memory at {SETTLED_IN:,}", "MB", begin / 1e6),
        Figure(f"{what}: memory at the end of the slots", "MB", running[-1][3] / 1e6, "<=", 400),
        Figure(f"{what}: peak with publishing", "MB", max(sample[3] for sample in samples) / 1e6, "<=", 400),
        Figure(f"{what}: growth an accepted row", "KB", (running[-1][3] - begin) / ours["counts"]["accepted"] / 1e3),
    ]


def _tenth(running: Samples, tenth: int) -> tuple[float, float]:
    """Rows a second and rows a CPU second in a tenth of the rows."""
    total = running[-1][2]
    part = [sample for sample in running if total * tenth / 10 <= sample[2] <= total * (tenth + 1) / 10]
    (begun, cpu, rows, *_), (ended, used, done, *_) = part[0], part[-1]
    return (done - rows) / (ended - begun), (done - rows) / (used - cpu)


def plot(samples: Samples, file: Path) -> None:
    """Memory and speed by settled candidates, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "graft"
    from matplotlib import pyplot

    running = [sample for sample in samples if sample[4]]
    total, peak = running[-1][2], max(sample[3] for sample in samples) / 1e6
    figure, (memory, speed) = pyplot.subplots(2, 1, figsize=(7, 4.2), sharex=True, layout="constrained")
    shown = running[:: max(1, len(running) // POINTS)]
    memory.plot([sample[2] for sample in shown], [sample[3] / 1e6 for sample in shown], linewidth=0.8)
    memory.axhline(400, color="grey", linestyle=":", linewidth=0.8)
    memory.set(ylabel="resident MB", ylim=(0, None), title=f"{total:,} candidates; peak while publishing {peak:.0f} MB")
    marks = [_tenth(running, tenth) for tenth in range(10)]
    middle = [total * (tenth + 0.5) / 10 for tenth in range(10)]
    speed.plot(middle, [wall for wall, _ in marks], marker="o", label="rows a second")
    speed.plot(middle, [cpu for _, cpu in marks], marker="s", label="rows a CPU second")
    speed.set(xlabel="settled candidates", ylim=(0, None))
    speed.legend(loc="lower left", fontsize="small")
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    plot(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
