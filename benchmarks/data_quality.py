"""Time and memory of the quality report on the lake that big_lake.py makes.

    python benchmarks/data_quality.py --rows 1000000 [--versions 2] [--candidates] [--keep FOLDER]

Each report runs in a process of its own: seconds of the report, CPU seconds and peak resident memory of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from graft.schemas.home import Home


def report(home: Home, ref: str) -> dict[str, Any]:
    """One report in this process: seconds, CPU seconds, peak MB, and what was sampled."""
    from graft.data.lake import Lake
    from graft.data.quality import quality
    from graft.data.versions import version

    begun = time.perf_counter()
    with Lake.open(home, read_only=True) as lake:
        found = quality(lake, version(lake, ref))
    seconds, used = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "ref": ref,
        "rows": found.rows,
        "candidates": found.reviews.candidates if found.reviews else 0,
        "seconds": round(seconds, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": used.ru_maxrss // 1024,
        "sampled": found.sampled,
    }


def measure(home: Home, rows: int, versions: int, candidates: bool) -> list[dict[str, Any]]:
    """Fill the lake unless it is filled, and report on its first and last version."""
    from big_lake import DATASET, fill

    if not home.lake.exists():
        fill(home, rows=rows, versions=versions, candidates=candidates)
    found = []
    for number in sorted({1, versions}):
        command = [sys.executable, __file__, "--one", f"{DATASET}@{number}"]
        done = subprocess.run(
            command, env={**os.environ, "GRAFT_HOME": str(home.root)}, stdout=subprocess.PIPE, check=True, timeout=1800
        )
        found.append({**json.loads(done.stdout), "load": [round(part, 1) for part in os.getloadavg()]})
    return found


def main() -> None:
    """Print a JSON line a report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--versions", type=int, default=1)
    parser.add_argument("--candidates", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder of the lake, used again where it is filled")
    parser.add_argument("--one", help="report on this version of the lake of GRAFT_HOME, in this process")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(report(Home.find(), given.one)))
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Home((given.keep or Path(folder)).resolve())
        for line in measure(home, given.rows, given.versions, given.candidates):
            print(json.dumps(line))


if __name__ == "__main__":
    main()
