"""Caches of slow figures: version reports, and values that are shown stale while they are refreshed.

A thread with its own reader computes reports at low priority, so that the pages stay fast.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from graft.data.diff import Diff
    from graft.data.lake import Lake
    from graft.data.quality import Quality
    from graft.schemas.datasets import DatasetVersion

T = TypeVar("T")
FOR_GOOD = "a version does not change"
"""The stamp of version reports."""
MEMORY = "350MB"
"""DuckDB's memory limit while a report is computed."""
KEPT = 200
"""Number of reports and comparisons kept; the least recently used is dropped."""


class StaleCache(Generic[T]):
    """The last result of `ask`, refreshed if it is older than `every_s` seconds, by one thread at a time."""

    def __init__(self, ask: Callable[[], T], every_s: float = 10.0) -> None:
        self._ask, self._every_s = ask, every_s
        self._value: T | None = None
        self._at = float("-inf")
        self._asking: threading.Thread | None = None
        self._lock = threading.Lock()

    def get(self, patience_s: float = 0.3) -> T | None:
        """The value, after waiting up to `patience_s` seconds if it is old; None before the first."""
        with self._lock:
            old = time.monotonic() - self._at > self._every_s
            if old and (self._asking is None or not self._asking.is_alive()):
                self._asking = threading.Thread(target=self._run, daemon=True, name="stale_cache")
                self._asking.start()
            asking = self._asking if old else None
        if asking is not None:
            asking.join(patience_s)
        return self._value

    def _run(self) -> None:
        try:
            self._value = self._ask()
        except Exception:  # the next request tries again; a page shows the value as unknown
            self._value = None
        self._at = time.monotonic()


class Reports:
    """Cached reports; a version never changes. One report is computed at a time: a large version takes a minute.

    Each request waits up to `patience_s` seconds and returns None while the report is being computed. It raises the
    error of a failed computation; the next request tries again.
    """

    def __init__(self, lake: Lake) -> None:
        from graft.data.query_cache import LEAST_SIZE, QueryCache

        self._home = lake.home
        self._own: Lake | None = None
        self._memo = QueryCache(lake, most_bytes=KEPT * LEAST_SIZE)
        self._maker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reports", initializer=_behind)

    def of(
        self, version: DatasetVersion, patience_s: float = 1.0, *, against: DatasetVersion | None = None
    ) -> Quality | None:
        """The quality report. Drift is measured against `against`, by default the dataset's previous version."""
        from graft.data.quality import quality

        key = ("quality", version.ref, against.ref if against else "")
        return self.made(key, lambda lake: quality(lake, version, against=against), patience_s)

    def diff(self, before: DatasetVersion, now: DatasetVersion, patience_s: float = 1.0) -> Diff | None:
        """The diff of two versions; text of restricted rows is hidden."""
        from graft.data.diff import diff

        return self.made(("diff", before.ref, now.ref), lambda lake: diff(lake, before, now), patience_s)

    def known(self, version: DatasetVersion) -> bool:
        """Return True if the version's quality report is cached or being computed."""
        return self._memo.known(("quality", version.ref, ""))

    def made(self, key: tuple[str, ...], make: Callable[[Lake], T], patience_s: float = 1.0) -> T | None:
        """The result of `make`, cached under `key`."""
        return self._memo.soon(
            key, lambda: make(self._lake()), stamp=FOR_GOOD, patience_s=patience_s, start=self._maker.submit
        )

    def kept(self, key: tuple[str, ...], count: Callable[[], T]) -> T:
        """The result of `count`, computed at once and cached: for fast figures that are requested repeatedly."""
        return self._memo.get(key, count, stamp=FOR_GOOD)

    def close(self) -> None:
        """Drop waiting jobs; the running job ends with its query."""
        self._maker.shutdown(wait=False, cancel_futures=True)
        if self._own is not None:
            self._own.close()

    def _lake(self) -> Lake:
        from graft.data.lake import Lake

        if self._own is None:
            self._own = Lake.open(self._home, read_only=True, memory=MEMORY, threads=1)
        return self._own


def _behind() -> None:
    """Lower this thread's priority below the pages', if the system supports it."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
