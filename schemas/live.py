"""The live state of a run, written every second to GRAFT_HOME/runs/RUN/live.json, and its reader.

Any process may read it without a lake, Prefect or the run's process. It holds counts, codes and the recipe's
label names, never a row's, a prompt's or a reply's text.
"""

from __future__ import annotations

import os
import socket
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from graft.schemas.base import Value, utc_now
from graft.schemas.errors import NotFound
from graft.schemas.home import Home

if TYPE_CHECKING:
    import psutil

    from graft.schemas.datasets import Run

FILE = "live.json"
STALE_S = 15.0
LARGEST = 4 * 2**20
"""Maximum bytes of the file; a larger file is not ours."""
State = Literal["live", "silent", "ended"]


class LiveEndpoint(Value):
    """One endpoint and model. Latencies are of recent replies, in seconds; None before the first."""

    model: str
    limit: int = Field(description="calls allowed in flight now; the models of an address may share them")
    inside: int
    queued: int
    calls: int
    refused: int = Field(description="replies with a rate limit")
    pause_s: float
    p50_s: float | None
    p95_s: float | None


class Live(Value):
    """A run at `at`. Calls are counted in this process, candidates over the whole run.

    `state`: live; silent if the file is old or the process has ended (it was killed, or hangs); ended.
    """

    run_id: str
    dataset: str
    at: datetime
    seconds: float = Field(description="seconds since this process began the run")
    pid: int
    born: float | None = Field(default=None, description="start time of the process, in unix seconds")
    host: str = ""
    stage: str = ""
    wanted: dict[str, int] = Field(default_factory=dict, description="label to target rows")
    accepted: dict[str, int] = Field(default_factory=dict)
    settled: int = 0
    rejected: int = 0
    failed: int = 0
    reasons: dict[str, int] = Field(default_factory=dict, description="code to number of rejected candidates")
    per_minute: float | None = Field(default=None, description="accepted rows per minute, over the last minute")
    eta_s: float | None = Field(default=None, description="seconds until the target at that rate; None: unknown")
    price_usd: float | None = Field(default=None, description="paid by this process; None: a price is unknown")
    calls: int = 0
    cached: int = 0
    calls_failed: int = 0
    retried: int = 0
    hedged: int = 0
    damaged: int = 0
    in_flight: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    waiting: str = Field(default="", description="current bottleneck; empty while no call is under way")
    endpoints: tuple[LiveEndpoint, ...] = ()
    notes: tuple[str, ...] = ()
    flow_run_id: str | None = Field(default=None, description="Prefect's id of the flow run")
    api_url: str | None = Field(default=None, description="address of Prefect's server, without a password")
    ended: bool = False
    state: State = "live"

    @property
    def total_accepted(self) -> int:
        """Accepted rows, each label counted up to its target."""
        return sum(min(count, self.wanted.get(label, 0)) for label, count in self.accepted.items())


def live_file(home: Home, run_id: str) -> Path:
    """The path of a run's live state."""
    return home.run(run_id) / FILE


def read_live(home: Home, run_id: str, stale_s: float = STALE_S) -> Live | None:
    """The last note of a run, with its current state. None if there is no readable file.

    A file is old after `stale_s` seconds. The process is checked only on the run's machine.
    """
    try:
        with live_file(home, run_id).open("rb") as file:
            found = Live.model_validate_json(file.read(LARGEST))
    except (OSError, NotFound, ValidationError, ValueError):
        return None
    return found.model_copy(update={"state": _state(found, stale_s)})


def so_far(home: Home, run: Run) -> Run:
    """The run with the counts of its live state, as long as its own record has none; otherwise the run itself.

    Calls, tokens and price are those of the current process.
    """
    if run.status != "running" or (now := read_live(home, run.id)) is None:
        return run
    accepted = sum(now.accepted.values())
    counts = {"opened": now.settled, "accepted": accepted, "rejected": now.rejected, "failed": now.failed}
    same = ("calls", "prompt_tokens", "completion_tokens", "price_usd", "seconds")
    return run.model_copy(
        update={"counts": counts, "calls_cached": now.cached, **{name: getattr(now, name) for name in same}}
    )


def _state(found: Live, stale_s: float) -> State:
    if found.ended:
        return "ended"
    old = utc_now() - found.at > timedelta(seconds=stale_s)
    return "silent" if old or _gone(found) else "live"


def _gone(found: Live) -> bool:
    """Return True if the process has ended; on another machine it is assumed alive."""
    if found.host != socket.gethostname() or found.pid == os.getpid():
        return False
    return process_of(found.pid, found.born) is None


def process_of(pid: int, born: float | None) -> psutil.Process | None:
    """The process with this id and start time (to 0.01 s; None: not compared), or None if it has ended.

    Another start time is another program's, which has got the id since. A zombie has ended.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        same = born is None or abs(process.create_time() - born) < 0.01
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.Error, ValueError):
        return None
