"""Verbs of the command line as processes of their own, started by a page: it shows their progress and their result.

A piece of work has a folder in GRAFT_HOME/work: `work.json` says what it is, `result.json` is the verb's `--json`, and
`said.txt` the lines that a terminal would show. It goes on when the page, or the dashboard, is closed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from graft.schemas.base import Value, stable_hash, utc_now
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home, python_path

State = Literal["running", "done", "failed", "stopped"]
LINES = 12
"""Last lines that a page shows."""
AT_ONCE = 1
"""Pieces of work of one verb at a time: each loads models."""
_STARTED: list[subprocess.Popen[bytes]] = []
"""Children of this process, so that an ended one is not taken for a running one."""


class Work(Value):
    """A verb that a person started on a page."""

    id: str
    verb: str
    arguments: tuple[str, ...]
    by: str
    at: datetime
    pid: int = 0
    created: float = 0.0
    stopped_by: str = ""


class Progress(Value):
    """A piece of work as it stands: `result` is its JSON once it is done, `lines` the last lines that it printed."""

    work: Work
    state: State
    seconds: float
    result: dict[str, Any] | None = None
    lines: tuple[str, ...] = ()


def begin(home: Home, verb: str, arguments: Sequence[str], by: str) -> Work:
    """Start `graft VERB ARGUMENTS --json` in a session of its own. Raises GraftError while such work is running."""
    import psutil

    running = [one for one in works(home, verb) if one.state == "running"]
    if len(running) >= AT_ONCE:
        what = f"{running[0].work.by} started a {verb} that is still running"
        raise GraftError(what, where=" ".join(running[0].work.arguments), fix="wait for it, or stop it")
    at = utc_now()
    work = Work(id="w_" + stable_hash(verb, [*arguments], by, at.isoformat()), verb=verb, arguments=tuple(arguments),
                by=by, at=at)  # fmt: skip
    folder = _folder(home, work.id)
    folder.mkdir(parents=True)
    environment = {**os.environ, "GRAFT_HOME": str(home.root), "PYTHONPATH": python_path(), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "graft", verb, *arguments, "--json"]
    with (folder / "result.json").open("wb") as out, (folder / "said.txt").open("wb") as said:
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=said, start_new_session=True
        )
    _STARTED.append(child)
    work = work.model_copy(update={"pid": child.pid, "created": psutil.Process(child.pid).create_time()})
    _keep(folder, work)
    return work


def works(home: Home, verb: str, most: int = 20) -> list[Progress]:
    """The newest pieces of work of a verb, newest first."""
    folders = (home.root / "work").glob("w_*")
    found = [work for folder in folders if (work := _read(folder)) and work.verb == verb]
    return [progress(home, work.id) for work in sorted(found, key=lambda one: one.at, reverse=True)[:most]]


def progress(home: Home, name: str) -> Progress:
    """A piece of work as it stands. Raises NotFound."""
    folder = _folder(home, name)
    work = _read(folder)
    if work is None:
        raise NotFound(f"no work {name[:80]!r}", where=str(home.root / "work"), fix="see the page's list")
    lines = tuple(_said(folder))
    if _lives(work):
        return Progress(work=work, state="running", seconds=(utc_now() - work.at).total_seconds(), lines=lines)
    result, ended = folder / "result.json", folder / "said.txt"
    seconds = max(file.stat().st_mtime for file in (result, ended)) - work.at.timestamp()
    try:
        value = json.loads(result.read_bytes())
    except ValueError:
        value = None
    state: State = "done" if isinstance(value, dict) else "stopped" if work.stopped_by else "failed"
    return Progress(work=work, state=state, seconds=max(0.0, seconds), result=value, lines=lines)


def end(home: Home, name: str, by: str, patience_s: float = 6.0) -> Progress:
    """Stop a piece of work as Ctrl-C would: finished calls stay in the journal. Raises NotFound."""
    found = progress(home, name)
    if found.state == "running":
        _keep(_folder(home, name), found.work.model_copy(update={"stopped_by": by}))
        os.kill(found.work.pid, signal.SIGINT)
        until = time.monotonic() + patience_s
        while _lives(found.work) and time.monotonic() < until:
            time.sleep(0.05)
    return progress(home, name)


def _folder(home: Home, name: str) -> Path:
    if not re.fullmatch(r"w_[0-9a-f]{16}", name):
        raise NotFound(f"no work {name[:80]!r}", where=str(home.root / "work"), fix="see the page's list")
    return home.root / "work" / name


def _keep(folder: Path, work: Work) -> None:
    beside = folder / "work.tmp"
    beside.write_text(work.model_dump_json(), encoding="utf-8")
    beside.replace(folder / "work.json")


def _read(folder: Path) -> Work | None:
    try:
        return Work.model_validate_json((folder / "work.json").read_bytes())
    except (OSError, ValueError):
        return None


def _said(folder: Path) -> list[str]:
    lines = (folder / "said.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in lines if line.strip()][-LINES:]


def _lives(work: Work) -> bool:
    """True if its process runs: the same pid of a later process does not count."""
    import psutil

    for child in [child for child in _STARTED if child.poll() is not None]:
        _STARTED.remove(child)
    try:
        process = psutil.Process(work.pid)
        return abs(process.create_time() - work.created) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
