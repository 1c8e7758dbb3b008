"""Maintenance of the journal: size, pruning, export and integrity checks. Repair is in journal_repair.py.

Each function opens the journal itself and may run while other processes write to it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from graft.agents.gateway.journal import JournalDamaged, open_journal, storage_error, unpacked
from graft.schemas.calls import Reply
from graft.schemas.durable import put
from graft.schemas.errors import NO_SPACE, GraftError, NotFound, StorageFull
from graft.schemas.extra import own_setting
from graft.schemas.redaction import redact_fields

DAY_S = 86_400
AGES = (("1 day", 1), ("7 days", 7), ("30 days", 30))
"""Age bands by name and upper bound in days of 24 hours."""
OLDER = "older"
CHUNK = 500
"""Rows per transaction of a pruning, so that writers wait for milliseconds only."""
LOOSE = 0.25
"""Share of free pages above which pruning shrinks the file by default."""

KEPT = ("text", "finish_reason", "logprobs", "parsed", "usage", "price_usd", "attempts", "served_model")
Row = tuple[Any, Any, Any, Any]
"""key, request, reply, at: as stored, and possibly damaged."""
ROWS = "SELECT key, request, reply, at FROM calls"
HELD = "coalesce(length(key), 0) + coalesce(length(request), 0) + coalesce(length(reply), 0)"


@dataclass(frozen=True)
class Share:
    """Rows of an age band and the bytes of their content, without SQLite's overhead."""

    rows: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Size:
    """Size of a journal. `bytes` is the size on disk, including `free_bytes` available for reuse."""

    path: str
    version: int
    rows: int
    bytes: int
    free_bytes: int
    by_age: dict[str, Share]
    oldest: datetime | None
    newest: datetime | None


@dataclass(frozen=True)
class Pruned:
    """Result of a pruning: deleted rows, the bytes of their content, and the reduction of the files on disk."""

    rows: int
    bytes: int
    freed_bytes: int = 0
    vacuumed: bool = False
    note: str = ""


@dataclass(frozen=True)
class Exported:
    """Result of an export; `left_out` rows were not selected, `damaged` rows cannot be read."""

    file: str
    rows: int
    left_out: int
    damaged: int


@dataclass
class Checked:
    """Result of a check: rows in total, good rows, damaged rows by kind, and SQLite's own report on the file."""

    path: str
    rows: int = 0
    good: int = 0
    damage: dict[str, int] = field(default_factory=dict)
    sqlite: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """True if nothing is damaged."""
        return not self.damage and not self.sqlite


@contextlib.contextmanager
def opened(path: Path, *, read_only: bool = False) -> Iterator[sqlite3.Connection]:
    """Open an existing journal. Raises NotFound if there is none; SQLite's errors become GraftErrors."""
    if not path.exists():
        raise NotFound("there is no journal here yet", where=str(path), fix="start a run, such as: graft run demo")
    connection = open_journal(path, read_only=read_only)
    connection.text_factory = as_text
    try:
        yield connection
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise storage_error(error, path) from None
    finally:
        connection.close()


def as_text(data: bytes) -> str:
    """Decode a stored key; invalid UTF-8 makes it non-ASCII, which `damage_of` reports."""
    return data.decode("utf-8", "replace")


def on_disk(path: Path) -> int:
    """Size of a journal's files in bytes, including the write-ahead log."""
    files = [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]
    return sum(file.stat().st_size for file in files if file.exists())


