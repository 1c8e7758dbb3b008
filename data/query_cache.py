"""Cache of query answers, valid until the next commit or while the caller's stamp is unchanged.

Readers repeat the same queries, and over a large lake each costs seconds. The caller names the state that the answer
depends on (`stamp`); by default it is the lake's snapshot, so that no commit is missed.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    import pyarrow as pa

    from graft.data.lake import Lake
    from graft.schemas.datasets import Run

T = TypeVar("T")

MOST_BYTES = 64_000_000
LEAST_SIZE = 500
"""Bytes charged for any answer: its key, its place in the order."""


class _Kept(Generic[T]):
    """An answer, or a computation in progress."""

    def __init__(self, stamp: tuple[str, Hashable]) -> None:
        self.stamp = stamp
        self.made = float("inf")  # when; while it is being made it is not late yet
        self.future: Future[T] = Future()
        self.size = LEAST_SIZE


def _on_a_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True, name="memo").start()


class QueryCache:
    """Cached answers of one lake. Thread-safe: callers wait for an answer that is being computed.

    Each query keeps one answer: that of the newest stamp. The least recently used answers are evicted above
    `most_bytes`.
    """

    def __init__(self, lake: Lake, *, most_bytes: int = MOST_BYTES) -> None:
        self.lake, self._most = lake, most_bytes
        self._held: OrderedDict[Hashable, _Kept[Any]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def table(self, query: str, params: Sequence[Any] = (), *, stamp: Hashable = None, late_s: float = 0.0) -> pa.Table:
        """The answer to a query as an Arrow table; `stamp` and `late_s` as in `get`.

        A query must not call `now()`: pass the time in `params`.
        """
        key = (query, tuple((type(value), _frozen(value)) for value in params))
        return self.get(
            key, lambda: self.lake.sql(query, params), stamp=stamp, late_s=late_s, size=lambda table: int(table.nbytes)
        )

    def rows(
        self, query: str, params: Sequence[Any] = (), *, stamp: Hashable = None, late_s: float = 0.0
    ) -> list[dict[str, Any]]:
        """As `table`, as new dicts that the caller may change."""
        return cast("list[dict[str, Any]]", self.table(query, params, stamp=stamp, late_s=late_s).to_pylist())

    def get(
        self,
        key: Hashable,
        make: Callable[[], T],
        *,
        stamp: Hashable = None,
        late_s: float = 0.0,
        size: Callable[[T], int] | None = None,
    ) -> T:
        """The result of `make`, computed once per key and stamp; `size` returns its bytes.

        `stamp` is the state that the answer depends on; None: any commit may change it. An answer of an earlier
        snapshot is returned until it is `late_s` seconds old, so that a run which commits each second does not cause a
        large query each second. The answer is shared: do not change it. Raises the errors of `make`.
        """
        kept, mine = self._wanted(key, stamp, late_s)
        if mine:
            self._make(key, kept, make, size)
        return cast("T", self._result(key, kept))

    def soon(
        self,
        key: Hashable,
        make: Callable[[], T],
        *,
        stamp: Hashable = None,
        late_s: float = 0.0,
        patience_s: float = 1.0,
        start: Callable[[Callable[[], None]], object] = _on_a_thread,
    ) -> T | None:
        """As `get`, but computed in the background: None if that takes longer than `patience_s`. Call again then.

        `start` gets the work: by default a new thread, or an executor's `submit`.
        """
        kept, mine = self._wanted(key, stamp, late_s)
        if mine:
            start(lambda: self._make(key, kept, make, None))
        try:
            return cast("T", self._result(key, kept, patience_s))
        except TimeoutError:
            if kept.future.done() and kept.future.exception() is not None:
                raise
            return None

    def known(self, key: Hashable) -> bool:
        """Return True if an answer is cached or being computed."""
        with self._lock:
            return key in self._held

    def _wanted(self, key: Hashable, stamp: Hashable, late_s: float) -> tuple[_Kept[Any], bool]:
        """The cached answer, finished or in progress, or a new entry that the first caller must fill."""
        current = ("snapshot", self.lake.snapshot()) if stamp is None else ("stamp", stamp)
        with self._lock:
            kept = self._held.get(key)
            if mine := kept is None or not _serves(kept, current, late_s):
                self._drop(key)
                kept = self._held[key] = _Kept(current)
                self._bytes += kept.size
            self._held.move_to_end(key)
        assert kept is not None
        return kept, mine

    def _result(self, key: Hashable, kept: _Kept[T], patience_s: float | None = None) -> T:
        """The computed answer. A failure is raised to the next caller; the call after that computes again."""
        try:
            return kept.future.result(timeout=patience_s)
        except BaseException:
            with self._lock:
                if kept.future.done() and self._held.get(key) is kept:
                    self._drop(key)
            raise

    def _make(self, key: Hashable, kept: _Kept[T], make: Callable[[], T], size: Callable[[T], int] | None) -> None:
        try:
            made = make()
        except BaseException as error:
            kept.future.set_exception(error)
            return
        kept.made = time.monotonic()
        kept.future.set_result(made)
        with self._lock:
            if self._held.get(key) is kept:
                more = size(made) if size else 0
                kept.size += more
                self._bytes += more
                self._trim()

    def _trim(self) -> None:
        """Evicts the least recently used answers, but never one in progress."""
        for key in [key for key, kept in self._held.items() if kept.future.done()]:
            if self._bytes <= self._most:
                return
            self._drop(key)

    def _drop(self, key: Hashable) -> None:
        kept = self._held.pop(key, None)
        if kept is not None:
            self._bytes -= kept.size

    @property
    def bytes(self) -> int:
        """Bytes of all cached answers."""
        return self._bytes


def run_stamp(run: Run) -> Hashable:
    """Stamp of answers about a run's candidates and calls; None (any commit) while it is running.

    A resumed run is `running` meanwhile and ends at another time.
    """
    return None if run.status == "running" else (run.id, run.status, run.ended_at)


def _serves(kept: _Kept[Any], current: tuple[str, Hashable], late_s: float) -> bool:
    """Return True if a cached answer is valid: of a later snapshot always, of an earlier one until it is too old."""
    if kept.stamp[0] == current[0] == "snapshot":
        new = cast("int", kept.stamp[1]) >= cast("int", current[1])
        return new or (late_s > 0 and time.monotonic() - kept.made < late_s)
    return kept.stamp == current


def _frozen(value: Any) -> Hashable:
    return tuple(value) if isinstance(value, list) else cast("Hashable", value)
