"""Graft's figures in one table, each beside a bare aiohttp loop in the same run where there is one to compare.

    python benchmarks/bench.py                       # everything, medians of three
    python benchmarks/bench.py ideal faults --repeat 5

Parts, with the time that one repeat takes on two quiet cores: ideal (1 min), fast (45 s), memory (2 min; once), faults
(1.5 min), committee (45 s; once), journal (5 s), kills (2 min; once), whole (6 min), hosted (1 min). All of it takes
about 38 minutes; long (a quarter of an hour; once) runs only if it is named.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import hosted
import long
import speed
import thrift
import whole
from drill import kill_figures
from figures import Figure, machine, table
from harness import prefect_server

Part = Callable[[int, Path], list[Figure]]
PARTS: dict[str, Part] = {
    "ideal": speed.ideal, "fast": speed.fast, "memory": speed.memory, "faults": speed.faults,
    "committee": thrift.committee, "journal": thrift.journal, "kills": kill_figures,
    "whole": whole.whole, "hosted": hosted.hosted, "long": long.long,
}  # fmt: skip
ONCE = ("memory", "committee", "kills", "long")
"""Parts that hardly vary, or take long: measured once, whatever `--repeat` is."""


def main() -> None:
    """Measure the named parts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; none: all but long")
    parser.add_argument("--repeat", type=int, default=3, help="how often each is measured (default 3)")
    given = parser.parse_args()
    unknown = [name for name in given.parts if name not in PARTS]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    repeats: list[list[Figure]] = []
    with tempfile.TemporaryDirectory(prefix="graft-bench-") as folder, prefect_server(Path(folder) / "prefect"):
        for name in given.parts or [name for name in PARTS if name != "long"]:
            for number in range(1 if name in ONCE else given.repeat):
                place = Path(folder) / f"{name}-{number}"
                place.mkdir()
                started = time.monotonic()
                repeats.append(PARTS[name](number, place))
                line = "; ".join(f"{figure.name}: {figure.value:.2f}" for figure in repeats[-1])
                print(f"# {name} {number + 1}, {time.monotonic() - started:.0f} s: {line}", flush=True)
    print(f"\n{machine()}\n\n{table(repeats)}")


if __name__ == "__main__":
    main()
