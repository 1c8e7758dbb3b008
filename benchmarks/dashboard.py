"""Response times and memory of the dashboard on a whole lake, and the slowdown of a run beside it.

    python benchmarks/dashboard.py --keep /tmp/whole              # each page over HTTP; memory of the server
    python benchmarks/dashboard.py --keep /tmp/whole --browser    # and the first paint in Chromium
    python benchmarks/dashboard.py --keep /tmp/whole --beside-run # a run alone and with a reader, interleaved

The lake is whole_lake.py's, made in `--keep` where it is not there. Each page's first request meets a server that was
just started; five more follow. Some pages come before their figures are added up and renew themselves: `whole s` is
when all is there, and the five follow then. Figures of another load are other figures: it is printed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from figures import machine
from harness import OPENER, ROOT, fake_server, prefect_server, run_flow, stop, write_recipe

sys.path.insert(0, str(ROOT))

from graft.schemas.home import Home

PAGE_S, FILTER_S, MEMORY_MB, SLOWER = 2.0, 1.0, 1_500, 1.05
"""Targets: seconds to a page and to a filter, MB of the server, and the slowdown of a run."""
MORE = 5
"""Requests of a page after its first."""


@dataclass(frozen=True)
class PageCase:
    """A page that is measured: its name, its address with {places}, whether it is a filter of a page already open.

    `grows`: it may come before its figures, and renews itself until they are there.
    """

    name: str
    path: str
    filters: bool = False
    grows: bool = False


PAGES = (
    PageCase("home", "/"),
    PageCase("runs", "/runs"),
    PageCase("run, half of all candidates", "/runs/{run}"),
    PageCase("runs side by side", "/runs/compare?run={run}&run={other}"),
    PageCase("datasets", "/datasets"),
    PageCase("dataset", "/datasets/{ref}"),
    PageCase("quality", "/datasets/{ref}/quality", grows=True),
    PageCase("reviews", "/datasets/{ref}/reviews", grows=True),
    PageCase("map", "/datasets/{ref}/map"),
    PageCase("changes", "/datasets/{ref}/changes", grows=True),
    PageCase("people", "/datasets/{ref}/people"),
    PageCase("rows", "/rows?ref={ref}"),
    PageCase("rows of a label", "/rows?ref={ref}&label=refund", filters=True),
    PageCase("rows by words", "/rows?ref={ref}&words=parcel59", filters=True),
    PageCase("rows by words that none has", "/rows?ref={ref}&words=zzzz", filters=True),
    PageCase("rows, longest first", "/rows?ref={ref}&sort=longest", filters=True),
    PageCase("rows, last page", "/rows?ref={ref}&page={last}", filters=True),
    PageCase("rejected", "/rows?ref={published}&rejected=1"),
    PageCase("rejected by a code", "/rows?ref={published}&rejected=1&code=gate.near_duplicate", filters=True),
    PageCase("a row", "/rows/{row}"),
    PageCase("review, by disagreement", "/review?ref={ref}&rule=disagreement"),
    PageCase("review, at random", "/review?ref={ref}&rule=random"),
    PageCase("students", "/students"),
    PageCase("a student", "/students/{student}"),
    PageCase("models, this month", "/models", grows=True),
    PageCase("models, all days", "/models?days=", grows=True),
    PageCase("schedules", "/schedules"),
)
"""Every page, on the largest version and run. Add yours."""
BESIDE = ("/runs/{live}", "/", "/runs/{live}", "/rows?ref={ref}", "/runs/{live}", "/runs")
"""Pages read during a run, one per second; most are the run's own."""


@contextmanager
def served(home: Home) -> Iterator[tuple[str, int]]:
    """`graft dashboard` on a free port: its address and process id. It has answered once: its imports are done."""
    words = [sys.executable, "-m", "graft", "dashboard", "--port", "0", "--no-open"]
    environment = {**os.environ, "GRAFT_HOME": str(home.root)}
    server = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert server.stdout is not None
        url = next((word for word in server.stdout.readline().split() if word.startswith("http")), "")
        if not url:
            raise RuntimeError("the dashboard did not start")
        OPENER.addheaders = [("Cookie", _cookie(home))]
        ask(url.rstrip("/") + "/static/graft.css")
        yield url.rstrip("/"), server.pid
    finally:
        stop(server)


def _cookie(home: Home) -> str:
    from graft.dashboard.door import Key

    return "=".join(Key(home.root).cookie)


