"""Journal of finished calls: SQLite in WAL mode, with group commits by one writer thread.

A reply is in the journal before any caller receives it, so a finished call is never paid twice, even if the process is
killed right afterwards. Several processes of one machine may share one journal.

Format 2: long requests and replies are compressed (zlib), short ones are plain JSON as in format 1; the first byte
marks the form. Size, pruning, export and checks are in journal_store.py, repair in journal_repair.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import re
import sqlite3
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import orjson

from graft.schemas.calls import Reply, TokenLogprob, Usage
from graft.schemas.errors import GraftError, LakeTooNew, StorageFull

VERSION = 2
GROUP = 512
"""Most rows of one transaction, which takes the queued rows and waits for no more."""
CHECKPOINT = 4_000
"""Pages of 4 kB in the write-ahead log after which it is copied into the file."""
BUSY_S = 30.0
"""Seconds that a write waits for another process's write."""
SMALL = 4_000
"""Bytes below which a request or reply is stored uncompressed: compressing it takes at least as long as writing the row
and saves a third. Longer values, such as replies with log-probabilities, shrink to half."""
PACKED = b"H"
"""First byte of compressed data (zlib with a window of 4 kB); JSON never begins with it."""
NETWORK = frozenset((
    "nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "afs", "afpfs", "ncpfs", "coda", "ceph",
    "lustre", "gpfs", "beegfs", "glusterfs", "ocfs2", "gfs2", "pvfs2", "orangefs", "davfs", "vboxsf", "sshfs", "s3fs",
    "rclone", "gcsfuse", "goofys", "curlftpfs", "blobfuse", "juicefs", "moosefs", "mfs",
))  # fmt: skip
"""File systems, also as fuse.NAME, that do not share SQLite's locks and memory across machines."""
MOUNTS = Path("/proc/self/mountinfo")

Done = asyncio.Future[None]
Item = tuple[str, bytes, bytes, bool, asyncio.AbstractEventLoop, Done]
log = logging.getLogger(__name__)

ADD = """
    INSERT INTO calls (key, request, reply, at) VALUES (?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET request = excluded.request, reply = excluded.reply, at = excluded.at WHERE ?"""
