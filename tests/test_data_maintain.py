"""The lake's upkeep: beside writers, killed half way, and over deleted versions nothing that counts is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from graft.cli import versions as verbs
from graft.data.delete import delete
from graft.data.lake import Lake
from graft.data.maintain import Maintenance, disk, maintain
from graft.data.versions import publish, rows, version, versions
from graft.flows.maintain import maintain as flow
from graft.flows.maintain import maintain_now
from graft.schemas.datasets import DatasetVersion, Row, Run
from graft.schemas.errors import GraftError
from graft.schemas.home import Home

AT = datetime(2026, 11, 25, tzinfo=UTC)
RUN = Run(id="run1", dataset="d", recipe={}, status="finished", started_at=AT, code_version="1", price_usd=None)
NOW: dict[str, Any] = dict.fromkeys(("older_than", "grace", "orphan_age"), timedelta())
ROOT = Path(__file__).resolve().parent.parent


def put(lake: Lake, count: int) -> DatasetVersion:
    some = [Row(id=f"c_{i:04}", text=f"text {i}", label="a", split="train") for i in range(count)]
    return publish(lake, run=RUN, rows=some, models={}, seeds=0, card="# card")


def fill(lake: Lake, batches: int = 12) -> None:
    """Small files, rows replaced and versions, as a run leaves them."""
    for number in range(batches):
        lake.commit("run1", f"b{number}", [], [])
        lake.save_run(RUN.model_copy(update={"calls": number}))
        if number % 4 == 0:
            put(lake, 5 + number)


def check(lake: Lake) -> None:
    """Every version reads whole, now and at its snapshot."""
    for found in versions(lake):
        assert rows(lake, found).num_rows == found.rows
        query = f"SELECT count(*) AS n FROM lake.version_rows AT (VERSION => {found.snapshot}) WHERE version = ?"
        assert lake.query(query, [found.version])[0]["n"] == found.rows


def total(found: Maintenance, side: str) -> int:
    return sum(one.files for one in getattr(found, side))


def test_files_are_merged_and_versions_stay(lake: Lake) -> None:
    fill(lake)
    snapshots = lake.query("SELECT count(*) AS n FROM lake.snapshots()")[0]["n"]
    planned = maintain(lake, **NOW, dry_run=True)
    assert planned.before == planned.after == disk(lake) and planned.merged > 10 and planned.kept == 3
    first = maintain(lake, **NOW)
    assert first.expired >= planned.expired > 20 and first.removed > 10 and first.waiting == 0 and first.kept == 3
    assert total(first, "after") < total(first, "before") / 2 and first.after == disk(lake)
    assert lake.query("SELECT count(*) AS n FROM lake.snapshots()")[0]["n"] < 15 < snapshots
    assert lake.query("SELECT count(*) AS n FROM lake.batches")[0]["n"] == 12
    run = lake.run("run1")
    assert run is not None and run.calls == 11
    check(lake)
    second = maintain(lake, **NOW)
    assert (second.merged, second.removed) == (0, 0) and second.after == first.after


def test_young_snapshots_and_files_stay(lake: Lake) -> None:
    fill(lake, 6)
    stray = lake.home.lake / "files" / "main" / "runs" / "stray.parquet"
    stray.write_bytes(b"of a writer that died")
    found = maintain(lake)
    assert (found.expired, found.removed, found.orphans) == (0, 0, 0) and stray.exists()
    later = maintain(lake, older_than=timedelta())
    assert later.expired > 10 and later.removed == 0 and later.waiting > 5  # a reader may still open them
    old = time.time() - 2 * 86_400
    os.utime(stray, (old, old))
    last = maintain(lake, older_than=timedelta(), grace=timedelta())
    assert last.orphans == 1 and not stray.exists() and last.removed >= later.waiting and last.waiting == 0
    check(lake)


def test_a_deleted_versions_rows_leave_the_disk(lake: Lake) -> None:
    put(lake, 3)
    big = put(lake, 4000)
    maintain(lake, **NOW)
    size = sum(one.bytes for one in disk(lake))
    delete(lake, big, by="ann")
    for _ in range(2):
        maintain(lake, **NOW)
        check(lake)
    assert sum(one.bytes for one in disk(lake)) < size / 2 and version(lake, "d").rows == 3


def test_beside_writers_nothing_fails_and_nothing_is_lost(lake: Lake) -> None:
    problems: list[BaseException] = []
    written: dict[int, int] = {}
    done = threading.Event()

    rounds = 0

    def write(who: int) -> None:
        number = 0
        try:
            with Lake.open(lake.home) as own:
                while number < 8 or (rounds < 2 and number < 400):
                    assert own.commit("run1", f"w{who}-{number}", [], [])
                    own.save_run(RUN.model_copy(update={"id": f"run{who}", "calls": number}))
                    if number in (3, 7):
                        put(own, 100 * who + number)
                    number += 1
                    written[who] = number
        except BaseException as error:
            problems.append(error)

    def read() -> None:
        try:
            with Lake.open(lake.home, read_only=True) as own:
                while not done.is_set():
                    for found in versions(own):
                        assert rows(own, found).num_rows == found.rows
        except BaseException as error:
            problems.append(error)

    writers = [threading.Thread(target=write, args=(who,)) for who in (1, 2)]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    while any(thread.is_alive() for thread in writers):
        maintain(lake, older_than=timedelta(), orphan_age=timedelta())  # the reader's files keep their hour
        rounds += 1
    done.set()
    for thread in (*writers, reader):
        thread.join()
    assert problems == [] and rounds >= 2
    maintain(lake, **NOW)
    found = lake.query("SELECT count(DISTINCT batch_id) AS n, count(*) AS m FROM lake.batches")
    assert found == [{"n": sum(written.values()), "m": sum(written.values())}]
    assert {run.id: run.calls + 1 for run in lake.runs()} == {f"run{who}": count for who, count in written.items()}
    assert sorted(found.rows for found in versions(lake)) == [103, 107, 203, 207]
    check(lake)


CHILD = """
import sys
from datetime import timedelta
from pathlib import Path
from graft.data.lake import Lake
from graft.data.maintain import maintain
from graft.schemas.home import Home
with Lake.open(Home(Path(sys.argv[1]))) as lake:
    print("open", flush=True)
    while True:
        maintain(lake, older_than=timedelta(), grace=timedelta(), orphan_age=timedelta())
