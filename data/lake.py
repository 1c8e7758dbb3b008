"""The lake: Parquet files under a DuckLake catalogue. Attach, commit, read.

Rows are written only by INSERT from Arrow, in whole batches, under a file lock; readers do not wait. Inlining of small
inserts into the catalogue is off: it cannot hold a NUL byte in a list.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self, TypeVar

from graft.data.arrow import sql_columns, to_table
from graft.data.duck import (
    MEMORY_LIMIT,
    Cursors,
    connect,
    execute,
    is_conflict,
    is_full,
    is_made,
    quoted,
    rows_of,
    unreadable,
)
from graft.data.fence import Fences
from graft.data.lake_records import RunRecords, StudentRecords
from graft.data.lake_schema import (
    SCHEMA_VERSION,
    TABLES,
    VIEWS,
    BatchRecord,
    MetaRecord,
    SeedRecord,
    candidates_table,
    migrate,
)
from graft.schemas.base import utc_now
from graft.schemas.calls import Call
from graft.schemas.datasets import Run
from graft.schemas.durable import sync_since
from graft.schemas.errors import AlreadyRunning, GraftError, LakeTooNew, StorageFull
from graft.schemas.home import Home
from graft.schemas.rows import Candidate, Seed

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

T = TypeVar("T")

CATALOGUE = "catalogue.sqlite"
ATTEMPTS = 6
LOCK_TIMEOUT_S = 120.0


class Lake(RunRecords, StudentRecords):
    """One open lake. Safe to share between threads; other processes may write and read at the same time.

    Threads wait for each other's queries on a lake that is open for writing. On a read-only lake each thread has its
    own cursor and does not see the temporary tables of others.
    """

    def __init__(self, home: Home, connection: duckdb.DuckDBPyConnection, *, read_only: bool) -> None:
        from filelock import FileLock

        self.home, self.read_only = home, read_only
        self._connection = connection
        self._cursors = Cursors(connection) if read_only else None
        self.fences = Fences(home)
        self._guard = threading.RLock()
        self._lock = FileLock(home.lake / "commit.lock", timeout=LOCK_TIMEOUT_S, thread_local=False)
        self._known_seeds: dict[str, set[str]] = {}
        self._batches: set[str] = set()
        self._batches_at: tuple[str, int] = ("", -1)
        self.id = ""  # the name that this lake got when it was made; another lake has another

    @classmethod
    def open(
        cls, home: Home, *, read_only: bool = False, memory: str = MEMORY_LIMIT, threads: int | None = None
    ) -> Lake:
        """Attaches the lake of this home, making it if absent. Raises LakeTooNew, StorageFull, GraftError.

        `memory` is DuckDB's limit, such as `700MB`; beyond it queries spill to the lake's folder. `threads` is the
        number per query: with 1 it is the caller's own.
        """
        import duckdb

        (home.lake / "files").mkdir(parents=True, exist_ok=True)
        connection = connect(home.lake / "spill", read_only=read_only, memory=memory, threads=threads)
        lake = cls(home, connection, read_only=read_only)
        try:
            if read_only and not is_made(connection, home.lake / CATALOGUE):
                cls.open(home).close()
            found = lake._attach()
            if read_only and found < SCHEMA_VERSION:
                lake.close()
                cls.open(home).close()  # an older lake is brought up to date by one that may write
                return cls.open(home, read_only=True, memory=memory, threads=threads)
        except duckdb.Error as error:
            lake.close()
            raise unreadable(error, home.lake) from error
        except BaseException:
            lake.close()
            raise
        return lake

    @classmethod
    @contextmanager
    def look(cls, home: Home | None = None, *, threads: int | None = None) -> Iterator[Lake]:
        """The lake of a home to read, for a `with` block; of a home without a lake an empty one. It makes nothing.

        `home` is by default that of the environment.

        Raises as `open`.
        """
        home = home or Home.find(create=False)
        if (home.lake / CATALOGUE).exists():
            with cls.open(home, read_only=True, threads=threads) as lake:
                yield lake
            return
        with TemporaryDirectory(prefix="graft-empty-") as folder:
            scratch = Home(Path(folder), home.root)
            with cls.open(scratch, read_only=True, threads=threads) as lake:
                yield lake

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Detaches; closing twice is harmless. Running reads of other threads end with an InterruptException."""
        self.fences.close()
        if self._cursors is not None:
            self._cursors.close()
        else:
            with self._guard:
                self._connection.close()

    def interrupt(self) -> None:
        """Interrupts the running queries of a read-only lake, each with an InterruptException."""
        if self._cursors is not None:
            self._cursors.interrupt()

    def _attach(self) -> int:
        """Attaches under the commit lock, because the first of several processes creates the tables or adds columns.

        Returns the schema version found.
        """
        options = "META_JOURNAL_MODE 'WAL', META_BUSY_TIMEOUT 5000, DATA_INLINING_ROW_LIMIT 0, OVERRIDE_DATA_PATH true"
        source = quoted(f"ducklake:sqlite:{self.home.lake / CATALOGUE}")
        files = quoted(str(self.home.lake / "files"))
        mode = ", READ_ONLY" if self.read_only else ""

        def attach() -> None:
            self._connection.execute(f"ATTACH {source} AS lake (DATA_PATH {files}, {options}{mode})")
            self._connection.execute("USE lake")

        if self.read_only:
            self._retrying(attach)
            return self._check_version()
        with self._locked():
            self._retrying(attach)
            if not self.query("FROM duckdb_tables() WHERE database_name = 'lake' AND table_name = 'meta'"):
                self._retrying(self._create)
            found = self._check_version()
            if found < SCHEMA_VERSION:
                self._retrying(lambda: self._transact(lambda connection: migrate(connection, found)))
        return found

    def _create(self) -> None:
        facts = [
            MetaRecord(key="schema_version", value=str(SCHEMA_VERSION)),
            MetaRecord(key="lake_id", value=uuid.uuid4().hex),
        ]

        def make(connection: duckdb.DuckDBPyConnection) -> None:
            for name, model in TABLES.items():
                connection.execute(f"CREATE TABLE lake.{name} ({sql_columns(model)})")
            for name, query in VIEWS.items():
                connection.execute(f"CREATE VIEW lake.{name} AS {query}")
            self.insert("meta", to_table(MetaRecord, facts))

        self._transact(make)

    def _check_version(self) -> int:
        meta = {row["key"]: row["value"] for row in self.query("SELECT key, value FROM lake.meta")}
        self.id = meta.get("lake_id", "")
        found = int(meta.get("schema_version", "0"))
        if found > SCHEMA_VERSION:
            raise LakeTooNew(
                f"the lake has schema version {found}, this Graft reads up to {SCHEMA_VERSION}",
                where=str(self.home.lake),
                fix="upgrade Graft (pip install --upgrade graft-factory), or set GRAFT_HOME to another folder",
            )
        return found

    # ---- writing

    def write(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """Runs `work` in one transaction under the commit lock; tries again if another writer was first.

        `work` may therefore run more than once. Raises StorageFull on a full disk, AlreadyRunning if the lock stays
        taken for two minutes, GraftError on a lake that was opened for reading.
        """
        if self.read_only:
            raise GraftError("this lake was opened for reading only", where=str(self.home.lake))
        with self._guard, self._locked():
            return self._retrying(lambda: self._transact(work))

    def insert(self, table: str, rows: pa.Table) -> None:
        """Adds Arrow rows to a table of the lake, inside the transaction of a `write`.

        DuckDB gets them as a bare stream: for a table it would import pyarrow.dataset and pandas (0.3 s, 60 MB).
        """
        if table not in TABLES:
            raise KeyError(table)
        self._connection.register("_incoming", rows.__arrow_c_stream__())
        try:
            self._connection.execute(f"INSERT INTO lake.{table} BY NAME SELECT * FROM _incoming")
        finally:
            self._connection.unregister("_incoming")

    def commit(self, run_id: str, batch_id: str, candidates: Sequence[Candidate], calls: Sequence[Call]) -> bool:
        """Writes a batch whole or not at all. False: a batch with that id exists, nothing was written."""
        tables: dict[str, pa.Table] = {}
        if candidates:
            tables["candidates"] = candidates_table(run_id, [batch_id] * len(candidates), candidates)
        if calls:
            tables["calls"] = to_table(Call, calls)
        batch = BatchRecord(
            run_id=run_id, batch_id=batch_id, candidates=len(candidates), calls=len(calls), at=utc_now()
        )
        tables["batches"] = to_table(BatchRecord, [batch])
        exemplars = {seed.id: seed for c in candidates for seed in c.slot.exemplars}

        def work(connection: duckdb.DuckDBPyConnection) -> bool:
            if batch_id in self._committed_batches(connection, run_id):
                return False
            for name, rows in tables.items():
                self.insert(name, rows)
            self._add_missing_seeds(run_id, exemplars, "exemplar")
            return True

        with self._guard:
            done = self.write(work)
            if done:
                self._batches.add(batch_id)
                self._batches_at = (run_id, self._batches_at[1] + 1)
        return done

    def _committed_batches(self, connection: duckdb.DuckDBPyConnection, run_id: str) -> set[str]:
        """The run's batches, read again only if the lake changed since this object's own last commit."""
        row = connection.execute("SELECT id FROM lake.current_snapshot()").fetchone()
        at = (run_id, int(row[0]) if row else -1)
        if at != self._batches_at:
            found = execute(connection, "SELECT batch_id FROM lake.batches WHERE run_id = ?", [run_id]).fetchall()
            self._batches, self._batches_at = {str(batch[0]) for batch in found}, at
        return self._batches

    def add_seeds(self, run_id: str, seeds: Sequence[Seed]) -> int:
        """Stores a run's seeds; existing ones stay unchanged. Returns the number of new ones."""
        wanted = {seed.id: seed for seed in seeds}
        return self.write(lambda _: self._add_missing_seeds(run_id, wanted, "seed"))

    def _add_missing_seeds(self, run_id: str, wanted: dict[str, Seed], kind: str) -> int:
        known = self._known_seeds.setdefault(run_id, set())
        if wanted.keys() <= known:
            return 0
        known.update(self._committed_seed_ids(run_id))
        fresh = [seed for name, seed in wanted.items() if name not in known]
        if fresh:
            count = len(fresh)
            self.insert("seeds", to_table(SeedRecord, fresh, run_id=[run_id] * count, kind=[kind] * count))
        return len(fresh)

    def _committed_seed_ids(self, run_id: str) -> list[str]:
        found = execute(self._connection, "SELECT id FROM lake.seeds WHERE run_id = ?", [run_id]).fetchall()
        return [str(row[0]) for row in found]

    def redecide(self, run_id: str, candidates: Sequence[Candidate]) -> int:
        """Replaces changed candidates in the lake; candidates that are not in it are left out.

        Returns the number of replaced ones.
        """
        ids = [c.id for c in candidates]
        chosen = "FROM lake.candidates WHERE run_id = ? AND list_contains(?::VARCHAR[], candidate_id)"

        def work(connection: duckdb.DuckDBPyConnection) -> int:
            found = execute(connection, f"SELECT candidate_id, batch_id {chosen}", [run_id, ids]).fetchall()
            batch_of = {str(name): str(batch) for name, batch in found}
            present = [c for c in candidates if c.id in batch_of]
            execute(connection, f"DELETE {chosen}", [run_id, ids])
            self.insert("candidates", candidates_table(run_id, [batch_of[c.id] for c in present], present))
            return len(present)

        return self.write(work) if ids else 0

    def save_run(self, run: Run) -> None:
        """Stores a run, replacing the one with its id."""
        self.replace("runs", to_table(Run, [run]), id=run.id)

    def replace(self, table: str, rows: pa.Table, **key: str) -> None:
        """Replaces the table's rows whose columns have these values."""
        same = " AND ".join(f'"{column}" = ?' for column in key)

        def work(connection: duckdb.DuckDBPyConnection) -> None:
            execute(connection, f"DELETE FROM lake.{table} WHERE {same}", list(key.values()))
            self.insert(table, rows)

        self.write(work)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import Timeout

        try:
            self._lock.acquire()
        except Timeout:
            raise AlreadyRunning(
                f"another process has held the lake's lock for {LOCK_TIMEOUT_S:g} s",
                where=str(self.home.lake / "commit.lock"),
                fix="end the process that holds it, then run again: nothing is lost",
            ) from None
        except OSError as error:
            raise self._explained(error) from error
        try:
            yield
        finally:
            self._lock.release()

    def _transact(self, work: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        import duckdb

        connection, since = self._connection, time.time()
        connection.execute("BEGIN")
        try:
            result = work(connection)
            sync_since(self.home.lake / "files", since)
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(duckdb.Error):  # a failed COMMIT has rolled back by itself
                connection.execute("ROLLBACK")
            raise
        return result

    def _retrying(self, work: Callable[[], T]) -> T:
        import duckdb

        for attempt in range(ATTEMPTS):
            try:
                return work()
            except (duckdb.Error, OSError) as error:
                if is_full(error) or not is_conflict(error) or attempt == ATTEMPTS - 1:
                    raise self._explained(error) from error
                time.sleep(0.02 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _explained(self, error: Exception) -> Exception:
        if not is_full(error):
            return error
        what = "no space left on the lake's disk (or the disk fails); earlier commits are safe"
        return StorageFull(what, where=str(self.home.lake), fix="free some space and run again: it resumes from here")

    # ---- reading

    def sql(self, query: str, params: Sequence[Any] = ()) -> pa.Table:
        """The answer to a query over the lake's tables. Values belong in `params`, never in the query's text."""
        if self._cursors is not None:
            cursor = self._cursors.mine()
            return self._retrying(lambda: cursor.table(query, params))
        with self._guard:
            return self._retrying(lambda: execute(self._connection, query, params).to_arrow_table())

    def query(self, query: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The same answer as plain rows, without Arrow, whose import takes 0.2 s."""
        if self._cursors is not None:
            cursor = self._cursors.mine()
            return self._retrying(lambda: cursor.rows(query, params))
        with self._guard:
            return self._retrying(lambda: rows_of(execute(self._connection, query, params)))

    def snapshot(self) -> int:
        """The number of the newest commit of any process: while it is the same, so are all answers. Takes 2 ms."""
        return int(self.query("SELECT id FROM lake.current_snapshot()")[0]["id"])
