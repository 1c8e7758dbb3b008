"""Export against DuckDB's own COPY of the same columns: seconds and peak memory, side by side.

    python benchmarks/data_export.py --rows 1000000

Each figure is the median of three processes of their own, COPY and export in turn. COPY writes a file a split, as the
export does, which also counts rows, hashes its files and writes card and manifest. "filtered" is an export whose filter
chooses all rows, "sharded" one into 8 files a split.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from graft.schemas.home import Home

REPEATS = 3
COPIES = {"parquet": "FORMAT parquet, COMPRESSION zstd", "jsonl": "FORMAT json", "csv": "FORMAT csv, HEADER"}
EXPORTS: dict[str, dict[str, Any]] = {
    "parquet": {"format": "parquet"}, "jsonl": {"format": "jsonl"}, "csv": {"format": "csv"},
    "jsonl filtered": {"format": "jsonl", "where": "length(text) > 0"},
    "parquet sharded": {"format": "parquet", "shards": 8},
    "messages": {"format": "messages"}, "fasttext": {"format": "fasttext"}, "intents": {"format": "intents"},
    "hf": {"format": "hf"},
}  # fmt: skip


def once(home: Home, what: str, name: str, out: Path) -> dict[str, float]:
    """One export or COPY in this process: seconds, and peaks of memory in MiB, before of the open lake alone."""
    from graft.data.export import export
    from graft.data.lake import Lake
    from graft.data.versions import version

    with Lake.open(home, read_only=True) as lake:
        version(lake, "big")  # what the first query imports is not timed
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started, worked = time.perf_counter(), time.process_time()
        if what == "copy":
            query = "SELECT id, text, label, source FROM lake.version_rows WHERE dataset = 'big' AND version = 1"
            for split in ("train", "validation", "test"):
                lake.sql(f"COPY ({query} AND split = '{split}') TO '{out / split}' ({COPIES[name]})")
        else:
            export(lake, "big", out=out / "export", **EXPORTS[name])
        seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "cpu": cpu, "before": before, "peak": peak}


def measured(home: Home, name: str) -> dict[str, dict[str, float]]:
    """`export` and, where there is one, `copy`: the medians of REPEATS processes of each."""
    whats = ["export", *(["copy"] if name.split()[0] in COPIES else [])]
    found: dict[str, list[dict[str, float]]] = {what: [] for what in whats}
    for _ in range(REPEATS):
        for what in whats:
            with tempfile.TemporaryDirectory(dir=home.root) as out:
                part = name if what == "export" else name.split()[0]
                command = [sys.executable, __file__, "--once", what, part, out, "--home", str(home.root)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[what].append(json.loads(done.stdout.splitlines()[-1]))
    return {what: {key: statistics.median(one[key] for one in all) for key in all[0]} for what, all in found.items()}


def _cells(one: dict[str, float]) -> str:
    return f"{one['seconds']:.2f} | {one['cpu']:.2f} | {one['peak']:.0f}"


def main() -> None:
    """Fill a lake, measure, print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--home", type=Path, help="a home that has the lake of big_lake.py already")
    parser.add_argument("--once", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        what, name, out = given.once
        print(json.dumps(once(Home(given.home), what, name, Path(out))))
        return
    folder = given.home or Path(tempfile.mkdtemp(prefix="graft-export-"))
    try:
        if not given.home:
            from big_lake import fill

            fill(Home(folder), rows=given.rows)
        print("| export | s | CPU s | MiB | COPY s | COPY CPU s | COPY MiB | times |\n" + "|---" * 8 + "|")
        for name in EXPORTS:
            found = measured(Home(folder), name)
            made, copy = found["export"], found.get("copy")
            beside = f"{_cells(copy)} | {made['seconds'] / copy['seconds']:.2f}" if copy else " | | | "
            print(f"| {name} | {_cells(made)} | {beside} |", flush=True)
    finally:
        if not given.home:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
