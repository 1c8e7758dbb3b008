"""Progress of a run as a person sees it: phases with counts, accepted rows as they come, an ETA, few lines in a log."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fake_llm import Serving
from rich.console import Console
from test_flows_feasibility import settled
from test_flows_make_dataset import graft, write_recipe
from test_flows_methods import mixed
from test_flows_pause import until
from test_flows_stopping import terminal

from graft.cli.display import one_line, render
from graft.flows.progress import Progress


def test_a_terminal_shows_accepted_rows_and_an_eta_while_rows_are_made(tmp_path: Path) -> None:
    with Serving(median_ms=100) as slow:
        recipe = write_recipe(tmp_path, slow.url)
        with terminal(tmp_path / "home", "run", str(recipe)) as run:
            until(lambda: re.search(r"ETA \d+:\d\d", run.text))
            until(lambda: re.search(r"(alpha|beta): \w+ \w+", run.text))
            assert run.ended(60) == 0


def test_calibration_shows_how_many_of_its_calls_have_ended(tmp_path: Path) -> None:
    with Serving(median_ms=300, logprobs=True) as slow:
        recipe = mixed(tmp_path, slow.url)
        with terminal(tmp_path / "home", "run", str(recipe)) as run:
            until(lambda: re.search(r"calibrating judges \d+/\d+", run.text) or run.process.poll() is not None)
            assert re.search(r"calibrating judges \d+/\d+", run.text), run.text


def test_without_a_terminal_a_line_comes_every_ten_seconds_at_most(tmp_path: Path, fake_llm: Any) -> None:
    done = graft(tmp_path / "home", "run", str(write_recipe(tmp_path, fake_llm.url)))
    assert done.returncode == 0, done.stderr
    assert sum(" accepted · " in line for line in done.stdout.splitlines()) <= 2
    assert not json.loads(next((tmp_path / "home").glob("runs/*/live.json")).read_text())["stage"].startswith("round")


def shown(progress: Progress) -> str:
    screen = Console(width=100)
    with screen.capture() as captured:
        screen.print(render(progress))
    return captured.get()


def test_a_row_behind_a_slow_one_is_shown_as_pending_until_the_gates_have_screened_it() -> None:
    progress = Progress("shop", "r", {"a": 5})
    rows = [settled(index).model_copy(update={"text": f"row {index}"}) for index in range(3)]
    for row in rows[1:]:
        progress.end(row, [])
    assert "0/5 accepted · 2 pending" in one_line(progress)
    assert "a: row 1 (pending)" in shown(progress) and "a: row 2 (pending)" in shown(progress)
    progress.end(rows[0], [])
    for row in rows[:2]:
        progress.note(row)
    progress.note(settled(2, "rejected.duplicate"))
    assert "2/5 accepted · 3 candidates" in one_line(progress)
    assert "a: row 1\n" in re.sub(" +\n", "\n", shown(progress)) and "row 2" not in shown(progress)


def test_restricted_rows_are_counted_and_never_shown() -> None:
    progress = Progress("shop", "r", {"a": 5})
    row = settled(0).model_copy(update={"text": "what nobody may read", "restricted": True})
    progress.end(row, [])
    assert "1 pending" in one_line(progress) and "nobody" not in shown(progress)
    progress.note(row)
    assert "1/5 accepted" in one_line(progress) and "nobody" not in shown(progress)
