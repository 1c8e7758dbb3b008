"""Stop this process's work on Ctrl-C, SIGTERM or SIGHUP, and another process's run by its id.

After the first signal no call is started: calls in flight have GRACE_SECONDS to end, all finished work is committed,
and the run is recorded as interrupted. The process ends within END_SECONDS, and at once after a second signal.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn, TypeVar

from graft.flows.progress import current
from graft.schemas.errors import GraftError, Interrupted, NotFound, by_ctrl_c
from graft.schemas.home import Home
from graft.schemas.live import Live, read_live

T = TypeVar("T")

GRACE_SECONDS = 3.0
"""Seconds for calls in flight; then they are cancelled."""
END_SECONDS = 4.7
"""Seconds until the process ends, whatever it is doing."""
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class _Work:
    """The state of this process's work: whether it stops, and the task to cancel."""

    stops = False
    task: asyncio.Task[Any] | None = None


def requested() -> bool:
    """Return True once a signal stops this process's work."""
    return _Work.stops


def call_off() -> None:
    """Raise CancelledError if this process stops."""
    if _Work.stops:
        raise asyncio.CancelledError


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as asyncio.run does; inside `stoppable`, a signal lets it end in order."""

    async def main() -> T:
        _Work.task = asyncio.current_task()
        try:
            result = await work
        finally:
            _Work.task = None
        call_off()  # a signal came too late to stop it, but in time to stop what follows
        return result

    return asyncio.run(main())


@contextmanager
def stoppable(say: Callable[[str], None], fix: str) -> Iterator[None]:
    """While the block runs, a signal stops it; `say` prints one line to the user at once.

    Args:
        say: prints a line, from within a signal handler.
        fix: how to continue, for the error.

    Raises:
        Interrupted: the block was stopped.
    """

    def end() -> NoReturn:
        if _Work.stops and not left.is_set():
            sys.stderr.write(f"error: {Interrupted('stopped', fix=fix)}\n")
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(Interrupted.exit_code)

    def stop(number: int, frame: FrameType | None) -> None:
        if _Work.stops:
            end()
        _Work.stops = True
        timer.start()
        say(_line())
        if _Work.task is None:
            raise KeyboardInterrupt
        _cancel_soon(_Work.task.get_loop(), _Work.task)

    left, timer = threading.Event(), threading.Timer(END_SECONDS, end)
    timer.daemon = True
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not by_ctrl_c(error):
            raise
        left.set()
        raise Interrupted("stopped", fix=fix) from None
    finally:
        if not left.is_set():  # else the process ends: another signal ends it at once
            timer.cancel()
            _Work.stops = False
            for number, handler in before.items():
                signal.signal(number, handler)


def wind_down(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], result: Future[Any]) -> None:
    """Stop a task of another thread's loop in order, as a signal does, and wait for its result."""
    _Work.stops = True
    try:
        _cancel_soon(loop, task)
        wait([result])
    finally:
        _Work.stops = False


def _cancel_soon(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    seconds = GRACE_SECONDS if _in_flight() else 0.0
    loop.call_soon_threadsafe(lambda: loop.call_later(seconds, task.cancel))


def _in_flight() -> int:
    progress = current()
    return int(progress.gateway().in_flight) if progress is not None and progress.gateway is not None else 0


def _line() -> str:
    flying = _in_flight()
    calls = f": finishing {flying} call{'s' * (flying != 1)} in flight" if flying else ""
    return f"Stopping{calls} (press Ctrl-C again to stop at once)"


def stop(home: Home, run_id: str) -> Live:
    """Stop a running run by id or unique prefix, as Ctrl-C in its terminal does; returns its last state.

    Raises NotFound if no such run is running, GraftError if it runs on another machine.
    """
    here = running(home)
    found = [one for one in here if one.run_id == run_id] or [one for one in here if one.run_id.startswith(run_id)]
    if not run_id or len(found) != 1:
        fix = f"these are running: {', '.join(one.run_id for one in here)}" if here else "see: graft status"
        raise NotFound(f"no run {run_id!r} is running", where=str(home.runs), fix=fix)
    live = found[0]
    if live.host != socket.gethostname():
        raise GraftError(f"{live.run_id} runs on {live.host}", fix="stop it there: graft stop " + live.run_id)
    os.kill(live.pid, signal.SIGTERM)
    return live


def running(home: Home) -> list[Live]:
    """The runs of this home with a live process, by id."""
    notes = (read_live(home, folder.name) for folder in sorted(home.runs.glob("*")) if folder.is_dir())
    return [live for live in notes if live is not None and live.state == "live"]
