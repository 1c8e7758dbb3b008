"""The lake: what goes in comes out, commits are whole and harmless to repeat, also under races and kills."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.data import duck
from graft.data.arrow import arrow_schema, from_rows, to_table
from graft.data.duck import is_full
from graft.data.lake import Lake
from graft.schemas.calls import Call
from graft.schemas.datasets import Run
from graft.schemas.errors import AlreadyRunning, GraftError, LakeTooNew, StorageFull
from graft.schemas.home import Home
from graft.schemas.rows import Candidate, Decision, GateResult, LabelScore, Review, Seed, Slot
from graft.schemas.students import ClassScore, Evaluation, Student, StudentSettings

NASTY = "NUL \x00 'single' \"double\" \\ 😀 \u202e {{x}} <b>; DROP TABLE candidates; --\r\n" + "x" * 10_000
AT = datetime(2026, 11, 25, 12, 0, 0, 123456, tzinfo=UTC)


def candidate(
    index: int, *, run: str = "run1", status: str = "accepted", label: str = "a", shard: int = 0
) -> Candidate:
    slot = Slot(
        id=f"slot_{run}_{label}_{index}", run_id=run, shard=shard, round=0, index=index, label=label, seed=index,
        exemplars=(Seed.of("hello", "a", "hi"), Seed(id="s_x", text=NASTY, label="b", keywords=("k",), summary="s")),
    )  # fmt: skip
    review = Review(
        stage="content", role="reviewer", model="m", flags={"clear": 1}, scores={"fit": 8.25}, mean=8.25,
        comment=NASTY, call_key="key", distribution=(LabelScore(label="a\x00'", raw=-1.5, calibrated=-0.25),),
    )  # fmt: skip
    failed = Review(stage="instruction", role="reviewer", model="n", failure="timeout")
    return Candidate(
        id=f"c_{run}_{label}_{index:05}", slot=slot, text=f"{index} {NASTY}", response=None if index % 2 else NASTY,
        label=label, intended_label="a", keywords=("one", NASTY), summary="sum", models={"generator": "gemma"},
        reviews=(review, failed), soft_label={"a": 0.875, "b": 0.125}, restricted=bool(index % 2),
        gates=(GateResult(gate="length", rule="min", passed=True, score=0.5),
               GateResult(gate="near", rule="jaccard", passed=False, neighbour="s_x", detail="d")),
        decision=Decision(status=status, route="agreed", code="agreed.mean", reason="so", mean=8.25, asked=2, saved=1),
    )  # fmt: skip


def call(of: Candidate, price: float | None = 0.25) -> Call:
    return Call(
        key=f"k{of.id}", run_id=of.slot.run_id, candidate_id=of.id, role="generator", purpose="generate", model="gemma",
        provider="embedded", served_model=None, revision="r", request='{"prompt": "x"}', reply=NASTY, prompt_tokens=3,
        completion_tokens=None, cached_tokens=0, price_usd=price, latency_s=0.5, attempts=1, cached=False, at=AT,
    )  # fmt: skip


def a_run(name: str = "run1", **more: object) -> Run:
    return Run.model_validate(
        {"id": name, "dataset": "d", "recipe": {"name": "d", "n": [1, None]}, "status": "running", "started_at": AT,
         "code_version": "1", "shortfall": {"a": 2}, **more}
    )  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "it's home")


def test_candidate_survives_whole(home: Home) -> None:
    mixed = [candidate(1, label="b"), candidate(2), candidate(0), candidate(1, status="rejected")]
    other = candidate(0, shard=1)
    with Lake.open(home) as lake:
        assert lake.commit("run1", "b1", [*mixed, other], [call(c) for c in mixed])
        ordered = sorted(mixed, key=lambda c: (c.slot.label, c.slot.index))
        assert lake.settled("run1", 0, 0) == ordered
        assert lake.candidate("run1", mixed[0].id) == mixed[0]
        assert lake.accepted("run1", 1) == []
        assert lake.counts("run1") == {"opened": 5, "accepted": 4, "rejected": 1, "failed": 0}
    with Lake.open(home, read_only=True) as lake:
        stored = from_rows(Call, lake.query("SELECT * FROM lake.calls ORDER BY key"))
        assert stored == sorted((call(c) for c in mixed), key=lambda c: c.key)
        names = {row["model"] for row in lake.query("SELECT model FROM reviews WHERE ordinal = 1")}
        assert names == {"n"}
        assert lake.sql("SELECT * FROM gate_results WHERE NOT passed AND neighbour = 's_x'").num_rows == 5
        assert lake.sql("SELECT * FROM decisions WHERE code = 'agreed.mean'").num_rows == 5
        with pytest.raises(GraftError, match="reading only"):
            lake.save_run(a_run())


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=())), st.floats(allow_nan=False, allow_infinity=False))
def test_arrow_round_trip(text: str, score: float) -> None:
    sound = text.encode("utf-8", "replace").decode()
    review = Review(stage="content", role="reviewer", model="m", scores={text: score}, mean=score, comment=text)
    expected = review.model_copy(update={"scores": {sound: score}, "comment": sound})
    assert from_rows(Review, to_table(Review, [review]).to_pylist()) == [expected]


def test_plain_rows_are_those_of_arrow(home: Home) -> None:
    kept = candidate(1)
    with Lake.open(home) as lake:
        lake.commit("run1", "b1", [kept, candidate(2, status="rejected")], [call(kept)])
        for table in ("candidates", "calls", "batches", "seeds", "reviews"):
            query = f"SELECT * FROM {table} ORDER BY ALL"
            assert lake.query(query) == lake.sql(query).to_pylist(), table
        empty = lake.query("SELECT NULL::TIMESTAMPTZ AS at, [NULL, 1] AS some, ?::VARCHAR AS text", [None])
        assert empty == [{"at": None, "some": [None, 1], "text": None}]
        many = [f"c_{n}" for n in range(2_000)] + [kept.id]
        assert [one.id for one in lake.named("run1", many)] == [kept.id]


WITHOUT_PANDAS = """
import sys, threading
from graft.data.lake import Lake
from graft.schemas.home import Home
with Lake.open(Home.find()) as lake:
    seen = lake.query("SELECT ? AS a, ? AS b", ["x", 1]), "pandas" in sys.modules
    thread = threading.Thread(target=lambda: __import__("pandas"))
    thread.start(); thread.join()
    frame = lake.sql("SELECT ? AS a", ["x"]).to_pandas()
