"""Power cuts: a process that journals calls and commits to the lake is killed, and all that was not synced is dropped.

    python benchmarks/drill_power.py --cuts 10

A small library (power_cut.c, compiled with cc) keeps every file as of its last fsync; after the kill that is the disk.
Prints a Markdown table; ends with 1 where an acknowledged call or batch is missing, or a store cannot be read.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


class NoCompiler(RuntimeError):
    """There is no C compiler, so power cuts cannot be simulated."""


@dataclass
class Cuts:
    """Sums over the cuts; calls and batches are acknowledged ones."""

    cuts: int = 0
    calls: int = 0
    batches: int = 0
    calls_lost: int = 0
    batches_lost: int = 0
    unreadable: int = 0

    @property
    def sound(self) -> bool:
        """True if nothing acknowledged is missing."""
        return not (self.calls_lost or self.batches_lost or self.unreadable)


def compiled(folder: Path) -> Path:
    """The library that keeps what is synced. Raises NoCompiler."""
    cc = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if cc is None:
        raise NoCompiler("power cuts are not drilled: no C compiler (cc, gcc or clang) is on the PATH; install one")
    made = folder / "power_cut.so"
    source = Path(__file__).with_name("power_cut.c")
    subprocess.run([cc, "-shared", "-fPIC", "-O1", "-o", str(made), str(source), "-ldl"], check=True)
    return made


def cut_power(folder: Path, cuts: int, seed: int, until: float = float("inf")) -> Cuts:
    """So many power cuts at random moments, or as many as fit before `until` (monotonic). Raises NoCompiler."""
    library, rng, found = compiled(folder), random.Random(seed), Cuts()
    while found.cuts < cuts and time.monotonic() < until:
        place = folder / f"cut{found.cuts}"
        calls, batches = _one_cut(place, library, rng.uniform(0.2, 3.0))
        found.cuts, found.calls, found.batches = found.cuts + 1, found.calls + len(calls), found.batches + len(batches)
        _audit(place / "after", calls, batches, found)
        shutil.rmtree(place)
    return found


def _one_cut(place: Path, library: Path, seconds: float) -> tuple[set[str], set[str]]:
    """A process that works for so long and is killed; what it acknowledged. `place/after` is the disk then."""
    live, kept, output = place / "live", place / "kept", place / "said"
    for made in (live, kept):
        made.mkdir(parents=True)
    cut = {"LD_PRELOAD": str(library), "CUT_LIVE": str(live), "CUT_KEPT": str(kept)}
    with output.open("wb") as out:
        command = [sys.executable, __file__, "--work", str(live)]
        process = subprocess.Popen(command, stdout=out, env={**os.environ, **cut, "PYTHONPATH": str(ROOT)})
        deadline = time.monotonic() + 120
        while output.stat().st_size < 40 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    _leave(live, kept, place / "after")
    words = [line.split() for line in output.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return {name for kind, name in words if kind == "call"}, {name for kind, name in words if kind == "batch"}


def _leave(live: Path, kept: Path, after: Path) -> None:
    """Write the folder as the power cut left it. A name whose file was never synced is an empty file."""
    names: dict[str, dict[str, str]] = {str(live): {}}
    listed = ""
    for line in (kept / "log").read_text().splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "D":
            listed, names[rest] = rest, {}
            continue
        inode, _, name = rest.partition(" ")
        if kind == "F":  # journalling file systems keep a synced file's name and its folders with it
            names.setdefault(os.path.dirname(name), {})[os.path.basename(name)] = inode  # noqa: PTH119, PTH120
        else:
            names[listed][name] = inode
    for folder, entries in names.items():
        to = after / Path(folder).relative_to(live)
        to.mkdir(parents=True, exist_ok=True)
        for name, inode in entries.items():
            if name.endswith("-shm") or f"{folder}/{name}" in names or (Path(folder) / name).is_dir():
                continue
            if (kept / inode).exists():
                shutil.copyfile(kept / inode, to / name)
            else:
                (to / name).touch()


def _audit(after: Path, calls: set[str], batches: set[str], found: Cuts) -> None:
    from graft.agents.gateway.journal_store import check
    from graft.data.lake import Lake
    from graft.schemas.home import Home

    try:
        with sqlite3.connect(after / "journal.sqlite") as journal:
            kept = {str(key) for (key,) in journal.execute("SELECT key FROM calls")}
        journal.close()
        found.calls_lost += len(calls - kept)
        found.unreadable += not check(after / "journal.sqlite").sound
        with Lake.open(Home(after)) as lake:
            rows = lake.query("SELECT * FROM lake.batches")
            found.batches_lost += len(batches - {str(row["batch_id"]) for row in rows})
            lake.commit("r", "afterwards", [], [])
    except Exception as error:  # whatever it is, the stores were to be readable
        print(f"after a cut: {type(error).__name__}: {error}", file=sys.stderr)
        found.unreadable += 1


async def _work(home: Path) -> None:
    """Journal and commit for ever; say what is acknowledged."""
    from graft.agents.gateway.journal import Journal
    from graft.data.lake import Lake
    from graft.schemas.calls import Reply
    from graft.schemas.home import Home

    journal = Journal(home / "journal.sqlite")
    lake = await asyncio.to_thread(Lake.open, Home(home))
    place = 0

    async def call(name: str) -> None:
        await journal.add(b'["%x"]' % random.getrandbits(2_000), Reply(key=name, text="said" * 50))
        os.write(1, f"call {name}\n".encode())

    while True:
        await asyncio.gather(*(call(f"k{place}-{i}") for i in range(random.randint(1, 40))))
        await asyncio.to_thread(lake.commit, "r", f"b{place}", [], [])
        os.write(1, f"batch b{place}\n".encode())
        place += 1


def main() -> int:
    """The table; 1 where something is lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        asyncio.run(_work(Path(given.work)))
    try:
        with tempfile.TemporaryDirectory(prefix="graft-cut-") as folder:
            found = cut_power(Path(folder).resolve(), given.cuts, given.seed)
    except NoCompiler as error:
        print(error, file=sys.stderr)
        return 1
    print("| power cut | |\n|---|---:|")
    for name, value in vars(found).items():
        print(f"| {name.replace('_', ' ')} | {value} |")
    return 0 if found.sound and found.calls and found.batches else 1


if __name__ == "__main__":
    sys.exit(main())
