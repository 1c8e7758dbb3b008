"""The process that a fence starts: it answers queries over its pipes, and ends itself over its budget."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import orjson

from graft.data.fence import GRACE_S, LOOK_S, OVER_MEMORY, OVER_TIME, Budget, receive, send
from graft.data.lake import Lake
from graft.schemas.errors import GraftError
from graft.schemas.home import Home


class _Watch:
    """Interrupts a query at its time limit; ends the process if that has no effect or its memory limit is exceeded."""

    def __init__(self, lake: Lake, budget: Budget) -> None:
        self._lake, self._budget = lake, budget
        self._began: float | None = None
        threading.Thread(target=self._look, daemon=True, name="watch").start()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self._began = time.monotonic()
        try:
            yield
        finally:
            self._began = None

    def _look(self) -> None:
        import psutil

        me = psutil.Process()
        while True:
            time.sleep(LOOK_S)
            began = self._began
            if began is None:
                continue
            if me.memory_info().rss > self._budget.memory_mb * 1_000_000:
                os._exit(OVER_MEMORY)
            late = time.monotonic() - began - self._budget.seconds
            if self._began != began:  # it ended meanwhile, and this thread had to wait for its turn
                continue
            if late > GRACE_S:
                os._exit(OVER_TIME)
            if late > 0:
                self._lake.interrupt()


def _serve(lake: Lake, budget: Budget, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer queries until the other end closes."""
    import duckdb
    import pyarrow as pa

    watch = _Watch(lake, budget)
    while True:
        try:
            _, body = receive(requests)
        except EOFError:
            return
        query, params = orjson.loads(body)
        try:
            with watch():
                table = lake.sql(query, params)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            send(answers, b"r", sink.getvalue().to_pybytes())
        except duckdb.InterruptException:
            send(answers, b"t", b"")
        except duckdb.OutOfMemoryException:
            send(answers, b"m", b"")
        except (duckdb.Error, GraftError) as error:
            send(answers, b"e", str(error).encode("utf-8", "replace"))


def _main() -> None:
    root, seconds, memory_mb, spill = sys.argv[1:]
    budget = Budget(float(seconds), int(memory_mb), bool(spill))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # only answers go through the pipe
    with suppress(OSError, AttributeError):
        os.nice(5)  # pages have priority
    with Lake.open(Home(Path(root)), read_only=True, memory=f"{budget.memory_mb // 2}MB") as lake:
        if not budget.spill:
            lake.sql("SET temp_directory = ''")
        _serve(lake, budget, sys.stdin.buffer, answers)


if __name__ == "__main__":
    _main()