print(seen, len(frame), "pandas" in sys.modules)
"""


def test_parameters_import_no_pandas_and_whoever_wants_it_still_gets_it(tmp_path: Path) -> None:
    environment = {**os.environ, "GRAFT_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PANDAS], env=environment, text=True, capture_output=True, check=True, timeout=60
    )
    assert done.stdout == "([{'a': 'x', 'b': 1}], False) 1 True\n"


def test_schema_follows_the_model() -> None:
    schema = arrow_schema(Review)
    assert str(schema.field("mean").type) == "double" and schema.field("mean").nullable
    assert not schema.field("model").nullable
    assert str(schema.field("distribution").type).startswith("list<") and "raw: double" in str(schema)
    assert str(arrow_schema(Call).field("at").type) == "timestamp[us, tz=UTC]"


def test_commit_twice_is_harmless(home: Home) -> None:
    batch = [candidate(i) for i in range(3)]
    with Lake.open(home) as lake, Lake.open(home) as other:
        assert lake.commit("run1", "b1", batch, [])
        assert not lake.commit("run1", "b1", batch, [])
        assert not other.commit("run1", "b1", batch, [])
        assert other.commit("run1", "b2", [candidate(9)], [])
        assert not lake.commit("run1", "b2", [candidate(9)], [])
        assert lake.commit("run2", "b1", [candidate(0, run="run2")], [])
        assert lake.commit("run1", "calls only", [], [call(batch[0])])
        assert lake.counts("run1")["opened"] == 4


def test_runs_seeds_students(home: Home) -> None:
    student = Student(
        id="st", dataset="d", version=1, trained_on="version", settings=StudentSettings(), encoder_revision="e",
        train_rows=3, device="cpu", seconds=1.5, path="students/st", created_at=AT,
    )  # fmt: skip
    judged = Evaluation(
        student_id="st", test_file="t.csv", test_hash="h", rows=2, accuracy=0.5, macro_f1=0.25, labels=("a", "b"),
        classes=(ClassScore(label="a", precision=1, recall=0.5, f1=0.75, support=2),), confusion=((1, 0), (1, 0)),
    )  # fmt: skip
    seeds = [Seed.of("one", "a"), Seed.of("two", "b", "reply")]
    with Lake.open(home) as lake:
        lake.save_run(a_run())
        lake.save_run(a_run(status="finished", price_usd=0.5))
        lake.save_run(a_run("run2", dataset="e"))
        assert lake.run("run1") == a_run(status="finished", price_usd=0.5)
        assert lake.run("nobody") is None
        assert [run.id for run in lake.runs()] == ["run1", "run2"] and [run.id for run in lake.runs("e")] == ["run2"]
        assert lake.add_seeds("run1", seeds) == 2
        assert lake.add_seeds("run1", [*seeds, Seed.of("three")]) == 1
        assert lake.seeds("run1") == sorted([*seeds, Seed.of("three")], key=lambda seed: seed.id)
        for _ in range(2):
            lake.save_student(student)
            lake.save_evaluation(judged)
        assert lake.students("d") == [student] and lake.students("e") == []
        assert lake.evaluations("st") == [judged]
        first = lake.id
    with Lake.open(home) as lake:
        assert lake.id == first != ""


def test_redecide_replaces(home: Home) -> None:
    kept, changed = candidate(0), candidate(1)
    hit = GateResult(gate="semantic", rule="cosine", passed=False, score=0.95, neighbour=kept.id)
    gone = Decision(status="rejected", route="gate", code="gate.semantic", reason="a paraphrase")
    rejected = changed.model_copy(update={"gates": (*changed.gates, hit), "decision": gone})
    with Lake.open(home) as lake:
        lake.commit("run1", "b1", [kept, changed], [])
        assert lake.redecide("run1", [rejected, candidate(77)]) == 1
        assert lake.accepted("run1") == [kept]
        assert list(lake.iter_candidates("run1", "rejected")) == [rejected]
        assert lake.reasons("run1") == [
            ("accepted", "agreed", "agreed.mean", 1, kept.text), ("rejected", "gate", "gate.semantic", 1, changed.text),
        ]  # fmt: skip
        assert not lake.commit("run1", "b1", [kept, changed], [])


def test_iter_candidates_pages(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.data.lake_records.PAGE", 2)
    with Lake.open(home) as lake:
        lake.commit("run1", "b1", [candidate(i, status="accepted" if i % 3 else "failed") for i in range(7)], [])
        assert [c.slot.index for c in lake.iter_candidates("run1")] == list(range(7))
        assert [c.slot.index for c in lake.iter_candidates("run1", "accepted", limit=3)] == [1, 2, 4]


def test_newer_lake_is_refused(home: Home) -> None:
    with Lake.open(home) as lake:
        lake.write(lambda c: c.execute("UPDATE lake.meta SET value = '999' WHERE key = 'schema_version'"))
    for read_only in (False, True):
        with pytest.raises(LakeTooNew, match="999"):
            Lake.open(home, read_only=read_only)


def test_a_damaged_catalogue_is_reported(home: Home) -> None:
    Lake.open(home).close()
    for file in home.lake.glob("catalogue.sqlite*"):
        file.unlink()
    (home.lake / "catalogue.sqlite").write_bytes(b"this is no database " * 100)
    with pytest.raises(GraftError, match="cannot be opened") as caught:
        Lake.open(home)
    assert "restore" in caught.value.fix


def test_moved_home_still_reads(tmp_path: Path) -> None:
    with Lake.open(Home(tmp_path / "old")) as lake:
        lake.commit("run1", "b1", [candidate(0)], [])
    (tmp_path / "old").rename(tmp_path / "new")
    with Lake.open(Home(tmp_path / "new"), read_only=True) as lake:
        assert lake.accepted("run1") == [candidate(0)]


def test_full_disk_and_conflict(home: Home) -> None:
    tries = []

    def full(connection: object) -> None:
        raise OSError(28, "No space left on device")

    def beaten_twice(connection: object) -> str:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("database is locked")
        return "done"

    with Lake.open(home) as lake:
        with pytest.raises(StorageFull, match="free some space"):
            lake.write(full)
        assert lake.write(beaten_twice) == "done" and len(tries) == 3
        assert lake.commit("run1", "b1", [candidate(0)], [])


def test_failure_inside_a_commit_leaves_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lake.open(home) as lake:
        real = lake.insert

        def broken(table: str, rows: object) -> None:
            if table == "batches":
                raise RuntimeError("pulled the plug")
            real(table, rows)

        monkeypatch.setattr(lake, "insert", broken)
        with pytest.raises(RuntimeError):
            lake.commit("run1", "b1", [candidate(0)], [call(candidate(0))])
        monkeypatch.undo()
        assert lake.counts("run1")["opened"] == 0
        assert lake.commit("run1", "b1", [candidate(0)], [])


def test_lock_held_by_another(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    monkeypatch.setattr("graft.data.lake.LOCK_TIMEOUT_S", 0.1)
    with Lake.open(home) as lake, FileLock(home.lake / "commit.lock"), pytest.raises(AlreadyRunning):
        lake.save_run(a_run())


WRITER = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from unittest.mock import patch
from graft.data.duck import is_full
from graft.data.lake import Lake
from graft.schemas.home import Home
from test_data_lake import call, candidate
run, count = sys.argv[2], int(sys.argv[3])
with Lake.open(Home(Path(sys.argv[1]))) as lake:
    batch = lake.query("SELECT count(*) AS n FROM lake.batches WHERE run_id = ?", [run])[0]["n"]
    for number in range(batch, batch + count):
        rows = [candidate(number * 4 + i, run=run) for i in range(4)]
        assert lake.commit(run, str(number), rows, [call(c) for c in rows])
        print(number, flush=True)
"""


