"""A recipe becomes a published version: through the command line, against a real server with seeded replies."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from graft.dashboard.figures.datasets import datasets
from graft.data.lake import Lake
from graft.data.trace import latest
from graft.data.versions import version
from graft.schemas.home import Home

ROOT = Path(__file__).resolve().parent.parent

RECIPE = """
name: shop
task:
  kind: classification
  labels: [{{name: alpha, description: the first kind}}, {{name: beta, description: the second kind}}]
seeds:
  rows:
    - {{text: the quick brown fox jumps over a lazy dog, label: alpha}}
    - {{text: a calm river runs below the old stone bridge, label: beta}}
models:
{models}
roles:
  generator: {{models: [m1], max_tokens: 64}}
  reviewer: {{models: [m2, m3, m4], max_tokens: 64}}
  adjudicator: {{models: [m5], max_tokens: 64}}
method: {{kind: gra, reviewers: 3, max_cosine: null{method}}}
target: {{rows_per_label: {rows}}}
limits: {{candidates: {candidates}, concurrency: 16, shard_rows: 40{limits}}}
"""


def write_recipe(
    folder: Path,
    url: str,
    *,
    rows: int = 20,
    candidates: int = 2000,
    method: str = "",
    limits: str = "",
    model: str = "",
) -> Path:
    models = "\n".join(
        f"  - {{name: m{i}, provider: openai, model: fake-{i}, base_url: {url}{model}}}" for i in range(1, 6)
    )
    file = folder / "shop.yaml"
    file.write_text(
        RECIPE.format(models=models, rows=rows, candidates=candidates, method=method, limits=limits), encoding="utf-8"
    )
    return file


def environment(home: Path, prefect: str = "") -> dict[str, str]:
    """Variables for a process of ours: without Prefect unless there is a server at this address."""
    kept = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    server = {"PREFECT_API_URL": prefect} if prefect else {}
    return {**kept, **server, "GRAFT_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "160"}


def process(home: Path, *words: str, seconds: float = 180) -> subprocess.CompletedProcess[str]:
    """A command of Graft in a process of its own, with its exit code and output; `graft` is 2 to 5 seconds quicker."""
    return subprocess.run(
        [sys.executable, "-m", "graft", *words], cwd=ROOT, text=True,
        capture_output=True, env=environment(home), timeout=seconds, check=False,
    )  # fmt: skip


def graft(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of Graft in this process, through its `main`: its libraries are imported once for all tests."""
    from graft.cli.app import main

    output, errors, before = StringIO(), StringIO(), signal.getsignal(signal.SIGINT)
    variables = patch.dict(os.environ, environment(home), clear=True)
    quiet = patch.object(logging.getLogger(), "handlers", [])  # those of earlier tests, whose streams may be closed
    try:
        with (
            quiet,
            variables,
            patch.object(sys, "argv", ["graft", *words]),
            redirect_stdout(output),
            redirect_stderr(errors),
        ):
            main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        signal.signal(signal.SIGINT, before)
    return subprocess.CompletedProcess(words, code, output.getvalue(), errors.getvalue())


here = graft
"""The same, for tests whose `graft` is a process."""


def run_json(home: Path, recipe: Path, *more: str) -> dict[str, Any]:
    done = graft(home, "run", str(recipe), "--json", *more)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_run_reaches_its_target_and_a_rerun_makes_no_call(tmp_path: Path, fake_llm: Any) -> None:
    recipe = write_recipe(tmp_path, fake_llm.url)
    first = run_json(tmp_path / "home", recipe)
    assert first["version"]["labels"] == {"alpha": 20, "beta": 20}
    assert first["run"]["stopped_by"] == "target"
    assert sum(first["version"]["splits"].values()) == 40
    counts = first["run"]["counts"]
    assert counts["opened"] == counts["accepted"] + counts["rejected"] + counts["failed"]
    assert counts["surplus"] <= counts["overshoot"] <= 0.3 * counts["opened"]
    log = (tmp_path / "home" / "runs" / first["run"]["id"] / "log.jsonl").read_text().splitlines()
    events = [json.loads(line).get("event") for line in log]
    assert {"run.started", "shard.ended", "run.published"} <= set(events) and "run.failed" not in events
    calls = fake_llm.stats()["calls"]
    again = run_json(tmp_path / "home", recipe)
    assert again["repeated"] is True
    assert again["version"] == first["version"]
    assert fake_llm.stats()["calls"] == calls


def test_a_warm_journal_alone_gives_the_same_dataset_without_a_call(tmp_path: Path, fake_llm: Any) -> None:
    recipe = write_recipe(tmp_path, fake_llm.url)
    first = run_json(tmp_path / "one", recipe)
    calls = fake_llm.stats()["calls"]
    (tmp_path / "two").mkdir()
    for file in (tmp_path / "one").glob("journal.sqlite*"):
        (tmp_path / "two" / file.name).write_bytes(file.read_bytes())
    second = run_json(tmp_path / "two", recipe)
    assert fake_llm.stats()["calls"] == calls
    assert second["version"]["content_hash"] == first["version"]["content_hash"]
    assert second["run"]["calls_cached"] > 0


