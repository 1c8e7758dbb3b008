"""One DuckDB connection with DuckLake's extensions, offline, and what DuckDB's errors mean to us."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import NO_SPACE, GraftError, MissingExtra

if TYPE_CHECKING:
    import duckdb

MEMORY_LIMIT = "2GB"
WRITER_THREADS, READER_THREADS = 1, 2
"""A writer's transactions are dozens of tiny catalogue queries: a second thread doubles their CPU (measured)."""

CONFLICTS = ("conflict", "database is locked", "database table is locked", "database is busy")
FULL = ("no space left", "disk is full", "disk full", "not enough space", "disk i/o error")
"""A quota, or a limit on the size of files, is an I/O error to SQLite; a disk that fails looks the same."""
EXTENSIONS = ("ducklake", "sqlite_scanner")


def connect(
    spill: Path, *, read_only: bool, memory: str = MEMORY_LIMIT, threads: int | None = None
) -> duckdb.DuckDBPyConnection:
    """An in-memory connection with both extensions loaded; beyond `memory` it spills to the folder `spill`.

    `threads` is how many work on a query. Raises MissingExtra where an extension is neither in its wheel nor to be had
    from DuckDB.
    """
    import duckdb

    connection = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "memory_limit": memory,
            "threads": threads or (READER_THREADS if read_only else WRITER_THREADS),
            "temp_directory": str(spill),
        },
    )
    for name in EXTENSIONS:
        load_extension(connection, name)
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def load_extension(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Load an extension from the wheel of this DuckDB version, else what is installed, else from DuckDB's own site."""
    import duckdb

    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
        if file.is_file():
            connection.execute(f"LOAD {quoted(str(file))}")
            return
    try:
        connection.execute(f"INSTALL {name}")
        connection.execute(f"LOAD {name}")
    except duckdb.Error as error:
        wheel = f"duckdb-extension-{name.replace('_', '-')}=={duckdb.__version__}"
        raise MissingExtra(f"DuckDB's extension {name} cannot be loaded", fix=f"pip install {wheel}") from error


def quoted(text: str) -> str:
    """The text as a SQL string literal, for the few places that take no parameter (ATTACH, LOAD, COPY)."""
    return "'" + text.replace("'", "''") + "'"


def is_full(error: BaseException) -> bool:
    """Whether this error says that no space is left."""
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return True
    return any(sign in str(error).lower() for sign in FULL)


def is_made(connection: duckdb.DuckDBPyConnection, catalogue: Path) -> bool:
    """Whether a catalogue holds our tables: a process may have been killed while it made them.

    DuckDB's SQLite looks, never Python's: two copies of SQLite in one process take each other's locks away.
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
    """Whether another writer was first, so that the same transaction may succeed when tried again."""
    return any(sign in str(error).lower() for sign in CONFLICTS)


def unreadable(error: Exception, folder: Path) -> GraftError:
    """What to tell a person whose catalogue cannot be attached: it is damaged, or a later DuckLake wrote it."""
    first = str(error).splitlines()[0]
    fix = "restore catalogue.sqlite from a copy, upgrade Graft, or set GRAFT_HOME to another folder"
    return GraftError(f"the lake cannot be opened: {first}", where=str(folder), fix=fix)
