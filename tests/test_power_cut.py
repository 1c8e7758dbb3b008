"""Acknowledged data survives a power cut: unsynced writes are dropped, and nothing acknowledged is missing.

SQLite is given a file system layer (a VFS, made with ctypes) that copies a file aside whenever it is synced: the copies
are the disk after a power cut under the harshest reading, where nothing reaches it but by fsync.
"""

from __future__ import annotations

import _sqlite3
import asyncio
import ctypes
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graft.agents.gateway.batch.store import Batch, BatchStore
from graft.agents.gateway.journal import Journal
from graft.agents.gateway.journal_store import check
from graft.data.lake import Lake
from graft.schemas.calls import Reply
from graft.schemas.durable import put
from graft.schemas.home import Home

POINTER = ctypes.c_void_p
OPEN = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER, POINTER, ctypes.c_int, POINTER)
SYNC = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, ctypes.c_int)
DELETE = ctypes.CFUNCTYPE(ctypes.c_int, POINTER, POINTER, ctypes.c_int)
METHODS = 19
"""Pointers of sqlite3_io_methods, after the version: enough for version 3; xSync is the fifth."""


_alive: list[Disk] = []
"""SQLite may call a layer as long as a connection is open, also after a test that failed."""


class Vfs(ctypes.Structure):
    """The beginning of sqlite3_vfs."""

    _fields_ = (
        ("version", ctypes.c_int), ("file_size", ctypes.c_int), ("longest", ctypes.c_int), ("next", POINTER),
        ("name", ctypes.c_char_p), ("data", POINTER), ("open", POINTER), ("delete", POINTER), ("rest", POINTER * 17),
    )  # fmt: skip


class IoMethods(ctypes.Structure):
    """sqlite3_io_methods."""

    _fields_ = (("version", ctypes.c_int), ("methods", POINTER * METHODS))


class Disk:
    """SQLite's default VFS, until `close`, with a copy of every file as it was when it was last synced."""

    def __init__(self, kept: Path) -> None:
        self.kept, self.syncs = kept, 0
        self._fresh: set[int] = set()
        self._gone: set[str] = set()
        kept.mkdir()
        _alive.append(self)
        self._library = ctypes.CDLL(_sqlite3.__file__)
        find = self._library.sqlite3_vfs_find
        find.restype, find.argtypes = POINTER, [ctypes.c_char_p]
        self._library.sqlite3_vfs_register.argtypes = [POINTER, ctypes.c_int]
        self._library.sqlite3_vfs_unregister.argtypes = [POINTER]
        self._before = find(None)
        usual = Vfs.from_address(self._before)
        self._vfs = Vfs()
        ctypes.memmove(ctypes.byref(self._vfs), self._before, ctypes.sizeof(Vfs))
        self._paths: dict[int, str] = {}
        self._tables: dict[int, tuple[IoMethods, Any]] = {}
        self._usual_open, self._usual_delete = OPEN(usual.open), DELETE(usual.delete)
        self._open, self._delete = OPEN(self._opened), DELETE(self._deleted)
        self._vfs.name = b"power-cut"
        self._vfs.open = ctypes.cast(self._open, POINTER)
        self._vfs.delete = ctypes.cast(self._delete, POINTER)
        self._library.sqlite3_vfs_register(ctypes.byref(self._vfs), 1)

    def close(self) -> None:
        """Give the usual VFS its place back; connections must be closed."""
        self._library.sqlite3_vfs_register(self._before, 1)
        self._library.sqlite3_vfs_unregister(ctypes.byref(self._vfs))

    def _opened(self, vfs: int, name: int | None, file: int, flags: int, out: int) -> int:
        """`name` stays a pointer: SQLite's own VFS keeps it, and reads beyond its end."""
        result = int(self._usual_open(self._before, name, file, flags, out))
        methods = ctypes.cast(file, ctypes.POINTER(POINTER))
        if result or not name or not methods[0]:
            return result
        self._paths[file] = os.fsdecode(ctypes.string_at(name))
        self._fresh.add(file)
        usual = methods[0]
        if usual not in self._tables:
            table = IoMethods.from_buffer_copy(ctypes.string_at(usual, ctypes.sizeof(IoMethods)))
            inner = SYNC(table.methods[4])

            def synced(which: int, how: int) -> int:
                done = int(inner(which, how))
                self._keep(which)
                return done

            callback = SYNC(synced)
            table.methods[4] = ctypes.cast(callback, POINTER)
            self._tables[usual] = (table, callback)
        methods[0] = ctypes.addressof(self._tables[usual][0])
        return result

    def _deleted(self, vfs: int, name: int, sync_folder: int) -> int:
        self._gone.add(
            os.fsdecode(ctypes.string_at(name))
        )  # until the folder is synced, the file is there again after a cut
        return int(self._usual_delete(self._before, name, sync_folder))

    def _keep(self, file: int) -> None:
        path = Path(self._paths[file])
        if path.parent != self.kept.parent:
            return  # what was copied out of here, and is looked at
        self.syncs += 1
        shutil.copyfile(path, self.kept / path.name)
        if file in self._fresh and path.name.endswith(("-wal", "-journal")):  # then SQLite syncs the folder as well
            for gone in self._gone - {str(path)}:
                (self.kept / Path(gone).name).unlink(missing_ok=True)
            self._gone.clear()
        self._fresh.discard(file)

    def after_the_cut(self, name: str, folder: Path) -> Path:
        """The files of a database as a power cut at this moment would leave them, in a folder of their own."""
        folder.mkdir()
        for file in self.kept.glob(f"{name}*"):
            if not file.name.endswith("-shm"):
                shutil.copyfile(file, folder / file.name)
        return folder / name


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "synced")
    yield made
    made.close()