FULL = {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"}
"""SQLite's errors for a full disk; a quota or a file size limit raises SQLITE_IOERR_WRITE."""
DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT", "SQLITE_IOERR_SHORT_READ", "SQLITE_IOERR_READ")
FIND = "SELECT reply FROM calls WHERE key = ?"
FIND_SINCE = "SELECT reply FROM calls WHERE key = ? AND at >= ?"


class JournalDamaged(GraftError):
    """SQLite cannot read all or part of the journal."""


class Journal:
    """Finished calls by key, for use from event loops; several processes may have the same file open.

    Raises:
        LakeTooNew: a later Graft wrote the journal.
        GraftError: the file is on a network disk or is not a journal.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._opened = time.time()
        self._damaged: set[str] = set()
        self._reader, self._connection = open_journal(path), open_journal(path)
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="journal", daemon=True)
        self._writer.start()

    def find(self, key: str, since: float | None = None) -> Reply | None:
        """Return the reply of a finished call, marked as cached; None if there is none.

        A damaged reply counts as absent, and the next reply to its key replaces it.

        Args:
            key: the request's key.
            since: ignore entries older than this Unix time in seconds.
        """
        try:
            sought = (FIND, (key,)) if since is None else (FIND_SINCE, (key, since))
            row = self._reader.execute(*sought).fetchone()
        except sqlite3.Error as error:
            raise storage_error(error, self._path) from None
        if row is None:
            return None
        try:
            return as_reply(key, orjson.loads(unpacked(row[0])))
        except (zlib.error, ValueError, TypeError, KeyError):
            if key not in self._damaged:
                log.warning("a damaged journal entry is requested again; see: graft journal check (key %s)", key)
                self._damaged.add(key)
            return None

    async def add(self, request: bytes, reply: Reply, replace: bool = False) -> None:
        """Store a reply; returns once it is on disk. The row is written even if the caller is cancelled meanwhile.

        Args:
            request: the request's body as JSON.
            reply: the reply, with its key.
            replace: replace an existing reply to the key, which otherwise stays.

        Raises:
            StorageFull: no space is left.
        """
        loop = asyncio.get_running_loop()
        done: Done = loop.create_future()
        replace = replace or reply.key in self._damaged
        self._queue.put((reply.key, request, reply_bytes(reply), replace, loop, done))
        await done

    def close(self) -> None:
        """Write the queue and close."""
        self._queue.put(None)
        self._writer.join()
        self._connection.close()
        self._reader.close()

    def _write(self) -> None:
        ended = False
        while not ended:
            items: list[Item] = []
            item = self._queue.get()
            while item is not None:
                items.append(item)
                if len(items) >= GROUP or self._queue.empty():
                    break
                item = self._queue.get()
            ended = item is None
            if items:
                self._commit(items)

    def _commit(self, items: list[Item]) -> None:
        failure: GraftError | None = None
        try:
            at = max(time.time(), self._opened)  # a clock that is set back makes no reply older than this session
            items.sort(key=lambda item: item[0])  # keys are hashes: sorted, they touch each index page once
            rows = [(key, packed(request), packed(reply), at, replace) for key, request, reply, replace, *_ in items]
            with self._connection:
                self._connection.executemany(ADD, rows)
            if self._damaged:
                self._damaged.difference_update(item[0] for item in items)
        except sqlite3.Error as error:
            failure = storage_error(error, self._path)
        except (MemoryError, OverflowError, ValueError, zlib.error) as error:  # this thread must survive any group
            failure = GraftError(f"the journal could not store a reply: {type(error).__name__}", where=str(self._path))
        waiting: dict[asyncio.AbstractEventLoop, list[Done]] = {}
        for *_, loop, done in items:
            waiting.setdefault(loop, []).append(done)
        for loop, group in waiting.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: no caller waits any more
                loop.call_soon_threadsafe(_resolve, group, failure)


def _resolve(group: list[Done], failure: GraftError | None) -> None:
    for done in group:
        if done.done():
            continue  # its caller was cancelled
        if failure is None:
            done.set_result(None)
        else:
            done.set_exception(failure)


def open_journal(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Connect to a journal; create it if absent and upgrade it unless `read_only`.

    Raises:
        LakeTooNew: a later Graft wrote the journal.
        StorageFull: no space is left.
        GraftError: the file is on a network disk or is not a journal.
    """
    refuse_network_disk(path)
    connection = None
    try:
        name = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        connection = sqlite3.connect(name, uri=True, timeout=BUSY_S, check_same_thread=False)
        found = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if found > VERSION:
            raise LakeTooNew(
                f"the journal has version {found}, but this Graft reads up to version {VERSION}", where=str(path),
                fix="use the newer Graft, or another GRAFT_HOME",
            )  # fmt: skip
        connection.execute("PRAGMA synchronous=FULL")  # an acknowledged reply survives a power cut
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT}").fetchall()
        if found < VERSION and not read_only:
            set_up(connection)
    except (sqlite3.Error, UnicodeDecodeError, LakeTooNew) as error:
        if connection is not None:
            connection.close()
        raise error if isinstance(error, LakeTooNew) else storage_error(error, path) from None
    return connection


def set_up(connection: sqlite3.Connection) -> None:
    """Create the table and stamp the version; an older journal keeps its rows, which stay readable."""
    write_ahead(connection)
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS calls (key TEXT PRIMARY KEY, request BLOB, reply BLOB, at INTEGER)"
        )
        connection.execute(f"PRAGMA user_version={VERSION}")


