"""The journal of finished calls: SQLite in WAL, written in groups by one thread, read at once.

A reply is in the journal before anyone may use it, so that a finished call is never paid twice, not even by a process
that is killed the moment after. Several processes of one machine may share one journal.

Format 2: a long request or reply is compressed (zlib), a short one is plain JSON as in format 1; the first byte tells
which. What is kept of the journal as a whole (size, pruning, export, repair) is in journal_store.py.
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
"""Rows that one transaction holds at most; it takes whatever has queued up, and waits for nothing."""
CHECKPOINT = 4_000
"""Pages of 4 kB in the write-ahead log after which it is copied into the file."""
BUSY_S = 30.0
"""Seconds that a write waits for another process's."""
SMALL = 4_000
"""Bytes below which a request or reply stays as it is: there, compressing takes as long as writing the row, or longer,
and saves a third of it. What is longer, such as replies with log-probabilities, shrinks to half."""
PACKED = b"H"
"""First byte of what is compressed (zlib with a window of 4 kB); JSON never begins with it."""
NETWORK = frozenset((
    "nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "afs", "afpfs", "ncpfs", "coda", "ceph",
    "lustre", "gpfs", "beegfs", "glusterfs", "ocfs2", "gfs2", "pvfs2", "orangefs", "davfs", "vboxsf", "sshfs", "s3fs",
    "rclone", "gcsfuse", "goofys", "curlftpfs", "blobfuse", "juicefs", "moosefs", "mfs",
))  # fmt: skip
"""File systems, also as fuse.NAME, that do not share SQLite's locks and memory between machines."""
MOUNTS = Path("/proc/self/mountinfo")

Done = asyncio.Future[None]
Item = tuple[str, bytes, bytes, bool, asyncio.AbstractEventLoop, Done]
log = logging.getLogger(__name__)

ADD = """
    INSERT INTO calls (key, request, reply, at) VALUES (?, ?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET request = excluded.request, reply = excluded.reply, at = excluded.at WHERE ?"""
FULL = {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"}
"""What SQLite answers where it cannot write more; a quota or a limit on the size of files is SQLITE_IOERR_WRITE."""
DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT", "SQLITE_IOERR_SHORT_READ", "SQLITE_IOERR_READ")
FIND = "SELECT reply FROM calls WHERE key = ?"
FIND_SINCE = "SELECT reply FROM calls WHERE key = ? AND at >= ?"


class JournalDamaged(GraftError):
    """SQLite cannot read the journal, or a part of it."""


class Journal:
    """Finished calls by key. Use it from event loops; several processes may have the same file open.

    Raises LakeTooNew for a later Graft's journal, GraftError on a network disk or for a file that is no journal.
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
        """The reply of a finished call, marked as cached; None where it was never made.

        With `since` (Unix time in seconds) only what was journaled then or later counts. A damaged reply counts as
        none, and the next one to its key takes its place.
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
                log.warning("a damaged reply in the journal is asked again; see: graft journal check (key %s)", key)
                self._damaged.add(key)
            return None

    async def add(self, request: bytes, reply: Reply, replace: bool = False) -> None:
        """Store a reply; returns when it outlives this process. Raises StorageFull where there is no space.

        The first reply to a key stays, unless `replace` puts a newer one in its place. A caller that is cancelled while
        it waits changes nothing: the row is written all the same.
        """
        loop = asyncio.get_running_loop()
        done: Done = loop.create_future()
        replace = replace or reply.key in self._damaged
        self._queue.put((reply.key, request, reply_bytes(reply), replace, loop, done))
        await done

    def close(self) -> None:
        """Write what is queued and close."""
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
            at = max(time.time(), self._opened)  # a clock that is set back makes no reply older than this journal's use
            items.sort(key=lambda item: item[0])  # keys are hashes: in order they touch the index's pages once
            rows = [(key, packed(request), packed(reply), at, replace) for key, request, reply, replace, *_ in items]
            with self._connection:
                self._connection.executemany(ADD, rows)
            if self._damaged:
                self._damaged.difference_update(item[0] for item in items)
        except sqlite3.Error as error:
            failure = storage_error(error, self._path)
        except (MemoryError, OverflowError, ValueError, zlib.error) as error:  # this thread must outlive any one group
            failure = GraftError(f"the journal could not take a reply: {type(error).__name__}", where=str(self._path))
        waiting: dict[asyncio.AbstractEventLoop, list[Done]] = {}
        for *_, loop, done in items:
            waiting.setdefault(loop, []).append(done)
        for loop, group in waiting.items():
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
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
    """A connection to a journal, made where it is absent and brought to this version unless `read_only`.

    Raises LakeTooNew, StorageFull, GraftError (on a network disk, or a file that is no journal).
    """
    refuse_network_disk(path)
    connection = None
    try:
        name = f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
        connection = sqlite3.connect(name, uri=True, timeout=BUSY_S, check_same_thread=False)
        found = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if found > VERSION:
            raise LakeTooNew(
                f"the journal has version {found}, this Graft reads up to {VERSION}", where=str(path),
                fix="use the newer Graft, or another GRAFT_HOME",
            )  # fmt: skip
        connection.execute("PRAGMA synchronous=FULL")  # an acknowledged reply outlives a power cut
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT}").fetchall()
        if found < VERSION and not read_only:
            found_journal(connection)
    except (sqlite3.Error, UnicodeDecodeError, LakeTooNew) as error:
        if connection is not None:
            connection.close()
        raise error if isinstance(error, LakeTooNew) else storage_error(error, path) from None
    return connection


