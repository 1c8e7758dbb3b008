"""The journal: durable before it answers, shared by processes, clear about what it cannot do."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from graft.agents.gateway import journal_store as store
from graft.agents.gateway.journal import SMALL, Journal, network_disk, packed, reply_bytes, unpacked
from graft.schemas.calls import Reply, TokenLogprob, Usage
from graft.schemas.errors import GraftError, LakeTooNew, StorageFull


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
    assert not adding.done(), "no caller gets a result before the commit"
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


async def test_a_full_disk_is_reported_and_a_rerun_continues(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    await journal.add(b"{}", reply("kept"))
    pages = journal._connection.execute("PRAGMA page_count").fetchone()[0]
    journal._connection.execute(f"PRAGMA max_page_count={pages}")
    body = os.urandom(100_000)
    lost = await asyncio.gather(*(journal.add(body, reply(f"lost{i}")) for i in range(20)), return_exceptions=True)
    assert [type(error) for error in lost] == [StorageFull] * 20
    assert not any(journal.find(f"lost{i}") for i in range(20))
    with pytest.raises(StorageFull, match="no space"):
        await journal.add(body, reply("lost"))
    assert journal.find("kept") and not journal.find("lost")
    journal._connection.execute("PRAGMA max_page_count=1000000")
    await journal.add(body, reply("lost"))
    assert journal.find("lost")
    journal.close()


LIMITED = """
import asyncio, os, resource, signal, sys
from pathlib import Path
from graft.agents.gateway.journal import Journal
from graft.schemas.calls import Reply
from graft.schemas.errors import StorageFull

async def main():
    journal, stored, full = Journal(Path(sys.argv[1])), [], 0
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
    async def add(i):
        nonlocal full
        try:
            await journal.add(os.urandom(20_000), Reply(key=f"k{i}", text="said"))
            stored.append(i)
        except StorageFull:
            full += 1
    for start in range(0, 60, 10):
        await asyncio.gather(*(add(i) for i in range(start, start + 10)))
    assert stored and full and len(stored) + full == 60, (stored, full)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await add(60)
    assert stored[-1] == 60
    assert [i for i in range(61) if journal.find(f"k{i}")] == sorted(stored)
    print(*sorted(stored))

