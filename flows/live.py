"""Write a run's state to its live.json about once a second, for other processes (schemas/live.py).

A separate thread writes. Errors never reach the run: a full disk, or a count that changes while it is read, costs a
note.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from graft.flows.engine import flow_run
from graft.flows.progress import Progress
from graft.schemas.base import utc_now
from graft.schemas.home import Home
from graft.schemas.live import live_file
from graft.schemas.redaction import redact

EVERY_S = 1.0
RATE_S = 60.0
"""Window of the rate, in seconds."""
RATE_FROM_S = 5.0
"""Seconds before the first rate is given."""
JOIN_S = 2.0
_COUNTS = (
    "calls", "cached", "retried", "hedged", "damaged", "in_flight", "prompt_tokens", "completion_tokens", "price_usd",
    "waiting",
)  # fmt: skip


@asynccontextmanager
async def noted(home: Home, progress: Progress, keys: Iterable[str] = ()) -> AsyncIterator[None]:
    """Write notes while the block runs, and a last note at its end, also after an error.

    `keys` are the environment variables of the recipe's keys, whose values are redacted.
    """
    notes = None
    with contextlib.suppress(Exception):
        notes = Notes(live_file(home, progress.run_id), progress, _prefect(), keys)
        notes.start()
    try:
        yield
    finally:
        if notes is not None:
            with contextlib.suppress(Exception):
                notes.end()


class Notes:
    """The notes of one run. `start` and `end` them; `write` is one note."""

    def __init__(
        self, file: Path, progress: Progress, prefect: dict[str, str | None], keys: Iterable[str] = ()
    ) -> None:
        self._file, self._progress, self._keys = file, progress, tuple(keys)
        self._stop, self._writing = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._go_on, name="graft-live", daemon=True)
        self._past: deque[tuple[float, int]] = deque()
        self._fixed = {
            "run_id": progress.run_id, "dataset": progress.dataset, "pid": os.getpid(), "born": _born(),
            "host": socket.gethostname(), **prefect,
        }  # fmt: skip

    def start(self) -> None:
        """Write the first note now, the others from a thread."""
        self.write()
        self._thread.start()

    def end(self) -> None:
        """Write the last note: the run has ended."""
        self._stop.set()
        self._thread.join(JOIN_S)
        self.write(ended=True)

    def write(self, *, ended: bool = False) -> bool:
        """Replace the note atomically; False if that failed."""
        with self._writing:
            if self._stop.is_set() and not ended:
                return False
            try:
                staged = self._file.with_suffix(".json.tmp")
                staged.write_bytes(orjson.dumps({**self._state(), "ended": ended}, option=orjson.OPT_NON_STR_KEYS))
                staged.replace(self._file)
            except Exception:  # the run goes on after any error
                return False
            return True

    def _go_on(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.write()

    def _state(self) -> dict[str, Any]:
        progress, stats = self._progress, self._progress.gateway
        rate = self._rate(progress.seconds, progress.total_accepted)
        return {
            **self._fixed, **(_gateway(stats(), self._keys) if stats is not None else {}),
            "at": utc_now(), "seconds": round(progress.seconds, 2), "stage": redact(progress.stage, self._keys),
            "wanted": progress.wanted, "accepted": dict(progress.accepted), "settled": progress.settled,
            "rejected": progress.rejected, "failed": progress.failed, "reasons": dict(progress.reasons),
            "per_minute": None if rate is None else round(rate, 2), "eta_s": _eta(progress, rate),
        }  # fmt: skip

    def _rate(self, now: float, accepted: int) -> float | None:
        """Rows accepted a minute since the oldest note of the last minute."""
        self._past.append((now, accepted))
        while now - self._past[0][0] > RATE_S:
            self._past.popleft()
        since, before = self._past[0]
        return None if now - since < RATE_FROM_S else max(0, accepted - before) * 60 / (now - since)


def _gateway(stats: Any, keys: Iterable[str]) -> dict[str, Any]:
    counts = {name: getattr(stats, name) for name in _COUNTS}
    return {
        **counts, "calls_failed": stats.failed, "notes": [redact(note, keys) for note in stats.notes],
        "endpoints": [asdict(endpoint) for endpoint in stats.endpoints],
    }  # fmt: skip


def _eta(progress: Progress, rate: float | None) -> float | None:
    """Seconds to the target at the rate of the last minute, else at the speed so far."""
    if rate is None:
        return None if progress.eta_seconds is None else round(progress.eta_seconds, 1)
    missing = sum(progress.wanted.values()) - progress.total_accepted
    return round(missing / rate * 60, 1) if rate else (0.0 if missing <= 0 else None)


def _born() -> float | None:
    import psutil

    with contextlib.suppress(psutil.Error):
        return psutil.Process().create_time()
    return None


def _prefect() -> dict[str, str | None]:
    """The current flow run, and its server's address without a password.

    None outside a flow run.
    """
    context = flow_run()
    if context is None or context.flow_run is None:
        return {"flow_run_id": None, "api_url": None}
    address = str(context.client.api_url).rstrip("/")
    return {"flow_run_id": str(context.flow_run.id), "api_url": re.sub(r"(?<=://)[^/@]*@", "", address)}
