"""Queries that a person writes run in processes of their own, which end at a limit of time and memory.

DuckDB looks for an interrupt between blocks of 2,048 rows, and does not count the text that a function makes within
one. So a query that an interrupt does not end takes its process down, and no other reader notices.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import orjson

from graft.schemas.errors import GraftError
from graft.schemas.home import Home, python_path

if TYPE_CHECKING:
    import pyarrow as pa


AT_ONCE = 2
"""Queries of one kind that run at the same time."""
WAITING = 4
"""Queries that wait for their turn; more are refused at once, so that they do not take the pages' threads."""
GRACE_S = 0.5
"""From the interrupt to the end of the process."""
LOOK_S = 0.05
OVER_TIME, OVER_MEMORY = 75, 76
"""How a process ends itself over its budget."""
SIZE = struct.Struct(">cQ")
"""Before every message: its kind, and how many bytes follow."""


@dataclass(frozen=True)
class Budget:
    """Limits of one query: seconds, and MB of its process, of which DuckDB may take half."""

    seconds: float = 10.0
    memory_mb: int = 800
    spill: bool = False


SEARCH = Budget()
"""For what a page shows."""
WRITING = Budget(seconds=600.0, memory_mb=4_000, spill=True)
"""For an export, which writes a whole version."""


@dataclass
class Fences:
    """The processes of one lake, started at the first query of their budget. Safe between threads."""

    home: Home
    _open: dict[Budget, _Fence] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def sql(self, query: str, params: Sequence[Any] = (), budget: Budget = SEARCH) -> pa.Table:
        """The answer to a query that holds a person's condition, as the lake's last commit has it.

        Raises GraftError if the query is over its budget or too many wait, else duckdb.Error as the query raises it.
        """
        return self.of(budget).sql(query, params)

    def of(self, budget: Budget = SEARCH) -> _Fence:
        """The processes of this budget."""
        with self._lock:
            return self._open.setdefault(budget, _Fence(self.home, budget))

    def close(self) -> None:
        """Ends every process, with whatever it works on."""
        with self._lock:
            for one in self._open.values():
                one.close()
            self._open.clear()


class _Fence:
    """At most AT_ONCE processes of one budget."""

    def __init__(self, home: Home, budget: Budget) -> None:
        self._home, self._budget = home, budget
        self._turns = threading.Semaphore(AT_ONCE)
        self._inside = 0
        self._idle: list[subprocess.Popen[bytes]] = []
        self._every: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """One of the places of this budget, after waiting for it. Raises GraftError where all stay taken."""
        busy = GraftError(
            "too many searches run at once", where="query", fix=f"try again in {self._budget.seconds:g} s"
        )
        with self._lock:
            if self._inside >= AT_ONCE + WAITING:
                raise busy
            self._inside += 1
        try:
            if not self._turns.acquire(timeout=2 * self._budget.seconds):
                raise busy
            try:
                yield
            finally:
                self._turns.release()
        finally:
            with self._lock:
                self._inside -= 1

    def sql(self, query: str, params: Sequence[Any]) -> pa.Table:
        """As Fences.sql."""
        with self.turn():
            process = self._process()
            assert process.stdin is not None and process.stdout is not None
            try:
                send(process.stdin, b"q", orjson.dumps([query, list(params)]))
                kind, body = receive(process.stdout)
            except (OSError, EOFError):
                raise self._ended(process) from None
            with self._lock:
                self._idle.append(process)
        return _answer(kind, body, self._budget)

    def _process(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise GraftError("the lake is closed", where=str(self._home.lake))
            if self._idle:
                return self._idle.pop()
        words = [str(self._home.root.absolute()), str(self._budget.seconds), str(self._budget.memory_mb),
                 "spill" if self._budget.spill else ""]  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "graft.data.fenced", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": python_path()}, start_new_session=True,
        )  # fmt: skip
        with self._lock:
            self._every.add(process)
        if self._closed:
            self._end(process)
        return process

    def _ended(self, process: subprocess.Popen[bytes]) -> GraftError:
        """The error of a process that ended in the middle of a query."""
        self._end(process)
        if process.returncode == OVER_TIME:
            return over_time(self._budget)
        if process.returncode == OVER_MEMORY:
            return over_memory(self._budget)
        return GraftError("the search was ended", where="query", fix="try it again")

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._every.discard(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        with self._lock:
            self._closed, self._idle = True, []
            every = list(self._every)
        for process in every:
            process.kill()  # whoever waits for its answer reads the end of the pipe
        for process in every:
            self._end(process)


def over_time(budget: Budget) -> GraftError:
    """The error of a query that took too long."""
    what = f"this search took more than {budget.seconds:g} s and was ended"
    return GraftError(what, where="query", fix="make the condition simpler, or search a smaller version")


def over_memory(budget: Budget) -> GraftError:
    """The error of a query that took too much memory."""
    what = f"this search took more than {budget.memory_mb:,} MB of memory and was ended"
    return GraftError(what, where="query", fix="make the condition simpler, or search a smaller version")


def _answer(kind: bytes, body: bytes, budget: Budget) -> pa.Table:
    import duckdb
    import pyarrow as pa

    if kind == b"t":
        raise over_time(budget)
    if kind == b"m":
        raise over_memory(budget)
    if kind == b"e":
        raise duckdb.Error(body.decode())
    with pa.ipc.open_stream(body) as stream:
        return stream.read_all()


def send(pipe: IO[bytes], kind: bytes, body: bytes) -> None:
    """Write one message of the protocol between the two processes."""
    pipe.write(SIZE.pack(kind, len(body)))
    pipe.write(body)
    pipe.flush()


def receive(pipe: IO[bytes]) -> tuple[bytes, bytes]:
    """The next message: (kind, body). Raises EOFError if the other end closed."""
    head = pipe.read(SIZE.size)
    if len(head) < SIZE.size:
        raise EOFError
    kind, size = SIZE.unpack(head)
    body = pipe.read(size)
    if len(body) < size:
        raise EOFError
    return kind, body
