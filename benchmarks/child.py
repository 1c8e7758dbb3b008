"""One run of the flow, measured from the first slot to the last commit; prints its figures as JSON.

    GRAFT_HOME=… python benchmarks/child.py recipe.yaml --gate FOLDER --of 1

The clock starts when every one of `--of` runs that share the gate's folder stands at its first slot.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SAMPLE_S = 0.2
PAGE = os.sysconf("SC_PAGE_SIZE")


Sample = tuple[float, float, int, int, bool]
"""Seconds and CPU seconds since the first slot, settled rows, resident bytes, and whether slots were still running."""


def growth_bytes(samples: list[tuple[int, int]]) -> float:
    """Bytes of memory a row: the slope, by least squares, over the samples (rows, bytes) of the second half of rows."""
    last = samples[-1][0] if samples else 0
    late = [sample for sample in samples if sample[0] >= last / 2]
    if len({rows for rows, _ in late}) < 2:
        return 0.0
    rows, sizes = [float(r) for r, _ in late], [float(b) for _, b in late]
    middle, size = sum(rows) / len(rows), sum(sizes) / len(sizes)
    over = sum((r - middle) * (b - size) for r, b in zip(rows, sizes, strict=True))
    return over / sum((r - middle) ** 2 for r in rows)


def watch(samples: list[Sample], ended: threading.Event, published: threading.Event) -> None:
    """Note settled rows and resident memory five times a second until the version is published."""
    from graft.flows.progress import current

    began, cpu = time.monotonic(), time.process_time()
    while not published.wait(SAMPLE_S):
        progress = current()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
        if progress is not None:
            now = time.monotonic() - began, time.process_time() - cpu
            samples.append((*now, progress.settled, resident, not ended.is_set()))


def at_the_gate(folder: Path, count: int) -> None:
    """Wait until `count` processes are here."""
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < count:
        time.sleep(0.005)


def measure(recipe: str, gate: Path, count: int, memory: bool, noted: Path | None = None) -> dict[str, Any]:
    """Run it: seconds, CPU seconds of this process, growth of its peak and of its memory a row, the run's counts.

    `noted` receives every sample as JSON.
    """
    from graft.agents.local import encoder
    from graft.flows import make_dataset as module

    vars(encoder)["find_embed"] = lambda: (None, "")  # loading the encoder for the splits lies outside the clock
    clock: dict[str, Any] = {}
    samples: list[Sample] = []
    inner, ended, published = module._run_shards, threading.Event(), threading.Event()

    async def timed(shop: Any, specs: Any) -> int:
        if "start" not in clock:
            at_the_gate(gate, count)
            clock["cpu"], clock["start"] = time.process_time(), time.time()
            clock["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            if memory:
                threading.Thread(target=watch, args=(samples, ended, published), daemon=True).start()
        try:
            return await inner(shop, specs)
        finally:
            ended.set()  # publishing reads every row: it is not growth by rows
            clock["end"], clock["cpu_s"] = time.time(), time.process_time() - clock["cpu"]
            clock["grown_kb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - clock["peak"]

    module._run_shards = timed
    result = asyncio.run(module.make_dataset(recipe))
    published.set()
    if noted is not None:
        noted.write_text(json.dumps(samples), encoding="utf-8")
    return {
        **{name: clock[name] for name in ("start", "end", "cpu_s", "grown_kb")},
        "grown_bytes_a_row": growth_bytes([(rows, size) for _, _, rows, size, running in samples if running]),
        "counts": result["run"]["counts"],
        "run_id": result["run"]["id"],
        "stopped_by": result["run"]["stopped_by"],
    }


def main() -> None:
    """Print the figures of one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--gate", type=Path, required=True)
    parser.add_argument("--of", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="note memory by rows")
    parser.add_argument("--noted", type=Path, help="write the samples to this file")
    given = parser.parse_args()
    print(json.dumps(measure(given.recipe, given.gate, given.of, given.memory, given.noted)))


if __name__ == "__main__":
    main()