def size(path: Path) -> Size:
    """Measure a journal's rows and bytes by age, without reading replies. Raises NotFound, GraftError."""
    now = time.time()
    band = "CASE " + " ".join(f"WHEN at > {now - days * DAY_S} THEN '{name}'" for name, days in AGES)
    query = f"""
        SELECT {band} ELSE '{OLDER}' END, count(*), sum({HELD}), min(at), max(at) FROM calls GROUP BY 1"""
    with opened(path, read_only=True) as connection:
        found = connection.execute(query).fetchall()
        page, free, version = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_size", "freelist_count", "user_version")
        )
    shares = {str(name): Share(int(rows), int(held or 0)) for name, rows, held, _, _ in found}
    oldest = [at for *_, at, _ in found if isinstance(at, int | float)]
    newest = [at for *_, at in found if isinstance(at, int | float)]
    return Size(
        path=str(path), version=version, rows=sum(share.rows for share in shares.values()), bytes=on_disk(path),
        free_bytes=free * page, by_age={name: shares.get(name, Share()) for name in (*(n for n, _ in AGES), OLDER)},
        oldest=moment(min(oldest, default=None)), newest=moment(max(newest, default=None)),
    )  # fmt: skip


def moment(at: Any) -> datetime | None:
    """Convert a row's Unix time to a date; None if it is invalid."""
    try:
        return datetime.fromtimestamp(at, UTC) if isinstance(at, int | float) else None
    except (OverflowError, OSError, ValueError):
        return None


def prune(
    path: Path,
    older_than_days: float | None = None,
    keys: Collection[str] | None = None,
    *,
    vacuum: bool = False,
    dry_run: bool = False,
) -> Pruned:
    """Delete rows by age, by key, or by both (rows that satisfy both).

    Args:
        path: the journal.
        older_than_days: delete rows older than this.
        keys: delete rows of these keys.
        vacuum: shrink the file; by default only if more than a quarter of it is free.
        dry_run: count the rows and change nothing.

    Raises:
        NotFound, StorageFull, GraftError: the journal is absent, full, or cannot be used.
    """
    if older_than_days is None and keys is None:
        raise GraftError("neither an age nor keys are given", fix="give an age in days, or keys")
    before = float("inf") if older_than_days is None else time.time() - older_than_days * DAY_S
    rows = held = 0
    with opened(path, read_only=dry_run) as connection:
        start = on_disk(path)
        for chunk in _old(connection, before) if keys is None else _parts(keys):
            found = _delete(connection, chunk, before, dry_run)
            rows, held = rows + found.rows, held + found.bytes
        if dry_run:
            return Pruned(rows, held)
        free, pages = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("freelist_count", "page_count")
        )
        if not vacuum and free <= LOOSE * pages:
            return Pruned(rows, held, note="the space is reused for new rows; --vacuum returns it to the disk")
        note = _shrink(connection)
        return Pruned(rows, held, max(0, start - on_disk(path)), vacuumed=not note, note=note)


def _old(connection: sqlite3.Connection, before: float) -> Iterator[list[str]]:
    last = ""
    query = "SELECT key FROM calls WHERE key > ? AND at < ? ORDER BY key LIMIT ?"
    while chunk := [str(key) for (key,) in connection.execute(query, (last, before, CHUNK))]:
        yield chunk
        last = chunk[-1]