def found_journal(connection: sqlite3.Connection) -> None:
    """Make the table and stamp the version; an older journal keeps its rows, which are read as they are."""
    write_ahead(connection)
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS calls (key TEXT PRIMARY KEY, request BLOB, reply BLOB, at INTEGER)"
        )
        connection.execute(f"PRAGMA user_version={VERSION}")


def write_ahead(connection: sqlite3.Connection) -> None:
    """Set WAL mode. SQLite does not wait for a rival that changes it at the same time, so we do."""
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
    """What SQLite said, as an error for people: StorageFull for a full disk, a quota or a limit on a file's size."""
    name = str(getattr(error, "sqlite_errorname", ""))
    if name in FULL or "disk is full" in str(error):
        return StorageFull(
            "no space left for the journal (full disk, quota, or limit on a file's size)", where=str(path),
            fix="make room; the rerun goes on from here",
        )  # fmt: skip
    # SQLite quotes a damaged schema in its message, which is then no UTF-8
    if name.startswith(DAMAGED) or isinstance(error, UnicodeDecodeError) or "no such table" in str(error):
        return JournalDamaged(
            f"the journal is damaged: {error}", where=str(path),
            fix="end the runs that use it, then: graft journal check --repair",
        )  # fmt: skip
    return GraftError(
        f"the journal cannot be used: {error}", where=str(path),
        fix="move the file away, or set GRAFT_HOME",
    )  # fmt: skip


def refuse_network_disk(path: Path) -> None:
    """Raise GraftError where the path is on a network disk: SQLite's WAL needs memory that all its users share."""
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return  # a system without a mount table: nothing is known
    kind = network_disk(path, mounts)
    if kind:
        raise GraftError(
            f"the journal cannot be on a network disk ({kind}): two machines that write to it would destroy it",
            where=str(path), fix="set GRAFT_HOME to a folder on a disk of this machine",
        )  # fmt: skip


def network_disk(path: Path, mounts: str) -> str | None:
    """The network file system that holds a path, None on a local one. `mounts` has the form of /proc/PID/mountinfo."""
    resolved = path.resolve()
    holder, kind = -1, ""
    for line in mounts.splitlines():
        head, dash, tail = line.partition(" - ")
        fields = head.split(" ")
        if not dash or len(fields) < 5 or not tail:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4]))
        if len(point.parts) >= holder and resolved.is_relative_to(point):  # of equal ones the last lies on top
            holder, kind = len(point.parts), tail.split(" ")[0]
    own = kind == "9p" and holder == 1  # the root of a sandbox such as gVisor: no other machine's
    return kind if kind.lower().removeprefix("fuse.") in NETWORK and not own else None


def packed(data: bytes) -> bytes:
    """As it is stored: compressed where that pays, or where it would be taken for something compressed."""
    if len(data) < SMALL and data[:1] != PACKED:
        return data
    squeeze = zlib.compressobj(1, zlib.DEFLATED, 12, 5)  # a small state is set up in a third of the time
    return squeeze.compress(data) + squeeze.flush()


def unpacked(data: bytes) -> bytes:
    """The opposite of `packed`. Raises zlib.error, or TypeError where it is no bytes."""
    return zlib.decompress(data) if data[:1] == PACKED else data


def reply_bytes(reply: Reply) -> bytes:
    """The fields of a reply that are kept, as JSON."""
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
    """A reply from its kept fields. Raises KeyError, TypeError, ValueError where they are not right."""
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
