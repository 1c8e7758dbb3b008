"""`graft journal`: what it shows, deletes, writes out and mends, and which words it keeps back."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from graft.agents.gateway.journal import Journal
from graft.cli.app import app
from graft.cli.journal import amount, read_age
from graft.data.lake import Lake
from graft.schemas.calls import Call, Reply
from graft.schemas.datasets import Run
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home
from graft.schemas.rows import Candidate, Decision, Slot

AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
MARK = "zebracrossing"
"""Stands for words that must not be seen."""


def a_run(name: str, task: dict[str, Any]) -> Run:
    return Run(
        id=name, dataset="shop", recipe={"task": task}, status="finished", started_at=AT, code_version="1",
    )  # fmt: skip


def a_call(key: str, run: str, candidate: str) -> Call:
    return Call(
        key=key, run_id=run, candidate_id=candidate, role="generator", purpose="generate.text", model="m",
        provider="embedded", served_model=None, revision=None, request="{}", reply="said", prompt_tokens=1,
        completion_tokens=1, cached_tokens=None, price_usd=0.0, latency_s=0.1, attempts=1, cached=False, at=AT,
    )  # fmt: skip


def a_candidate(name: str, run: str, *, restricted: bool) -> Candidate:
    slot = Slot(id=name, run_id=run, shard=0, round=0, index=0, label="a", exemplars=(), seed=1)
    decision = Decision(status="accepted", route="agreed", code="accepted.agreed", reason="so", mean=9.0)
    return Candidate(id=name, slot=slot, text="t", label="a", intended_label="a", restricted=restricted,
                     decision=decision)  # fmt: skip


CLASSES = {"kind": "classification"}
CALLS = {
    "open": [("k_open", "c_open"), ("k_both", "c_open"), ("k_alone", ""), ("k_marked", "c_marked"),
             ("k_guard", "c_open")],
    "other": [("k_both", "c_other")],
    "guarded": [("k_guard", "c_guard"), ("k_harmful", "c_harmful"), ("k_calibration", "")],
    "benign": [("k_benign", "c_benign")],
}  # fmt: skip
KEYS = sorted({key for calls in CALLS.values() for key, _ in calls} | {"k_unknown"})
SECRET = {"k_marked", "k_guard", "k_harmful", "k_calibration", "k_unknown"}


@pytest.fixture(scope="module")
def a_lake(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Four runs: two of classes, a restricted guard, an open guard; they share two calls."""
    home = Home(tmp_path_factory.mktemp("home"))
    with Lake.open(home) as lake:
        for name, task in (("open", CLASSES), ("other", CLASSES), ("guarded", {"kind": "guard"}),
                           ("benign", {"kind": "guard", "restricted": False})):  # fmt: skip
            lake.save_run(a_run(name, task))
            ids = sorted({candidate for _, candidate in CALLS[name] if candidate})
            candidates = [a_candidate(c, name, restricted=c in ("c_marked", "c_harmful")) for c in ids]
            lake.commit(name, "b", candidates, [a_call(key, name, c) for key, c in CALLS[name]])
    return home


