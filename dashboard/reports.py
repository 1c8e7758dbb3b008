"""Quality reports for the pages: each version's once, on a thread and connection of their own, kept while we serve."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.quality import Quality
    from schemas.datasets import DatasetVersion
    from schemas.home import Home


class Reports:
    """A version never changes, so its report is made once. One is made at a time: a large one takes a minute."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._made: dict[str, Future[Quality]] = {}
        self._maker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="quality")

    def of(self, version: DatasetVersion, patience_s: float = 1.0) -> Quality | None:
        """The report, or None while it is being made, after waiting for it up to `patience_s` seconds.

        Raises what making it raised; asking again then tries again.
        """
        with self._lock:
            future = self._made.get(version.ref)
            if future is None or (future.done() and future.exception() is not None and not future.cancelled()):
                if future is not None:
                    del self._made[version.ref]
                    raise future.exception() or RuntimeError("the report could not be made")
                future = self._made[version.ref] = self._maker.submit(self._make, version)
        try:
            return future.result(timeout=patience_s)
        except TimeoutError:
            return None

    def close(self) -> None:
        """Forget what waits; what is being made ends with its query."""
        self._maker.shutdown(wait=False, cancel_futures=True)

    def _make(self, version: DatasetVersion) -> Quality:
        from data.lake import Lake
        from data.quality import quality

        with Lake.open(self._home, read_only=True) as lake:
            return quality(lake, version)
