"""Progress of a run in a notebook: one bar, updated in place through IPython alone (no widgets)."""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graft.flows.progress import Progress

EVERY_S = 0.5


@contextmanager
def notebook() -> Iterator[None]:
    """Show the progress of the block's runs: a bar in a notebook, the display of `graft run` in IPython's terminal.

    Scripts and plain Python prompts print nothing of ours.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        yield
        return
    from graft.cli.run import live, quiet_console, shown
    from graft.flows.progress import current

    quiet_console()
    if not hasattr(shell, "kernel"):
        with live(quiet=False):
            yield
        return
    context, earlier = contextvars.copy_context(), current()  # the context leads to the cell's output
    with shown(lambda stop: context.run(_bar, earlier, stop)):
        yield


def _bar(earlier: Progress | None, stop: threading.Event) -> None:
    """Show the bar once a run other than the `earlier` one begins, and its last state at the end."""
    from graft.cli.display import bar
    from graft.flows.progress import current

    handle: Any = None
    last, ended = "", False
    while not ended:
        ended = stop.wait(EVERY_S)
        progress = current()
        if progress is None or progress is earlier:
            continue
        with suppress(Exception):  # counts that change while they are read, or a broken display: the run goes on
            page, line = bar(progress, ended=ended)
            if page != last:
                handle, last = _put(handle, {"text/html": page, "text/plain": line}), page


def _put(handle: Any, data: dict[str, str]) -> Any:
    """Display data, or replace what a handle displays; returns the handle."""
    from IPython.display import display

    if handle is None:
        return display(data, raw=True, display_id=True)
    handle.update(data, raw=True)
    return handle
