"""Models and money: every figure by hand on a small lake; parts add up to the whole; what is unknown stays unknown."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from graft.data.lake import Lake
from graft.data.quality import quality
from graft.data.spending import (
    by_dataset,
    by_day,
    by_model,
    compare_runs,
    errors,
    month,
    over_run,
    runs_by_dataset,
    total,
    worth,
)
from graft.data.versions import publish
from graft.schemas.calls import Call
from graft.schemas.datasets import Row, Run
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home
from graft.schemas.rows import Candidate, Decision, Labelling, Review, Slot

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SECRET = "what a restricted reply says"


def run(name: str, dataset: str = "shop", tau: float = 8.0, **more: Any) -> Run:
    recipe = {"method": {"kind": "gra", "tau": tau}}
    given = {"status": "finished", "started_at": AT, "code_version": "1", "seconds": 60.0, **more}
    return Run(id=name, dataset=dataset, recipe=recipe, **given)


def call(key: str, of: str, at: datetime = AT, **more: Any) -> Call:
    known = {
        "run_id": "r1", "role": "generator", "model": "small", "purpose": "text", "provider": "openai",
        "request": "{}", "reply": SECRET, "prompt_tokens": 100, "completion_tokens": 10, "served_model": None,
        "revision": None, "cached_tokens": 40, "price_usd": 0.01, "latency_s": 1.0, "attempts": 1, "cached": False,
    }  # fmt: skip
    return Call(key=key, candidate_id=of, at=at, **{**known, **more})


def failed_call(key: str, of: str, code: str, at: datetime = AT, **more: Any) -> Call:
    nothing = dict.fromkeys(("prompt_tokens", "completion_tokens", "cached_tokens", "price_usd"))
    return call(key, of, at, failure=code, latency_s=0.0, attempts=0, **{**nothing, **more})


def review(model: str, mean: float | None, role: str = "reviewer", **more: Any) -> Review:
    stage = {"adjudicator": "adjudication", "labeler": "label"}.get(role, "content")
    return Review.model_validate({"stage": stage, "role": role, "model": model, "mean": mean, **more})


def candidate(name: str, code: str, *reviews: Review, writer: str = "small", **more: Any) -> Candidate:
    status = "accepted" if code.startswith("accepted") else "failed" if code.startswith("failed") else "rejected"
    last = code.rpartition(".")[2]
    route = last if last in ("low_mean", "agreed", "adjudicated", "labelled", "refusal") else "failed"
    slot = Slot(id=f"s_{name}", run_id="r1", shard=0, round=0, index=0, label="price", seed=1)
    decision = Decision.model_validate(
        {"status": status, "route": "gate" if code.startswith("gate") else route, "code": code, "reason": "because"}
    )
    return Candidate(
        id=name, slot=slot, text="how much is the lamp?", label="price", intended_label="price", decision=decision,
        reviews=reviews, models={"generator": writer}, **more,
    )  # fmt: skip


CANDIDATES = (
    candidate("c1", "accepted.agreed", review("strict", 8.0), review("mild", 10.0)),
    candidate("c2", "rejected.low_mean", review("strict", 4.0), review("mild", 9.0)),
    candidate("c3", "accepted.adjudicated", review("strict", 7.0), review("mild", 10.0),
              review("strong", 9.0, "adjudicator")),
    candidate("c4", "gate.near_duplicate", review("strict", 8.0), review("mild", 8.0), writer="tiny"),
    candidate("c5", "rejected.refusal", writer="tiny"),
    candidate("c6", "failed.malformed", review("strict", None, failure="malformed: no JSON"), writer="tiny"),
)  # fmt: skip

CALLS = (
    call("g1", "c1", latency_s=1.0), call("g2", "c2", latency_s=2.0, attempts=2),
    call("g3", "c3", AT + DAY, latency_s=3.0),
    call("g3", "c3", AT + 2 * DAY, cached=True, latency_s=0.0),
    call("t4", "c4", AT + DAY, model="tiny", price_usd=0.002), call("t5", "c5", model="tiny", price_usd=0.002),
    failed_call("t6", "c6", "malformed", AT + 3 * DAY, model="tiny"),
    failed_call("t7", "c6", "timeout", AT + 3 * DAY, model="tiny"),
    call("t7", "c6", AT + 3 * DAY, model="tiny", price_usd=0.002),
    call("v1", "c1", role="reviewer", model="strict", price_usd=None),
    call("v2", "c2", role="reviewer", model="mild", price_usd=0.004, prompt_tokens=None),
    call("v3", "c3", AT + DAY, role="adjudicator", model="strong", price_usd=0.03),
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = Home(tmp_path_factory.mktemp("spending"))
    with Lake.open(made) as lake:
        lake.save_run(run("r1", version=1, stopped_by="target"))
        lake.save_run(run("r2", "other", started_at=AT + DAY))
        lake.commit("r1", "b1", CANDIDATES, CALLS)
        other = [call("o1", "d1", AT + 5 * DAY, run_id="r2", price_usd=0.5),
                 call("g1", "d1", AT + 5 * DAY, run_id="r2", cached=True)]  # fmt: skip
        lake.commit("r2", "b1", [candidate("d1", "rejected.low_mean")], other)
        rows = [Row(id=c.id, text=c.text, label=c.label, split="train") for c in CANDIDATES if c.accepted]
        publish(lake, run=run("r1"), rows=rows, models={}, seeds=0, card="")
    return made


@pytest.fixture(scope="module")
def lake(home: Home) -> Iterator[Lake]:
    with Lake.open(home, read_only=True) as opened:
        yield opened


def test_each_model_in_each_role_by_hand(lake: Lake) -> None:
    uses = {(use.role, use.model): use for use in by_model(lake, dataset="shop")}
    small = uses["generator", "small"]
    assert (small.calls, small.cached, small.failed, small.retried) == (3, 1, 0, 1)
    assert (small.prompt_tokens, small.completion_tokens, small.cached_tokens) == (300, 30, 120)
    assert (small.price_usd, small.price_1000_usd) == (0.03, 15.0)  # two accepted candidates
    assert (small.p50_s, small.p95_s) == (2.0, 2.9)
    tiny = uses["generator", "tiny"]
    assert (tiny.calls, tiny.failed, tiny.failures) == (4, 1, {"malformed": 1})  # t7 was answered in the end
    assert (tiny.unreadable, tiny.refused, tiny.price_usd) == (0.25, 0.0, 0.006)
    strict, mild = uses["reviewer", "strict"], uses["reviewer", "mild"]
    assert strict.price_usd is None and strict.price_1000_usd is None
    assert (mild.prompt_tokens, mild.completion_tokens, mild.price_usd) == (None, 10, 0.004)
    assert next(iter(uses)) == ("reviewer", "strict")  # an unknown price comes first


def test_which_writer_is_worth_its_price_by_hand(lake: Lake) -> None:
    found = {(one.role, one.model): one for one in worth(lake, dataset="shop")}
    small, tiny = found["generator", "small"], found["generator", "tiny"]
    assert (small.candidates, small.accepted, small.share) == (3, 2, 0.666667)
    # Wilson by hand: z = 1.96, p = 2/3, n = 3
    z, p, n = 1.959964, 2 / 3, 3
    reach = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    ends = [(p + z * z / (2 * n) - reach) / (1 + z * z / n), (p + z * z / (2 * n) + reach) / (1 + z * z / n)]
    assert small.interval == pytest.approx(ends, abs=1e-9)
    assert (small.price_usd, small.row_price_usd) == (0.03, 0.015)
    assert (tiny.share, tiny.refused, tiny.duplicates) == (0.0, 0.333333, 0.333333)
    assert tiny.row_price_usd is None and tiny.price_usd == 0.006 and tiny.reviews is None


def test_judges_by_hand_with_the_severity_of_the_quality_report(lake: Lake) -> None:
    found = {(one.role, one.model): one for one in worth(lake, dataset="shop")}
    strict, mild, strong = (found[key] for key in (
        ("reviewer", "strict"), ("reviewer", "mild"), ("adjudicator", "strong")))  # fmt: skip
    assert (strict.reviews, strict.failed, strict.mean) == (5, 1, 6.75)
    assert (strict.severity, mild.severity, strong.severity) == (-1.25, 1.25, None)
    reported = quality(lake, lake_version(lake)).reviews
    assert reported is not None
    assert {one.model: one.severity for one in reported.reviewers} == {"strict": -1.25, "mild": 1.25}
    # c1, c2 and c3 ended by their scores; c4 was ended by a gate, so its judges do not count
    assert (strict.agrees_decision, mild.agrees_decision, strong.agrees_decision) == (0.666667, 0.666667, 1.0)
    # strict against mild: c1 and c4 alike, c2 and c3 not; in c3 the adjudicator sides with mild
    assert (strict.agrees_others, mild.agrees_others, strong.agrees_others) == (0.4, 0.6, 0.5)
    assert strict.review_price_usd is None and mild.review_price_usd == 0.001 and strong.review_price_usd == 0.03


def lake_version(lake: Lake) -> Any:
    from graft.data.versions import version

    return version(lake, "shop@1")


def test_tau_is_the_runs_own_and_labels_are_compared_as_labels(tmp_path: Path) -> None:
    answers = [("one", "price"), ("two", "price"), ("three", "delivery")]
    labelling = Labelling(by="labeler", candidates=("price", "delivery"), label="price", relabelled=False)
    reviews = [review(model, None, "labeler", answer=answer) for model, answer in answers]
    with Lake.open(Home(tmp_path)) as lake:
        lake.save_run(run("r1", tau=5.0))
        made = [candidate("c1", "accepted.labelled", *reviews, labelling=labelling),
                candidate("c2", "accepted.agreed", review("judge", 6.0))]  # fmt: skip
        lake.commit("r1", "b1", made, [])
        found = {one.model: one for one in worth(lake)}
    assert [found[model].agrees_decision for model in ("one", "two", "three", "judge")] == [1.0, 1.0, 0.0, 1.0]
    assert [found[model].agrees_others for model in ("one", "two", "three", "judge")] == [0.5, 0.5, 0.0, None]
    assert found["one"].price_usd is None and found["one"].mean is None


def test_days_have_no_holes_and_parts_have_zeros(lake: Lake) -> None:
    days = by_day(lake, dataset="shop")
    assert [one.day for one in days] == [date(2026, 11, 1 + n) for n in range(4)]
    assert [one.calls for one in days] == [5, 3, 0, 2]
    assert [one.price_usd for one in days] == [None, 0.042, 0.0, 0.002]
    assert [one.tokens for one in days] == [None, 330, 0, 110]
    by_role = {(one.day.day, one.part): one for one in by_day(lake, "role", dataset="shop")}
    assert len(by_role) == 4 * 3 and by_role[3, "generator"].price_usd == 0.0
    assert by_role[1, "generator"].price_usd == 0.022 and by_role[1, "reviewer"].price_usd is None
    assert by_day(lake, dataset="none") == []
    with pytest.raises(GraftError, match="since must be the earlier"):
        by_day(lake, since=date(2026, 11, 2), until=date(2026, 11, 1))


def test_a_call_that_datasets_share_is_paid_once_by_the_one_that_made_it(lake: Lake) -> None:
    found = {one.dataset: one for one in by_dataset(lake)}
    assert (found["other"].calls, found["other"].price_usd, found["other"].row_price_usd) == (1, 0.5, None)
    assert (found["shop"].candidates, found["shop"].accepted, found["shop"].price_usd) == (6, 2, None)
    assert total(lake).calls == sum(one.calls for one in found.values()) == 11
    assert total(lake, dataset="other").calls == 2  # the cost of its rows, even if an earlier run made the calls
    assert total(lake, since=date(2026, 11, 6)).calls == 1  # g1 is read again on that day, not made
    assert total(lake, since=date(2026, 11, 6)).price_usd == 0.5


def test_days_choose_candidates_by_their_last_call(lake: Lake) -> None:
    small = next(one for one in worth(lake, since=date(2026, 11, 2), until=date(2026, 11, 3)) if one.model == "small")
    assert (small.candidates, small.accepted, small.price_usd) == (1, 1, 0.01)


def test_this_months_money_counts_from_the_first_day(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    with Lake.open(Home(tmp_path)) as lake:
        empty = month(lake)
        assert (empty.calls, empty.tokens, empty.price_usd) == (0, 0, 0.0)
        before = call("k1", "c1", first - timedelta(seconds=1))
        again = call("k1", "c1", now, cached=True)
        lake.commit("r1", "b1", [], [before, again, call("k2", "c1", first), call("k3", "c1", now)])
        assert (month(lake).calls, month(lake).price_usd, month(lake).tokens) == (2, 0.02, 220)


def test_a_run_over_its_time_ends_in_the_whole_runs_figures(lake: Lake) -> None:
    parts = over_run(lake, "r1", parts=3)
    assert [round(one.seconds / 86_400) for one in parts] == [1, 2, 3]
    assert [one.calls for one in parts] == [5, 3, 2]
    # the last calls of c1, c2 and c5 are on day 0, of c4 on day 1, of c3 (read again) on day 2, of c6 on day 3
    assert [(one.candidates, one.accepted) for one in parts] == [(3, 1), (1, 0), (2, 1)]
    assert [one.yield_so_far for one in parts] == [0.333333, 0.25, 0.333333]
    assert [one.price_so_far for one in parts] == [None, None, None]  # the first call's price is unknown
    first, last = over_run(lake, "r2", parts=2)  # both of its calls are of one moment
    assert (first.candidates, last.candidates, last.accepted, last.price_so_far) == (1, 0, 0, 0.51)
    assert over_run(lake, "none") == []


def test_failed_calls_are_counted_without_their_words(lake: Lake) -> None:
    found = errors(lake, "r1")
    assert [(one.code, one.model, one.role, one.calls, one.answered) for one in found] == [
        ("malformed", "tiny", "generator", 1, 0), ("timeout", "tiny", "generator", 1, 1),
    ]  # fmt: skip
    assert found[0].first == AT + 3 * DAY
    assert SECRET not in repr(found)


def test_runs_side_by_side(lake: Lake) -> None:
    second, first = compare_runs(lake, ["r2", "r1", "r2"])
    assert (first.run_id, first.opened, first.accepted, first.share) == ("r1", 6, 2, 0.333333)
    assert (first.calls, first.price_usd, first.tokens, first.rows_per_minute) == (10, None, None, 2.0)
    assert first.models == {
        "adjudicator": ("strong",), "generator": ("small", "tiny"), "reviewer": ("mild", "strict")
    }  # fmt: skip
    assert first.codes == {
        "failed.malformed": 1, "gate.near_duplicate": 1, "rejected.low_mean": 1, "rejected.refusal": 1
    }  # fmt: skip
    assert (first.method, first.stopped_by, first.version) == ("gra", "target", 1)
    assert (second.calls, second.price_usd, second.row_price_usd) == (2, 0.51, None)  # the shared call, at its price
    assert runs_by_dataset(lake) == {"other": ("r2",), "shop": ("r1",)}
    with pytest.raises(NotFound, match="no run r9"):
        compare_runs(lake, ["r1", "r9"])


made_up = st.lists(
    st.tuples(
        st.integers(0, 12), st.integers(0, 6), st.sampled_from(["small", "tiny"]),
        st.sampled_from(["generator", "reviewer"]), st.sampled_from(["r1", "r2", "r3"]),
        st.sampled_from([0.001, 0.25, None, "timeout"]),
    ),
    min_size=1, max_size=25,
)  # fmt: skip


@pytest.fixture(scope="module")
def lake_of_calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    with Lake.open(Home(tmp_path_factory.mktemp("sums"))) as lake:
        for name, dataset in (("r1", "a"), ("r2", "a"), ("r3", "b")):
            lake.save_run(run(name, dataset))
        yield lake


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=made_up)
def test_parts_add_up_to_the_total(lake_of_calls: Lake, drawn: list[Any]) -> None:
    lake = lake_of_calls
    lake.write(lambda connection: connection.execute("DELETE FROM lake.calls"))
    lake.write(lambda connection: connection.execute("DELETE FROM lake.batches"))
    calls = []
    for place, (key, day, model, role, run_id, price) in enumerate(drawn):
        at = AT + day * DAY + timedelta(seconds=place)
        common = {"model": model, "role": role, "run_id": run_id}
        if price == "timeout":
            calls.append(failed_call(f"k{key}", "c", "timeout", at, **common))
        else:
            calls.append(call(f"k{key}", "c", at, price_usd=price, **common))
    lake.commit("r1", "b1", [], calls)
    whole = total(lake)
    parts = [by_model(lake), by_day(lake), by_day(lake, "model"), by_day(lake, "role"), by_day(lake, "dataset"),
             by_dataset(lake)]  # fmt: skip
    halves = [total(lake, until=AT.date() + 2 * DAY), total(lake, since=AT.date() + 3 * DAY)]
    assert whole.calls == len({key for key, *_ in drawn})
    for split in (*parts, halves):
        prices = [one.price_usd for one in split]
        assert sum(one.calls for one in split) == whole.calls
        assert (None in prices) == (whole.price_usd is None)
        if whole.price_usd is not None:
            assert sum(prices) == pytest.approx(whole.price_usd, abs=1e-8)


def test_the_command_shows_tables_and_json(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from graft.cli.app import app

    monkeypatch.setenv("GRAFT_HOME", str(home.root))
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(app, ["models", "--dataset", "shop"])
    assert shown.exit_code == 0, shown.output
    assert "Models and money, all time" in shown.output
    result = ("Usage and price", "Replies", "Writers", "Judges", "unknown", "2 of 3", "adjudicator")
    assert all(words in shown.output for words in result)
    printed = json.loads(CliRunner().invoke(app, ["models", "--run", "r2", "--json"]).stdout)
    assert [(one["model"], one["price_usd"]) for one in printed["models"]] == [("small", 0.51)]
    for words, result in ((["--since", "soon"], "is not a date"), (["--dataset", "none"], "no run of a dataset")):
        refused = CliRunner().invoke(app, ["models", *words])
        assert result in str(refused.exception)
