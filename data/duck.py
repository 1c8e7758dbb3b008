"""DuckDB connections with DuckLake's extensions, offline, and classification of DuckDB's errors."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from graft.schemas.errors import NO_SPACE, GraftError, MissingExtra

if TYPE_CHECKING:
    import duckdb

MEMORY_LIMIT = "2GB"
WRITER_THREADS, READER_THREADS = 1, 2
"""A writer's transactions are dozens of tiny catalogue queries: a second thread doubles their CPU (measured)."""

CONFLICTS = ("conflict", "database is locked", "database table is locked", "database is busy")
FULL = ("no space left", "disk is full", "disk full", "not enough space", "disk i/o error")
"""SQLite reports a quota or a file-size limit as an I/O error, as it does a failing disk."""
EXTENSIONS = ("ducklake", "sqlite_scanner")

Stamp = tuple[str, int, int, int, int]
_VERIFIED: set[Stamp | None] = set()
"""Extension files that DuckDB has verified in this process; verifying takes 0.3 s of CPU per connection."""


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
    _VERIFIED.update(stamps - {None})
    return connection


def _stamp(file: Path | None) -> Stamp | None:
    """Identity of a file's current content; None for an extension from DuckDB's site."""
    if file is None:
        return None
    found = file.stat()
    return str(file), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


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


def quoted(text: str) -> str:
    """Return the text as a SQL string literal, for statements without parameters (ATTACH, LOAD, COPY)."""
    return "'" + text.replace("'", "''") + "'"


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
