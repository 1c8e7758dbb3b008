"""The lake's part of the drill: recall against publish, killed exports and imports, upkeep next to everybody else.

Each worker is a process of its own on the real lake. Worker processes note what was acknowledged in a file, one write
each, so that a kill loses nothing of it; the drill then compares these notes with the lake.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from drill_audit import Verdict
from harness import OPENER, ROOT, stop

sys.path.insert(0, str(ROOT))

from graft.schemas.base import utc_now
from graft.schemas.datasets import Row, Run
from graft.schemas.home import Home
from graft.schemas.rows import Candidate, Decision, Seed, Slot

RECALLS, KILLS, UPKEEP_S = 8, 12, 20.0
VERSIONS_A_RACE, ROWS_A_VERSION, EXPORTED_ROWS, IMPORTED_ROWS = 6, 40, 60_000, 20_000
GOOD, BAD = "steady", "withdrawn"


@dataclass
class Finding(Verdict):
    """Outcome of one drill of the lake. `done` counts the races, kills or commits; `problems` must be empty."""

    name: str
    done: int = 0
    of: str = ""
    seconds: float = 0.0


def run_of(dataset: str, name: str) -> Run:
    """A finished run, as the worker processes record it."""
    return Run(id=name, dataset=dataset, recipe={}, status="finished", started_at=utc_now(), code_version="drill")


def candidate(run: str, index: int, model: str) -> Candidate:
    """An accepted candidate by this model."""
    slot = Slot(id=f"{run}-s{index}", run_id=run, shard=0, round=0, index=index, label="a", seed=index)
    return Candidate(
        id=f"c_{run}-{index}", slot=slot, text=f"text {index} of {run}", label="a", intended_label="a",
        models={"generator": model},
        decision=Decision(status="accepted", route="agreed", code="accepted.agreed", reason="drill"),
    )  # fmt: skip


def publish_run(lake: Any, dataset: str, number: int, carried: Any = None) -> tuple[Any, list[Candidate]]:
    """Commit one run's candidates, half of them by the model that is recalled, and publish them with `carried`."""
    from graft.data.versions import publish

    run = run_of(dataset, f"{dataset}-{number}")
    lake.save_run(run)
    lake.add_seeds(run.id, [Seed.of("a seed", "a")])
    made = [candidate(run.id, index, BAD if index % 2 else GOOD) for index in range(ROWS_A_VERSION)]
    lake.commit(run.id, "b0", made, [])
    rows = [Row(id=one.id, text=one.text, label="a", split="train") for one in made]
    return publish(lake, run=run, rows=rows, models={}, seeds=0, card="# drill", carried=carried), made


def publish_often(home: str, dataset: str) -> None:
    """Publish several versions, one upon the other."""
    from graft.data.lake import Lake

    with Lake.open(Home(Path(home))) as lake:
        found = None
        for number in range(VERSIONS_A_RACE):
            found, _ = publish_run(lake, dataset, number, found)


def race_recalls(context: ForkServerContext, folder: Path, seed: int, races: int = RECALLS) -> Finding:
    """Recall a model at a random moment of another process's publishing. No later version may hold one of its rows."""
    from graft.data.lake import Lake
    from graft.data.recall import recall, recalls
    from graft.data.trace import Selector
    from graft.data.versions import versions
    from graft.schemas.errors import NotFound

    rng, found, home, span = random.Random(seed), Finding("recall against publish", of="races"), folder / "recall", 1.0
    began = time.monotonic()
    with Lake.open(Home(home)) as lake:
        for number in range(races):
            dataset = f"race{number}"
            started, publisher = time.monotonic(), _started(context, publish_often, str(home), dataset)
            while not versions(lake, dataset) and publisher.is_alive():
                time.sleep(0.005)
            time.sleep(rng.uniform(0, span))
            selector = Selector("model", BAD)
            with suppress(NotFound):
                recall(lake, selector, dataset, reason="the drill", by="drill")
            publisher.join(120)
            found.check(publisher.exitcode == 0, f"{dataset}: the publisher ended with {publisher.exitcode}")
            span = min(span, time.monotonic() - started)
            found.done += len(recalls(lake, dataset))
            left = _recalled_rows(lake, dataset)
            found.check(not left, f"{dataset}: recalled rows in {left}")
        found.check(found.done >= races, f"only {found.done} of {races} recalls were made")
    found.seconds = time.monotonic() - began
    return found


