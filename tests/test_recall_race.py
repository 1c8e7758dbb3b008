"""A recall that lands at any step of publishing is never lost: its rows are in no version that comes after it.

Every statement of a publisher is a step. A second connection recalls rows right after it: the publisher waits until
that is done, unless it holds the commit lock, for which the recall waits as another process would.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graft.agents.methods import method_of
from graft.data.arrow import to_table
from graft.data.edits import decide, rebase, record
from graft.data.gates import Admission
from graft.data.lake import Lake
from graft.data.lake_schema import VersionRowRecord, candidates_table
from graft.data.recall import recall
from graft.data.versions import derive, held_by, publish, rows, version, versions
from graft.data.withdrawn import Selector, recalls
from graft.flows import publish as publishing
from graft.flows.import_dataset import Ask, Imported, bring_in
from graft.flows.progress import Progress
from graft.flows.run_context import RunContext
from graft.schemas.datasets import DatasetVersion, Row, Run
from graft.schemas.home import Home
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Accepted, Candidate, Decision, GateResult, Slot

AT = datetime(2026, 11, 25, tzinfo=UTC)
BAD, OTHER = Selector("model", "bad"), Selector("model", "other")
WRITERS = ("good", "bad", "other", "good", "bad", "good", "other", "bad")
OLD, NEW, REFUSED = range(4), range(4, 8), 8
"""Rows of the first version, rows of the run that is about to publish, and a rejected candidate, all by number."""


def recipe(name: str) -> Recipe:
    return Recipe.model_validate({
        "name": name, "task": {"kind": "classification", "labels": [{"name": "a"}, {"name": "b"}]},
        "seeds": {"rows": [{"text": "one", "label": "a"}, {"text": "two", "label": "b"}]}, "method": {"kind": "gra"},
        "models": [{"name": model, "provider": "openai", "model": model, "base_url": "http://127.0.0.1:9"}
                   for model in ("good", "bad", "other")],
        "roles": {role: {"models": ["good", "bad", "other"]} for role in ("generator", "reviewer", "adjudicator")},
        "target": {"rows_per_label": 2},
    })  # fmt: skip


def run_of(name: str) -> Run:
    return Run(
        id=f"{name}-run", dataset=name, recipe=recipe(name).model_dump(mode="json"), status="running", started_at=AT,
        code_version="1",
    )  # fmt: skip


def candidate(name: str, number: int) -> Candidate:
    status = "rejected" if number == REFUSED else "accepted"
    label = "ab"[number % 2]
    slot = Slot(id=f"{name}{number}", run_id=f"{name}-run", shard=0, round=0, index=number, label=label, seed=1)
    return Candidate(
        id=f"c_{name}_{number}", slot=slot, text=f"row {number} of {name}", label=label, intended_label=label,
        models={"generator": "bad" if number == REFUSED else WRITERS[number]},
        decision=Decision(status=status, route="agreed", code=f"{status}.agreed", reason="", mean=8.0),
    )  # fmt: skip


def row(name: str, number: int) -> Row:
    made = candidate(name, number)
    return Row(id=made.id, text=made.text, label=made.label, split="train")


def ids(name: str, numbers: Sequence[int], *without: str) -> set[str]:
    return {f"c_{name}_{n}" for n in numbers if (WRITERS[n] if n < REFUSED else "bad") not in without}


def fill(lake: Lake, names: Sequence[str]) -> None:
    """Datasets with a version of four rows and a run of nine candidates each, in one transaction."""
    import pyarrow as pa

    made, held, tables = list[DatasetVersion](), list[Row](), list[pa.Table]()
    for name in names:
        every = [candidate(name, n) for n in range(9)]
        tables.append(candidates_table(f"{name}-run", ["b"] * 9, every))
        mine = [row(name, n) for n in OLD]
        made.append(DatasetVersion(
            dataset=name, version=1, run_id=f"{name}-run", content_hash=name, rows=4, splits={"train": 4},
            labels={"a": 2, "b": 2}, models={}, seeds=0, card="#", snapshot=1, created_at=AT,
        ))  # fmt: skip
        held += mine
    datasets = [name for name in names for _ in OLD]
    version_rows = to_table(
        VersionRowRecord, held, dataset=datasets, version=[1] * len(held), ordinal=[*OLD] * len(names),
        run_id=[f"{name}-run" for name in datasets], candidate_id=[one.id for one in held],
    )  # fmt: skip

    def work(connection: Any) -> None:
        lake.insert("runs", to_table(Run, [run_of(name) for name in names]))
        lake.insert("candidates", pa.concat_tables(tables))
        lake.insert("version_rows", version_rows)
        lake.insert("versions", to_table(DatasetVersion, made))

    lake.write(work)


class Steps:
    """The publisher's connection: after its statement number `at` (0: before the first) it calls `then`.

    `held` is, for each statement, True if the publisher held the commit lock after it.
    """

    def __init__(self, lake: Lake, at: int, then: Callable[[], None]) -> None:
        self._real, self._lake, self._at, self._then = lake._connection, lake, at, then
        self.held: list[bool] = []
        if at == 0:
            then()

    def execute(self, *args: Any) -> Any:
        found = self._real.execute(*args)
        self.held.append(self._lake._lock.is_locked)
        if len(self.held) == self._at:
            self._then()
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def lakes(tmp_path: Path) -> Iterator[tuple[Lake, Lake]]:
    home = Home(tmp_path / "home")
    with Lake.open(home) as lake, Lake.open(home) as rival:
        yield lake, rival


def at_step(lake: Lake, step: int, rival: Callable[[], Any], publisher: Callable[[], Any]) -> list[bool]:
    """Runs the publisher, with the rival right after its statement `step`, or at its end. Returns `Steps.held`."""
    failures: list[BaseException] = []

    def safely() -> None:
        try:
            rival()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=safely)

    def inject() -> None:
        thread.start()
        if not lake._lock.is_locked:  # else it waits for the lock, and the publisher must go on
            thread.join()

    real = lake._connection
    steps = Steps(lake, step, inject)
    lake._connection = steps  # type: ignore[assignment]
    try:
        publisher()
    finally:
        lake._connection = real
        if thread.ident is None:
            thread.start()
        thread.join()
    assert failures == []
    return steps.held


def steps_of(held: Sequence[bool]) -> list[int]:
    """The start, every statement, and the end; of a transaction's statements the first, as the rival waits alike."""
    waits = [False, *held]
    return [n for n, here in enumerate(waits) if not (here and waits[n - 1])] + [len(waits)]