def start(home: Home, run: str, count: int) -> subprocess.Popen[str]:
    here = Path(__file__).parent
    code = WRITER.format(root=str(here.parent), tests=str(here))
    return subprocess.Popen(
        [sys.executable, "-c", code, str(home.root), run, str(count)], stdout=subprocess.PIPE, text=True
    )


def test_two_writers_lose_nothing_and_a_reader_reads(home: Home) -> None:
    writers = [start(home, run, 6) for run in ("run1", "run2")]
    seen = []
    try:
        with Lake.open(home, read_only=True) as lake:
            while any(writer.poll() is None for writer in writers):
                opened = lake.counts("run1")["opened"]
                assert opened % 4 == 0
                seen.append(opened)
                time.sleep(0.02)
            assert [writer.wait() for writer in writers] == [0, 0]
            assert lake.counts("run1")["opened"] == lake.counts("run2")["opened"] == 24
            assert lake.sql("SELECT * FROM lake.calls").num_rows == 48
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert seen == sorted(seen)


def test_kill_leaves_no_partial_batch(home: Home) -> None:
    acknowledged = 0
    for attempt in range(4):
        writer = start(home, "run1", 1000)
        assert writer.stdout is not None
        line = writer.stdout.readline()
        time.sleep(0.013 * attempt)
        os.kill(writer.pid, signal.SIGKILL)
        rest, _ = writer.communicate()
        acknowledged = int((line + rest).split()[-1]) + 1
        with Lake.open(home) as lake:
            query = "SELECT count(*) AS n FROM lake.batches"
            batches = lake.query(query)[0]["n"]
            assert batches in (acknowledged, acknowledged + 1)
            assert lake.counts("run1")["opened"] == lake.sql("SELECT * FROM lake.calls").num_rows == 4 * batches
            assert len(lake.accepted("run1")) == 4 * batches
    assert acknowledged >= 4