def _recalled_rows(lake: Any, dataset: str) -> dict[str, int]:
    """Versions that were published after the recall, and how many recalled rows each holds; only those with any."""
    query = """
        SELECT v.version, count(*) AS rows FROM lake.versions v
        JOIN lake.version_rows r ON r.dataset = v.dataset AND r.version = v.version
        JOIN lake.candidates c ON c.candidate_id = r.candidate_id AND c.run_id = r.run_id
        JOIN lake.recalls k ON k.dataset = v.dataset AND k.value = json_extract_string(c.models, '$.generator')
        WHERE v.dataset = ? AND (v.created_at > k."at" OR v.version = (SELECT max(version) FROM lake.versions
            WHERE dataset = v.dataset))
        GROUP BY 1 ORDER BY 1"""
    return {f"{dataset}@{row['version']}": row["rows"] for row in lake.query(query, [dataset])}


def export_rows(home: str, out: str) -> None:
    """One export, as `graft export --overwrite` makes it."""
    from graft.data.export.write import export
    from graft.data.lake import Lake

    with Lake.open(Home(Path(home)), read_only=True) as lake:
        export(lake, "big", format="jsonl", out=Path(out), overwrite=True, shards=4)


def kill_exports(context: ForkServerContext, folder: Path, seed: int, kills: int = KILLS) -> Finding:
    """Kill exports at random moments: the folder holds nothing, or the earlier export whole; the next one completes."""
    from big_lake import fill

    home, out = folder / "export", folder / "export-out"
    fill(Home(home), rows=EXPORTED_ROWS)
    began, found = time.monotonic(), Finding("export killed", of="kills")

    def sound() -> None:
        listed = out / "manifest.json"
        if listed.exists():
            damaged = [name for name, digest in _hashes(listed).items() if _digest(out / name) != digest]
            found.check(not damaged, f"after kill {found.done} these files differ from the manifest: {damaged}")

    words = (str(home), str(out))
    span = _span(context, export_rows, *words)
    _kill_often(lambda: _started(context, export_rows, *words), span, random.Random(seed), kills, found, sound)
    whole = _started(context, export_rows, *words)
    whole.join(120)
    found.check(whole.exitcode == 0 and (out / "manifest.json").exists(), "the export after the kills failed")
    sound()
    left = sorted(path.name for path in out.glob(".graft-*"))
    found.check(not left, f"left over in the export's folder: {left}")
    found.seconds = time.monotonic() - began
    return found


def import_rows(home: str, file: str) -> None:
    """One import, as `graft import` makes it."""
    from graft.flows.import_dataset import Ask, bring_in

    os.environ["GRAFT_HOME"] = home
    bring_in(file, "imported", Ask(map=("text=text", "label=label")))


def kill_imports(context: ForkServerContext, folder: Path, seed: int, kills: int = KILLS) -> Finding:
    """Kill imports at random moments: the dataset is absent or whole, and the next import makes exactly one version."""
    from graft.data.lake import Lake
    from graft.data.versions import rows, versions

    home, file = folder / "import", folder / "rows.csv"
    lines = [f"message number {n} about a parcel,{'ab'[n % 2]}" for n in range(IMPORTED_ROWS)]
    file.write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    began, found = time.monotonic(), Finding("import killed", of="kills")

    def sound() -> None:
        with Lake.open(Home(home)) as lake:
            held = [rows(lake, one).num_rows for one in versions(lake, "imported")]
        found.check(held in ([], [IMPORTED_ROWS]), f"after kill {found.done} the versions hold {held} rows")

    span = _span(context, import_rows, f"{home}-alone", str(file))
    words = (str(home), str(file))
    _kill_often(lambda: _started(context, import_rows, *words), span, random.Random(seed), kills, found, sound)
    whole = _started(context, import_rows, *words)
    whole.join(180)
    found.check(whole.exitcode == 0, "the import after the kills failed")
    sound()
    with Lake.open(Home(home), read_only=True) as lake:
        found.check(len(versions(lake, "imported")) == 1, "there is not exactly one version in the end")
    found.seconds = time.monotonic() - began
    return found


def _span(context: ForkServerContext, work: Callable[..., None], *words: str) -> float:
    """Seconds that the work takes when nobody kills it. Kills are spread over this span."""
    began, process = time.monotonic(), _started(context, work, *words)
    process.join(180)
    return time.monotonic() - began


def _started(context: ForkServerContext, work: Callable[..., None], *words: Any) -> BaseProcess:
    process = context.Process(target=work, args=words)
    process.start()
    return process


def _kill_often(
    start: Callable[[], BaseProcess], span: float, rng: random.Random, kills: int, found: Finding,
    sound: Callable[[], None],
) -> None:  # fmt: skip
    """Start and kill until `kills` processes died in the middle; at most three times as many tries."""
    for _ in range(3 * kills):
        if found.done == kills:
            return
        process = start()
        process.join(rng.uniform(0.0, span))
        found.done += process.is_alive()
        process.kill()
        process.join()
        sound()


