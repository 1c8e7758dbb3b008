"""Repair of a journal: damaged rows are moved out, and a file that SQLite cannot read is salvaged row by row.

Nothing is discarded: damaged rows go to `NAME.damaged-WHEN.jsonl` beside the journal, and a broken file is kept as
`NAME.broken-WHEN`. Both contain prompts and replies, as the journal does.
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
"""SQLite's file format: bytes per page, root page of a journal's table, first byte of a leaf page."""
UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
"""Errors of a damaged file; the second occurs if SQLite quotes a damaged schema in its message."""
SHARED_BYTES = (510, 0x40000002)
"""Length and start of the bytes that every user of a SQLite file keeps locked."""


@dataclass(frozen=True)
class Repaired:
    """Result of a repair: good rows kept, damaged rows moved out, and the files written."""

    kept: int
    moved: int
    damaged_file: str | None = None
    broken_file: str | None = None


def repair(path: Path) -> Repaired:
    """Keep every good row and move damaged rows out; a sound journal stays unchanged.

    Raises:
        NotFound: there is no journal.
        LakeTooNew: a later Graft wrote it.
        AlreadyRunning: SQLite cannot read the file, and another process has it open.
        StorageFull, GraftError: the new files cannot be written.
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
    """Move damaged rows out of a readable file; other processes may write to it meanwhile."""
    file = _beside(path, "damaged", ".jsonl")
    with opened(path) as connection:
        suspects = [number for number, *row in connection.execute(NUMBERED) if damage_of(_row(row))]
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            moved = []
            for number in suspects:  # read again: a newer reply may have replaced it
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
    """Readable remains of a damaged row: text if it decodes, base64 otherwise."""
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
    """Build a new file from the readable rows of the old file, which no other process may have open."""
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
        if log.exists() and log.stat().st_size:  # must not be replayed into the new file
            log.rename(broken.with_name(broken.name + "-wal"))
        log.unlink(missing_ok=True)
        path.with_name(path.name + "-shm").unlink(missing_ok=True)
        put(fresh, path)
    return Repaired(kept, moved, str(file) if moved else None, str(broken))


def _alone(file: IO[bytes], path: Path) -> None:
    """Acquire the lock that every user of the file shares; it is released when the file is closed."""
    if sys.platform == "win32":
        return  # Windows refuses to rename a file that is open elsewhere
    import fcntl

    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *SHARED_BYTES)
    except OSError:
        raise AlreadyRunning(
            "another process has the journal open, so its file cannot be replaced", where=str(path),
            fix="stop the runs that use it, then: graft journal check --repair",
        ) from None  # fmt: skip


def _refill(copy: Path, fresh: Path, out: IO[bytes], path: Path) -> tuple[int, int]:
    """Write good rows to the new file and the others to `out`; returns the number of each."""
    target = open_journal(fresh)
    target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # its first page serves as a template
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
    """Yield every reachable row: in order as far as SQLite gets, then leaf by leaf. Changes the copy."""
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
    """Yield rows with a rowid above `last` from every table leaf in the file, whether or not it is linked.

    The copy receives the first page of a new journal, whose table has the same root page, and each leaf in turn becomes
    that root. Rows on free pages were deleted and stay deleted.
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
    head[28:32] = bytes(4)  # page count: unknown, so that SQLite derives it from the file's length
    return bytes(head)


def _free_pages(file: IO[bytes], pages: int) -> set[int]:
    """Pages on the file's free list, as far as it can be followed."""
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
        pass  # the leaf itself is damaged
    finally:
        source.close()


def _one(source: sqlite3.Connection, number: int) -> Row | None:
    """Read a row by its rowid, with None for unreadable columns; None if nothing is readable."""
    pieces: list[Any] = []
    for name in COLUMNS:
        try:
            found = source.execute(f"SELECT {name} FROM calls NOT INDEXED WHERE rowid = ?", (number,)).fetchone()
            pieces.append(found[0] if found else None)
        except UNREADABLE:
            pieces.append(None)
    return None if all(piece is None for piece in pieces) else _row(pieces)
