"""A shard settles alike whatever the timing was, opens little more than it needs, and loses nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.agents.local import encoder
from graft.flows.streaming import ShardRunner
from graft.flows.vectors import AcceptedVectors
from graft.schemas.base import stable_hash
from graft.schemas.rows import Candidate, Decision, GateResult, Slot


def make_slot(label: str, index: int) -> Slot:
    return Slot(id=f"{label}/{index}", run_id="r", shard=0, round=0, index=index, label=label, seed=index)


def candidate_for(slot: Slot, rate: float) -> Candidate:
    """Accepted or not by the slot's own hash; every third text repeats, so that the duplicate gate has work."""
    draw = int(stable_hash(slot.id, length=6), 16) / 16**6
    status = "accepted" if draw < rate else "rejected"
    decision = Decision(status=status, route="agreed", code=f"{status}.test", reason="by draw")
    return Candidate(
        id="c_" + slot.id, slot=slot, text=f"text {int(draw * 40)}", label=slot.label, intended_label=slot.label,
        decision=decision,
    )  # fmt: skip


class Shard:
    """Runs a shard with random delays and keeps what it committed."""

    def __init__(self, timing: int, rate: float, wanted: dict[str, int], cap: int, stored: list[Candidate]) -> None:
        self.random, self.rate, self.seen = random.Random(timing), rate, {}
        self.ran: list[str] = []
        self.rows: list[Candidate] = []
        self.runner = ShardRunner(
            wanted=wanted, caps=dict.fromkeys(wanted, cap), make_slot=make_slot, run_slot=self.run_slot,
            admit=self.admit, commit=self.commit, width=7, stored={c.slot.id: c for c in stored},
            remember=lambda c: self.seen.setdefault(c.text, c.id), batch_rows=5,
        )  # fmt: skip

    async def run_slot(self, slot: Slot) -> tuple[Candidate, tuple[()]]:
        for _ in range(self.random.randrange(5)):
            await asyncio.sleep(0)
        self.ran.append(slot.id)
        return candidate_for(slot, self.rate), ()

    def admit(self, candidate: Candidate) -> tuple[GateResult, ...]:
        first = self.seen.setdefault(candidate.text, candidate.id)
        return (GateResult(gate="exact", rule="exact", passed=first == candidate.id, neighbour=first),)

    async def commit(self, batch: list[Candidate], calls: list[object]) -> None:
        self.rows.extend(batch)

    def outcome(self) -> list[tuple[str, str]]:
        return [(c.id, c.decision.code) for c in self.rows]


wanted_rows = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 12), min_size=1)


@settings(max_examples=60, deadline=None)
@given(wanted_rows, st.floats(0.05, 1.0), st.integers(0, 999), st.integers(0, 999), st.integers(1, 60))
def test_timing_changes_neither_rows_nor_order_nor_the_slots_opened(
    wanted: dict[str, int], rate: float, one: int, other: int, cap: int
) -> None:
    first, second = Shard(one, rate, wanted, cap, []), Shard(other, rate, wanted, cap, [])
    report, again = asyncio.run(first.runner.run()), asyncio.run(second.runner.run())
    assert first.outcome() == second.outcome()
    assert sorted(first.ran) == sorted(second.ran)
    assert report == again
    assert len(first.rows) == len(first.ran) == report.settled


@settings(max_examples=40, deadline=None)
@given(wanted_rows, st.floats(0.1, 1.0), st.integers(0, 999), st.integers(0, 40))
def test_a_resumed_shard_repeats_nothing_and_ends_alike(
    wanted: dict[str, int], rate: float, timing: int, kept: int
) -> None:
    whole = Shard(1, rate, wanted, 40, [])
    asyncio.run(whole.runner.run())
    stored = whole.rows[:kept]
    resumed = Shard(timing, rate, wanted, 40, stored)
    asyncio.run(resumed.runner.run())
    assert not {c.slot.id for c in stored} & set(resumed.ran)
    assert sorted(c.id for c in stored + resumed.rows) == sorted(c.id for c in whole.rows)
    assert {c.id: c.decision.code for c in stored + resumed.rows} == dict(whole.outcome())


