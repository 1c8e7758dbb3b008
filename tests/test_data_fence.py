"""The budget of a query that a person writes: it ends in time and in memory, whatever it does, and others go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import psutil
import pytest

from graft.data.fence import AT_ONCE, WAITING, Budget, Fences
from graft.data.lake import Lake
from graft.schemas.errors import GraftError
from graft.schemas.home import Home

SHORT = Budget(seconds=3.0, memory_mb=400)
LONG = Budget(seconds=30.0, memory_mb=400)
COUNTING = "SELECT count(*) AS n FROM range(10000000000) a WHERE hash(range) = 7"
"""Ends at an interrupt."""
MATCHING = "SELECT count(*) AS n FROM range(4000) WHERE repeat('a', 4000) || range LIKE '%a_%b'"
"""Minutes within one block of rows, where DuckDB looks for no interrupt."""
GROWING = "SELECT sum(length(lower(repeat('ab', 1000000) || range))) AS n FROM range(2000)"
"""4 GB of text within one block, which DuckDB does not count."""
HELD = (
    "SELECT count(*) AS n FROM (SELECT list(range::VARCHAR || repeat('x', 5000)) FROM range(100000000) GROUP BY range)"
)
"""More than DuckDB's own limit."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    with Lake.open(Home(tmp_path_factory.mktemp("home"))) as opened:
        yield opened


def children() -> set[int]:
    return {one.pid for one in psutil.Process().children()}


@pytest.mark.parametrize(
    ids=["counting", "matching", "growing", "held"],
    argnames=("query", "budget", "expected"),
    argvalues=[
        (COUNTING, SHORT, "more than 3 s"),
        (MATCHING, SHORT, "more than 3 s"),
        (GROWING, LONG, "400 MB"),
        (HELD, LONG, "400 MB"),
    ],
)
def test_a_query_over_its_budget_ends_with_the_reason(lake: Lake, query: str, budget: Budget, expected: str) -> None:
    assert lake.fences.sql("SELECT 1 AS n", budget=budget).to_pylist() == [{"n": 1}]  # the process is there
    before, peak, ended = psutil.Process().memory_info().rss, [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            for child in psutil.Process().children():
                try:
                    peak[0] = max(peak[0], child.memory_info().rss)
                except psutil.Error:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.monotonic()
    with pytest.raises(GraftError, match=expected) as caught:
        lake.fences.sql(query, budget=budget)
    ended.set()
    watcher.join()
    assert time.monotonic() - begun < 25 and caught.value.fix
    assert psutil.Process().memory_info().rss - before < 100_000_000 and peak[0] < 1_500_000_000
    assert lake.fences.sql("SELECT $1 AS n", [2], budget).to_pylist() == [{"n": 2}], "the next one is answered"


def test_few_run_at_once_and_more_than_a_few_are_refused(lake: Lake) -> None:
    many, before = AT_ONCE + WAITING + 6, children()
    with ThreadPoolExecutor(many) as pool:
        gate = threading.Barrier(many)

        def ask(_: int) -> str:
            gate.wait()
            try:
                lake.fences.sql(COUNTING, budget=SHORT)
            except GraftError as error:
                return error.what
            return "answered"

        given = list(pool.map(ask, range(many)))
        assert len(children() - before) <= AT_ONCE
    assert sum("too many" in one for one in given) >= 6 and any("3 s and" in one for one in given)


def test_an_answer_is_the_lakes_and_an_error_is_duckdbs(lake: Lake) -> None:
    query = "SELECT * FROM (VALUES (1, 'a' || chr(0), [0.5]), (2, 'é', NULL)) t(n, s, f) WHERE n >= ?"
    with Lake.open(lake.home, read_only=True) as reader:
        assert lake.fences.sql(query, [1], SHORT).to_pylist() == reader.sql(query, [1]).to_pylist()
    with pytest.raises(duckdb.Error, match="nowhere"):
        lake.fences.sql("SELECT * FROM nowhere", budget=SHORT)
    with pytest.raises(duckdb.Error, match="read-only"):
        lake.fences.sql("DELETE FROM lake.edits", budget=SHORT)


def test_closing_ends_what_goes_on_and_leaves_no_process(tmp_path: Path) -> None:
    before = children()
    Lake.open(Home(tmp_path)).close()
    fences = Fences(Home(tmp_path))
    fences.sql("SELECT 1", budget=Budget(seconds=60.0))
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(fences.sql, MATCHING, (), Budget(seconds=60.0))
        while not any(psutil.Process(pid).cpu_times().user > 1.5 for pid in children() - before):
            time.sleep(0.05)
        fences.close()
        with pytest.raises(GraftError):
            pending.result(timeout=20)
    assert children() <= before
