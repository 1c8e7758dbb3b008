"""Repair of a journal: damaged rows are moved out, and a file that SQLite cannot read is salvaged row by row.

Nothing is thrown away: damaged rows go to `NAME.damaged-WHEN.jsonl` beside the journal, a broken file is kept as
`NAME.broken-WHEN`. Both hold prompts and replies, as the journal does.
"""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import sqlite3
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import orjson

from graft.agents.gateway.journal import open_journal, refuse_network_disk, storage_error, unpacked
from graft.agents.gateway.journal_store import ROWS, Row, as_text, check, damage_of, file_error, moment, opened
from graft.schemas.base import utc_now
from graft.schemas.durable import put
from graft.schemas.errors import AlreadyRunning

COLUMNS = ("key", "request", "reply", "at")
NUMBERED = "SELECT rowid, key, request, reply, at FROM calls"
PAGE, ROOT, LEAF = 4096, 2, 0x0D
"""Of SQLite's file format: bytes of a page, the page where the table of a journal begins, first byte of a leaf."""
UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
"""What a damaged file brings; the second where SQLite quotes a damaged schema in its message."""
SHARED_BYTES = (510, 0x40000002)
"""Length and start of the bytes of a SQLite file that everyone who has it open keeps locked."""


@dataclass(frozen=True)
class Repaired:
    """What a repair left: good rows kept, damaged ones moved out, and the files that it wrote."""

    kept: int
    moved: int
    damaged_file: str | None = None
    broken_file: str | None = None


def repair(path: Path) -> Repaired:
    """Keep every good row and move the others out; a sound journal is left alone.

    Raises NotFound, LakeTooNew, StorageFull, AlreadyRunning where SQLite cannot read the file and another process has
    it open, GraftError.
    """
    found = check(path)
    if found.sound:
        return Repaired(found.rows, 0)
    try:
        return _salvage(path) if found.sqlite else _move_out(path)
    except OSError as error:
        raise file_error(error, path) from None


def _beside(path: Path, kind: str, ending: str = "") -> Path:
    stem = f"{path.name}.{kind}-{utc_now():%Y-%m-%d-%H%M%S}"
    for number in range(1_000):
        file = path.with_name(f"{stem}{f'-{number}' if number else ''}{ending}")
        if not file.exists():
            return file
    raise FileExistsError(f"{stem}: a thousand repairs in one second")


def _move_out(path: Path) -> Repaired:
    """The damaged rows of a file that SQLite reads; others may write to it meanwhile."""
    file = _beside(path, "damaged", ".jsonl")
    with opened(path) as connection:
        suspects = [number for number, *row in connection.execute(NUMBERED) if damage_of(_row(row))]
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            moved = []
            for number in suspects:  # read again: a newer reply may stand there by now
                row = connection.execute(f"{ROWS} WHERE rowid = ?", (number,)).fetchone()
                if row and damage_of(row):
                    moved.append((number, row))
            with file.open("wb") as out:
                _write(out, [row for _, row in moved])
            connection.executemany("DELETE FROM calls WHERE rowid = ?", [(number,) for number, _ in moved])
        kept = int(connection.execute("SELECT count(*) FROM calls").fetchone()[0])
    return Repaired(kept, len(moved), str(file))


def _row(values: list[Any]) -> Row:
    key, request, reply, at = values
    return key, request, reply, at


def _write(out: IO[bytes], rows: list[Row]) -> None:
    for row in rows:
        out.write(orjson.dumps(_remains(row), option=orjson.OPT_APPEND_NEWLINE))
    out.flush()
    os.fsync(out.fileno())


def _remains(row: Row) -> dict[str, Any]:
    """What could be read of a damaged row: text where it is some, the bytes as base64 where not."""
    key, request, reply, at = row
    fields: dict[str, Any] = {"damage": damage_of(row), "key": str(key), "at": moment(at)}
    for name, data in (("request", request), ("reply", reply)):
        raw = data if isinstance(data, bytes) else b"" if data is None else str(data).encode()
        try:
            fields[name] = unpacked(raw).decode()
        except (zlib.error, UnicodeDecodeError):
            fields[f"{name}_base64"] = base64.b64encode(raw).decode()
    return fields


def _salvage(path: Path) -> Repaired:
    """A new file from what can be read of the old one, which nobody else may have open."""
    refuse_network_disk(path)
    log = path.with_name(path.name + "-wal")
    with path.open("r+b") as old, tempfile.TemporaryDirectory(prefix=".repair-", dir=path.parent) as folder:
        _alone(old, path)
        copy, fresh = Path(folder) / "old.sqlite", Path(folder) / "new.sqlite"
        with copy.open("wb") as out:
            shutil.copyfileobj(old, out)
        if log.exists():
            shutil.copyfile(log, copy.with_name(copy.name + "-wal"))
        file = _beside(path, "damaged", ".jsonl")
        with file.open("wb") as out:
            kept, moved = _refill(copy, fresh, out, path)
        if not moved:
            file.unlink()
        broken = _beside(path, "broken")
        path.rename(broken)
        if log.exists() and log.stat().st_size:  # rows of the old file: they must not be replayed into the new one
            log.rename(broken.with_name(broken.name + "-wal"))
        log.unlink(missing_ok=True)
        path.with_name(path.name + "-shm").unlink(missing_ok=True)
        put(fresh, path)
    return Repaired(kept, moved, str(file) if moved else None, str(broken))


