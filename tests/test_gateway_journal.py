"""The journal: durable before it answers, shared by processes, clear about what it cannot do."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from agents.gateway.journal import Journal
from schemas.calls import Reply, TokenLogprob, Usage
from schemas.errors import GraftError, LakeTooNew, StorageFull


def reply(key: str, text: str = "said") -> Reply:
    return Reply(
        key=key, text=text, logprobs=(TokenLogprob(token="a", logprob=-0.5, top=(("a", -0.5), ("b", -1.5))),),
        parsed={"a": [1, None]}, usage=Usage(prompt_tokens=3, completion_tokens=None), price_usd=0.25, attempts=2,
        served_model="m",
    )  # fmt: skip


async def test_what_is_added_is_found_again_as_it_was(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "journal.sqlite")
    await asyncio.gather(*(journal.add(b"{}", reply(f"k{i}", f"text {i}")) for i in range(1_000)))
    journal.close()
    journal = Journal(tmp_path / "deep" / "journal.sqlite")
    assert journal.find("absent") is None
    for i in range(1_000):
        assert journal.find(f"k{i}") == reply(f"k{i}", f"text {i}").model_copy(update={"cached": True})
    journal.close()


async def test_the_first_reply_to_a_key_stays(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    await journal.add(b"{}", reply("k", "first"))
    await journal.add(b"{}", reply("k", "second"))
    found = journal.find("k")
    journal.close()
    assert found is not None and found.text == "first"


async def test_many_wait_for_few_commits(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    rival = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
    rival.execute("BEGIN IMMEDIATE")
    adding = asyncio.gather(*(journal.add(b"{}", reply(f"k{i}")) for i in range(400)))
    await asyncio.sleep(0.05)
    assert not adding.done(), "nobody is told before the commit"
    rival.execute("COMMIT")
    before = rival.execute("PRAGMA data_version").fetchone()[0]
    await adding
    commits = rival.execute("PRAGMA data_version").fetchone()[0] - before
    assert 1 <= commits <= 3
    rival.close()
    journal.close()


def _fill(path: Path, start: int) -> None:
    async def fill() -> None:
        journal = Journal(path)
        await asyncio.gather(*(journal.add(b"{}", reply(f"k{i}")) for i in range(start, start + 300)))
        journal.close()

    asyncio.run(fill())


def test_several_processes_share_a_journal_from_its_first_moment(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    path = tmp_path / "journal.sqlite"
    processes = [context.Process(target=_fill, args=(path, start)) for start in (0, 200, 400)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    journal = Journal(path)
    assert all(journal.find(f"k{i}") for i in range(700))
    journal.close()


async def test_a_full_disk_is_said_and_a_rerun_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    await journal.add(b"{}", reply("kept"))
    pages = journal._connection.execute("PRAGMA page_count").fetchone()[0]
    journal._connection.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StorageFull, match="no space"):
        await journal.add(b"x" * 100_000, reply("lost"))
    assert journal.find("kept") and not journal.find("lost")
    journal._connection.execute("PRAGMA max_page_count=1000000")
    await journal.add(b"x" * 100_000, reply("lost"))
    assert journal.find("lost")
    journal.close()


def test_a_journal_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(LakeTooNew, match="99"):
        Journal(path)


def test_what_is_no_journal_is_said(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_text("this is no database, " * 100)
    with pytest.raises(GraftError, match=r"journal\.sqlite"):
        Journal(path)
