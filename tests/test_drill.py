"""The drill in short: a run is killed three times, and one runs out of credit; nothing finished is lost or repeated."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_short_drill_finds_everything_where_it_should_be(prefect_url: str, tmp_path: Path) -> None:
    words = ["--kills", "3", "--candidates", "120", "--faults", "out-of-credit", "--others", "none"]
    home = tmp_path / "prefect"
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "drill.py"), *words], text=True, capture_output=True, timeout=150,
        env={**os.environ, "PREFECT_API_URL": prefect_url, "PREFECT_HOME": str(home)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    figures = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", done.stdout, re.MULTILINE))
    assert next(value for name, value in figures.items() if name.startswith("kills over")) == "3"
    assert figures["finished calls sent again"] == figures["acknowledged rows lost"] == "0"
    assert "| out-of-credit | 150 | 150 | ModelUnreachable |" in done.stdout