def ask(url: str, seconds: float = 120) -> tuple[float, int]:
    """Fetch a page. Return the seconds until it was complete and its HTTP status."""
    begun = time.perf_counter()
    try:
        with OPENER.open(url, timeout=seconds) as answer:
            answer.read()
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
        error.close()
    return time.perf_counter() - begun, int(status)


def until_whole(url: str, begun: float, seconds: float = 300) -> float:
    """Poll until the page no longer refreshes itself. Return the seconds since `begun`."""
    while time.perf_counter() - begun < seconds:
        with OPENER.open(url, timeout=120) as answer:
            if b"data-renew" not in answer.read():
                return time.perf_counter() - begun
        time.sleep(0.2)
    raise TimeoutError(f"{url} is not whole after {seconds:.0f} s")


def places(home: Home) -> dict[str, str]:
    """Values for the {places} of a path: the largest version and run, one of its rows, its last page."""
    from graft.data.lake import Lake

    query = """
        SELECT v.dataset || '@' || v.version AS ref, v.run_id AS run, (v.rows - 1) // 50 AS last,
               (SELECT max(id) FROM lake.runs r WHERE r.id <> v.run_id) AS other,
               (SELECT max(id) FROM lake.students s WHERE s.dataset = v.dataset) AS student,
               (SELECT r.dataset || '@' || r.version FROM lake.runs r WHERE r.id = v.run_id) AS published,
               (SELECT min(id) FROM lake.version_rows w WHERE w.dataset = v.dataset AND w.version = v.version
                AND w.candidate_id <> '') AS row
        FROM lake.versions v ORDER BY v.created_at DESC, v.version DESC LIMIT 1"""
    with Lake.open(home, read_only=True) as lake:
        return {name: str(value) for name, value in lake.query(query)[0].items()}


