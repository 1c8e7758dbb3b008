"""The journal as a store: size, pruning, export, check and repair, also while other processes write."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.agents.gateway import journal_store as store
from graft.agents.gateway.journal import Journal
from graft.agents.gateway.journal_repair import repair
from graft.schemas.calls import Reply
from graft.schemas.errors import AlreadyRunning, GraftError, LakeTooNew, NotFound

LONG = "the customer asks when the shop opens " * 60


def fill(path: Path, count: int, text: str = LONG, first: int = 0) -> None:
    async def run() -> None:
        journal = Journal(path)
        await asyncio.gather(
            *(journal.add(orjson.dumps({"n": i}), Reply(key=f"k{i:05}", text=text)) for i in range(first, count))
        )
        journal.close()

    asyncio.run(run())


def edit(path: Path, statement: str, *values: Any) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, values)
    connection.close()


def aged(path: Path, key: str, days: float, last: str = "") -> None:
    moment = time.time() - days * store.DAY_S
    edit(path, "UPDATE calls SET at = ? WHERE key BETWEEN ? AND ?", moment, key, last or key)


def keys(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    found = [str(row[0]) for row in connection.execute("SELECT key FROM calls ORDER BY key")]
    connection.close()
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a folder" / "journal.sqlite"


def test_size_counts_by_age(path: Path) -> None:
    fill(path, 5, "short")
    for key, days in (("k00001", 3), ("k00002", 8), ("k00003", 29), ("k00004", 31)):
        aged(path, key, days)
    found = store.size(path)
    assert {name: share.rows for name, share in found.by_age.items()} == {
        "1 day": 1, "7 days": 1, "30 days": 2, "older": 1,
    }  # fmt: skip
    assert found.rows == 5 and found.bytes >= path.stat().st_size > 5 * found.by_age["older"].bytes > 0
    assert found.oldest is not None and found.newest is not None
    assert (found.newest - found.oldest).days in (30, 31)


def test_an_empty_journal_has_a_size_and_an_absent_one_is_reported(path: Path) -> None:
    for function in (store.size, store.check, lambda p: store.prune(p, 1), repair):
        with pytest.raises(NotFound, match="graft run demo"):
            function(path)
    assert not path.exists()
    fill(path, 0)
    found = store.size(path)
    assert (found.rows, found.oldest, found.by_age["older"].rows) == (0, None, 0)
    assert store.check(path).sound


def test_prune_by_age_and_by_key(path: Path) -> None:
    fill(path, 1_203, "short")
    aged(path, "k00000", 40, "k01099")
    assert store.prune(path, 30, dry_run=True).rows == 1_100
    assert store.prune(path, keys={"k00000", "k01200", "absent"}, dry_run=True).rows == 2
    assert store.prune(path, 30, keys={"k00000", "k01200", "absent"}).rows == 1
    pruned = store.prune(path, 30)
    assert pruned.rows == 1_099 and pruned.bytes > 0
    assert keys(path) == [f"k{number:05}" for number in range(1_100, 1_203)]
    with pytest.raises(GraftError, match="neither an age nor keys"):
        store.prune(path)


def test_the_file_shrinks_if_much_is_free_or_on_request(path: Path) -> None:
    fill(path, 600, os.urandom(3_000).hex())
    few = store.prune(path, keys=[f"k{number:05}" for number in range(60)])
    assert not few.vacuumed and few.freed_bytes == 0 and "--vacuum" in few.note
    requested = store.prune(path, keys=[], vacuum=True)
    assert requested.vacuumed and requested.rows == 0 and requested.freed_bytes > 100_000
    many = store.prune(path, keys=[f"k{number:05}" for number in range(500)])
    assert many.vacuumed and many.rows == 440 and many.freed_bytes > 1_000_000
    assert store.size(path).free_bytes == 0 and store.check(path).good == 100


def test_export_is_whole_or_not_at_all(path: Path, tmp_path: Path) -> None:
    fill(path, 4)
    edit(path, "UPDATE calls SET reply = x'48ff' WHERE key = 'k00003'")
    out = tmp_path / "new" / "calls.jsonl"
    done = store.export(path, out, only={"k00000", "k00001", "k00003"})
    assert (done.rows, done.left_out, done.damaged) == (2, 1, 1)
    lines = [orjson.loads(line) for line in out.read_bytes().splitlines()]
    assert [line["key"] for line in lines] == ["k00000", "k00001"]
    assert lines[1]["request"] == {"n": 1} and lines[1]["reply"]["text"] == LONG
    assert abs(time.time() - datetime.fromisoformat(lines[0]["at"]).timestamp()) < 60
    with pytest.raises(GraftError, match="exists already"):
        store.export(path, out)
    assert len(out.read_bytes().splitlines()) == 2
    assert store.export(path, out, overwrite=True).rows == 3
    with pytest.raises(GraftError, match="the journal itself"):
        store.export(path, path.parent / ".." / "a folder" / "journal.sqlite", overwrite=True)
    (tmp_path / "a file").write_text("")
    with pytest.raises(GraftError, match="cannot be written"):
        store.export(path, tmp_path / "a file" / "calls.jsonl")
    assert [file.name for file in out.parent.iterdir()] == ["calls.jsonl"]


SHORT = orjson.dumps({"text": "x"})
DAMAGES = [
    ("reply = x'4843ff'", "reply: does not decompress"), ("reply = x'ff'", "reply: not JSON"),
    ("reply = NULL", "reply: missing"), ("request = 'text'", "request: missing"),
    ("request = x'7b'", "request: not JSON"),
    (f"reply = x'{SHORT.hex()}'", "reply: fields missing or of the wrong type"),
    ("reply = CAST(replace(CAST(reply AS TEXT), '\"attempts\":1', '\"attempts\":\"no\"') AS BLOB)",
     "reply: fields missing or of the wrong type"),
    ("at = 'yesterday'", "invalid time"), ("at = NULL", "invalid time"), ("key = NULL", "invalid key"),
    ("key = CAST(x'ff61' AS TEXT)", "invalid key"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "kind"), DAMAGES)
def test_every_damage_is_found_and_moved_out_with_what_could_be_read(path: Path, change: str, kind: str) -> None:
    fill(path, 5, "short")
    edit(path, f"UPDATE calls SET {change} WHERE key = 'k00002'")
    found = store.check(path)
    assert (found.rows, found.good, found.damage, found.sqlite) == (5, 4, {kind: 1}, [])
    done = repair(path)
    assert (done.kept, done.moved, done.broken_file) == (4, 1, None)
    assert keys(path) == ["k00000", "k00001", "k00003", "k00004"]
    assert done.damaged_file is not None and ".damaged-" in done.damaged_file
    (line,) = [orjson.loads(text) for text in Path(done.damaged_file).read_bytes().splitlines()]
    assert line["damage"] == kind and (line["key"] == "k00002" or kind == "invalid key")
    assert line.keys() >= {"at"} and (("reply" in line) != ("reply_base64" in line))
    assert store.check(path).sound and repair(path).moved == 0


def page_2_to_the_middle(data: bytearray) -> None:
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 3 * 4096] = os.urandom(3 * 4096)


def no_head(data: bytearray) -> None:
    data[:4096] = b"no database here" * 256


def no_root(data: bytearray) -> None:
    data[4096:8192] = os.urandom(4096)


def no_schema(data: bytearray) -> None:
    data[2048:4096] = b"\xff" * 2048


def cut_off(data: bytearray) -> None:
    del data[len(data) * 2 // 3 // 4096 * 4096 + 100 :]


@pytest.mark.parametrize(
    ("harm", "least"), [(page_2_to_the_middle, 280), (no_head, 300), (cut_off, 150), (no_root, 300), (no_schema, 300)]
)
def test_a_file_that_sqlite_cannot_read_is_salvaged(path: Path, harm: Callable[[bytearray], None], least: int) -> None:
    fill(path, 300, "short " * 100)
    data = bytearray(path.read_bytes())
    harm(data)
    path.write_bytes(data)
    found = store.check(path)
    assert found.sqlite and not found.sound
    done = repair(path)
    assert least <= done.kept <= 300
    assert done.broken_file is not None and ".broken-" in done.broken_file
    assert Path(done.broken_file).read_bytes() == data
    assert store.check(path).sound and store.check(path).good == done.kept
    left = {file.name for file in path.parent.iterdir() if file.name not in (f"{path.name}-wal", f"{path.name}-shm")}
    named = {Path(file).name for file in (done.broken_file, done.damaged_file) if file}
    assert left == {path.name} | named
    fill(path, 310, first=300)
    assert store.check(path).good == done.kept + 10


def test_what_was_pruned_stays_so_when_the_rest_is_salvaged(path: Path) -> None:
    fill(path, 600, "short " * 100)
    gone = {f"k{number:05}" for number in range(200, 260)}
    assert not store.prune(path, keys=gone).vacuumed and store.size(path).free_bytes
    data = bytearray(path.read_bytes())
    no_root(data)
    path.write_bytes(data)
    assert repair(path).kept == 540 and not gone & set(keys(path))


def test_rows_that_are_only_in_the_write_ahead_log_are_salvaged(path: Path) -> None:
    fill(path, 100, "short")
    holder = Journal(path)
    asyncio.run(holder.add(b"{}", Reply(key="late", text="in the log only")))
    log = path.with_name(path.name + "-wal").read_bytes()
    holder.close()
    data = bytearray(path.read_bytes())
    no_head(data)
    path.write_bytes(data)
    path.with_name(path.name + "-wal").write_bytes(log)
    done = repair(path)
    assert done.kept == 101 and "late" in keys(path)
    assert Path(f"{done.broken_file}-wal").read_bytes() == log


def _hold(path: Path, ready: Any, end: Any) -> None:
    journal = Journal(path)
    ready.set()
    end.wait(60)
    journal.close()


def test_a_file_in_use_is_not_replaced(path: Path) -> None:
    fill(path, 300, "short " * 100)
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(path, ready, end))
    process.start()
    try:
        assert ready.wait(60)
        with path.open("r+b") as file:
            file.seek(40 * 4096)
            file.write(os.urandom(4096))
        with pytest.raises(AlreadyRunning, match="another process"):
            repair(path)
    finally:
        end.set()
        process.join(60)
    assert repair(path).kept >= 280


def test_what_a_later_graft_wrote_is_left_alone(path: Path) -> None:
    fill(path, 2)
    edit(path, "PRAGMA user_version=3")
    before = path.read_bytes()
    for function in (store.size, store.check, repair, lambda p: store.prune(p, 1)):
        with pytest.raises(LakeTooNew, match="version 3"):
            function(path)
    assert path.read_bytes() == before


def _write(path: Path, start: int) -> None:
    async def run() -> None:
        journal = Journal(path)

        async def one(number: int) -> None:
            await journal.add(b"{}", Reply(key=f"k{number:05}", text=f"text {number}"))
            assert journal.find(f"k{number:05}"), number

        for first in range(start, start + 500, 50):
            await asyncio.gather(*(one(number) for number in range(first, first + 50)))
        journal.close()

    asyncio.run(run())


def test_four_write_while_others_prune_and_read(path: Path, tmp_path: Path) -> None:
    fill(path, 2_400, "short", first=2_000)
    aged(path, "k02000", 40, "k02399")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write, args=(path, start)) for start in range(0, 2_000, 500)]
    for process in processes:
        process.start()
    pruned = rounds = 0
    while any(process.is_alive() for process in processes):
        pruned += store.prune(path, 30, vacuum=rounds % 3 == 0).rows
        assert store.check(path).sound
        assert store.export(path, tmp_path / "out.jsonl", overwrite=True).damaged == 0
        rounds += 1
    assert [process.exitcode for process in processes] == [0] * 4
    assert pruned == 400 and keys(path) == [f"k{number:05}" for number in range(2_000)]
    assert store.check(path).good == 2_000


KEYS = st.sampled_from(["a", "b", "c", "d"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KEYS, st.text(max_size=20) | st.just(LONG)),
        st.tuples(st.just("replace"), KEYS, st.text(max_size=20) | st.just(LONG)),
        st.tuples(st.just("prune"), st.frozensets(KEYS), st.booleans()),
        st.tuples(st.just("age"), KEYS, st.just("")),
        st.tuples(st.just("prune old"), st.just(""), st.just("")),
        st.tuples(st.just("repair"), st.just(""), st.just("")),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(STEPS)
def test_any_mix_of_steps_equals_a_dict(steps: list[tuple[str, Any, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_compare(Path(folder) / "journal.sqlite", steps))


async def _compare(path: Path, steps: list[tuple[str, Any, Any]]) -> None:
    journal, model, old = Journal(path), dict[str, str](), set[str]()
    for step, what, more in steps:
        if step in ("add", "replace"):
            await journal.add(b"{}", Reply(key=what, text=more), replace=step == "replace")
            if step == "replace" or what not in model:
                model[what] = more
                old.discard(what)
        elif step == "age" and what in model:
            aged(path, what, 40)
            old.add(what)
        elif step == "repair":
            assert repair(path).moved == 0
        elif step in ("prune", "prune old"):
            gone = set(what) & model.keys() if step == "prune" else set(old)
            found = store.prune(path, keys=what, vacuum=more) if step == "prune" else store.prune(path, 30)
            assert found.rows == len(gone)
            model = {key: text for key, text in model.items() if key not in gone}
            old -= gone
        day = time.time() - 20 * store.DAY_S
        for key in "abcd":
            found_all, fresh = journal.find(key), journal.find(key, since=day)
            assert (found_all.text if found_all else None) == model.get(key)
            assert (fresh.text if fresh else None) == (None if key in old else model.get(key))
    journal.close()
    assert store.size(path).rows == len(model)
