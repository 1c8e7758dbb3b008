"""The sentence encoder on ONNX Runtime against PyTorch: `python benchmarks/encoder.py [--repeats 5] [--threads 2]`.

Each measurement is a process of its own, and the engines take turns: wall and CPU seconds from the first import to the
first vector, resident memory added by it and at peak, then texts a second for 512 texts of about 15 tokens and 96 of
about 250, and the milliseconds of a text alone. Prints medians, least and most. Two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

FIGURES = {
    "ready_s": "first vector, s", "ready_cpu_s": "its CPU, s", "ready_mb": "memory added, MB",
    "peak_mb": "peak of the process, MB", "short_per_s": "short texts a second", "short_cpu_ms": "CPU of one, ms",
    "long_per_s": "long texts a second", "long_cpu_ms": "CPU of one long, ms", "alone_ms": "a text alone, ms",
}  # fmt: skip


def child(engine: str) -> dict[str, float]:
    """The figures of one engine in this process."""
    before, start, cpu = _resident(), time.perf_counter(), time.process_time()
    if engine == "PyTorch":
        from torch_encoder import embed
    else:
        from graft.agents.local.encoder import embed
    embed(["ready?"])
    found = {"ready_s": time.perf_counter() - start, "ready_cpu_s": time.process_time() - cpu}
    found["ready_mb"] = _resident() - before
    for name, texts in (("short", _texts(512, 8, 16)), ("long", _texts(96, 170, 230))):
        start, cpu = time.perf_counter(), time.process_time()
        embed(texts)
        found[f"{name}_per_s"] = len(texts) / (time.perf_counter() - start)
        found[f"{name}_cpu_ms"] = 1000 * (time.process_time() - cpu) / len(texts)
    start = time.perf_counter()
    for text in _texts(50, 8, 16):
        embed([text])
    found["alone_ms"] = 1000 * (time.perf_counter() - start) / 50
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


def _resident() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss / 2**20)


def _texts(count: int, least: int, most: int) -> list[str]:
    """So many texts of `least` to `most` everyday words; a word has about 1.1 tokens."""
    words = Path(__file__).read_text(encoding="utf-8").replace(".", " ").split()
    words = [word.casefold() for word in words if word.isalpha()]
    rng = random.Random(count)
    return [" ".join(rng.choices(words, k=rng.randint(least, most))) for _ in range(count)]


def main() -> None:
    """Measures each engine in turn, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(child(given.child)))
        return
    load = os.getloadavg()[0]
    found: dict[str, list[dict[str, float]]] = {"ONNX Runtime": [], "PyTorch": []}
    for _ in range(given.repeats):
        for engine, figures in found.items():
            done = subprocess.run(
                [sys.executable, __file__, "--child", engine], check=True, stdout=subprocess.PIPE, text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(given.threads)},
            )  # fmt: skip
            figures.append(json.loads(done.stdout.splitlines()[-1]))
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {given.threads} threads, load {load:.1f} before; "
        f"Python {platform.python_version()}; {given.repeats} repeats\n\n"
        "| figure | ONNX Runtime | PyTorch |\n|---|---:|---:|"
    )
    for key, name in FIGURES.items():
        cells = []
        for figures in found.values():
            values = [one[key] for one in figures]
            digits = 2 if max(values) < 20 else 0
            middle, least, most = statistics.median(values), min(values), max(values)
            cells.append(f"{middle:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
