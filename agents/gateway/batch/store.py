"""What is remembered of batches across a crash: SQLite in WAL, written before money is spent. It holds no API key.

A batch is in it before the provider hears of it, with the keys of its calls. A key leaves when its reply is in the
journal, or when its call failed: asked again, it goes into another batch.
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
"""Seconds that a write waits for another process's."""
KEPT_S = 30 * 86_400.0
"""Seconds after which a batch is forgotten: providers keep results no longer than that."""

State = Literal["intended", "uploaded", "sent", "ended"]
"""Written down only; its file is at the provider; the provider gave it an id; nothing more is to come."""


@dataclass
class Batch:
    """One batch, as it is known here. `remote` is the provider's id, `status` what the provider last said of it.

    `desk` is who hands it in; only that desk does, as long as its process lives.
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
    """Where the batches of a home folder are remembered."""
    return root / "batches.sqlite"


class BatchStore:
    """The table of batches and their keys. Every method blocks: call it in a thread. Several processes may share it."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._told():
            self._connection = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False)
        try:
            with self._told():
                self._found()
        except GraftError:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def add(self, batch: Batch, keys: Iterable[str], charges: Mapping[str, bytes] | None = None) -> None:
        """Write a batch down with the keys of its calls, whole or not at all.

        `charges` is, by key, what a run is charged for a call until its answer is there.
        """
        marks = ", ".join("?" for _ in fields(Batch))
        with self._lock, self._told(), self._connection:
            self._connection.execute(f"INSERT INTO batches ({COLUMNS}) VALUES ({marks})", astuple(batch))
            self._connection.executemany(
                "INSERT OR REPLACE INTO batch_keys (key, batch, answer, charge) VALUES (?, ?, NULL, ?)",
                [(key, batch.id, (charges or {}).get(key)) for key in keys],
            )

    def update(self, batch: Batch) -> None:
        """Write down how far a batch is."""
        with self._lock, self._told(), self._connection:
            self._connection.execute(
                "UPDATE batches SET state = ?, input_file = ?, remote = ?, status = ? WHERE id = ?",
                (batch.state, batch.input_file, batch.remote, batch.status, batch.id),
            )

    def end(self, batch: Batch, answers: Iterable[tuple[str, bytes]]) -> None:
        """Nothing more is to come: keep the answers by key, and forget the keys that have none."""
        with self._lock, self._told(), self._connection:
            self._connection.executemany(
                "UPDATE batch_keys SET answer = ? WHERE key = ? AND batch = ?",
                [(answer, key, batch.id) for key, answer in answers],
            )
            self._connection.execute("DELETE FROM batch_keys WHERE batch = ? AND answer IS NULL", (batch.id,))
            self._connection.execute(
                "UPDATE batches SET state = 'ended', status = ? WHERE id = ?", (batch.status, batch.id)
            )

    def forget(self, key: str) -> None:
        """A call is done with: its reply is in the journal, or it failed."""
        with self._lock, self._told(), self._connection:
            self._connection.execute("DELETE FROM batch_keys WHERE key = ?", (key,))

    def find(self, key: str) -> tuple[Batch, bytes | None] | None:
        """The batch that a key belongs to, with the answer where there is one already."""
        with self._lock, self._told():
            row = self._connection.execute(
                f"SELECT {COLUMNS}, answer FROM batch_keys JOIN batches ON batches.id = batch WHERE key = ?", (key,)
            ).fetchone()
        return (_batch(row[:-1]), row[-1]) if row else None

    def charge_of(self, key: str) -> bytes | None:
        """What a run is charged for a call that is in a batch; None where no run is."""
        with self._lock, self._told():
            row = self._connection.execute("SELECT charge FROM batch_keys WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def get(self, batch: str) -> Batch | None:
        """A batch by its id here."""
        with self._lock, self._told():
            row = self._connection.execute(f"SELECT {COLUMNS} FROM batches WHERE id = ?", (batch,)).fetchone()
        return _batch(row) if row else None

    def keys_of(self, batch: str) -> list[str]:
        """The keys of a batch that are not done with."""
        with self._lock, self._told():
            rows = self._connection.execute("SELECT key FROM batch_keys WHERE batch = ?", (batch,)).fetchall()
        return [row[0] for row in rows]

    def listed(self) -> list[tuple[Batch, int]]:
        """Every batch that is remembered, newest first, with the number of its calls that are not done with."""
        with self._lock, self._told():
            rows = self._connection.execute(
                f"SELECT {COLUMNS}, (SELECT count(*) FROM batch_keys WHERE batch = batches.id) FROM batches"
                " ORDER BY created DESC"
            ).fetchall()
        return [(_batch(row[:-1]), row[-1]) for row in rows]

    def _found(self) -> None:
        """Make the tables and forget what is too old. SQLite does not wait for a rival that changes to WAL; we do."""
        deadline = time.monotonic() + BUSY_S
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode=WAL")
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        self._connection.execute("PRAGMA synchronous=FULL")  # a batch is on the disk before the provider has it
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

    def _told(self) -> _Told:
        return _Told(self.path)


class _Told:
    """Turns SQLite's errors into ones for people."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, sqlite3.Error):
            return
        if "disk is full" in str(error):
            raise StorageFull(
                "no space left to remember batches", where=str(self._path), fix="make room; the rerun goes on from here"
            ) from None
        raise GraftError(
            f"the batches' file cannot be used: {error}", where=str(self._path),
            fix="move the file away, or set GRAFT_HOME",
        ) from None  # fmt: skip


def listed_at(path: Path) -> list[tuple[Batch, int]]:
    """What `BatchStore.listed` says of a file; empty where there is none. Makes no file."""
    if not path.is_file():
        return []
    with closing(BatchStore(path)) as store:
        return store.listed()


def _batch(row: tuple[Any, ...]) -> Batch:
    batch = Batch(*row)
    batch.chat = bool(batch.chat)
    return batch
