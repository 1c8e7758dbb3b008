"""What takes a version long to tell, for the pages: each made once, on a thread of its own, and kept.

The thread has a reader of its own, whose queries it works on alone, behind the pages: they stay quick meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from data.diff import Diff
    from data.lake import Lake
    from data.quality import Quality
    from schemas.datasets import DatasetVersion
    from schemas.home import Home

T = TypeVar("T")
MEMORY = "350MB"
KEPT = 200
"""Reports and comparisons that are kept; the one that nobody asked for the longest goes first."""


class Reports:
    """A version never changes, so what is told of it is made once. One is made at a time: a large one takes a minute.

    Every question waits up to `patience_s` seconds and gives None while its answer is being made. It raises what making
    it raised; asking again then tries again.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lake: Lake | None = None
        self._lock = threading.Lock()
        self._made: OrderedDict[tuple[str, ...], Future[Any]] = OrderedDict()
        self._maker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reports", initializer=_behind)

    def of(
        self, version: DatasetVersion, patience_s: float = 1.0, *, against: DatasetVersion | None = None
    ) -> Quality | None:
        """The quality report. Drift is told from `against`, else from the dataset's last version before it."""
        from data.quality import quality

        key = ("quality", version.ref, against.ref if against else "")
        return self.made(key, lambda lake: quality(lake, version, against=against), patience_s)

    def diff(self, before: DatasetVersion, now: DatasetVersion, patience_s: float = 1.0) -> Diff | None:
        """What changed between two versions; words of restricted rows are hidden."""
        from data.diff import diff

        return self.made(("diff", before.ref, now.ref), lambda lake: diff(lake, before, now), patience_s)

    def known(self, version: DatasetVersion) -> bool:
        """Whether the version's quality report was made already, or is being made."""
        with self._lock:
            return ("quality", version.ref, "") in self._made

    def made(self, key: tuple[str, ...], make: Callable[[Lake], T], patience_s: float = 1.0) -> T | None:
        """What `make` tells of versions, which `key` names together with the question."""
        with self._lock:
            future = self._made.get(key)
            if future is not None and future.done() and not future.cancelled() and (error := future.exception()):
                del self._made[key]
                raise error
            if future is None:
                future = self._keep(key, self._maker.submit(self._make, make))
            self._made.move_to_end(key)
        try:
            return cast("T", future.result(timeout=patience_s))
        except TimeoutError:
            return None

    def kept(self, key: tuple[str, ...], count: Callable[[], T]) -> T:
        """What `count` gives at once, kept: figures of a version that are quick to have and are asked for again."""
        with self._lock:
            known = self._made.get(key)
        if known is not None:
            return cast("T", known.result())
        counted: Future[T] = Future()
        counted.set_result(count())
        with self._lock:
            return cast("T", self._keep(key, counted).result())

    def _keep(self, key: tuple[str, ...], future: Future[Any]) -> Future[Any]:
        self._made[key] = future
        while len(self._made) > KEPT:
            self._made.popitem(last=False)
        return future

    def close(self) -> None:
        """Forget what waits; what is being made ends with its query."""
        self._maker.shutdown(wait=False, cancel_futures=True)
        if self._lake is not None:
            self._lake.close()

    def _make(self, make: Callable[[Lake], T]) -> T:
        from data.lake import Lake

        if self._lake is None:
            self._lake = Lake.open(self._home, read_only=True, memory=MEMORY, threads=1)
        return make(self._lake)


def _behind() -> None:
    """Whoever looks at a page goes first. Where the system knows no priority of a thread, all are equal."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