def relabelled(slot: Slot, rate: float) -> Candidate:
    """Every other row of a gets the label b."""
    made = candidate_for(slot, rate)
    return made.model_copy(update={"label": "b", "text": slot.id}) if slot.label == "a" and slot.index % 2 else made


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(0, 12), st.floats(0.2, 1.0), st.integers(0, 999), st.integers(0, 999))
def test_a_row_counts_for_the_label_that_it_has_in_the_end(a: int, b: int, rate: float, one: int, other: int) -> None:
    outcomes = []
    for timing in (one, other):
        shard = Shard(timing, rate, {"a": a, "b": b}, 400, [])

        async def run_slot(slot: Slot, shard: Shard = shard) -> tuple[Candidate, tuple[()]]:
            for _ in range(shard.random.randrange(5)):
                await asyncio.sleep(0)
            return relabelled(slot, rate), ()

        shard.runner._run_slot, shard.runner._admit = run_slot, lambda c: ()
        report = asyncio.run(shard.runner.run())
        labels = [c.label for c in shard.rows if c.accepted]
        assert report.stopped_by == "target" and labels.count("a") >= a and labels.count("b") >= b
        if b:
            assert report.accepted == {"a": labels.count("a"), "b": labels.count("b")}
        outcomes.append([(c.id, c.label) for c in shard.rows])
    assert outcomes[0] == outcomes[1]


def test_a_shard_reaches_its_target_with_little_overshoot() -> None:
    shard = Shard(3, 0.5, {"a": 200}, 10_000, [])
    shard.admit = lambda c: ()  # type: ignore[method-assign]
    shard.runner._admit = shard.admit
    report = asyncio.run(shard.runner.run())
    assert report.stopped_by == "target"
    assert 200 <= report.accepted["a"] <= 210


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 0.9), st.integers(0, 999))
def test_overshoot_is_counted_and_small(first: int, rate: float, timing: int) -> None:
    """Of 400 rows of two labels, under a twentieth of the slots plus 8 are opened after their label had enough."""
    shard = Shard(timing, rate, {"a": 200, "b": 200}, 10_000, [])
    shard.runner._admit = lambda c: ()
    shard.runner._make_slot = lambda label, index: make_slot(label, first + index)
    report = asyncio.run(shard.runner.run())
    ended = dict.fromkeys("ab", 0)
    beyond = 0
    for candidate in shard.rows:
        beyond += ended[candidate.label] >= 200
        ended[candidate.label] += candidate.accepted
    assert report.overshoot == beyond <= 0.05 * report.settled + 8
    assert sum(report.tried.values()) == report.settled


def test_a_cap_ends_the_shard_with_its_name() -> None:
    shard = Shard(3, 0.2, {"a": 50, "b": 50}, 20, [])
    report = asyncio.run(shard.runner.run())
    assert (report.stopped_by, report.settled) == ("candidates", 40)


def test_a_cancelled_shard_commits_what_had_settled() -> None:
    shard = Shard(3, 1.0, {"a": 500}, 1000, [])

    async def cut() -> None:
        task = asyncio.ensure_future(shard.runner.run())
        while len(shard.ran) < 60:  # noqa: ASYNC110 - counts what the shard under test did
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(cut())
    assert 40 <= len(shard.rows) < 500
    assert [c.slot.index for c in shard.rows] == list(range(len(shard.rows)))


def test_a_text_is_embedded_once_and_its_vector_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded: list[str] = []

    def embed(texts: Sequence[str]) -> Any:
        embedded.extend(texts)
        return np.array([[float(text), 1.0, 2.0] for text in texts], dtype=np.float32)

    monkeypatch.setattr(encoder, "find_embed", lambda: (embed, ""))
    vectors = AcceptedVectors(tmp_path)
    for begin in (0, 100):  # two rounds: the thread is started again
        for number in (*range(begin, begin + 100), begin + 3):
            vectors.later(str(number))
        found, why = vectors.find()
        assert found is not None and not why
        texts = [str(begin + 7), "1000", "3", "1000", str(begin + 99)]
        assert found(texts).tolist() == [[float(text), 1.0, 2.0] for text in texts]
    vectors.abandon()
    assert embedded.count("103") == 1 and not list(tmp_path.iterdir())
    assert AcceptedVectors().find()[0] is not None