asyncio.run(main())
"""


def test_what_is_acknowledged_before_and_after_a_limit_is_stored_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], cwd=Path(__file__).parent.parent, text=True, capture_output=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    journal = Journal(path)
    assert [i for i in range(61) if journal.find(f"k{i}")] == [int(word) for word in done.stdout.split()]
    journal.close()


async def test_a_newer_reply_replaces_an_older_one_on_request(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    await journal.add(b"{}", reply("k", "first"))
    await asyncio.sleep(0.01)
    since = time.time()
    assert journal.find("k", since=since) is None
    await asyncio.gather(
        journal.add(b"{}", reply("k", "second"), replace=True), journal.add(b"{}", reply("k", "third"))
    )
    found, fresh = journal.find("k"), journal.find("k", since=since)
    journal.close()
    assert found == fresh and found is not None and found.text == "second"


async def test_a_clock_that_is_set_back_makes_no_reply_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    since = time.time()
    journal = Journal(tmp_path / "journal.sqlite")
    monkeypatch.setattr("graft.agents.gateway.journal.time.time", lambda: since - 86_400)
    await journal.add(b"{}", reply("k"))
    assert journal.find("k", since=since)
    journal.close()


@pytest.mark.parametrize("size", [0, 10, SMALL - 1, SMALL, 5 * SMALL])
def test_what_is_packed_comes_back(size: int) -> None:
    for data in (b"{" + b"word " * (size // 5), b"H" + os.urandom(size)):
        assert unpacked(packed(data)) == data
    assert len(packed(b"word " * size)) < max(SMALL, size)


async def test_a_journal_of_version_one_is_read_as_it_is_and_stamped(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    old = sqlite3.connect(path)
    old.execute("PRAGMA journal_mode=WAL")
    old.execute("CREATE TABLE calls (key TEXT PRIMARY KEY, request BLOB, reply BLOB, at INTEGER)")
    old.execute("INSERT INTO calls VALUES ('old', '{}', ?, 1700000000)", (reply_bytes(reply("old", "word " * 999)),))
    old.execute("PRAGMA user_version=1")
    old.commit()
    old.close()
    assert store.size(path).version == 1
    journal = Journal(path)
    await journal.add(b"{}", reply("new", "word " * 999))
    for key in ("old", "new"):
        assert journal.find(key) == reply(key, "word " * 999).model_copy(update={"cached": True})
    assert journal.find("old", since=1_700_000_001) is None
    journal.close()
    assert store.size(path).version == 2
    assert store.check(path).damage == {"request: missing": 1}  # '{}' above is text, where a journal has bytes


async def test_a_damaged_reply_counts_as_none_and_the_next_takes_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    await journal.add(b"{}", reply("k", "first"))
    with journal._connection as connection:
        connection.execute("UPDATE calls SET reply = ?", (b"H no zlib",))
    assert journal.find("k") is None and journal.find("k") is None
    assert [record.message.count("graft journal check") for record in caplog.records] == [1]
    await journal.add(b"{}", reply("k", "second"))
    found = journal.find("k")
    journal.close()
    assert found is not None and found.text == "second"


MOUNT_TABLE = """\
22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/sda rw
23 22 0:30 / /data rw,relatime - nfs4 server:/export rw,vers=4.2
24 23 0:31 / /data/local\\040disk rw - xfs /dev/sdb rw
25 22 0:32 / /share rw master:2 propagate_from:1 - fuse.sshfs me@there: rw
26 22 0:33 / /win rw - 9p C: rw
27 22 0:34 / /covered rw - cifs //server/share rw
28 22 0:35 / /covered rw - tmpfs tmpfs rw
29 22 0:36 / /fuse rw - fuse.ntfs /dev/sdc rw
nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/home/x/journal.sqlite", None), ("/data/journal.sqlite", "nfs4"), ("/data/local disk/deep/j", None),
     ("/database/j", None), ("/share/j", "fuse.sshfs"), ("/win/j", "9p"), ("/covered/j", None), ("/fuse/j", None),
     ("/home/../share/j", "fuse.sshfs")],
)  # fmt: skip
def test_a_network_disk_is_known_by_the_mount_table(path: str, kind: str | None) -> None:
    assert network_disk(Path(path), MOUNT_TABLE) == kind
    assert network_disk(Path(path), "") is None


def test_the_root_of_a_sandbox_is_its_own_disk() -> None:
    assert network_disk(Path("/home/x/j"), "22 1 0:21 / / rw - 9p none rw") is None
    assert network_disk(Path("/home/x/j"), "22 1 0:21 / / rw - nfs4 host:/ rw") == "nfs4"


def test_a_journal_on_a_network_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mounts"
    table.write_text(f"22 1 0:21 / / rw - ext4 /dev/sda rw\n23 22 0:30 / {tmp_path} rw - smb3 //server/x rw\n")
    monkeypatch.setattr("graft.agents.gateway.journal.MOUNTS", table)
    with pytest.raises(GraftError, match=r"journal\.sqlite: .*network disk \(smb3\)[^$]*fix: set GRAFT_HOME"):
        Journal(tmp_path / "journal.sqlite")
    assert not (tmp_path / "journal.sqlite").exists()
    monkeypatch.setattr("graft.agents.gateway.journal.MOUNTS", tmp_path / "absent")
    Journal(tmp_path / "journal.sqlite").close()


def test_a_journal_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(LakeTooNew, match="99"):
        Journal(path)


def test_a_file_that_is_no_journal_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_text("this is no database, " * 100)
    with pytest.raises(GraftError, match=r"journal\.sqlite"):
        Journal(path)