def check(lake: Lake, name: str, expected: set[str], gone: set[str]) -> None:
    last, every = max(one.at for one in recalls(lake, name)), versions(lake, name)
    for one in every:
        if one.created_at > last:
            assert not gone & set(rows(lake, one)["id"].to_pylist()), f"{one.ref} holds recalled rows"
    assert set(rows(lake, every[-1])["id"].to_pylist()) == expected, every[-1].ref
    assert every[-1].rows == sum(every[-1].labels.values()) == len(expected)


def every_step(
    lakes: tuple[Lake, Lake], kind: str, publisher: Callable[[Lake, str], Any], expected: Callable[[str], set[str]],
    selector: Selector = BAD,
) -> None:  # fmt: skip
    """The publisher in a dataset of its own for each step of it, until the recall lands after its last one."""
    lake, rival = lakes
    fill(lake, [f"{kind}-count"])
    steps = steps_of(at_step(lake, -1, lambda: None, lambda: publisher(lake, f"{kind}-count")))
    assert len(steps) >= 3
    fill(lake, [f"{kind}{step:02}" for step in steps])
    for step in steps:
        name = f"{kind}{step:02}"
        at_step(
            lake,
            step,
            lambda name=name: recall(rival, selector, name, reason="r", by="ann"),
            lambda name=name: publisher(lake, name),
        )
        check(lake, name, expected(name), ids(name, range(9), "good", "other"))


def test_a_run_that_carries_an_earlier_version_publishes_no_recalled_row(lakes: tuple[Lake, Lake]) -> None:
    def publisher(lake: Lake, name: str) -> DatasetVersion:
        given = [row(name, n) for n in NEW]
        first = version(lake, f"{name}@1")
        return publish(lake, run=run_of(name), rows=given, models={}, seeds=0, card="#", carried=first)

    every_step(lakes, "carry", publisher, lambda name: ids(name, range(8), "bad"))


def accepted(name: str, number: int) -> Accepted:
    one = candidate(name, number)
    return Accepted(one.id, one.text, one.response, one.label, 0.0, one.restricted, one.group, one.slot.shard)