def _hashes(manifest: Path) -> dict[str, str]:
    listed = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    return {one["path"]: one["sha256"] for one in listed}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "missing"


def write_on(home: str, who: int, notes: str, until: float) -> None:
    """Commit batches and publish versions until the clock passes `until` (time.time); note each acknowledged one."""
    from graft.data.lake import Lake

    with Lake.open(Home(Path(home))) as lake, Path(notes).open("a", encoding="utf-8", buffering=1) as file:
        number, carried = 0, None
        while time.time() < until:
            found, made = publish_run(lake, f"writer{who}", number, carried)
            carried = found if number % 5 else None  # a version of its own, now and then
            file.write(json.dumps({"ref": found.ref, "hash": found.content_hash, "rows": found.rows}) + "\n")
            file.write(json.dumps({"candidates": [one.id for one in made]}) + "\n")
            number += 1


def maintain_beside(context: ForkServerContext, folder: Path, seconds: float = UPKEEP_S) -> Finding:
    """Upkeep without a pause while two processes write and the dashboard serves: no error, nothing lost."""
    from graft.data.lake import Lake
    from graft.data.maintain import maintain

    home, found, began = (
        folder / "upkeep",
        Finding("upkeep next to writers and dashboard", of="commits"),
        time.monotonic(),
    )
    with Lake.open(Home(home)) as lake:
        publish_run(lake, "writer0", 0)
        with _dashboard(home) as (ask, pages):
            until = time.time() + seconds
            notes = [folder / f"writer{who}.notes" for who in (1, 2)]
            writers = [
                _started(context, write_on, str(home), who, str(file), until) for who, file in enumerate(notes, start=1)
            ]
            rounds = 0
            while time.time() < until or any(writer.is_alive() for writer in writers):
                maintain(lake, older_than=timedelta(), orphan_age=timedelta(days=1))
                rounds += 1
                ask()
                if time.time() > until + 60:
                    break
            for writer in writers:
                writer.join(60)
                found.check(writer.exitcode == 0, f"a writer ended with {writer.exitcode}")
            found.check(bool(pages) and not (bad := [page for page in pages if page[1] != 200]), f"pages: {bad[:3]}")
        found.check(rounds > 1, "the upkeep ran only once")
        _compare(lake, notes, found)
    found.seconds = time.monotonic() - began
    return found


PAGES = ("/", "/runs", "/datasets", "/rows?ref=writer0", "/datasets/writer0@1", "/models")


@contextmanager
def _dashboard(home: Path) -> Iterator[tuple[Callable[[], None], list[tuple[str, int]]]]:
    """`graft dashboard` on a free port: a function that fetches the next of PAGES, and the statuses so far."""
    from graft.dashboard.door import Key

    words = [sys.executable, "-m", "graft", "dashboard", "--port", "0", "--no-open"]
    server = subprocess.Popen(
        words, env={**os.environ, "GRAFT_HOME": str(home)}, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    seen = list[tuple[str, int]]()
    try:
        assert server.stdout is not None
        address = re.search(r"http://[\d.]+:\d+", server.stdout.readline())
        if address is None:
            raise RuntimeError("the dashboard did not start")
        cookie = {"Cookie": "=".join(Key(home).cookie)}

        def ask() -> None:
            path = PAGES[len(seen) % len(PAGES)]
            try:
                with OPENER.open(urllib.request.Request(address[0] + path, headers=cookie), timeout=60) as answer:
                    answer.read()
                    seen.append((path, answer.status))
            except urllib.error.HTTPError as error:
                error.close()
                seen.append((path, error.code))

        yield ask, seen
    finally:
        stop(server)


def _compare(lake: Any, notes: list[Path], found: Finding) -> None:
    """Every noted version reads whole with its hash, every noted candidate is there once."""
    from graft.data.versions import rows, version

    noted_lines = [json.loads(line) for file in notes for line in file.read_text(encoding="utf-8").splitlines()]
    for one in (line for line in noted_lines if "ref" in line):
        read = version(lake, one["ref"])
        whole = read.content_hash == one["hash"] and rows(lake, read).num_rows == one["rows"]
        found.check(whole, f"{one['ref']} is not as it was published")
    noted = [name for line in noted_lines for name in line.get("candidates", ())]
    held = [row["candidate_id"] for row in lake.query("SELECT candidate_id FROM lake.candidates")]
    found.check(set(noted) <= set(held), f"{len(set(noted) - set(held))} acknowledged rows lost")
    found.check(len(held) == len(set(held)), f"{len(held) - len(set(held))} rows doubled")
    found.done = len(noted_lines) // 2
