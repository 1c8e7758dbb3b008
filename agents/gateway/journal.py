"""The journal of finished calls: SQLite in WAL, written in groups by one thread, read at once.

A reply is in the journal before anyone may use it, so that a finished call is never paid twice, not even by a process
that is killed the moment after. Several processes may share one journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import orjson

from schemas.calls import Reply, TokenLogprob, Usage
from schemas.errors import GraftError, LakeTooNew, StorageFull

VERSION = 1
GROUP = 512
"""Rows that one transaction holds at most; it takes whatever has queued up, and waits for nothing."""
BUSY_S = 30.0
"""Seconds that a write waits for another process's."""

Done = asyncio.Future[None]
Item = tuple[str, bytes, bytes, asyncio.AbstractEventLoop, Done]


class Journal:
    """Finished calls by key. Use it from event loops; several processes may have the same file open."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._reader, self._connection = _open(path), _open(path)
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="journal", daemon=True)
        self._writer.start()

    def find(self, key: str) -> Reply | None:
        """The reply of a finished call, marked as cached; None where it was never made."""
        try:
            row = self._reader.execute("SELECT reply FROM calls WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise _storage(error, self._path) from None
        return _reply(key, orjson.loads(row[0])) if row else None

    async def add(self, request: bytes, reply: Reply) -> None:
        """Store a reply; returns when it outlives this process. Raises StorageFull where there is no space.

        A caller that is cancelled while it waits changes nothing: the row is written all the same.
        """
        loop = asyncio.get_running_loop()
        done: Done = loop.create_future()
        self._queue.put((reply.key, request, _packed(reply), loop, done))
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
            with self._connection:
                self._connection.executemany(
                    "INSERT OR IGNORE INTO calls (key, request, reply, at) VALUES (?, ?, ?, unixepoch())",
                    [item[:3] for item in items],
                )
        except sqlite3.Error as error:
            failure = _storage(error, self._path)
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


def _open(path: Path) -> sqlite3.Connection:
    connection = None
    try:
        connection = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False)
        found = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if found > VERSION:
            raise LakeTooNew(
                f"the journal has version {found}, this Graft reads up to {VERSION}", where=str(path),
                fix="use the newer Graft, or another GRAFT_HOME",
            )  # fmt: skip
        connection.execute("PRAGMA synchronous=NORMAL")
        if found < VERSION:
            _found(connection)
    except (sqlite3.Error, LakeTooNew) as error:
        if connection is not None:
            connection.close()
        raise error if isinstance(error, LakeTooNew) else _storage(error, path) from None
    return connection


def _found(connection: sqlite3.Connection) -> None:
    """Make the tables. SQLite does not wait for a rival that changes the journal mode at the same time, so we do."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS calls (key TEXT PRIMARY KEY, request BLOB, reply BLOB, at INTEGER)"
        )
        connection.execute(f"PRAGMA user_version={VERSION}")


def _storage(error: sqlite3.Error, path: Path) -> GraftError:
    if "disk is full" in str(error):
        return StorageFull(
            "no space left for the journal", where=str(path), fix="make room; the rerun goes on from here"
        )
    return GraftError(
        f"the journal cannot be used: {error}", where=str(path), fix="move the file away, or set GRAFT_HOME"
    )


def _packed(reply: Reply) -> bytes:
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


def _reply(key: str, fields: dict[str, Any]) -> Reply:
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
