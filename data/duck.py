"""DuckDB connections with DuckLake's extensions, offline, their cursors, and classification of DuckDB's errors.

Each thread has one cursor over a read-only instance: a slow query of one thread delays no other. Cursors share the
attached lake, its memory limit and its threads. A temporary table belongs to the thread that made it. Each query is a
transaction of its own, so that it sees every commit made before it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from graft.schemas.errors import NO_SPACE, GraftError, MissingExtra

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

T = TypeVar("T")

MEMORY_LIMIT = "2GB"
WRITER_THREADS, READER_THREADS = 1, 2
"""A writer's transactions are dozens of tiny catalogue queries: a second thread doubles their CPU (measured)."""

CONFLICTS = ("conflict", "database is locked", "database table is locked", "database is busy", "no snapshot found")
"""The last one is a moment between two commits of the catalogue, met while another process expires snapshots."""
FULL = ("no space left", "disk is full", "disk full", "not enough space", "disk i/o error")
"""SQLite reports a quota or a file-size limit as an I/O error, as it does a failing disk."""
EXTENSIONS = ("ducklake", "sqlite_scanner")

Stamp = tuple[str, int, int, int, int, int]
VERIFIED = "verified.json"
"""File beside the spill folder with the extension files whose signature DuckDB has verified: 0.3 s of CPU for both. The
change time (ctime) in a stamp reveals a file that was overwritten and given its old modification time."""
_VERIFIED: set[Stamp | None] = set()
FEW = 500
"""Parameter values up to which pandas is hidden from DuckDB."""
POLL_S = 0.05
"""Repeated interrupts for a query that had not begun at the first one."""
CROWDED_S = (0.1, 0.3, 1.0)
"""Seconds before a query that ran out of memory is tried again: other queries end meanwhile."""


def connect(
    spill: Path, *, read_only: bool, memory: str = MEMORY_LIMIT, threads: int | None = None
) -> duckdb.DuckDBPyConnection:
    """Open an in-memory connection with both extensions loaded.

    Args:
        spill: Folder for data beyond the memory limit.
        read_only: Use the reader's default number of threads.
        memory: Memory limit, such as 2GB.
        threads: Threads per query; None uses the default.

    Raises:
        MissingExtra: An extension is neither installed as a wheel nor available from DuckDB.
    """
    import duckdb

    stamps = {_stamp(extension_file(name)) for name in EXTENSIONS}
    if not stamps <= _VERIFIED:
        _VERIFIED.update(_noted(spill.with_name(VERIFIED)))
    verified = stamps <= _VERIFIED
    connection = duckdb.connect(
        ":memory:",
        config={
            "allow_unsigned_extensions": verified,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "memory_limit": memory,
            "threads": threads or (READER_THREADS if read_only else WRITER_THREADS),
            "temp_directory": str(spill),
        },
    )
    for name in EXTENSIONS:
        load_extension(connection, name)
    connection.execute("SET allow_unsigned_extensions = false")  # DuckDB refuses to turn it on again
    connection.execute("SET TimeZone = 'UTC'")
    if not verified:
        _VERIFIED.update(stamps - {None})
        _note(spill.with_name(VERIFIED))
    return connection


def _stamp(file: Path | None) -> Stamp | None:
    """Identity of a file's current content; None for an extension from DuckDB's site."""
    if file is None:
        return None
    found = file.stat()
    return str(file), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _noted(file: Path) -> set[Stamp]:
    """Stamps of an earlier process; none if the file is absent or damaged."""
    try:
        found = json.loads(file.read_bytes())
        return {(str(name), int(a), int(b), int(c), int(d), int(e)) for name, a, b, c, d, e in found}
    except (OSError, ValueError, TypeError):
        return set()


def _note(file: Path) -> None:
    """Write the verified stamps, whole or not at all."""
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(sorted(filter(None, _VERIFIED))), encoding="utf-8")
        beside.replace(file)


def extension_file(name: str) -> Path | None:
    """Return the extension of this DuckDB version in its wheel, or None if the wheel is not installed."""
    import duckdb

    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
        if file.is_file():
            return file
    return None


