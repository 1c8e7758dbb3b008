"""What takes a version long to tell, for the pages: each made once, on a thread of its own, and kept.

The thread has a reader of its own, whose queries it works on alone, behind the pages: they stay quick meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from graft.data.diff import Diff
    from graft.data.lake import Lake
    from graft.data.quality import Quality
    from graft.schemas.datasets import DatasetVersion

T = TypeVar("T")
FOR_GOOD = "a version does not change"
"""The stamp of what is told of versions."""
MEMORY = "350MB"
"""What DuckDB may hold while a report is made."""
KEPT = 200
"""Reports and comparisons that are kept; the one that nobody asked for the longest goes first."""


class Reports:
    """A version never changes, so what is told of it is made once. One is made at a time: a large one takes a minute.

    Every question waits up to `patience_s` seconds and gives None while its answer is being made. It raises what making
    it raised; asking again then tries again.
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
        """The quality report. Drift is told from `against`, else from the dataset's last version before it."""
        from graft.data.quality import quality

        key = ("quality", version.ref, against.ref if against else "")
        return self.made(key, lambda lake: quality(lake, version, against=against), patience_s)

    def diff(self, before: DatasetVersion, now: DatasetVersion, patience_s: float = 1.0) -> Diff | None:
        """What changed between two versions; words of restricted rows are hidden."""
        from graft.data.diff import diff

        return self.made(("diff", before.ref, now.ref), lambda lake: diff(lake, before, now), patience_s)

    def known(self, version: DatasetVersion) -> bool:
        """Whether the version's quality report was made already, or is being made."""
        return self._memo.known(("quality", version.ref, ""))

    def made(self, key: tuple[str, ...], make: Callable[[Lake], T], patience_s: float = 1.0) -> T | None:
        """What `make` tells of versions, which `key` names together with the question."""
        return self._memo.soon(
            key, lambda: make(self._lake()), stamp=FOR_GOOD, patience_s=patience_s, start=self._maker.submit
        )

    def kept(self, key: tuple[str, ...], count: Callable[[], T]) -> T:
        """What `count` gives at once, kept: figures of a version that are quick to have and are asked for again."""
        return self._memo.get(key, count, stamp=FOR_GOOD)

    def close(self) -> None:
        """Forget what waits; what is being made ends with its query."""
        self._maker.shutdown(wait=False, cancel_futures=True)
        if self._own is not None:
            self._own.close()

    def _lake(self) -> Lake:
        from graft.data.lake import Lake

        if self._own is None:
            self._own = Lake.open(self._home, read_only=True, memory=MEMORY, threads=1)
        return self._own


def _behind() -> None:
    """Whoever looks at a page goes first. Where the system knows no priority of a thread, all are equal."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