def _alone(file: IO[bytes], path: Path) -> None:
    """Take the lock that every user of the file shares; it is given back when the file is closed."""
    if sys.platform == "win32":
        return  # there a file that is open elsewhere cannot be renamed, which says the same
    import fcntl

    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *SHARED_BYTES)
    except OSError:
        raise AlreadyRunning(
            "another process has the journal open, and the file has to be replaced", where=str(path),
            fix="end the runs that use it, then: graft journal check --repair",
        ) from None  # fmt: skip


def _refill(copy: Path, fresh: Path, out: IO[bytes], path: Path) -> tuple[int, int]:
    """Good rows into the new file, the others into `out`; returns how many of each."""
    target = open_journal(fresh)
    target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # its first page serves as a model
    moved = 0
    try:
        batch: list[Row] = []
        for row in _rows(copy, fresh):
            if damage_of(row):
                _write(out, [row])
                moved += 1
                continue
            batch.append(row)
            if len(batch) >= 1_000:
                _insert(target, batch)
        _insert(target, batch)
        kept = int(target.execute("SELECT count(*) FROM calls").fetchone()[0])
        target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        raise storage_error(error, path) from None
    finally:
        target.close()
    return kept, moved


def _insert(target: sqlite3.Connection, batch: list[Row]) -> None:
    with target:
        target.executemany("INSERT OR IGNORE INTO calls (key, request, reply, at) VALUES (?, ?, ?, ?)", batch)
    batch.clear()


def _rows(copy: Path, fresh: Path) -> Iterator[Row]:
    """Every row that can be reached: in order as far as SQLite goes, then leaf by leaf. Changes the copy."""
    last = -(2**63)
    source = sqlite3.connect(copy)
    source.text_factory = as_text
    try:
        for number, *row in source.execute(f"{NUMBERED} NOT INDEXED ORDER BY rowid"):
            yield _row(row)
            last = number
        return
    except UNREADABLE:
        with contextlib.suppress(*UNREADABLE):
            source.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        source.close()
    yield from _leaf_rows(copy, fresh, last)


def _leaf_rows(copy: Path, fresh: Path, last: int) -> Iterator[Row]:
    """Rows with a number above `last` from every leaf of a table in the file, whatever led to it.

    The copy gets the first page of a new journal, whose table has its root at the same place, and each leaf in turn
    becomes that root. What lies on free pages was deleted and stays so.
    """
    with copy.open("r+b") as file:
        size = copy.stat().st_size
        free = _free_pages(file, size // PAGE)
        file.seek(0)
        file.write(_head(fresh))
        if size < ROOT * PAGE:
            return
        file.seek((ROOT - 1) * PAGE)
        root = file.read(PAGE)
        for number in range(ROOT, -(-size // PAGE) + 1):
            file.seek((number - 1) * PAGE)
            leaf = root if number == ROOT else file.read(PAGE)
            if leaf[0] != LEAF or number in free:
                continue
            file.seek((ROOT - 1) * PAGE)
            file.write(leaf.ljust(PAGE, b"\0"))
            file.flush()
            yield from _rows_of_root(copy, last)


def _head(fresh: Path) -> bytes:
    with fresh.open("rb") as file:
        head = bytearray(file.read(PAGE))
    head[28:32] = bytes(4)  # the number of pages: unknown, so that SQLite takes it from the file's length
    return bytes(head)


def _free_pages(file: IO[bytes], pages: int) -> set[int]:
    """Pages that the file's own list says are free, as far as that can be followed."""
    free: set[int] = set()
    file.seek(32)
    trunk = int.from_bytes(file.read(4), "big")
    while 0 < trunk <= pages and trunk not in free:
        free.add(trunk)
        file.seek((trunk - 1) * PAGE)
        words = struct.unpack(f">{PAGE // 4}I", file.read(PAGE))
        free.update(words[2 : 2 + min(words[1], PAGE // 4 - 2)])
        trunk = words[0]
    return free


def _rows_of_root(copy: Path, last: int) -> Iterator[Row]:
    source = sqlite3.connect(f"{copy.resolve().as_uri()}?immutable=1", uri=True)
    source.text_factory = as_text
    try:
        found = source.execute("SELECT rowid FROM calls NOT INDEXED WHERE rowid > ?", (last,))
        for (number,) in found.fetchall():
            row = _one(source, number)
            if row is not None:
                yield row
    except UNREADABLE:
        pass  # a leaf that is itself damaged
    finally:
        source.close()


def _one(source: sqlite3.Connection, number: int) -> Row | None:
    """A row by its number, with None for what cannot be read of it; None where nothing can."""
    pieces: list[Any] = []
    for name in COLUMNS:
        try:
            found = source.execute(f"SELECT {name} FROM calls NOT INDEXED WHERE rowid = ?", (number,)).fetchone()
            pieces.append(found[0] if found else None)
        except UNREADABLE:
            pieces.append(None)
    return None if all(piece is None for piece in pieces) else _row(pieces)