def test_a_killed_run_repeats_no_finished_call_and_loses_no_row(tmp_path: Path, fake_llm: Any) -> None:
    recipe, home = write_recipe(tmp_path, fake_llm.url, rows=60), tmp_path / "home"
    process = subprocess.Popen(
        [sys.executable, "-m", "graft", "run", str(recipe), "--json"], cwd=ROOT, env=environment(home),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while fake_llm.stats()["calls"] < 250 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    result = run_json(home, recipe)
    served = fake_llm.stats()
    assert result["version"]["labels"] == {"alpha": 60, "beta": 60}
    # Calls in flight at the kill were never finished: at most as many as the concurrency are repeated.
    assert served["duplicates"] <= 16
    shown = graft(home, "show", "shop", "--json")
    rows = json.loads(shown.stdout)["rows"]
    assert len({row["id"] for row in rows}) == len(rows) == 120
    clean = run_json(tmp_path / "clean", recipe)
    assert clean["version"]["content_hash"] == result["version"]["content_hash"]


def test_a_candidate_cap_publishes_what_there_is_and_names_the_shortfall(tmp_path: Path, fake_llm: Any) -> None:
    recipe = write_recipe(tmp_path, fake_llm.url, rows=100, candidates=30, limits=", out_of_reach: go_on")
    result = run_json(tmp_path / "home", recipe)
    assert result["run"]["status"] == "partial"
    assert result["run"]["stopped_by"] == "candidates"
    assert result["run"]["counts"]["opened"] <= 30
    have = result["version"]["labels"]
    assert result["run"]["shortfall"] == {label: 100 - have.get(label, 0) for label in ("alpha", "beta")}


def test_a_money_cap_is_never_overshot(tmp_path: Path, fake_llm: Any) -> None:
    recipe = write_recipe(
        tmp_path,
        fake_llm.url,
        rows=200,
        limits=", money_usd: 0.02, out_of_reach: go_on",
        model=", price: {input: 10, output: 40}",
    )
    result = run_json(tmp_path / "home", recipe)
    assert result["run"]["stopped_by"] == "budget"
    assert 0 < result["run"]["price_usd"] <= 0.02


@pytest.mark.parametrize("broken", ["model", "seeds"])
def test_a_run_that_cannot_start_names_the_fix(tmp_path: Path, fake_llm: Any, broken: str) -> None:
    recipe = write_recipe(tmp_path, "http://127.0.0.1:9/v1" if broken == "model" else fake_llm.url)
    if broken == "seeds":
        recipe.write_text(
            recipe.read_text().replace("label: alpha}\n    - {text: a calm", "label: alfa}\n    - {text: a calm")
        )
    done = graft(tmp_path / "home", "run", str(recipe))
    assert done.returncode == {"model": 3, "seeds": 2}[broken]
    assert "fix:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_row_explains_itself(tmp_path: Path, fake_llm: Any) -> None:
    home = tmp_path / "home"
    run_json(home, write_recipe(tmp_path, fake_llm.url, rows=5))
    row = json.loads(graft(home, "show", "shop", "--json").stdout)["rows"][0]["id"]
    history = json.loads(graft(home, "explain", row, "--json").stdout)
    assert {call["purpose"].split(".")[0] for call in history["calls"]} >= {"generate", "review"}
    assert history["decision"]["status"] == "accepted"
    assert len(history["reviews"]) == 3
    assert [(held["dataset"], held["version"]) for held in history["versions"]] == [("shop", 1)]
    assert row in graft(home, "explain", row[:10]).stdout


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path, fake_llm: Any) -> None:
    recipe, home = write_recipe(tmp_path, fake_llm.url, rows=4_000, candidates=100_000), tmp_path / "home"
    first = subprocess.Popen(
        [sys.executable, "-m", "graft", "run", str(recipe), "--json"], cwd=ROOT, env=environment(home),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while fake_llm.stats()["calls"] < 50 and first.poll() is None:
            time.sleep(0.05)
        second = graft(home, "run", str(recipe))
        assert second.returncode == 5
        assert f"pid {first.pid}" in second.stderr
        first.send_signal(signal.SIGINT)
        assert first.wait(120) == 130
        assert "run the same command to continue" in (first.stderr.read() if first.stderr else "")
    finally:
        first.kill()
        first.wait(10)
        if first.stderr:
            first.stderr.close()
    runs = json.loads(graft(home, "status", "--json").stdout)["runs"]
    assert [run["status"] for run in runs] == ["interrupted"]
    assert runs[0]["calls"] >= 50 and runs[0]["counts"].keys() >= {"opened", "accepted"}, "its record keeps its figures"


def test_a_run_below_the_recipes_target_is_a_trial_and_never_the_latest(tmp_path: Path, fake_llm: Any) -> None:
    recipe, home = write_recipe(tmp_path, fake_llm.url), tmp_path / "home"
    assert run_json(home, recipe, "--rows-per-label", "2")["version"]["origin"] == "trial"
    with Lake.open(Home(home), read_only=True) as lake:
        assert version(lake, "shop").version == 1, "a dataset of trials alone has one"
    assert run_json(home, recipe)["version"]["origin"] == "run"
    tried = run_json(home, recipe, "--rows-per-label", "3", "--seed", "5")["version"]
    assert (tried["version"], tried["origin"]) == (3, "trial") and "lower target" in tried["note"]
    with Lake.open(Home(home), read_only=True) as lake:
        assert version(lake, "shop").version == version(lake, "shop@latest").version == latest(lake)[0].version == 2
        assert [row["version"] for row in datasets(lake)] == [2] and version(lake, "shop@3").rows == tried["rows"]


def test_more_rows_keep_those_of_the_latest_version_and_repeat_no_call(tmp_path: Path, fake_llm: Any) -> None:
    recipe = write_recipe(tmp_path, fake_llm.url, rows=6)
    first, more = run_json(tmp_path / "home", recipe), run_json(tmp_path / "home", recipe, "--more", "5")
    assert more["run"]["id"] != first["run"]["id"] and more["version"]["rows"] == first["version"]["rows"] + 5
    assert more["run"]["recipe"]["target"]["labels"] == {"alpha": 9, "beta": 8}
    assert more["run"]["calls_cached"] >= first["run"]["calls"] > 0