def _parts(keys: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(set(keys))
    for start in range(0, len(ordered), CHUNK):
        yield ordered[start : start + CHUNK]


def _delete(connection: sqlite3.Connection, keys: list[str], before: float, dry_run: bool) -> Share:
    """Delete in one transaction. A row that was replaced by a newer row meanwhile stays."""
    chosen = f"FROM calls WHERE key IN ({','.join('?' * len(keys))}) AND at < ?"
    with connection:
        if not dry_run:
            connection.execute("BEGIN IMMEDIATE")
        rows, held = connection.execute(f"SELECT count(*), sum({HELD}) {chosen}", (*keys, before)).fetchone()
        if not dry_run:
            connection.execute(f"DELETE {chosen}", (*keys, before))
    return Share(int(rows), int(held or 0))


def _shrink(connection: sqlite3.Connection) -> str:
    """Run VACUUM; returns the reason if it failed. Deleted rows stay deleted in any case."""
    try:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        return f"deleted, but the file did not shrink ({error}); retry later: graft journal prune --vacuum"
    return ""


def damage_of(row: Row) -> str:
    """Describe a row's damage in a few words; empty if it is sound."""
    key, request, reply, at = row
    if not isinstance(key, str) or not key or not key.isascii():
        return "invalid key"
    if moment(at) is None:
        return "invalid time"
    for name, data in (("request", request), ("reply", reply)):
        if not isinstance(data, bytes):
            return f"{name}: missing"
        try:
            value = orjson.loads(unpacked(data))
        except zlib.error:
            return f"{name}: does not decompress"
        except ValueError:
            return f"{name}: not JSON"
    return "" if _is_reply(key, value) else "reply: fields missing or of the wrong type"


def _is_reply(key: str, fields: Any) -> bool:
    try:
        prompt, completion, cached = fields["usage"]
        whole = {name: fields[name] for name in KEPT}
        whole["logprobs"] = [{"token": token, "logprob": value, "top": top} for token, value, top in whole["logprobs"]]
        whole["usage"] = {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": cached}
        Reply.model_validate({"key": key, **whole})
    except (KeyError, TypeError, ValueError):
        return False
    return True


def check(path: Path) -> Checked:
    """Check every page and row without changes. Raises NotFound, LakeTooNew; damage is returned, not raised."""
    found = Checked(str(path))
    try:
        with opened(path, read_only=True) as connection:
            lines = [str(line) for (line,) in connection.execute("PRAGMA integrity_check(10)")]
            found.sqlite = [] if lines == ["ok"] else lines
            for row in connection.execute(ROWS):
                found.rows += 1
                damage = damage_of(row)
                found.good += not damage
                if damage:
                    found.damage[damage] = found.damage.get(damage, 0) + 1
    except JournalDamaged as error:
        found.sqlite.append(error.what)
    return found


def export(path: Path, out: Path, *, only: Collection[str] | None = None, overwrite: bool = False) -> Exported:
    """Write rows to a JSONL file, atomically: key, at (UTC), request and reply, word for word.

    Args:
        path: the journal.
        out: the file to write.
        only: keys to export; all by default.
        overwrite: replace an existing file.

    Raises:
        NotFound: there is no journal.
        StorageFull: no space is left.
        GraftError: the file exists and `overwrite` is false, or it cannot be written.
    """
    if out.resolve().name.startswith(path.name) and out.resolve().parent == path.resolve().parent:
        raise GraftError("this is the journal itself, or a file beside it", where=str(out), fix="choose another --out")
    if out.exists() and not overwrite:
        raise GraftError("this file exists already", where=str(out), fix="choose another --out, or add --overwrite")
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    rows = left_out = damaged = 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with opened(path, read_only=True) as connection, part.open("wb") as file:
            for row in connection.execute(ROWS):
                if only is not None and row[0] not in only:
                    left_out += 1
                elif damage_of(row):
                    damaged += 1
                else:
                    file.write(_line(row))
                    rows += 1
        put(part, out)
    except OSError as error:
        raise file_error(error, out) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return Exported(str(out), rows, left_out, damaged)


def _line(row: Row) -> bytes:
    key, request, reply, at = row
    body = orjson.loads(unpacked(request))
    if isinstance(body, dict):  # an earlier Graft stored secrets nested in a model's extra fields
        body |= redact_fields({name: value for name, value in body.items() if not own_setting(name)})
    fields = {"key": key, "at": moment(at), "request": body}
    return orjson.dumps({**fields, "reply": orjson.loads(unpacked(reply))}, option=orjson.OPT_APPEND_NEWLINE)


def file_error(error: OSError, path: Path) -> GraftError:
    """Convert the system's error for a file being written."""
    import errno

    if error.errno in NO_SPACE or error.errno == errno.EFBIG:
        return StorageFull("no space left for this file", where=str(path), fix="free some space, or write elsewhere")
    return GraftError(f"cannot be written: {error.strerror or error}", where=str(path), fix="choose another path")
