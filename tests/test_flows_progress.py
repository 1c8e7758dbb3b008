"""Progress of a run as a person sees it: phases with counts, accepted rows as they come, an ETA, few lines in a log."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fake_llm import Serving
from test_flows_make_dataset import graft, write_recipe
from test_flows_methods import mixed
from test_flows_pause import until
from test_flows_stopping import terminal


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
