"""The figures of a PromptMix or HarmAug run, against numbers counted by hand, on a real lake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graft.agents.methods import report_of
from graft.agents.methods.harmaug import KIND as HARMAUG
from graft.agents.methods.harmaug import Side, Variant
from graft.agents.methods.steps.mixing import mixing_report
from graft.data.card import render_card
from graft.data.lake import Lake
from graft.schemas.base import utc_now
from graft.schemas.datasets import Run
from graft.schemas.home import Home
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Decision, Labelling, Slot

DONE = Decision(status="accepted", route="labelled", code="accepted.labelled", reason="labelled")
RUN = Run(
    id="r", dataset="d", recipe={}, status="finished", started_at=utc_now(), code_version="1",
    counts={"opened": 9, "asked_prefilled": 20, "refused_prefilled": 1, "asked_plain": 20, "refused_plain": 15},
)  # fmt: skip


def run_of(kind: str) -> Run:
    """The run with that method."""
    return RUN.model_copy(update={"recipe": {"method": {"kind": kind}}})


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    with Lake.open(Home.find()) as opened:
        opened.save_run(RUN)
        yield opened


def mixed(index: int, alpha: float, label: str | None, second: str = "", margin: float = 0.5) -> Candidate:
    """A text of class a, mixed with b; `label` None: it never came to a labeler."""
    slot = Slot(
        id=f"s{index}", run_id="r", shard=0, round=0, index=index, label="a", seed=1,
        payload={"partner": "b", "alpha": alpha, "classes": ["a", "b", "c"]},
    )  # fmt: skip
    labelling = None if label is None else Labelling(
        by="labeler", candidates=("a", "b", "c"), label=label, relabelled=label not in ("", "a"), margin=margin,
        second=second,
    )  # fmt: skip
    return Candidate(
        id=f"c{index}", slot=slot, text="t", label=label or "a", intended_label="a", decision=DONE, labelling=labelling
    )  # fmt: skip


def test_agreement_relabelling_and_closeness_are_counted(lake: Lake) -> None:
    lake.commit("r", "b", [
        mixed(0, 0.75, "a", "b", 0.1), mixed(1, 0.75, "b", "a", 0.19), mixed(2, 0.75, "c", "a", 0.05),
        mixed(3, 0.75, ""), mixed(4, 0.9, "a", "c", 0.6), mixed(5, 0.9, None),
    ], [])  # fmt: skip
    report = mixing_report(lake.query, "r", {})
    assert report is not None
    by_alpha, by_pair = report.tables
    *alphas, one = by_alpha.rows
    counts = ("judged", "labelled", "agreed", "to_partner", "to_others")
    assert [one[name] for name in counts] == [5, 4, 2, 1, 1]
    assert (one["agreement"], one["relabel_rate"]) == (0.5, 0.5)
    assert (one["near"], one["near_pair"]) == (3, 2), "margin under 0.2; and between a and b"
    assert [(row["name"], row["judged"], row["agreement"]) for row in alphas] == [("0.75", 4, 1 / 3), ("0.90", 1, 1.0)]
    assert [(row["name"], row["judged"]) for row in by_pair.rows] == [("a + b", 5), ("all", 5)]
    assert report.as_data()["tables"]["by_alpha"][-1]["relabel_rate"] == 0.5
    assert "4 of 5 texts got a label; 50% kept the intended one" in report.text
    shown = [column.text(by_alpha.rows[0]) for column in by_alpha.columns]
    assert shown == ["0.75", "4", "33.3%", "33.3%", "33.3%", "25.0%", "100.0%"]


def paired(index: int, name: str, partner: str, alpha: float) -> Candidate:
    """A text of one class, mixed with another, that keeps its class."""
    slot = mixed(index, alpha, "").slot.model_copy(
        update={"label": name, "payload": {"partner": partner, "alpha": alpha, "classes": []}}
    )
    return mixed(index, alpha, name, partner).model_copy(update={"slot": slot})


def test_shares_are_rounded_pairs_with_like_names_stay_apart_and_failures_do_not_count(lake: Lake) -> None:
    failed = Decision(status="failed", route="failed", code="failed.malformed", reason="no judge answered")
    lake.commit("r", "b", [
        paired(0, "a + b", "c", 0.63), paired(1, "a", "b + c", 0.66), paired(2, "a", "b + c", 0.83),
        mixed(3, 0.65, "").model_copy(update={"decision": failed}),
    ], [])  # fmt: skip
    report = mixing_report(lake.query, "r", {})
    assert report is not None
    (*alphas, whole), (*pairs, _) = (table.rows for table in report.tables)
    assert whole["judged"] == 3 and whole["no_label_rate"] == 0
    assert [(one["name"], one["judged"]) for one in alphas] == [("0.65", 2), ("0.85", 1)]
    assert [(one["seed_class"], one["partner"], one["judged"]) for one in pairs] == [
        ("a", "b + c", 2),
        ("a + b", "c", 1),
    ]
    assert pairs[0]["agreement"] == 1.0


def test_a_run_whose_every_message_was_refused(lake: Lake) -> None:
    code = "rejected.refusal"
    alone = [aimed(i, "", "harmful", "empty", "harmful", 0.0, code) for i in range(2)]
    lake.commit("r", "b", alone, [])
    report = HARMAUG.report(lake.query, "r", {"asked_plain": 4, "refused_plain": 3})
    assert report is not None
    assert report.text == "2 of 2 messages were refused. Replies that were not refusals: 25% without the prefix."
    assert [table.title for table in report.tables] == ["Replies without a refusal"]
    assert report.as_data()["tables"]["refusals"][0]["here"] == 0.25


def aimed(index: int, group: str, side: Side, variant: Variant, label: str, score: float, code: str = "") -> Candidate:
    """A message of a guard's run; `code` where it was not accepted."""
    slot = Slot(
        id=f"s{index}", run_id="r", shard=0, round=0, index=index, label="harmful", seed=1, group=group,
        payload={"side": side, "variant": variant},
    )  # fmt: skip
    ended = Decision(status="rejected", route="refusal", code=code, reason="") if code else DONE
    return Candidate(
        id=f"c{index}", slot=slot, text="t", label=label, intended_label="harmful", decision=ended,
        notes={"prefilled": True},
        soft_label={"harmful": score, "safe": 1 - score},
    )  # fmt: skip


