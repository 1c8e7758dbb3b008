"""One cursor per thread over one read-only DuckDB instance: a slow query of one thread delays no other.

Cursors share the attached lake, its memory limit and its threads. A temporary table belongs to the thread that made it.
Each query is a transaction of its own, so that it sees every commit made before it.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

POLL_S = 0.05
"""Repeated interrupts for a query that had not begun at the first one."""
CROWDED_S = (0.1, 0.3, 1.0)
"""Seconds before a query that ran out of memory is tried again: other queries end meanwhile."""


class Cursor:
    """One thread's cursor, and the lock that shows whether a query is running."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.lock = threading.Lock()
        self._cursor = connection.cursor()
        self._cursor.execute("USE lake")
        self._cursor.execute("SET TimeZone = 'UTC'")  # both are a connection's own, and are not copied

    def table(self, query: str, params: Sequence[Any]) -> pa.Table:
        """The whole answer to a query. Tried again if concurrent queries have taken all memory."""
        import duckdb

        for wait_s in CROWDED_S:
            try:
                return self._table(query, params)
            except duckdb.OutOfMemoryException:
                time.sleep(wait_s)
        return self._table(query, params)

    def _table(self, query: str, params: Sequence[Any]) -> pa.Table:
        with self.lock:
            return self._cursor.execute(query, list(params)).to_arrow_table()

    def interrupt(self) -> None:
        """Interrupts the running query, if any."""
        self._cursor.interrupt()

    def close(self) -> None:
        """Interrupts the running query, and closes."""
        while not self.lock.acquire(timeout=POLL_S):
            self._cursor.interrupt()
        try:
            self._cursor.close()
        finally:
            self.lock.release()


class Cursors:
    """The cursors of all threads. A thread's cursor is made at its first query and closed when the thread ends."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._own = threading.local()
        self._all: weakref.WeakSet[Cursor] = weakref.WeakSet()
        self._guard = threading.Lock()

    def mine(self) -> Cursor:
        """This thread's cursor. Raises duckdb.ConnectionException once all are closed."""
        cursor: Cursor | None = getattr(self._own, "cursor", None)
        if cursor is None:
            with self._guard:
                cursor = self._own.cursor = Cursor(self._connection)
                self._all.add(cursor)
        return cursor

    def interrupt(self) -> None:
        """Interrupts every running query."""
        with self._guard:
            for cursor in list(self._all):
                cursor.interrupt()

    def close(self) -> None:
        """Interrupts every query and closes every cursor, then the connection; closing twice is harmless."""
        with self._guard:
            for cursor in list(self._all):
                cursor.close()
            self._connection.close()
