"""Ctrl-C in every phase of a run, through a terminal; SIGTERM, SIGHUP and `graft stop` from elsewhere."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_llm import Serving
from test_flows_make_dataset import ROOT, environment, graft, run_json, write_recipe
from test_flows_pause import until


class Terminal:
    """A command in a pseudo-terminal of its own, whose output is read all the time."""

    def __init__(self, home: Path, *words: str) -> None:
        ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "graft", *words], cwd=ROOT, env=environment(home) | {"TERM": "xterm"},
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.text, self._file = "", ours
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                found = os.read(self._file, 65_536)
            except OSError:  # the other end is closed
                return
            if not found:
                return
            self.text += found.decode(errors="replace")

    def ended(self, seconds: float) -> int:
        """The exit code; fails if the process takes longer."""
        code = self.process.wait(seconds)
        self._reader.join(10)
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        os.close(self._file)


@contextmanager
def terminal(home: Path, *words: str) -> Iterator[Terminal]:
    opened = Terminal(home, *words)
    try:
        yield opened
    finally:
        opened.close()


def state(home: Path) -> dict[str, Any]:
    file = next(home.glob("runs/*/live.json"), None)
    return dict(json.loads(file.read_text())) if file is not None else {}


def status(home: Path) -> list[str]:
    return [run["status"] for run in json.loads(graft(home, "status", "--json").stdout)["runs"]]


@pytest.fixture
def slow() -> Iterator[Serving]:
    with Serving(median_ms=400) as serving:
        yield serving


def test_ctrl_c_while_it_generates_finishes_calls_in_flight_and_the_same_command_continues(
    tmp_path: Path, slow: Serving
) -> None:
    home, recipe = tmp_path / "home", write_recipe(tmp_path, slow.url, rows=20)
    with terminal(home, "run", str(recipe)) as run:
        until(lambda: state(home).get("settled", 0) >= 3)
        pressed = time.monotonic()
        run.process.send_signal(signal.SIGINT)
        until(lambda: "Stopping: finishing" in run.text, 5)
        shown = time.monotonic() - pressed
        assert run.ended(10) == 130
        assert time.monotonic() - pressed < 6 and shown < 1
        assert "Traceback" not in run.text and "run the same command to continue" in run.text
    assert status(home) == ["interrupted"]
    again = run_json(home, recipe)
    assert again["version"]["labels"] == {"alpha": 20, "beta": 20}
    assert slow.stats()["duplicates"] == 0, "calls in flight were finished and kept"


@pytest.mark.parametrize("phase", ["starting", "preparing", "publishing"])
def test_ctrl_c_in_any_other_phase_ends_it_without_a_traceback(tmp_path: Path, slow: Serving, phase: str) -> None:
    home, recipe = tmp_path / "home", write_recipe(tmp_path, slow.url, rows=4)
    when: dict[str, Callable[[], Any]] = {
        "starting": lambda: (home / "runs").exists() or time.sleep(0.4) is None,
        "preparing": lambda: state(home).get("stage"),
        "publishing": lambda: "publishing" in str(state(home).get("stage")) or "shop@1:" in run.text,
    }
    with terminal(home, "run", str(recipe)) as run:
        until(when[phase])
        run.process.send_signal(signal.SIGINT)
        code = run.ended(8)
        assert code == 130 or (phase == "publishing" and code == 0), run.text
        assert "Traceback" not in run.text


STOPPABLE = """
import os
from graft.flows.stopping import stoppable
from graft.schemas.errors import Interrupted
try:
    with stoppable(print, "run it again"):
        query()
except Interrupted as error:
    os._exit(error.exit_code)
"""
A_VERB = """
from graft import __main__
from graft.cli import app
app._command = lambda words: query
__main__.main()
"""


@pytest.mark.parametrize("code", [STOPPABLE, A_VERB])
def test_a_signal_during_a_query_of_duckdb_stops_it_like_any_other_work(code: str) -> None:
    query = """
import duckdb
def query():
    print("querying", flush=True)
    duckdb.execute("SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b")
"""
    command = [sys.executable, "-c", query + code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout and run.stdout.readline() == b"querying\n"
        time.sleep(0.3)
        run.send_signal(signal.SIGINT)
        try:
            _, errors = run.communicate(timeout=8)
        finally:
            run.kill()
    assert run.returncode == 130 and b"Traceback" not in errors, errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_from_elsewhere_stops_it_alike(tmp_path: Path, slow: Serving, number: signal.Signals) -> None:
    home, recipe = tmp_path / "home", write_recipe(tmp_path, slow.url, rows=400)
    with terminal(home, "run", str(recipe)) as run:
        until(lambda: state(home).get("settled", 0) >= 3)
        children = psutil.Process(run.process.pid).children(recursive=True)
        run.process.send_signal(number)
        assert run.ended(8) == 130
        assert not [child for child in children if child.is_running()]
    assert status(home) == ["interrupted"]


def test_a_second_press_ends_it_at_once(tmp_path: Path) -> None:
    with Serving(median_ms=60_000) as never:
        home, recipe = tmp_path / "home", write_recipe(tmp_path, never.url, rows=4)
        with terminal(home, "run", str(recipe)) as run:
            until(lambda: state(home).get("in_flight"))
            run.process.send_signal(signal.SIGINT)
            until(lambda: "Stopping: finishing" in run.text, 5)
            run.process.send_signal(signal.SIGINT)
            assert run.ended(1.5) == 130


def test_graft_stop_stops_a_run_of_another_terminal(tmp_path: Path, slow: Serving) -> None:
    home, recipe = tmp_path / "home", write_recipe(tmp_path, slow.url, rows=400)
    nothing = graft(home, "stop", "shop")
    assert nothing.returncode == 8 and "no run 'shop' is running" in nothing.stderr
    with terminal(home, "run", str(recipe)) as run:
        until(lambda: state(home).get("settled", 0) >= 3)
        stopped = graft(home, "stop", state(home)["run_id"][:8])
        assert stopped.returncode == 0, stopped.stderr
        assert run.ended(8) == 130
    assert status(home) == ["interrupted"]


def test_ctrl_c_while_a_student_trains(tmp_path: Path, fake_llm: Serving) -> None:
    home = tmp_path / "home"
    run_json(home, write_recipe(tmp_path, fake_llm.url, rows=30))
    with terminal(home, "train", "shop", "--epochs", "500") as train:
        until(lambda: psutil.Process(train.process.pid).cpu_times().user > 8)
        train.process.send_signal(signal.SIGINT)
        assert train.ended(8) == 130
        assert "Traceback" not in train.text and "Stopping" in train.text