def peak_mb(pid: int) -> float:
    """The most memory that a process has had resident, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def pages(home: Home, cases: Sequence[PageCase]) -> list[str]:
    """Each page's first request to a fresh server and MORE after it, as lines of a table."""
    known = places(home)
    lines = [
        "| page | first s | whole s | median s | worst s | MB | reach s | |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for one in cases:
        with served(home) as (address, pid):
            url, begun = address + one.path.format(**known), time.perf_counter()
            got = [ask(url)]
            whole = until_whole(url, begun) if one.grows else got[0][0]
            got += [ask(url) for _ in range(MORE)]
            memory = peak_mb(pid)
        first, later = got[0][0], [seconds for seconds, _ in got[1:]]
        reach = FILTER_S if one.filters else PAGE_S
        # a filter is used on an open page: work that the server does once does not count
        fine = all(status == 200 for _, status in got) and max(later) <= reach and (one.filters or first <= reach)
        median, worst = statistics.median(later), max(later)
        figures = f"{first:.2f} | {whole:.2f} | {median:.2f} | {worst:.2f} | {memory:.0f} | {reach:g}"
        lines.append(f"| {one.name} | {figures} | {'PASS' if fine else '**FAIL**'} |")
        print(lines[-1], flush=True)
    return lines


def memory(home: Home, cases: Sequence[PageCase]) -> str:
    """The server's peak after four clients have gone through every page twice, and what failed."""
    known, wrong = places(home), []
    with served(home) as (address, pid):

        def look(number: int) -> None:
            for one in (*cases[number:], *cases[:number]) * 2:
                seconds, status = ask(address + one.path.format(**known))
                if status != 200:
                    wrong.append(f"{one.path}: {status} after {seconds:.1f} s")

        clients = [threading.Thread(target=look, args=(3 * number,)) for number in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        peak = peak_mb(pid)
    verdict = "PASS" if peak <= MEMORY_MB and not wrong else "**FAIL**"
    result = f"{peak:.0f} | at most {MEMORY_MB} | {len(wrong)} errors {wrong[:3]}"
    return f"| memory of the server, four clients, MB | {result} | {verdict} |"


def painted(home: Home, cases: Sequence[PageCase]) -> list[str]:
    """The first contentful paint of each page in Chromium, in seconds; the server has answered others before, and is
    still busy with what they left it to add up."""
    from playwright.sync_api import sync_playwright

    known = places(home)
    lines = ["| page | first paint s | reach s | |", "|---|---:|---:|---|"]
    with served(home) as (address, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for one in cases:
            page = browser.new_page(
                bypass_csp=True, extra_http_headers={"Cookie": _cookie(home)}
            )  # a waiting function is evaluated, which pages forbid
            page.goto(address + one.path.format(**known), timeout=120_000)
            script = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1"
            page.wait_for_function(f"({script}) >= 0", timeout=10_000)
            seconds, reach = page.evaluate(script) / 1000, FILTER_S if one.filters else PAGE_S
            lines.append(f"| {one.name} | {seconds:.2f} | {reach:g} | {'PASS' if seconds <= reach else '**FAIL**'} |")
            page.close()
        browser.close()
    return lines


class Reader:
    """A client that requests one page a second until it is stopped; it records failures and durations."""

    def __init__(self, address: str, known: dict[str, str]) -> None:
        self.wrong: list[str] = []
        self.took: list[float] = []
        self._address, self._known, self._ended = address, known, threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._ended.set()
        self._thread.join()

    def _read(self) -> None:
        number = 0
        while not self._ended.wait(1.0):
            path = BESIDE[number % len(BESIDE)].format(**self._known, live=self._live())
            seconds, status = ask(self._address + path)
            self.took.append(seconds)
            if status != 200:
                self.wrong.append(f"{path}: {status}")
            number += 1

    def _live(self) -> str:
        """The newest run, as the list of runs has it; before it has begun, the one before it."""
        with OPENER.open(f"{self._address}/runs", timeout=60) as answer:
            return str(answer.read().decode().split('href="/runs/', 2)[-1].split('"')[0])


def beside_run(home: Home, repeat: int, candidates: int) -> list[str]:
    """The seconds of a run into the whole lake, alone and with a reader, in turns: the ratio of the medians."""
    known = places(home)
    alone, beside, wrong, took = [], [], list[str](), list[float]()
    with tempfile.TemporaryDirectory(prefix="graft-beside-", dir=home.root.parent) as folder:
        place = Path(folder)
        copy = copied(home, place / "home")
        with prefect_server(place / "prefect"), fake_server(median_ms=200, sigma=0.5, seed=1) as base:
            for number in range(2 * repeat):
                recipe = write_recipe(place, base, candidates=candidates, name=f"beside-{number}", seed=number)
                if number % 2 == 0:
                    ours = run_flow(copy.root, recipe)[0]
                    alone.append(ours["end"] - ours["start"])
                else:
                    with served(copy) as (address, _):
                        reader = Reader(address, known)
                        try:
                            ours = run_flow(copy.root, recipe)[0]
                        finally:
                            reader.stop()
                    beside.append(ours["end"] - ours["start"])
                    wrong += reader.wrong
                    took += reader.took
                print(f"# run {number}: {ours['end'] - ours['start']:.2f} s, CPU {ours['cpu_s']:.2f} s", flush=True)
    ratio = statistics.median(beside) / statistics.median(alone)
    verdict = "PASS" if ratio <= SLOWER and not wrong else "**FAIL**"
    result = f"{statistics.median(alone):.2f} s alone, {statistics.median(beside):.2f} s beside"
    return [
        f"| a run of {candidates:,} candidates: {result} | {ratio:.3f} | at most {SLOWER:g} | {verdict} |",
        f"| pages requested meanwhile: {len(took)}, median {statistics.median(took):.2f} s, worst {max(took):.2f} s |"
        f" {len(wrong)} errors {wrong[:3]} | none | {'PASS' if not wrong else '**FAIL**'} |",
    ]


def copied(home: Home, root: Path) -> Home:
    """The lake in another home, its data files as hard links: they never change."""
    copy = Home(root)
    shutil.copytree(home.lake / "files", copy.lake / "files", copy_function=os.link)
    for file in home.lake.glob("catalogue.sqlite*"):
        shutil.copy(file, copy.lake / file.name)
    return copy


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder of the lake, used again where it is filled")
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--only", default="", help="pages whose name begins so")
    parser.add_argument("--browser", action="store_true", help="measure the first paint in Chromium")
    parser.add_argument("--beside-run", action="store_true", help="measure what the pages cost a run, and nothing else")
    parser.add_argument("--repeat", type=int, default=3, help="runs alone, and as many with a reader")
    given = parser.parse_args()
    cases = [one for one in PAGES if one.name.startswith(given.only)]
    with tempfile.TemporaryDirectory() as folder:
        home = Home((given.keep or Path(folder)).resolve())
        if not home.lake.exists():
            from whole_lake import fill_whole

            fill_whole(home, candidates=given.candidates)
        if given.beside_run:
            lines = beside_run(home, given.repeat, 2_000)
        else:
            lines = [*pages(home, cases), "", memory(home, cases)]
            lines += ["", *painted(home, cases)] if given.browser else []
    print("\n".join(["", machine(), "", *lines]))


if __name__ == "__main__":
    main()