def test_a_lake_whose_making_was_killed_is_made_by_whoever_looks_first(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.lake.mkdir(parents=True)
    with sqlite3.connect(home.lake / "catalogue.sqlite") as half:
        half.execute("CREATE TABLE ducklake_metadata (key TEXT)")
        half.execute("DROP TABLE ducklake_metadata")
    half.close()
    with Lake.open(home, read_only=True) as lake:
        assert lake.runs() == []
    with Lake.open(home, read_only=True) as lake:
        assert lake.id


def test_a_limit_on_the_size_of_files_is_a_full_disk() -> None:
    assert is_full(RuntimeError("IO Error: Failed to execute query: disk I/O error"))
    assert not is_full(RuntimeError("Conversion Error: no such thing"))


def test_an_extension_that_changed_on_disk_is_verified_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB verifies signatures once for a home and file; a file with another content is another file."""
    original = duck.extension_file("sqlite_scanner")
    assert original is not None
    copy, asked = tmp_path / original.name, list[bool]()
    shutil.copy(original, copy)
    monkeypatch.setattr(duck, "EXTENSIONS", ("sqlite_scanner",))
    monkeypatch.setattr(duck, "extension_file", lambda name: copy)
    monkeypatch.setattr(duck, "_VERIFIED", set())
    spill = tmp_path / "lake" / "spill"
    for unsigned in ([False], [False, True]):  # in a process of its own, then in a later one
        duck._VERIFIED.clear()
        with patch.object(duckdb, "connect", wraps=duckdb.connect) as opened:
            connection = duck.connect(spill, read_only=True)
        asked.append(opened.call_args.kwargs["config"]["allow_unsigned_extensions"])
        assert asked == unsigned
        assert connection.execute("SELECT current_setting('allow_unsigned_extensions')").fetchall() == [(False,)]
        connection.close()
    content = bytearray(original.read_bytes())
    content[len(content) // 2] ^= 1
    copy.unlink()
    copy.write_bytes(content)
    os.utime(copy, ns=(original.stat().st_atime_ns, original.stat().st_mtime_ns))
    with pytest.raises(duckdb.Error, match="signature"):
        duck.connect(spill, read_only=True)