async def test_every_acknowledged_call_is_in_the_journal_after_a_power_cut(disk: Disk, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    for place in range(30):
        await asyncio.gather(*(journal.add(b"{}", Reply(key=f"{place}-{i}", text="said")) for i in range(7)))
        rebooted = disk.after_the_cut("journal.sqlite", tmp_path / f"cut{place}")
        connection = sqlite3.connect(rebooted)
        kept = {key for (key,) in connection.execute("SELECT key FROM calls")}
        connection.close()
        assert kept == {f"{p}-{i}" for p in range(place + 1) for i in range(7)}
        assert check(rebooted).sound
    journal.close()
    assert disk.syncs >= 30, "the layer was in use"


def test_a_batch_is_on_the_disk_before_the_provider_hears_of_it(disk: Disk, tmp_path: Path) -> None:
    store = BatchStore(tmp_path / "batches.sqlite")
    batch = Batch("b1", "openai/fake", "http://127.0.0.1:9/v1", None, True, 2, time.time(), "desk")
    store.add(batch, ["k1", "k2"])
    batch.state, batch.input_file = "uploaded", "file-1"
    for step, change in enumerate(("uploaded", "sent")):
        batch.state, batch.remote = change, "batch_1" if change == "sent" else None  # type: ignore[assignment]
        store.update(batch)
        rebooted = BatchStore(disk.after_the_cut("batches.sqlite", tmp_path / f"cut{step}"))
        assert rebooted.get("b1") == batch
        assert rebooted.find("k1") == rebooted.find("k2") == (batch, None)
        rebooted.close()
    store.end(batch, [("k1", b"answer")])
    rebooted = BatchStore(disk.after_the_cut("batches.sqlite", tmp_path / "end"))
    found = rebooted.find("k1")
    assert found is not None and found[1] == b"answer"
    rebooted.close()
    store.close()


def test_parquet_files_and_their_folders_are_on_the_disk_before_the_catalogue_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    synced: dict[tuple[int, int], int] = {}
    really = os.fsync

    def commits() -> int:
        if not (home.lake / "catalogue.sqlite").exists():
            return 0
        connection = sqlite3.connect(home.lake / "catalogue.sqlite")
        try:
            return int(connection.execute("SELECT count(*) FROM ducklake_snapshot").fetchone()[0])
        except sqlite3.OperationalError:
            return 0
        finally:
            connection.close()

    def spy(held: int) -> None:
        really(held)
        found = os.fstat(held)
        synced[found.st_dev, found.st_ino] = max(commits(), synced.get((found.st_dev, found.st_ino), 0))

    monkeypatch.setattr("os.fsync", spy)
    seen: set[Path] = set()
    with Lake.open(home) as lake:
        for place in range(4):
            before = commits()
            if place == 3:  # a file of deleted rows
                lake.write(lambda c: c.execute("DELETE FROM lake.batches WHERE batch_id IN ('b10', 'b21')"))
            else:
                lake.write(lambda c, name=f"b{place}": [  # type: ignore[misc]
                    c.execute("INSERT INTO lake.batches SELECT 'r', ? || i, 0, 0, now() FROM range(3) t(i)", [name]),
                    c.execute("INSERT INTO lake.batches VALUES ('r', ?, 0, 0, now())", [name]),
                ])  # fmt: skip
            made = {path for path in (home.lake / "files").rglob("*.parquet") if path not in seen}
            assert made and commits() == before + 1
            for path in (*made, *{path.parent for path in made}):
                found = path.stat()
                assert synced.get((found.st_dev, found.st_ino), -1) == before, f"{path.name} was not synced before"
            seen |= made


def test_a_file_that_takes_another_s_place_is_synced_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, part = tmp_path / "kept.json", tmp_path / "kept.part"
    target.write_text("old")
    part.write_text("new")
    synced: list[tuple[int, str]] = []
    really = os.fsync

    def spy(held: int) -> None:
        really(held)
        synced.append((os.fstat(held).st_ino, target.read_text()))

    monkeypatch.setattr("os.fsync", spy)
    made = part.stat().st_ino
    put(part, target)
    assert synced == [(made, "old"), (tmp_path.stat().st_ino, "new")] and not part.exists()