def write_ahead(connection: sqlite3.Connection) -> None:
    """Set WAL mode. SQLite does not wait for another process that sets it at the same time, so this retries."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if time.monotonic() > deadline or "lock" not in str(error):
                raise
            time.sleep(0.02)


def storage_error(error: sqlite3.Error | UnicodeDecodeError, path: Path) -> GraftError:
    """Convert SQLite's error: StorageFull for a full disk, a quota or a file size limit."""
    name = str(getattr(error, "sqlite_errorname", ""))
    if name in FULL or "disk is full" in str(error):
        return StorageFull(
            "no space left for the journal (full disk, quota, or file size limit)", where=str(path),
            fix="free some space; the same command resumes the run",
        )  # fmt: skip
    # SQLite quotes a damaged schema in its message, which is then not UTF-8
    if name.startswith(DAMAGED) or isinstance(error, UnicodeDecodeError) or "no such table" in str(error):
        return JournalDamaged(
            f"the journal is damaged: {error}", where=str(path),
            fix="stop the runs that use it, then: graft journal check --repair",
        )  # fmt: skip
    return GraftError(
        f"the journal cannot be used: {error}", where=str(path),
        fix="move the file away, or set GRAFT_HOME",
    )  # fmt: skip


def refuse_network_disk(path: Path) -> None:
    """Raise GraftError for a path on a network disk: SQLite's WAL needs memory shared by all its users."""
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return  # a system without a mount table cannot be checked
    kind = network_disk(path, mounts)
    if kind:
        raise GraftError(
            f"the journal cannot be on a network disk ({kind}): two machines writing to it would corrupt it",
            where=str(path), fix="set GRAFT_HOME to a folder on a local disk",
        )  # fmt: skip


def network_disk(path: Path, mounts: str) -> str | None:
    """Name of the network file system that holds a path; None for a local file system.

    `mounts` has the form of /proc/PID/mountinfo.
    """
    resolved = path.resolve()
    holder, kind = -1, ""
    for line in mounts.splitlines():
        head, dash, tail = line.partition(" - ")
        fields = head.split(" ")
        if not dash or len(fields) < 5 or not tail:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4]))
        if len(point.parts) >= holder and resolved.is_relative_to(point):  # of equal mount points the last is on top
            holder, kind = len(point.parts), tail.split(" ")[0]
    own = kind == "9p" and holder == 1  # the root of a sandbox such as gVisor is local
    return kind if kind.lower().removeprefix("fuse.") in NETWORK and not own else None


def packed(data: bytes) -> bytes:
    """Encode for storage: compressed if long, or if it would be mistaken for compressed data."""
    if len(data) < SMALL and data[:1] != PACKED:
        return data
    squeeze = zlib.compressobj(1, zlib.DEFLATED, 12, 5)  # a small state takes a third of the time to set up
    return squeeze.compress(data) + squeeze.flush()


def unpacked(data: bytes) -> bytes:
    """Inverse of `packed`. Raises zlib.error, or TypeError if `data` is not bytes."""
    return zlib.decompress(data) if data[:1] == PACKED else data


def reply_bytes(reply: Reply) -> bytes:
    """Serialise the stored fields of a reply as JSON."""
    usage = reply.usage
    fields: dict[str, Any] = {
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "logprobs": [(t.token, t.logprob, t.top) for t in reply.logprobs],
        "parsed": reply.parsed,
        "usage": (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens),
        "price_usd": reply.price_usd,
        "attempts": reply.attempts,
        "served_model": reply.served_model,
    }
    return orjson.dumps(fields)


def as_reply(key: str, fields: dict[str, Any]) -> Reply:
    """Rebuild a reply from its stored fields. Raises KeyError, TypeError or ValueError for invalid fields."""
    prompt, completion, cached = fields["usage"]
    return Reply.model_construct(
        key=key,
        text=fields["text"],
        finish_reason=fields["finish_reason"],
        logprobs=tuple(
            TokenLogprob.model_construct(token=token, logprob=value, top=tuple((t, v) for t, v in top))
            for token, value, top in fields["logprobs"]
        ),
        parsed=fields["parsed"],
        usage=Usage.model_construct(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached),
        price_usd=fields["price_usd"],
        latency_s=0.0,
        attempts=fields["attempts"],
        cached=True,
        served_model=fields["served_model"],
    )
