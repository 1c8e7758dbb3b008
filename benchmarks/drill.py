"""The drill: runs that are killed, rate-limited, fed garbage, starved of disk or cut off from power; and their caps.

    python benchmarks/drill.py                     # everything: a quarter of an hour
    python benchmarks/drill.py --kills 3 --faults none --others none
    python benchmarks/drill.py --kills 0 --faults none --others caps power

Prints Markdown tables; ends with 1 if anything finished was lost, doubled or requested again, or if a cap was exceeded.
The flow, lake, journal and gateway are the real ones; each life is a process of its own, forked from one that has
imported them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from pathlib import Path

from drill_caps import cap_across_restarts, cap_in_any_order
from drill_faults import FAULTS, Outcome, suffer
from drill_kills import CANDIDATES, Kills, kill_often
from drill_lake import Finding, kill_exports, kill_imports, maintain_beside, race_recalls
from drill_power import cut_power
from figures import Figure, machine
from harness import ROOT, fake_server, prefect_server

sys.path.insert(0, str(ROOT))

KILLS, SEED, MINUTES, CUTS = 30, 7, 5.0, 10
OTHERS = ("caps", "power", "recall", "export", "import", "upkeep")


@contextmanager
def stage(folder: Path) -> Iterator[tuple[ForkServerContext, str]]:
    """Yield the process context that lives start from and the fake server's address; both end with the block."""
    from graft.flows.settings import prefect_environment
    from graft.schemas.home import Home

    for name, value in prefect_environment(Home(folder / "none")).items():
        os.environ.setdefault(name, value)
    os.environ["PYTHONPATH"] = f"{Path(__file__).resolve().parent}{os.pathsep}{ROOT}"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["drill_life"])
    first = context.Process(target=os.getpid)  # now everything is imported, before any clock runs
    first.start()
    first.join()
    with fake_server() as base:
        yield context, base


def kill_figures(number: int, folder: Path) -> list[Figure]:
    """The row of `make bench`: 30 kills."""
    with stage(folder) as (context, base):
        found = kill_often(context, folder, base, KILLS, SEED + number, time.monotonic() + 300)
    return [
        Figure("kills at a random moment", "", found.kills),
        Figure("finished calls repeated after kill -9", "", found.finished_repeated, "<=", 0),
        Figure("acknowledged rows and replies lost by kill -9", "", found.rows_lost + found.replies_lost, "<=", 0),
        Figure("rows doubled by kill -9", "", found.rows_doubled, "<=", 0),
    ]


def kills_table(found: Kills) -> str:
    """The kills' sums as Markdown."""
    rows = {
        f"kills over {found.runs} runs": found.kills,
        "model calls, rows kept": f"{found.calls:,}, {found.rows_kept:,}",
        "finished calls sent again": found.finished_repeated,
        "replies given out and not in the journal": found.replies_lost,
        "acknowledged rows lost": found.rows_lost,
        "rows or slots doubled": found.rows_doubled,
        "opened slots without an outcome in the end": found.slots_without_outcome,
        "runs that ended otherwise than the one never killed": found.unlike_the_clean_run,
        "answers under way at a kill, requested again (no fault)": found.repeated,
    }
    return "| kill -9 | |\n|---|---:|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def faults_table(outcomes: list[Outcome]) -> str:
    """One line a fault as Markdown."""
    lines = ["| fault | slots opened | with an outcome | ended | seconds | sound |", "|---|---:|---:|---|---:|---|"]
    for one in outcomes:
        lines.append(f"| {one.name} | {one.opened} | {one.settled} | {one.ended} | {one.seconds:.1f} | {one.verdict} |")
    return "\n".join(lines)


def drill_other(name: str, context: ForkServerContext, folder: Path, base: str, seed: int) -> list[Finding]:
    """One of OTHERS; each is bounded by a count."""
    if name == "caps":
        limit = time.monotonic() + 300
        return [cap_across_restarts(context, folder, base, seed, limit), cap_in_any_order()]
    if name == "power":
        return [power_cuts(folder, seed)]
    if name == "upkeep":
        return [maintain_beside(context, folder)]
    work = {"recall": race_recalls, "export": kill_exports, "import": kill_imports}[name]
    return [work(context, folder, seed)]


def power_cuts(folder: Path, seed: int) -> Finding:
    """Power cuts as one row of the table. Raises NoCompiler if there is no C compiler."""
    began, place = time.monotonic(), folder.resolve() / "power"
    place.mkdir()
    cuts = cut_power(place, CUTS, seed)
    found = Finding("power cut, unsynced writes dropped", cuts.cuts, "cuts", time.monotonic() - began)
    for lost in ("calls_lost", "batches_lost", "unreadable"):
        found.check(not getattr(cuts, lost), f"{getattr(cuts, lost)} {lost.replace('_', ' ')}")
    found.check(cuts.calls > 0 and cuts.batches > 0, "nothing was acknowledged before the cuts")
    return found


def others_table(found: list[Finding]) -> str:
    """One line for each of the other drills as Markdown."""
    lines = ["| drill | done | seconds | sound |", "|---|---:|---:|---|"]
    for one in found:
        lines.append(f"| {one.name} | {one.done} {one.of} | {one.seconds:.1f} | {one.verdict} |")
    return "\n".join(lines)


def main() -> int:
    """Drill, print the tables. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--faults", nargs="*", default=list(FAULTS), help=f"none, or of: {', '.join(FAULTS)}")
    parser.add_argument("--others", nargs="*", default=list(OTHERS), help=f"none, or of: {', '.join(OTHERS)}")
    parser.add_argument("--candidates", type=int, default=CANDIDATES, help="of each run that is killed")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument(
        "--minutes",
        type=float,
        default=MINUTES,
        help="no further kill or fault begins after so many",
    )
    given = parser.parse_args()
    wanted = [name for name in given.faults if name != "none"]
    further = [name for name in given.others if name != "none"]
    for names, known in ((wanted, FAULTS), (further, OTHERS)):
        if unknown := [name for name in names if name not in known]:
            parser.error(f"no drill {unknown[0]!r}; choose from {', '.join(known)}")
    started = time.monotonic()
    outcomes, found, rest = list[Outcome](), Kills(), list[Finding]()
    with tempfile.TemporaryDirectory(prefix="graft-drill-") as name:
        folder = Path(name)
        with prefect_server(folder / "prefect"), stage(folder) as (context, base):
            if given.kills:
                until = started + 60 * given.minutes * (0.6 if wanted else 0.95)
                found = kill_often(context, folder, base, given.kills, given.seed, until, given.candidates)
            for fault in wanted:
                if time.monotonic() - started > 60 * given.minutes * 0.95:
                    print(f"# no time left for {fault}", file=sys.stderr)
                    continue
                outcomes.append(suffer(context, folder, base, fault))
            for other in further:
                for one in drill_other(other, context, folder, base, given.seed):
                    print(f"# {one.name}: {one.done} {one.of} in {one.seconds:.0f} s", file=sys.stderr)
                    rest.append(one)
    print(f"{machine()}; {time.monotonic() - started:.0f} s\n")
    if given.kills:
        print(kills_table(found) + "\n")
    if outcomes:
        print(faults_table(outcomes) + "\n")
    if rest:
        print(others_table(rest))
    short = found.kills < given.kills or len(outcomes) < len(wanted)
    return 1 if short or not found.sound or any(one.problems for one in (*outcomes, *rest)) else 0


if __name__ == "__main__":
    sys.exit(main())
