"""`graft run`: the flow in this process, with a live display."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from graft.cli.show import as_json, console, without_seeds
from graft.flows import stopping
from graft.schemas.home import Home
from graft.schemas.kinds import EXPORTS

FIRST_LINE_S, LINES_S = 2.0, 10.0
"""Without a terminal: seconds before the first line of progress, and between two lines."""


def run_recipe(recipe: str, overrides: dict[str, Any], *, train: bool, export: str | None, json: bool) -> int:
    """Run, then train and export as requested. Returns the process's exit code."""
    home = Home.find()
    if export:
        EXPORTS.get(export)  # a format that does not exist is reported before the run
    with at_work("finished work is committed: run the same command to continue"):
        if not json:
            _advise(recipe)
        with live(quiet=json):
            from graft.flows.make_dataset import make_dataset

            result = stopping.run(make_dataset(recipe, **overrides))
        trained = exported = None
        published = result["version"]
        ref = f"{published['dataset']}@{published['version']}" if published else ""
        if ref and train:
            from graft.flows.train_student import train_student

            console(stderr=json).print("[dim]training the student, and a baseline on the seeds only[/dim]")
            trained = train_student(ref, reuse=True)
        if ref and export:
            from graft.flows.export_dataset import export_version

            exported = [str(path) for path in export_version(ref, format=export, out=None, overwrite=True)]
    if json:
        run = {**result["run"], "recipe": without_seeds(result["run"]["recipe"])}
        as_json({**result, "run": run, "student": trained, "exported": exported})
    else:
        _tell(home, result, trained, exported)
    return 7 if result["run"]["stopped_by"] in ("yield", "refusals", "disagreement", "out_of_reach") else 0


@contextmanager
def at_work(fix: str) -> Iterator[None]:
    """Run a flow in the block: logs stay off the terminal, and a signal stops it; `fix` says how to continue."""
    quiet_console()
    with stopping.stoppable(console(stderr=True).print, fix):
        yield


def quiet_console() -> None:
    """Keep log lines and tracebacks off the terminal: the run's log has them, and Prefect's server its own."""
    logging.getLogger().addHandler(logging.NullHandler())
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def _advise(recipe: str) -> None:
    """Print the verdict of `graft teacher` in one line, if there is one."""
    from graft.data.verdicts import verdict_of
    from graft.flows.plan import read_recipe
    from graft.schemas.verdict import one_line

    _, loaded, seeds = read_recipe(recipe)
    if verdict := verdict_of(Home.find(create=False), loaded, seeds):
        console().print(one_line(verdict), markup=False, soft_wrap=True)


def _tell(home: Home, result: dict[str, Any], trained: dict[str, Any] | None, exported: list[str] | None) -> None:
    """Write the run's report to its folder and print the end of the run on one screen."""
    from graft.cli.report import run_page, screen

    folder = home.run(result["run"]["id"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(run_page(home, result, trained, exported), encoding="utf-8")
    out = console()
    width = out.width if out.is_terminal else 100
    sys.stdout.write(screen(home, result, _examples(home, result["version"]), trained, exported or (), width))


def _examples(home: Home, published: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The first rows of each label that anyone may see."""
    if published is None:
        return []
    from graft.data.lake import Lake
    from graft.data.versions import first_rows, version

    with Lake.open(home, read_only=True, threads=1) as lake:
        found = first_rows(lake, version(lake, f"{published['dataset']}@{published['version']}"), 3)
    return [row for row in found if not row["restricted"]]


@contextmanager
def live(*, quiet: bool) -> Iterator[None]:
    """Show the run's progress while the block runs: a table on a terminal, occasional lines elsewhere."""
    if quiet:
        yield
        return
    with shown(_terminal if sys.stdout.isatty() else _lines):
        yield


@contextmanager
def shown(show: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run a display in a thread of its own while the block runs; the event tells it to end."""
    stop = threading.Event()
    thread = threading.Thread(target=show, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


def _terminal(stop: threading.Event) -> None:
    from rich.live import Live

    from graft.cli.display import render
    from graft.flows.progress import current

    with Live(console=console(), refresh_per_second=4, transient=True) as live:
        while not stop.wait(0.25):
            progress = current()
            if progress is not None:
                live.update(render(progress))


def _lines(stop: threading.Event) -> None:
    from graft.cli.display import one_line
    from graft.flows.progress import current

    last, pause = "", FIRST_LINE_S
    while not stop.wait(pause):
        pause = LINES_S
        progress = current()
        if progress is not None:
            line = one_line(progress)
            if line != last:
                sys.stdout.write(line + "\n")
                sys.stdout.flush()
                last = line
