"""Crash-safe store of batches: SQLite in WAL mode, written before money is spent. It holds no API key.

A batch is stored with the keys of its calls before the provider receives it. A key is dropped once its reply is in the
journal or its call has failed; requested again, it joins another batch.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from graft.schemas.errors import GraftError, StorageFull

BUSY_S = 30.0
"""Seconds that a write waits for another process's write."""
KEPT_S = 30 * 86_400.0
"""Retention in seconds: providers keep results no longer."""

State = Literal["intended", "uploaded", "sent", "ended"]
"""Stored only; file uploaded; the provider has given it an id; finished."""


@dataclass
class Batch:
    """One batch. `remote` is the provider's id, `status` the provider's last report.

    `desk` is the id of the desk that submits it; no other desk does while that desk's process lives.
    """

    id: str
    model: str
    base_url: str | None
    api_key_env: str | None
    chat: bool
    size: int
    created: float
    desk: str
    state: State = "intended"
    input_file: str | None = None
    remote: str | None = None
    status: str = ""


COLUMNS = ", ".join(field.name for field in fields(Batch))


def path_in(root: Path) -> Path:
    """Path of the batch store in a home folder."""
    return root / "batches.sqlite"


class BatchStore:
    """Table of batches and their keys, shared by several processes. Every method blocks: call it in a thread."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            self._connection = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False)
        try:
            with self._errors():
                self._set_up()
        except GraftError:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def add(self, batch: Batch, keys: Iterable[str], charges: Mapping[str, bytes] | None = None) -> None:
        """Store a batch with the keys of its calls, atomically.

        Args:
            batch: the batch.
            keys: the keys of its calls.
            charges: a run's charge for a call until its answer is there, by key.
        """
        marks = ", ".join("?" for _ in fields(Batch))
        with self._lock, self._errors(), self._connection:
            self._connection.execute(f"INSERT INTO batches ({COLUMNS}) VALUES ({marks})", astuple(batch))
            self._connection.executemany(
                "INSERT OR REPLACE INTO batch_keys (key, batch, answer, charge) VALUES (?, ?, NULL, ?)",
                [(key, batch.id, (charges or {}).get(key)) for key in keys],
            )

    def update(self, batch: Batch) -> None:
        """Store a batch's progress."""
        with self._lock, self._errors(), self._connection:
            self._connection.execute(
                "UPDATE batches SET state = ?, input_file = ?, remote = ?, status = ? WHERE id = ?",
                (batch.state, batch.input_file, batch.remote, batch.status, batch.id),
            )

    def end(self, batch: Batch, answers: Iterable[tuple[str, bytes]]) -> None:
        """Mark a batch as ended, store its answers by key, and drop keys without an answer."""
        with self._lock, self._errors(), self._connection:
            self._connection.executemany(
                "UPDATE batch_keys SET answer = ? WHERE key = ? AND batch = ?",
                [(answer, key, batch.id) for key, answer in answers],
            )
            self._connection.execute("DELETE FROM batch_keys WHERE batch = ? AND answer IS NULL", (batch.id,))
            self._connection.execute(
                "UPDATE batches SET state = 'ended', status = ? WHERE id = ?", (batch.status, batch.id)
            )

    def forget(self, key: str) -> None:
        """Drop a call whose reply is in the journal or that has failed."""
        with self._lock, self._errors(), self._connection:
            self._connection.execute("DELETE FROM batch_keys WHERE key = ?", (key,))

    def find(self, key: str) -> tuple[Batch, bytes | None] | None:
        """Return the batch that holds a key, and the answer if there is one."""
        with self._lock, self._errors():
            row = self._connection.execute(
                f"SELECT {COLUMNS}, answer FROM batch_keys JOIN batches ON batches.id = batch WHERE key = ?", (key,)
            ).fetchone()
        return (_batch(row[:-1]), row[-1]) if row else None

    def charge_of(self, key: str) -> bytes | None:
        """Return a run's charge for a call in a batch; None if no run is charged."""
        with self._lock, self._errors():
            row = self._connection.execute("SELECT charge FROM batch_keys WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def get(self, batch: str) -> Batch | None:
        """Return a batch by our id."""
        with self._lock, self._errors():
            row = self._connection.execute(f"SELECT {COLUMNS} FROM batches WHERE id = ?", (batch,)).fetchone()
        return _batch(row) if row else None

    def keys_of(self, batch: str) -> list[str]:
        """Return the pending keys of a batch."""
        with self._lock, self._errors():
            rows = self._connection.execute("SELECT key FROM batch_keys WHERE batch = ?", (batch,)).fetchall()
        return [row[0] for row in rows]

    def listed(self) -> list[tuple[Batch, int]]:
        """Return all batches, newest first, each with its number of pending calls."""
        with self._lock, self._errors():
            rows = self._connection.execute(
                f"SELECT {COLUMNS}, (SELECT count(*) FROM batch_keys WHERE batch = batches.id) FROM batches"
                " ORDER BY created DESC"
            ).fetchall()
        return [(_batch(row[:-1]), row[-1]) for row in rows]

    def _set_up(self) -> None:
        """Create the tables and drop old batches. SQLite does not wait for another process that sets WAL; we do."""
        deadline = time.monotonic() + BUSY_S
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        self._connection.execute("PRAGMA synchronous=FULL")  # a batch is on disk before the provider receives it
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS batches (id TEXT PRIMARY KEY, model TEXT, base_url TEXT, api_key_env TEXT,"
                " chat INTEGER, size INTEGER, created REAL, desk TEXT, state TEXT, input_file TEXT, remote TEXT,"
                " status TEXT)"
            )
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS batch_keys (key TEXT PRIMARY KEY, batch TEXT, answer BLOB, charge BLOB)"
            )
            if "charge" not in {row[1] for row in self._connection.execute("PRAGMA table_info(batch_keys)")}:
                self._connection.execute("ALTER TABLE batch_keys ADD COLUMN charge BLOB")
            self._connection.execute("CREATE INDEX IF NOT EXISTS keys_by_batch ON batch_keys (batch)")
            old = time.time() - KEPT_S
            self._connection.execute(
                "DELETE FROM batch_keys WHERE batch IN (SELECT id FROM batches WHERE created < ?)", (old,)
            )
            self._connection.execute("DELETE FROM batches WHERE created < ?", (old,))

    def _errors(self) -> _StorageErrors:
        return _StorageErrors(self.path)


class _StorageErrors:
    """Converts SQLite's errors to GraftErrors."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, sqlite3.Error):
            return
        if "disk is full" in str(error):
            raise StorageFull(
                "no space left for the batch store", where=str(self._path),
                fix="free some space; the same command resumes the run",
            ) from None  # fmt: skip
        raise GraftError(
            f"the batch store cannot be used: {error}", where=str(self._path),
            fix="move the file away, or set GRAFT_HOME",
        ) from None  # fmt: skip


def listed_at(path: Path) -> list[tuple[Batch, int]]:
    """`BatchStore.listed` of a file; empty if there is no file, and creates none."""
    if not path.is_file():
        return []
    with closing(BatchStore(path)) as store:
        return store.listed()


def _batch(row: tuple[Any, ...]) -> Batch:
    batch = Batch(*row)
    batch.chat = bool(batch.chat)
    return batch