def load_extension(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Load an extension from its wheel for this DuckDB version, else the installed one, else from DuckDB's site."""
    import duckdb

    if (file := extension_file(name)) is not None:
        connection.execute(f"LOAD {quoted(str(file))}")
        return
    try:
        connection.execute(f"INSTALL {name}")
        connection.execute(f"LOAD {name}")
    except duckdb.Error as error:
        wheel = f"duckdb-extension-{name.replace('_', '-')}=={duckdb.__version__}"
        raise MissingExtra(f"DuckDB's extension {name} cannot be loaded", fix=f"pip install {wheel}") from error


def execute(connection: duckdb.DuckDBPyConnection, query: str, params: Sequence[Any] = ()) -> duckdb.DuckDBPyConnection:
    """Execute a query with parameters, without pandas where there are few.

    DuckDB compares every parameter with pandas.NaT and pandas.NA, and so imports pandas: 0.25 s and 43 MB for a command
    that never uses it. An import that fails costs 25 µs a parameter.
    """
    values = list(params)
    size = sum(len(value) if isinstance(value, list) else 1 for value in values)
    if not values or size > FEW or "pandas" in sys.modules:
        return connection.execute(query, values)
    _here.hidden = True
    try:
        return connection.execute(query, values)
    finally:
        _here.hidden = False


class _WithoutPandas(MetaPathFinder):
    """Lets an import of pandas fail in a thread that has hidden it."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Raises ModuleNotFoundError for pandas; all else is left to the other finders."""
        if name == "pandas" and getattr(_here, "hidden", False):
            raise ModuleNotFoundError("hidden from DuckDB", name=name)


_here = threading.local()
sys.meta_path.insert(0, _WithoutPandas())


def quoted(text: str) -> str:
    """Return the text as a SQL string literal, for statements without parameters (ATTACH, LOAD, COPY)."""
    return "'" + text.replace("'", "''") + "'"


def named(column: str) -> str:
    """Return any text as a quoted SQL name, such as that of a column which a file or a model named."""
    return '"' + column.replace('"', '""') + '"'


def is_full(error: BaseException) -> bool:
    """Return True if the error means that no space is left."""
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return True
    return any(sign in str(error).lower() for sign in FULL)


def is_made(connection: duckdb.DuckDBPyConnection, catalogue: Path) -> bool:
    """Return True if a catalogue contains our tables; a process may have been killed while it created them.

    The check uses DuckDB's SQLite, never Python's: two copies of SQLite in one process release each other's locks.
    """
    import duckdb

    if not catalogue.is_file():
        return False
    try:
        connection.execute(f"ATTACH {quoted(str(catalogue))} AS found (TYPE sqlite, READ_ONLY)")
    except duckdb.Error:
        return False
    try:
        query = "SELECT 1 FROM found.ducklake_table WHERE table_name = 'meta'"
        return connection.execute(query).fetchone() is not None
    except duckdb.Error:
        return False
    finally:
        connection.execute("DETACH found")


def is_conflict(error: BaseException) -> bool:
    """Return True if another writer committed first, so that the same transaction may succeed if retried."""
    return any(sign in str(error).lower() for sign in CONFLICTS)


def unreadable(error: Exception, folder: Path) -> GraftError:
    """Return the error for a catalogue that cannot be attached: it is damaged, or was written by a later DuckLake."""
    first = str(error).splitlines()[0]
    fix = "restore catalogue.sqlite from a copy, upgrade Graft, or set GRAFT_HOME to another folder"
    return GraftError(f"the lake cannot be opened: {first}", where=str(folder), fix=fix)


def rows_of(answer: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """The whole answer to the query just executed, a dict a row, without Arrow.

    Values are as Arrow's `to_pylist` gives them: a moment in `datetime.UTC`, a map as a list of pairs; but a sum of
    integers is an integer.
    """
    columns = [(name, str(kind)) for name, kind, *_ in answer.description or ()]
    names = [name for name, _ in columns]
    moments = [name for name, kind in columns if kind == "TIMESTAMP WITH TIME ZONE"]
    maps = [name for name, kind in columns if kind.startswith("MAP(")]
    rows = [dict(zip(names, values, strict=True)) for values in answer.fetchall()]
    for row in rows if moments or maps else ():
        row.update((name, row[name].replace(tzinfo=UTC)) for name in moments if row[name] is not None)
        row.update((name, list(row[name].items())) for name in maps if row[name] is not None)
    return rows


class Cursor:
    """One thread's cursor, and the lock that shows whether a query is running."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.lock = threading.Lock()
        self._cursor = connection.cursor()
        self._cursor.execute("USE lake")
        self._cursor.execute("SET TimeZone = 'UTC'")  # both are a connection's own, and are not copied

    def table(self, query: str, params: Sequence[Any]) -> pa.Table:
        """The whole answer to a query. Tried again if concurrent queries have taken all memory."""
        return self._patient(lambda: execute(self._cursor, query, params).to_arrow_table())

    def rows(self, query: str, params: Sequence[Any]) -> list[dict[str, Any]]:
        """The same answer as plain rows."""
        return self._patient(lambda: rows_of(execute(self._cursor, query, params)))

    def interrupt(self) -> None:
        """Interrupts the running query, if any."""
        self._cursor.interrupt()

    def _patient(self, work: Callable[[], T]) -> T:
        import duckdb

        for wait_s in CROWDED_S:
            try:
                with self.lock:
                    return work()
            except duckdb.OutOfMemoryException:
                time.sleep(wait_s)
        with self.lock:
            return work()

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
