"""kill -9 at random moments: finished calls are not repeated, acknowledged data is kept, nothing is doubled."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

from drill_audit import Kept, Run, settle_down
from harness import behave, write_recipe

CANDIDATES, CONCURRENCY, MEDIAN_MS = 400, 64, 20.0


@dataclass
class Kills:
    """Sums over all kills."""

    kills: int = 0
    runs: int = 0
    calls: int = 0
    finished_repeated: int = 0
    replies_lost: int = 0
    rows_lost: int = 0
    rows_doubled: int = 0
    slots_without_outcome: int = 0
    unlike_the_clean_run: int = 0
    repeated: int = 0
    """Answers that were under way or not yet kept at a kill, and so were requested once more: no fault."""
    rows_kept: int = 0

    @property
    def sound(self) -> bool:
        """True if nothing went wrong that must not."""
        return not any((
            self.finished_repeated, self.replies_lost, self.rows_lost, self.rows_doubled, self.slots_without_outcome,
            self.unlike_the_clean_run,
        ))  # fmt: skip


def kill_often(
    context: ForkServerContext,
    folder: Path,
    base: str,
    kills: int,
    seed: int,
    until: float,
    candidates: int = CANDIDATES,
) -> Kills:
    """Runs, killed at random moments of their whole life until `kills` are done or the clock passes `until`.

    The first run is not killed: it gives the length of a life and the result that the killed runs must reach.
    """
    rng, found = random.Random(seed), Kills()
    clean = _run(context, folder, base, "clean", seed, candidates)
    started = time.monotonic()
    behave(base, seed=seed, median_ms=MEDIAN_MS)
    first_end = clean.to_the_end().ended
    span = time.monotonic() - started
    while found.kills < kills and time.monotonic() < until:
        behave(base, seed=seed, median_ms=MEDIAN_MS)
        run = _run(context, folder, base, f"killed-{found.runs}", seed, candidates)
        found.runs += 1
        kept: Kept | None = Kept(set(), [], [], 0)
        while kept is not None and found.kills < kills and time.monotonic() < until:
            began = time.monotonic()
            kept = _one_life(run, rng.uniform(0.0, 1.5 * span), kept, found)
            if kept is None:  # it had ended: lives are shorter than was thought
                span = (span + time.monotonic() - began) / 2
        ended = run.notes().ended or _ends(run, found)
        found.unlike_the_clean_run += ended.get("hash") != first_end.get("hash")
        _count(run, run.kept(), found, over=True)
        served = settle_down(base)
        found.calls, found.repeated = found.calls + served["distinct"], found.repeated + served["duplicates"]
    return found


def _run(context: ForkServerContext, folder: Path, base: str, name: str, seed: int, candidates: int) -> Run:
    place = folder / name
    place.mkdir()
    recipe = write_recipe(
        place, base, name="drill", candidates=candidates, concurrency=CONCURRENCY, shard_rows=candidates // 2, seed=seed
    )
    return Run(context, recipe, place / "home", base)


def _one_life(run: Run, seconds: float, before: Kept, found: Kills) -> Kept | None:
    """A life that is killed after so many seconds, and what is kept then; None where it had ended by then."""
    lives, process = len(run.notes().lives), run.start()
    process.join(seconds)
    killed = process.is_alive()
    process.kill()
    process.join()
    _repeats(run, before, lives, found)
    if not killed:
        return None
    found.kills += 1
    settle_down(run.base)
    kept = run.kept() if run.home.exists() else before
    _count(run, kept, found, over=False)
    return None if run.notes().every("end") else kept


def _ends(run: Run, found: Kills) -> dict[str, object]:
    """The last life, undisturbed."""
    before, lives = run.kept(), len(run.notes().lives)
    ended = run.to_the_end().ended
    _repeats(run, before, lives, found)
    return ended


def _repeats(run: Run, before: Kept, lives: int, found: Kills) -> None:
    """Calls of the life after the first `lives` that the journal held before it began."""
    found.finished_repeated += len(before.keys & run.notes().since(lives, "sent"))


def _count(run: Run, kept: Kept, found: Kills, *, over: bool) -> None:
    notes = run.notes()
    found.replies_lost += len(notes.every("reply") - kept.keys)
    found.rows_lost += len(notes.rows - set(kept.rows))
    found.rows_doubled += kept.doubled
    if over:
        found.rows_kept += len(kept.rows)
        found.slots_without_outcome += len(notes.every("open") - set(kept.slots)) + kept.unexplained
