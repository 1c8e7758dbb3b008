"""Answers that are kept while they stay true: until the next commit, or for as long as what they are about is there.

A reader asks the same things again and again, and over a large lake each costs seconds. Whoever asks names what the
answer hangs on (`stamp`); without a stamp it is the lake's snapshot, so that no commit is missed.
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
"""Bytes that any answer is taken to need: its key, its place in the order."""


class _Kept(Generic[T]):
    """An answer, or that it is being made."""

    def __init__(self, stamp: tuple[str, Hashable]) -> None:
        self.stamp = stamp
        self.made = float("inf")  # when; while it is being made it is not late yet
        self.future: Future[T] = Future()
        self.size = LEAST_SIZE


def _on_a_thread(work: Callable[[], None]) -> None:
    threading.Thread(target=work, daemon=True, name="memo").start()


class QueryCache:
    """Kept answers of one lake. Safe between threads: who asks for what is being made waits for it.

    One answer a question is kept: that of the newest stamp. The least lately asked go where `most_bytes` are exceeded.
    """

    def __init__(self, lake: Lake, *, most_bytes: int = MOST_BYTES) -> None:
        self.lake, self._most = lake, most_bytes
        self._held: OrderedDict[Hashable, _Kept[Any]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def table(self, query: str, params: Sequence[Any] = (), *, stamp: Hashable = None, late_s: float = 0.0) -> pa.Table:
        """The answer to a query as an Arrow table; `stamp` and `late_s` as in `get`.

        A query that asks what time it is (`now()`) is another question at another time: give it the time in `params`.
        """
        key = (query, tuple((type(value), _frozen(value)) for value in params))
        return self.get(
            key, lambda: self.lake.sql(query, params), stamp=stamp, late_s=late_s, size=lambda table: int(table.nbytes)
        )

    def rows(
        self, query: str, params: Sequence[Any] = (), *, stamp: Hashable = None, late_s: float = 0.0
    ) -> list[dict[str, Any]]:
        """The same as new dicts, which the caller may change."""
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
        """What `make` gives, made once for a key and stamp; `size` says how many bytes it holds.

        `stamp` is what the answer hangs on; None: any commit may change it. An answer of the snapshot before is given
        all the same until `late_s` seconds after it was made, so that a run which commits each second costs no large
        query each second. The answer is shared: do not change it. Raises what `make` raises.
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
        """As `get`, but made elsewhere: None if that takes longer than `patience_s`. Ask again then.

        `start` is given the work: a thread of its own does it, unless an executor's `submit` or the like is named.
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
        """Whether an answer is kept, or being made."""
        with self._lock:
            return key in self._held

    def _wanted(self, key: Hashable, stamp: Hashable, late_s: float) -> tuple[_Kept[Any], bool]:
        """The kept answer, made or being made, or a new place for it, which whoever asked first is to fill."""
        asked = ("snapshot", self.lake.snapshot()) if stamp is None else ("stamp", stamp)
        with self._lock:
            kept = self._held.get(key)
            if mine := kept is None or not _serves(kept, asked, late_s):
                self._drop(key)
                kept = self._held[key] = _Kept(asked)
                self._bytes += kept.size
            self._held.move_to_end(key)
        assert kept is not None
        return kept, mine

    def _result(self, key: Hashable, kept: _Kept[T], patience_s: float | None = None) -> T:
        """What was made. A failure is raised to whoever asks next at the latest; asking again then makes it again."""
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
        """Lets go of the least lately asked, but never of what is being made."""
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
        """How much is held."""
        return self._bytes


def run_stamp(run: Run) -> Hashable:
    """What an answer about a run's candidates and calls hangs on; None, any commit, while it goes on.

    A run that is taken up again is `running` meanwhile and ends at another time.
    """
    return None if run.status == "running" else (run.id, run.status, run.ended_at)


def _serves(kept: _Kept[Any], asked: tuple[str, Hashable], late_s: float) -> bool:
    """Whether a kept answer may be given: one of a later snapshot may, one of an earlier while it is not too late."""
    if kept.stamp[0] == asked[0] == "snapshot":
        new = cast("int", kept.stamp[1]) >= cast("int", asked[1])
        return new or (late_s > 0 and time.monotonic() - kept.made < late_s)
    return kept.stamp == asked


def _frozen(value: Any) -> Hashable:
    return tuple(value) if isinstance(value, list) else cast("Hashable", value)
