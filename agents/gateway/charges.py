"""Charges of each run, on disk: no call is sent before its reservation is stored here.

A process leases instead of writing a row per call: its row holds an upper bound of its charges and reservations, which
grows by a block before a call would exceed it and becomes the exact charge when the process ends. A killed process
leaves its row unchanged, so the next process starts from at least the billable amount. All processes of a run lease
from one cap, inside SQLite's transaction.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from graft.agents.gateway.journal import BUSY_S, refuse_network_disk, storage_error, write_ahead
from graft.schemas.base import utc_now

TABLE = """
    CREATE TABLE IF NOT EXISTS charges (
        run TEXT, process TEXT, cap TEXT, amount REAL, PRIMARY KEY (run, process, cap)
    ) WITHOUT ROWID"""
OTHERS = "SELECT cap, sum(amount) FROM charges WHERE run = ? AND process <> ? GROUP BY cap"
SET = """
    INSERT INTO charges VALUES (?, ?, ?, ?)
    ON CONFLICT (run, process, cap) DO UPDATE SET amount = excluded.amount"""
ADD = """
    INSERT INTO charges VALUES (?, ?, ?, ?)
    ON CONFLICT (run, process, cap) DO UPDATE SET amount = amount + excluded.amount"""
RECORDED = "lake"
"""Process name of the row for charges that only the lake records."""


def path_in(root: Path) -> Path:
    """Path of the charges in a home folder."""
    return root / "charges.sqlite"


def agents_day() -> str:
    """Name under which agents' charges of this day (UTC) add up, like a run's."""
    return f"agents {utc_now():%Y-%m-%d}"


def charged(path: Path, run: str) -> dict[str, float]:
    """Charges of a run's processes by cap, with what they have leased; empty without the file."""
    if not path.is_file():
        return {}
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", timeout=BUSY_S, uri=True)) as connection:
            return {str(cap): float(amount) for cap, amount in connection.execute(OTHERS, (run, ""))}
    except sqlite3.Error as error:
        raise storage_error(error, path) from None


class Charges:
    """One process's row per cap of one run. Caps are named by their field, such as `limits.money_usd`.

    Every method blocks: call it in a thread. `before` holds the charges of all other processes when this one began.

    Args:
        path: the SQLite file; created if absent.
        run: the run's id.
        recorded: the run's spending according to the lake; the larger of the two figures counts.

    Raises:
        StorageFull, GraftError: the file cannot be used.
    """

    def __init__(self, path: Path, run: str, recorded: Mapping[str, float] | None = None) -> None:
        refuse_network_disk(path)
        self._path, self._run, self._process = path, run, uuid.uuid4().hex
        self._lock = threading.Lock()
        self.lease: dict[str, float] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False, isolation_level=None)
            write_ahead(self._connection)
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute(TABLE)
            self.before = self._begin(recorded or {})
        except sqlite3.Error as error:
            raise storage_error(error, path) from None

    def extend(self, needs: Mapping[str, float], blocks: Mapping[str, float], caps: Mapping[str, float]) -> bool:
        """Extend the lease, on disk, before this returns.

        Args:
            needs: amount required, by cap.
            blocks: amount to lease beyond the need, by cap, as far as there is room.
            caps: the caps; a missing cap is unlimited.

        Returns:
            Whether every need fits. If one does not, the rest of its cap is leased.

        Raises:
            StorageFull, GraftError: the file cannot be used.
        """
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                with self._connection:
                    others, fits, lease = self._others(), True, dict(self.lease)
                    for cap, need in needs.items():
                        room = caps.get(cap, float("inf")) - others.get(cap, 0.0)
                        fits = fits and need <= room
                        lease[cap] = max(lease.get(cap, 0.0), min(room, need + blocks.get(cap, 0.0)))
                    if lease != self.lease:
                        self._set(lease)
            except sqlite3.Error as error:
                raise storage_error(error, self._path) from None
            self.lease = lease
            return fits

    def close(self, charged: Mapping[str, float]) -> None:
        """Replace the lease by the exact charge. If that fails, the larger lease stays."""
        with self._lock:
            try:
                if self.lease or charged:
                    self._connection.execute("BEGIN IMMEDIATE")
                    with self._connection:
                        self._set({**dict.fromkeys(self.lease, 0.0), **charged})
            except sqlite3.Error as error:
                raise storage_error(error, self._path) from None
            finally:
                self._connection.close()

    def _begin(self, recorded: Mapping[str, float]) -> dict[str, float]:
        self._connection.execute("BEGIN IMMEDIATE")
        with self._connection:
            before = self._others()
            missing = {cap: amount - before.get(cap, 0.0) for cap, amount in recorded.items()}
            missing = {cap: amount for cap, amount in missing.items() if amount > 0}
            self._connection.executemany(ADD, [(self._run, RECORDED, cap, amount) for cap, amount in missing.items()])
            return {cap: before.get(cap, 0.0) + missing.get(cap, 0.0) for cap in {**before, **missing}}

    def _others(self) -> dict[str, float]:
        return {str(cap): float(amount) for cap, amount in self._connection.execute(OTHERS, (self._run, self._process))}

    def _set(self, amounts: Mapping[str, float]) -> None:
        self._connection.executemany(SET, [(self._run, self._process, cap, amount) for cap, amount in amounts.items()])