"""


def test_killed_half_way_the_lake_reads(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with Lake.open(home) as lake:
        fill(lake, 8)
    for number, wait in enumerate((0.05, 0.15, 0.3)):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(home.root)], cwd=ROOT, stdout=subprocess.PIPE)
        assert child.stdout is not None and child.stdout.readline() == b"open\n"
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        with Lake.open(home) as lake:
            check(lake)
            assert lake.query("SELECT count(*) AS n FROM lake.batches")[0]["n"] == 8 + number
            lake.commit("run1", f"after{number}", [], [])
    with Lake.open(home) as lake:
        last = maintain(lake, **NOW)
        assert last.waiting == 0 and [v.rows for v in versions(lake)] == [5, 9]
        check(lake)


def test_the_flow_and_the_command_line(lake: Lake) -> None:
    fill(lake, 4)
    app = typer.Typer()
    app.command()(verbs.maintain)
    shown = CliRunner().invoke(app, ["--dry-run", "--older-than", "0"], env={"COLUMNS": "160"})
    assert shown.exit_code == 0 and "would be merged" in shown.output and "version_rows" in shown.output
    report = json.loads(CliRunner().invoke(app, ["--older-than", "0", "--json"]).stdout)
    assert report["expired"] > 5 and report["dry_run"] is False
    assert flow.fn(older_than=0)["merged"] == 0
    for wrong in (-1, float("nan"), float("inf"), 1e9):
        with pytest.raises(GraftError, match="not an age"):
            maintain_now(older_than=wrong)
    check(lake)
