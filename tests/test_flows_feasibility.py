"""A run that cannot reach its target is stopped early, one that can is let go on, and the first signs are shown."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_flows_make_dataset import graft, write_recipe

from graft.agents.gateway.stats import Stats
from graft.cli.display import one_line, render
from graft.cli.report import run_page
from graft.flows import feasibility
from graft.flows.feasibility import FIRST_LOOK, LOOK_EVERY, Feasibility, LabelCounts, Room, Sample
from graft.flows.progress import Progress
from graft.schemas.base import utc_now
from graft.schemas.calls import Call
from graft.schemas.home import Home
from graft.schemas.recipe import Limits
from graft.schemas.rows import Candidate, Decision, Slot


def simulate(rng: random.Random, shares: list[float], rows: int, room: float) -> int:
    """Candidates after which a run with these yields is stopped as out of reach; 0 where it never is."""
    cap = room * sum(rows / share for share in shares)
    settled, accepted = [0] * len(shares), [0] * len(shares)
    look = FIRST_LOOK
    while (done := sum(settled)) < cap:
        if done >= look:
            look = done + LOOK_EVERY
            labels = [
                LabelCounts(str(i), max(0, rows - accepted[i]), settled[i], accepted[i]) for i in range(len(shares))
            ]
            if feasibility.out_of_reach(
                labels, [Room("limits.candidates", cap, done, 1, 1, sampled=99)], wanted=rows * len(shares)
            ):
                return done
        lacking = [i for i in range(len(shares)) if accepted[i] < rows]
        if not lacking:
            return 0
        i = min(lacking, key=lambda i: settled[i])
        settled[i] += 1
        accepted[i] += rng.random() < shares[i]
    return 0


KINDS = [([0.2], 30), ([0.5], 60), ([0.8], 100), ([0.3, 0.4], 50), ([0.2, 0.5, 0.6, 0.9], 40)]


def test_a_run_with_room_to_spare_is_stopped_in_under_one_of_a_hundred() -> None:
    rng = random.Random(5)
    stopped = [simulate(rng, shares, rows, 1.3) > 0 for shares, rows in KINDS for _ in range(120)]
    assert sum(stopped) < 0.01 * len(stopped)


def test_a_run_with_half_the_room_is_stopped_within_a_hundred_candidates() -> None:
    rng = random.Random(6)
    for shares, rows in KINDS:
        ends = [simulate(rng, shares, rows, 0.5) for _ in range(60)]
        assert sum(0 < end <= 100 for end in ends) > 0.9 * len(ends), shares


def test_many_labels_with_few_candidates_each_are_judged_by_their_common_yield() -> None:
    labels = [LabelCounts(str(i), 50, 2, 0) for i in range(40)]
    hopeful = feasibility.candidates_needed(labels, feasibility.upper_yield, feasibility.LUCK_Z)
    alone = sum(feasibility.tries(50, feasibility.upper_yield(0, 2), feasibility.LUCK_Z) for _ in labels)
    assert hopeful > 5 * alone


counts = st.integers(0, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


@given(counts, st.integers(1, 500))
def test_the_hopeful_figure_is_never_above_the_likely_one(pair: tuple[int, int], missing: int) -> None:
    settled, accepted = pair
    assert feasibility.upper_yield(accepted, settled) >= feasibility.likely_yield(accepted, settled)
    hopeful = feasibility.tries(missing, feasibility.upper_yield(accepted, settled), feasibility.LUCK_Z)
    assert missing <= hopeful <= feasibility.tries(missing, feasibility.likely_yield(accepted, settled), 0) * (1 + 1e-9)


@settings(max_examples=40)
@given(st.lists(st.floats(0, 100), min_size=2, max_size=40))
def test_the_low_end_of_a_cost_is_at_most_its_mean(values: list[float]) -> None:
    sample = Sample()
    for value in values:
        sample.add(value)
    assert 0 <= sample.low <= sample.mean + 1e-9
    assert sample.mean == pytest.approx(sum(values) / len(values))


def test_the_cap_that_is_passed_furthest_is_named_with_advice() -> None:
    labels = [LabelCounts("a", 80, 50, 20), LabelCounts("b", 80, 50, 20)]
    rooms = [Room("limits.candidates", 400, 100, 1, 1, sampled=100), Room("limits.money_usd", 0.5, 0.3, 0.003, 0.003)]
    found = feasibility.out_of_reach(labels, rooms, wanted=200)
    assert found is not None and found.cap == "limits.money_usd" and found.takes >= found.at_least > 0.55
    advice = feasibility.advice_for(found, 100)
    assert "raise limits.money_usd to about $1.49" in advice and "lower target.rows_per_label to about 33" in advice
    assert feasibility.out_of_reach(labels, rooms[:1], wanted=200) is None
    assert "rows_per_label" not in feasibility.advice_for(Feasibility("limits.tokens", 5, 50, 40, 0.0), 100)


def test_a_cost_is_not_believed_before_it_was_measured() -> None:
    labels = [LabelCounts("a", 1000, 20, 10)]
    early = Room("limits.money_usd", 100, 1, 1, 1, sampled=20)
    assert feasibility.out_of_reach(labels, [early], wanted=1000) is None
    assert feasibility.out_of_reach(labels, [Room("limits.money_usd", 100, 11, 1, 1)], wanted=1000) is not None


def call(key: str, price: float | None, *, cached: bool = False) -> Call:
    return Call(
        key=key, run_id="r", candidate_id="c", role="generator", purpose="generate", model="m", provider="openai",
        served_model=None, revision=None, request="{}", reply="x", prompt_tokens=90, completion_tokens=10,
        cached_tokens=None, price_usd=price, latency_s=0.1, attempts=1, cached=cached, at=utc_now(),
    )  # fmt: skip


def settled(index: int, code: str = "accepted.agreed") -> Candidate:
    slot = Slot(id=f"a/{index}", run_id="r", shard=0, round=0, index=index, label="a", seed=index)
    decision = Decision(status=code.partition(".")[0], route="agreed", code=code, reason="by test")
    return Candidate(id=f"c{index}", slot=slot, text="t", label="a", intended_label="a", decision=decision)


def test_calls_that_the_journal_answered_do_not_make_a_candidate_look_cheap() -> None:
    progress = Progress("d", "r", {"a": 50})
    for index in range(30):
        progress.spent.end(f"c{index}", [call(f"old{index}", 0.01, cached=True)] if index < 20 else [call("k", 0.01)])
        progress.note(settled(index))
    money = next(r for r in progress.rooms(Limits(money_usd=1)) if r.cap == "limits.money_usd")
    assert (money.sampled, money.mean, money.used, money.ahead) == (10, pytest.approx(0.01), pytest.approx(0.1), 0)
    assert progress.price == "$0.01 an accepted row"


def test_a_call_that_another_candidate_of_this_run_paid_costs_nothing_and_counts() -> None:
    spent = Progress("d", "r", {"a": 5}).spent
    spent.end("c1", [call("shared", 0.03)])
    spent.end("c2", [call("shared", 0.03, cached=True)])
    assert (spent.usd.count, spent.usd.mean) == (2, pytest.approx(0.015))
    assert spent.finished == {"c1", "c2"}


def test_an_unknown_price_stays_unknown_and_its_cap_is_not_compared() -> None:
    progress = Progress("d", "r", {"a": 50})
    for index in range(3):
        progress.spent.end(f"c{index}", [call(f"k{index}", None if index == 1 else 0.0)])
        progress.note(settled(index))
    assert progress.price == "price unknown"
    assert "limits.money_usd" not in {room.cap for room in progress.rooms(Limits(money_usd=1))}


def test_the_first_twenty_candidates_show_the_signs_on_terminal_and_in_lines() -> None:
    progress = Progress("d", "r", {"a": 50})
    stats = Stats(calls=60, price_usd=None, notes=("m1: the server answered as m2",))
    progress.gateway = lambda: stats
    progress.spent.end("c0", [call("k", None)])
    for index in range(20):
        progress.note(settled(index, "failed.schema_unmet" if index < 12 else "accepted.agreed"))
    line = one_line(progress)
    for part in ("yield 40.0% of 20", "12 unreadable (schema_unmet 12)", "0 refused", "price unknown"):
        assert part in line.splitlines()[0]
    assert "12 of 20 candidates ended because replies broke their schema" in line
    assert "$0" not in line
    assert line.count("answered as m2") == 1 and "answered as m2" not in one_line(progress), "a note is printed once"
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(render(progress))
    drawn = console.export_text()
    assert "12 unreadable" in drawn and "broke their schema" in drawn and "answered as m2" in drawn


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ({"rejected.refusal": 6}, "refused"),
        ({"failed.timeout": 9}, "no answer"),
        ({"rejected.low_mean": 15}, "rejected.low_mean"),
        ({"rejected.low_mean": 5, "failed.empty": 2}, ""),
    ],
)
def test_advice_is_given_only_where_something_stands_out(reasons: dict[str, int], expected: str) -> None:
    result = feasibility.standing_out(20, reasons)
    assert expected in result if expected else result == ""
    assert feasibility.standing_out(5, reasons) == ""


def test_the_page_holds_signs_overshoot_and_notes(tmp_path: Path) -> None:
    run: dict[str, Any] = {
        "dataset": "d", "id": "r", "shortfall": {}, "stopped_by": "target", "price_usd": None, "prompt_tokens": 1,
        "completion_tokens": 1, "calls": 2, "seconds": 1.0, "recipe": {},
        "counts": {"opened": 50, "accepted": 27, "published": 25, "surplus": 2, "overshoot": 3},
    }  # fmt: skip
    funnel = [{"status": "failed", "route": "failed", "code": "failed.malformed", "rows": 20}]
    page = run_page(Home(tmp_path), {"run": run, "version": None, "funnel": funnel, "notes": ["m1 <b>is</b> m2"]})
    assert "yield 54.0% of 50 · 20 unreadable (malformed 20) · 0 refused · price unknown" in page
    assert "Surplus: 2 accepted rows. Overshoot: 3 candidates (6.0% of all)" in page
    assert "held no valid JSON" in page and "m1 &lt;b&gt;is" in page


def test_a_target_out_of_reach_ends_the_run_early_with_figures_and_examples(tmp_path: Path, fake_llm: Any) -> None:
    fake_llm.set(low_score_rate=0.3)
    home, recipe = tmp_path / "home", write_recipe(tmp_path, fake_llm.url, rows=500, candidates=300)
    done = graft(home, "run", str(recipe), "--json")
    assert done.returncode == 7, done.stderr
    for part in (
        "limits.candidates is 300 candidates",
        "the target needs about",
        "still missing: alpha",
        "for example",
    ):
        assert part in done.stderr
    assert "raise limits.candidates to about" in done.stderr and "Traceback" not in done.stderr
    again = graft(home, "run", str(recipe), "--json")
    assert again.returncode == 7, again.stderr
    assert '"repeated": true' in again.stdout, again.stderr
    assert '"stopped_by": "out_of_reach"' in again.stdout and '"status": "partial"' in again.stdout
