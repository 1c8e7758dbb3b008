"""A schedule fires and publishes a version: Prefect's server, a worker, a cron line, all through the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from test_flows_make_dataset import ROOT, write_recipe


def graft(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.run(
        [sys.executable, "-m", "graft", *words], cwd=ROOT, text=True, capture_output=True, timeout=180, check=False,
        env={**environment, "GRAFT_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "160"},
    )  # fmt: skip


def test_a_schedule_fires_and_publishes_a_version(tmp_path: Path, fake_llm: Any) -> None:
    home, recipe = tmp_path / "home", write_recipe(tmp_path, fake_llm.url, rows=3)
    try:
        up = graft(home, "up", "--port", "4387")
        assert up.returncode == 0, up.stderr
        planned = graft(home, "schedule", str(recipe), "--cron", "* * * * *")
        assert planned.returncode == 0, planned.stderr
        deadline, versions = time.monotonic() + 150, []
        while not versions and time.monotonic() < deadline:
            time.sleep(3)
            versions = json.loads(graft(home, "datasets", "--json").stdout)
        assert [version["dataset"] for version in versions][:1] == ["shop"]
        state = json.loads(graft(home, "status", "--json").stdout)
        assert state["runs"][0]["stopped_by"] == "target"
    finally:
        down = graft(home, "down")
    assert down.returncode == 0, down.stderr
