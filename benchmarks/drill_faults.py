"""Each fault of the drill: a run that suffers it, what it must end with, and a second life in health."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from drill_audit import Kept, Notes, Run, Verdict, settle_down
from harness import behave, write_recipe

CANDIDATES = 150
SQLITE_SCRATCH = 200_000
"""Bytes that the write-ahead logs of an empty lake and journal take."""
HEALTHY: dict[str, Any] = {
    "median_ms": 10.0, "seed": 0, "error_rate": 0.0, "malformed_rate": 0.0, "wrong_schema_rate": 0.0, "empty_rate": 0.0,
    "reset_rate": 0.0, "half_rate": 0.0, "hang_rate": 0.0, "trickle_rate": 0.0, "rate_limit_above": 0,
    "requests_per_minute": 0, "window_s": 60.0, "limit_status": 429, "retry_after": None, "retry_after_date": False,
    "answers_paid": 0, "usage": True, "served_model": "",
}  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """The server's behaviour meanwhile, additions to the models, and the error that must end the run (empty: none)."""

    behaviour: dict[str, Any]
    model: str = ""
    error: str = ""
    full: str = ""
    """`journal` or `lake`: the disk is full while that grows."""


FAULTS = {
    "rate-limits": Fault({"rate_limit_above": 8, "retry_after": 0.2}),
    "rate-limits-silent": Fault({"rate_limit_above": 8}),
    "minute-window": Fault(
        {"requests_per_minute": 150, "window_s": 2.0, "limit_status": 503, "retry_after": 1.0, "retry_after_date": True}
    ),
    "resets": Fault({"reset_rate": 0.05, "half_rate": 0.05}),
    "trickles": Fault({"trickle_rate": 0.05, "trickle_s": 1.0}),
    "hangs": Fault({"hang_rate": 0.02}, model=", timeout_s: 1"),
    "garbage": Fault({"error_rate": 0.05, "malformed_rate": 0.02, "empty_rate": 0.02, "wrong_schema_rate": 0.02}),
    "other-model-no-usage": Fault({"served_model": "another", "usage": False}),
    "out-of-credit": Fault({"answers_paid": 200}, error="ModelUnreachable"),
    "disk-full-journal": Fault({}, error="StorageFull", full="journal"),
    "disk-full-lake": Fault({}, error="StorageFull", full="lake"),
}


@dataclass
class Outcome(Verdict):
    """Outcome of a fault. `problems` must be empty; `settled` counts after the healthy life."""

    name: str
    opened: int = 0
    settled: int = 0
    ended: str = ""
    seconds: float = 0.0


def suffer(context: ForkServerContext, folder: Path, base: str, name: str) -> Outcome:
    """Let a run suffer the fault, then, where the fault ends it, let it go on in health."""
    fault, started, outcome = FAULTS[name], time.monotonic(), Outcome(name)
    place = folder / name
    place.mkdir()
    recipe = write_recipe(
        place, base, name="drill", candidates=CANDIDATES, concurrency=32, shard_rows=75, model=fault.model
    )
    behave(base, **HEALTHY)
    run = Run(context, recipe, place / "home", base)
    if fault.full:
        _fill_up(run, Run(context, recipe, place / "before", base), fault.full)
    behave(base, **{**HEALTHY, **fault.behaviour})
    try:
        notes = run.to_the_end()
    except RuntimeError as error:
        outcome.ended, outcome.seconds = "not in time", time.monotonic() - started
        outcome.problems.append(str(error))
        return outcome
    outcome.ended, outcome.seconds = _ending(notes.ended), time.monotonic() - started
    kept = run.kept()
    _judge(fault, notes, kept, outcome)
    if notes.ended.get("error"):
        kept = _go_on(run, kept, outcome)
    opened = run.notes().every("open")
    outcome.opened, outcome.settled = len(opened), len(opened & set(kept.slots))
    outcome.check(opened <= set(kept.slots), f"{len(opened - set(kept.slots))} slots without an outcome")
    outcome.check(len(opened) == CANDIDATES, f"{len(opened)} slots opened in place of {CANDIDATES}")
    outcome.check(not kept.unexplained, f"{kept.unexplained} outcomes without a reason")
    return outcome


def _judge(fault: Fault, notes: Notes, kept: Kept, outcome: Outcome) -> None:
    """Check the state right after the life with the fault."""
    ended = notes.ended
    outcome.check("escaped" not in ended, f"{ended.get('escaped')} escaped: {ended.get('what', '')[:120]}")
    outcome.check(ended.get("error", "") == fault.error, f"ended by {ended.get('error') or 'nothing'}")
    outcome.check(not ended.get("error") or bool(ended.get("fix")), "the error names no fix")
    outcome.check(notes.every("reply") <= kept.keys, "a reply was given out that is not in the journal")
    _committed(notes, kept, outcome)


def _committed(notes: Notes, kept: Kept, outcome: Outcome) -> None:
    outcome.check(notes.rows <= set(kept.rows), f"{len(notes.rows - set(kept.rows))} acknowledged rows lost")
    outcome.check(not kept.doubled, f"{kept.doubled} rows doubled")


def _go_on(run: Run, before: Kept, outcome: Outcome) -> Kept:
    """Run a second, healthy life: it must finish without repeating a call of the journal. Return the state on disk."""
    lives = len(run.notes().lives)
    behave(run.base, **HEALTHY)
    run.space = 0
    notes = run.to_the_end()
    outcome.check(bool(notes.ended.get("stopped_by")), f"the rerun ended with {_ending(notes.ended)}")
    kept, again = run.kept(), len(before.keys & notes.since(lives, "sent"))
    outcome.check(not again, f"{again} finished calls sent again")
    _committed(notes, kept, outcome)
    settle_down(run.base)
    return kept


def _ending(ended: dict[str, Any]) -> str:
    if "stopped_by" in ended:
        return str(ended["stopped_by"])
    return str(ended.get("error") or ended.get("escaped") or "killed")


def _fill_up(run: Run, other: Run, what: str) -> None:
    """Give the run a disk on which the journal, or the lake, does not fit whole. Another home shows what they take.

    For the lake, the run starts with that home's journal, so that it writes nothing but the lake.
    """
    other.to_the_end()
    run.home.mkdir()
    journal, lake = (other.home / name for name in ("journal.sqlite", "lake"))
    if what == "lake":
        shutil.copy(journal, run.home / journal.name)
        run.space = journal.stat().st_size + _size(lake) // 2 + SQLITE_SCRATCH
    else:
        run.space = _size(lake) + journal.stat().st_size // 2 + SQLITE_SCRATCH


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
