"""Kept answers: true after every commit, made once, shared between threads, bounded; and readers that do not wait."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.data.lake import Lake
from graft.data.query_cache import LEAST_SIZE, QueryCache, run_stamp
from graft.schemas.base import utc_now
from graft.schemas.datasets import Run
from graft.schemas.home import Home

COUNT = "SELECT count(*) AS n FROM lake.runs"
SLOW = "SELECT sum(a.range * b.range) FROM range(200000) a, range(200000) b"


def run(name: str, status: Any = "finished") -> Run:
    return Run(id=name, dataset="shop", recipe={}, status=status, started_at=utc_now(), code_version="test")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("memo"))
    with Lake.open(home) as lake:
        lake.save_run(run("first"))
    return home


@pytest.fixture
def reader(home: Home) -> Iterator[Lake]:
    with Lake.open(home, read_only=True) as lake:
        yield lake


@pytest.fixture
def writer(home: Home) -> Iterator[Lake]:
    with Lake.open(home) as lake:
        yield lake


class Counted:
    """A maker that counts its calls."""

    def __init__(self, value: Any = "made", wait_s: float = 0.0) -> None:
        self.value, self.wait_s, self.times = value, wait_s, 0

    def __call__(self) -> Any:
        self.times += 1
        time.sleep(self.wait_s)
        return self.value


def in_threads(count: int, work: Any) -> list[Any]:
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(work())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_an_answer_is_kept_until_the_next_commit(reader: Lake, writer: Lake) -> None:
    memo, made = QueryCache(reader), Counted()
    before = memo.rows(COUNT)[0]["n"]
    assert memo.get("what", made) == memo.get("what", made) == "made"
    assert made.times == 1
    writer.save_run(run("second"))
    assert memo.rows(COUNT)[0]["n"] == before + 1
    memo.get("what", made)
    assert made.times == 2


def test_a_commit_of_another_process_is_seen_at_once(home: Home, reader: Lake) -> None:
    memo = QueryCache(reader)
    before, was = memo.rows(COUNT)[0]["n"], reader.snapshot()
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; from test_data_query_cache import run; from graft.data.lake import Lake\n"
        "from graft.schemas.home import Home\n"
        "with Lake.open(Home(Path(sys.argv[1]))) as lake: lake.save_run(run('other'))"
    )
    tests = Path(__file__).parent
    subprocess.run([sys.executable, "-c", code, str(home.root), str(tests.parent), str(tests)], check=True, timeout=60)
    assert reader.snapshot() > was
    assert memo.rows(COUNT)[0]["n"] == before + 1
    assert in_threads(1, lambda: reader.query(COUNT)[0]["n"]) == [before + 1]


def test_what_hangs_on_a_stamp_outlives_commits_and_not_another_stamp(reader: Lake, writer: Lake) -> None:
    memo, made = QueryCache(reader), Counted()
    memo.get("what", made, stamp="one")
    writer.save_run(run("third"))
    memo.get("what", made, stamp="one")
    assert made.times == 1
    memo.get("what", made, stamp="two")
    memo.get("what", made)
    assert made.times == 3


def test_an_answer_may_be_as_stale_as_allowed(reader: Lake, writer: Lake) -> None:
    memo, made = QueryCache(reader), Counted()
    memo.get("what", made, late_s=60)
    writer.save_run(run("fourth"))
    memo.get("what", made, late_s=60)
    assert made.times == 1
    memo.get("what", made, late_s=0.0)
    assert made.times == 2


def test_a_run_that_goes_on_has_no_stamp() -> None:
    assert run_stamp(run("a", "running")) is None
    assert run_stamp(run("a", "partial")) != run_stamp(run("a", "finished"))


def test_a_caller_waits_for_an_answer_in_progress(reader: Lake) -> None:
    memo, made = QueryCache(reader), Counted(wait_s=0.3)
    assert in_threads(8, lambda: memo.get("what", made)) == ["made"] * 8
    assert made.times == 1


def test_different_questions_do_not_wait_for_each_other(reader: Lake) -> None:
    memo, begun, may_end = QueryCache(reader), threading.Event(), threading.Event()

    def slow() -> bool:
        begun.set()
        return may_end.wait(10)

    thread = threading.Thread(target=lambda: memo.get("slow", slow))
    thread.start()
    assert begun.wait(10)
    assert memo.get("quick", Counted("now")) == "now"
    assert thread.is_alive()
    may_end.set()
    thread.join()


def test_an_error_reaches_the_caller_and_is_not_cached(reader: Lake) -> None:
    memo = QueryCache(reader)
    with pytest.raises(duckdb.Error, match="no_such_column"):
        memo.rows("SELECT no_such_column FROM lake.runs")
    assert memo.bytes == 0
    assert memo.rows("SELECT 1 AS one") == [{"one": 1}]


def test_a_slow_answer_can_be_polled_and_is_computed_once(reader: Lake) -> None:
    memo, made, go = QueryCache(reader), Counted(), threading.Event()

    def slow() -> Any:
        go.wait(20)
        return made()

    assert [memo.soon("what", slow, patience_s=0.01) for _ in range(3)] == [None] * 3
    go.set()
    assert memo.get("what", slow) == memo.soon("what", slow) == "made" and made.times == 1


def test_what_may_be_late_is_not_begun_again_by_each_commit(reader: Lake, writer: Lake) -> None:
    memo, made, go = QueryCache(reader), Counted(), threading.Event()

    def slow() -> Any:
        go.wait(20)
        return made()

    assert memo.soon("what", slow, late_s=0.05, patience_s=0.1) is None
    writer.save_run(run("fifth"))
    assert memo.soon("what", slow, late_s=0.05, patience_s=0.1) is None
    go.set()
    assert memo.get("what", slow, late_s=60) == "made" and made.times == 1
    time.sleep(0.1)
    memo.get("what", slow, late_s=0.05)
    assert made.times == 2


def test_a_failure_that_nobody_waited_for_reaches_the_next_caller(reader: Lake) -> None:
    memo, go = QueryCache(reader), threading.Event()

    def fails() -> Any:
        go.wait(20)
        raise TimeoutError("no answer")

    assert memo.soon("what", fails, patience_s=0.01) is None
    go.set()
    with pytest.raises(TimeoutError, match="no answer"):
        memo.soon("what", fails, patience_s=20)
    assert memo.soon("what", Counted(), patience_s=20) == "made"


def test_a_caller_may_change_its_rows(reader: Lake) -> None:
    memo = QueryCache(reader)
    memo.rows("SELECT 'a' AS x")[0]["x"] = "changed"
    assert memo.rows("SELECT 'a' AS x") == [{"x": "a"}]


def test_parameters_tell_questions_apart(reader: Lake) -> None:
    memo, query = QueryCache(reader), "SELECT typeof(?) AS kind"
    assert memo.rows(query, [True]) != memo.rows(query, [1])
    assert memo.rows("SELECT len(?::VARCHAR[]) AS n", [["a", "b"]]) == [{"n": 2}]


@settings(max_examples=25, deadline=None)
@given(asked=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=60))
def test_what_is_held_stays_within_its_bound_and_answers_are_right(asked: list[tuple[int, int]]) -> None:
    memo = QueryCache(NoLake(), most_bytes=4 * LEAST_SIZE)  # type: ignore[arg-type]
    for key, stamp in asked:
        assert memo.get(key, lambda k=key, s=stamp: (k, s), stamp=stamp, size=lambda _: 100) == (key, stamp)
        assert memo.bytes <= 4 * LEAST_SIZE
    if asked:
        again = Counted()
        memo.get(asked[-1][0], again, stamp=asked[-1][1])
        assert again.times == 0


class NoLake:
    """Stamped answers ask no lake."""


def test_the_least_recently_used_answer_is_dropped_first(reader: Lake) -> None:
    memo, first, second = QueryCache(reader, most_bytes=3 * LEAST_SIZE), Counted(), Counted()
    for _ in range(2):
        memo.get("first", first, stamp=1)
        memo.get("second", second, stamp=1)
    memo.get("first", first, stamp=1)
    memo.get("third", Counted(), stamp=1)
    memo.get("fourth", Counted(), stamp=1)
    memo.get("first", first, stamp=1)
    assert (first.times, second.times) == (1, 1)
    memo.get("second", second, stamp=1)
    assert second.times == 2


def test_a_slow_query_holds_up_no_other_thread_and_ends_when_the_lake_closes(home: Home) -> None:
    lake, ended = Lake.open(home, read_only=True), list[Exception]()

    def slow() -> None:
        try:
            lake.sql(SLOW)
        except duckdb.Error as error:
            ended.append(error)

    thread = threading.Thread(target=slow)
    thread.start()
    time.sleep(0.2)
    assert lake.query("SELECT 1 AS one") == [{"one": 1}]
    assert thread.is_alive()
    lake.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(ended) == 1
    with pytest.raises(duckdb.Error):
        lake.sql("SELECT 1")
    lake.close()


def test_a_temporary_table_is_its_threads_own(reader: Lake) -> None:
    reader.sql("CREATE TEMP TABLE mine AS SELECT 1 AS one")
    assert reader.sql("FROM mine").num_rows == 1

    def other() -> str:
        try:
            return str(reader.sql("FROM mine").num_rows)
        except duckdb.Error as error:
            return str(error)

    assert "does not exist" in in_threads(1, other)[0]


def test_every_threads_times_are_utc_and_the_memory_is_bounded(home: Home) -> None:
    query = "SELECT current_setting('TimeZone') AS zone, current_setting('memory_limit') AS most"
    with Lake.open(home, read_only=True, memory="300MB") as lake:
        found = [lake.query(query)[0], *in_threads(3, lambda: lake.query(query)[0])]
    assert found == [{"zone": "UTC", "most": "286.1 MiB"}] * 4