def test_the_end_of_a_run_counts_the_rows_that_its_version_holds(
    lakes: tuple[Lake, Lake], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: Any) -> None: ...

    monkeypatch.setattr("graft.agents.local.encoder.find_embed", lambda: (None, ""))
    monkeypatch.setattr(publishing.artifacts, "leave", nothing)

    def publisher(lake: Lake, name: str) -> None:
        requested, run = recipe(name), run_of(name)
        gateway: Any = SimpleNamespace(stats=SimpleNamespace(cached=0, notes=[]))
        shop = RunContext(
            recipe=requested, run_id=run.id, home=lake.home, lake=lake, gateway=gateway,
            method=method_of(requested), seeds=[], gates=Admission(requested),
            progress=Progress(name, run.id, requested.wanted()),
        )  # fmt: skip
        result = asyncio.run(publishing.finish(shop, run, [accepted(name, n) for n in NEW], 0, lambda text: None))
        made = version(lake, f"{name}@{result['version']['version']}")
        stored = lake.run(run.id)
        assert stored is not None and stored.version == made.version
        assert stored.counts["published"] == made.rows == 4 - sum(stored.shortfall.values())
        assert (stored.status == "partial") == made.partial == (made.rows < 4)
        assert stored.stopped_by == ("recall" if made.rows < 4 else "target")
        assert f"{made.rows} rows for classification" in made.card

    every_step(lakes, "end", publisher, lambda name: ids(name, NEW, "bad"))


def test_gates_over_a_version_publish_no_recalled_row(lakes: tuple[Lake, Lake]) -> None:
    drop = GateResult(gate="length", rule="short", passed=False)

    def publisher(lake: Lake, name: str) -> DatasetVersion:
        first = version(lake, f"{name}@1")
        held = [one for one in held_by(lake, first) if one[0].id != f"c_{name}_0"]
        return derive(lake, first, held, origin="gates", note="n", drops=[drop], dropped=[f"c_{name}_0"])

    every_step(lakes, "gate", publisher, lambda name: ids(name, OLD[1:], "bad"))


def test_people_s_edits_publish_no_recalled_row_and_rescue_none(lakes: tuple[Lake, Lake]) -> None:
    def publisher(lake: Lake, name: str) -> None:
        first = version(lake, f"{name}@1")
        record(lake, [
            decide(lake, first, f"c_{name}_0", "relabel", label="b", by="ann"),
            decide(lake, first, f"c_{name}_{REFUSED}", "accept", by="ann"),
        ])  # fmt: skip
        rebase(lake, first)

    every_step(lakes, "edit", publisher, lambda name: ids(name, OLD, "bad"))


def test_two_recalls_at_once_both_hold(lakes: tuple[Lake, Lake]) -> None:
    def publisher(lake: Lake, name: str) -> None:
        recall(lake, OTHER, name, reason="r", by="bob")

    every_step(lakes, "twice", publisher, lambda name: ids(name, OLD, "bad", "other"))


def test_an_import_publishes_no_recalled_row(
    lakes: tuple[Lake, Lake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, rival = lakes
    monkeypatch.setenv("GRAFT_HOME", str(lake.home.root))
    monkeypatch.setattr("graft.flows.import_dataset.Lake", SimpleNamespace(open=lambda home: _Kept(lake)))
    small, large = tmp_path / "small.csv", tmp_path / "large.csv"
    lines = ["text,label", *(f"the text of row {n},{'ab'[n % 2]}" for n in range(8))]
    small.write_text("\n".join(lines[:5]) + "\n", encoding="utf-8")
    large.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def bring(file: Path, name: str) -> Imported:
        return bring_in(str(file), name, Ask(licence="CC0-1.0"))

    bring(small, "bring-count")
    for step in steps_of(at_step(lake, -1, lambda: None, lambda: bring(large, "bring-count"))):
        name, imports = f"bring{step:02}", list[Imported]()
        bad = sorted(rows(lake, bring(small, name).version)["id"].to_pylist())[0]
        at_step(
            lake,
            step,
            lambda bad=bad, name=name: recall(rival, Selector("row", bad), name, reason="r", by="ann"),
            lambda name=name, imports=imports: imports.append(bring(large, name)),
        )
        every, made = versions(lake, name), imports[0]
        assert bad not in rows(lake, every[-1])["id"].to_pylist() and every[-1].rows == 7
        assert made.new and any("withdraw them: 1" in notice for notice in made.notices) == (made.version.rows == 7)
        assert f"{made.version.rows} rows for classification" in made.version.card


class _Kept:
    """A lake that stays open when a publisher is done with it."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def __enter__(self) -> Lake:
        return self._lake

    def __exit__(self, *exc: object) -> None: ...