def test_labels_by_side_and_variant_and_refusals_by_message(lake: Lake) -> None:
    lake.commit("r", "b", [
        aimed(0, "g0", "harmful", "empty", "harmful", 0.9), aimed(1, "g0", "harmful", "refusal", "safe", 0.3),
        aimed(2, "g1", "harmful", "empty", "safe", 0.5), aimed(3, "g2", "borderline", "empty", "safe", 0.2),
        aimed(4, "g3", "harmful", "empty", "harmful", 0.0, "rejected.refusal"),
        aimed(5, "g3", "harmful", "refusal", "harmful", 0.0, "rejected.refusal"),
    ], [])  # fmt: skip
    report = HARMAUG.report(lake.query, "r", RUN.counts)
    assert report is not None and report == report_of(run_of("harmaug"), lake.query)
    scored, refusals = report.tables
    names = ("side", "variant", "rows", "harmful", "mean_score")
    got = [tuple(row[name] for name in names) for row in scored.rows]
    assert got == [
        ("harmful", "empty", 2, 1, 0.7), ("harmful", "refusal", 1, 0, 0.3), ("borderline", "empty", 1, 0, 0.2),
    ]  # fmt: skip
    assert "1 of 4 messages were refused" in report.text
    assert [[column.text(row) for column in refusals.columns] for row in refusals.rows] == [
        ["with the prefix", "20", "95.0%", "96.81%"], ["without", "20", "25.0%", "13.02%"],
    ]  # fmt: skip


def test_the_card_holds_the_figures_and_makes_names_inert(lake: Lake) -> None:
    one = mixed(0, 0.75, "a", "b", 0.1)
    payload = {"partner": "`x`", "alpha": 0.75, "classes": []}
    slot = one.slot.model_copy(update={"label": "<b>|a", "payload": payload})
    lake.commit("r", "b", [one.model_copy(update={"slot": slot})], [])
    recipe = Recipe.model_validate({
        "name": "d", "task": {"kind": "classification", "labels": [{"name": "a"}, {"name": "b"}]},
        "seeds": {"rows": [{"text": "hello there", "label": "a"}]},
    })  # fmt: skip
    known: dict[str, Any] = {"recipe": recipe, "rows": [], "seeds": 1, "reasons": [], "generators": (), "roles": ()}
    card = render_card(run=RUN, **known, method=report_of(run_of("promptmix"), lake.query))
    assert "Mixing and relabelling" in card and "&lt;b&gt;\\|a" in card and "\\`x\\`" in card
    assert report_of(run_of("gra"), lake.query) is None and report_of(run_of("gone"), lake.query) is None
    without = render_card(run=RUN, **known, method=mixing_report(lake.query, "other", {}))
    assert "mixed" not in without and "labelled" not in without