@pytest.fixture
def home(a_lake: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setenv("GRAFT_HOME", str(a_lake.root))
    monkeypatch.setenv("COLUMNS", "200")
    asyncio.run(_fill(a_lake.journal))
    yield a_lake
    for file in [*a_lake.root.glob("journal*"), *a_lake.exports.glob("*")]:
        file.unlink()


async def _fill(path: Path) -> None:
    journal = Journal(path)
    for key in KEYS:
        text = MARK if key in SECRET else "welcome"
        await journal.add(json.dumps({"prompt": text}).encode(), Reply(key=key, text=text))
    journal.close()


def graft(*words: str) -> Result:
    return CliRunner().invoke(app, ["journal", *words])


def read(*words: str, code: int = 0) -> Any:
    done = graft(*words, "--json")
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def error(*words: str) -> GraftError:
    done = graft(*words)
    assert isinstance(done.exception, GraftError), done.output
    assert done.exception.fix
    return done.exception


def keys(home: Home) -> set[str]:
    connection = sqlite3.connect(home.journal)
    found = {str(row[0]) for row in connection.execute("SELECT key FROM calls")}
    connection.close()
    return found


def test_every_verb_has_an_example_in_its_help() -> None:
    for verb in ("size", "prune", "export", "check"):
        shown = graft(verb, "--help").output
        assert f"Example:  graft journal {verb}" in re.sub(r"\x1b\[[0-9;]*m", "", shown)


def test_size(home: Home) -> None:
    found = read("size")
    assert found["rows"] == found["by_age"]["1 day"]["rows"] == len(KEYS) and found["version"] == 2
    shown = graft("size").output
    assert str(home.journal) in shown and "older" in shown and f" {len(KEYS)} " in shown


def test_prune_by_age_needs_confirmation(home: Home) -> None:
    connection = sqlite3.connect(home.journal)
    with connection:
        connection.execute("UPDATE calls SET at = ? WHERE key IN ('k_open', 'k_both')", (time.time() - 40 * 86_400,))
    connection.close()
    assert read("prune", "--older-than", "30d", "--dry-run") == {
        "rows": 2, "bytes": read("prune", "--older-than", "4w", "--dry-run")["bytes"], "freed_bytes": 0,
        "vacuumed": False, "note": "", "dry_run": True,
    }  # fmt: skip
    output = error("prune", "--older-than", "30d")
    assert "2 calls" in output.what and "--yes" in output.fix and keys(home) == set(KEYS)
    assert read("prune", "--older-than", "30d", "--yes")["rows"] == 2
    assert keys(home) == set(KEYS) - {"k_open", "k_both"}


@pytest.mark.parametrize(
    ("words", "gone"),
    [(["open"], {"k_open", "k_alone", "k_marked"}), (["open", "--shared"], {key for key, _ in CALLS["open"]}),
     (["other"], set())],
)  # fmt: skip
def test_prune_of_a_run_spares_what_another_run_used(home: Home, words: list[str], gone: set[str]) -> None:
    assert read("prune", "--run", *words, "--yes")["rows"] == len(gone)
    assert keys(home) == set(KEYS) - gone


def test_prune_reports_missing_options(home: Home) -> None:
    assert "--older-than 30d" in error("prune", "--yes").fix
    assert "30d" in error("prune", "--older-than", "a month", "--yes").fix
    absent = error("prune", "--run", "absent", "--yes")
    assert isinstance(absent, NotFound) and "guarded" in absent.fix
    assert keys(home) == set(KEYS)


def test_export_keeps_restricted_words_back(home: Home, tmp_path: Path) -> None:
    out = tmp_path / "calls.jsonl"
    done = graft("export", "--out", str(out))
    assert "verbatim" in done.output and f"{len(SECRET)} left out" in done.output
    assert MARK not in out.read_text() and MARK not in done.output
    assert {json.loads(line)["key"] for line in out.read_text().splitlines()} == set(KEYS) - SECRET
    assert "--overwrite" in error("export", "--out", str(out)).fix
    found = read("export", "--restricted")
    assert (found["rows"], found["left_out"], found["restricted"]) == (len(KEYS), 0, True)
    assert Path(found["file"]).name == "journal-restricted.jsonl" and MARK in Path(found["file"]).read_text()
    assert "protect it" in graft("export", "--restricted", "--overwrite").output
    assert "verbatim" in graft("export", "--help").output


def test_check_finds_and_mends(home: Home) -> None:
    assert read("check")["sound"] is True
    connection = sqlite3.connect(home.journal)
    with connection:
        connection.execute("UPDATE calls SET reply = x'48ff' WHERE key = 'k_harmful'")
    connection.close()
    found = read("check", code=1)
    assert found["damage"] == {"reply: does not decompress": 1} and found["repaired"] is None
    shown = graft("check")
    assert shown.exit_code == 1 and "check --repair" in shown.output and MARK not in shown.output
    mended = graft("check", "--repair")
    assert mended.exit_code == 0 and "1 moved out" in mended.output and ".damaged-" in mended.output
    assert read("check")["good"] == len(KEYS) - 1 and keys(home) == set(KEYS) - {"k_harmful"}


def test_a_missing_journal_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    for words in (["size"], ["check"], ["export", "--restricted"], ["prune", "--older-than", "1d", "--yes"]):
        assert isinstance(error(*words), NotFound)


def test_ages_and_amounts() -> None:
    assert [read_age(text) for text in ("30d", "12h", "2w", "7", "0.5d")] == [30, 0.5, 14, 7, 0.5]
    for text in ("", "d", "-1d", "1y", "1e3", "٣d"):
        with pytest.raises(GraftError, match="no age"):
            read_age(text)
    assert [amount(count) for count in (0, 999, 1_000, 2_500_000, 10**13)] == [
        "0 B", "999 B", "1.0 kB", "2.5 MB", "10.0 TB",
    ]  # fmt: skip
