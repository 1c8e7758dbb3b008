"""Human review: the rows in each queue and why, decisions of people, and their agreement with judges."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from graft.cli.review import review
from graft.data.arrow import to_table
from graft.data.edits import apply, decide, edits, rebase, record, undo
from graft.data.lake import Lake
from graft.data.review import (
    QueueRule,
    against_people,
    agreement,
    chosen,
    decisions,
    gates,
    item,
    progress,
    queue,
    standing,
)
from graft.data.versions import held_by, publish, version
from graft.schemas.datasets import DatasetVersion, Edit, EditAction, Recall, Row, Run
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home
from graft.schemas.rows import Candidate, Decision, GateResult, Labelling, Review, Slot
from graft.schemas.sections import HIDDEN

AT = datetime(2026, 11, 25, tzinfo=UTC)
LABELS = ("delivery", "price")
RECIPE = {"task": {"kind": "classification", "labels": [{"name": name} for name in LABELS]}, "method": {"tau": 7.0}}
RUN = Run(id="run1", dataset="shop", recipe=RECIPE, status="finished", started_at=AT, code_version="1")
WORDS = ("parcel", "coat", "lamp", "mug", "desk", "sock", "plate", "chair")
SPREADS = (0.0, 2.1, 0.5, 0.0, 1.2, 0.0, 0.0, 0.0)
MARGINS = (0.9, 0.4, 0.03, 0.6, None, -0.2, None, None)


def judged(mean: float, role: Any = "reviewer", model: str = "minilm", **more: Any) -> Review:
    stage = "adjudication" if role == "adjudicator" else "content"
    return Review(**{"stage": stage, "role": role, "model": model, "mean": mean, "comment": "a comment"} | more)


def made(number: int, ended: Decision, **more: Any) -> Candidate:
    """The candidate of that number; without more its text names an article."""
    label = LABELS[number % 2]
    slot = Slot(id=f"sl_{number}", run_id="run1", shard=0, round=0, index=number, label=label, seed=number)
    facts = {
        "id": f"c_row{number:03}", "slot": slot, "text": f"when does my {WORDS[number % 8]} {number} come?",
        "label": label, "intended_label": label, "decision": ended,
    }  # fmt: skip
    return Candidate(**facts | more)


def kept(number: int) -> Candidate:
    """An accepted row: 0 to 7."""
    route = "adjudicated" if number == 3 else "agreed"
    margin = MARGINS[number]
    labelling = None if margin is None else Labelling(
        by="labeler", candidates=LABELS, label=LABELS[number % 2], relabelled=False, margin=margin,
        second=LABELS[1 - number % 2],
    )  # fmt: skip
    reviews = [judged(9.0), judged(6.0, model="smollm2")]
    if number == 3:
        reviews.append(judged(8.0, "adjudicator", "gemma"))
    ended = Decision(status="accepted", route=route, code=f"accepted.{route}", reason="", spread=SPREADS[number])
    return made(
        number, ended, reviews=tuple(reviews), labelling=labelling, restricted=number == 6,
        gates=(GateResult(gate="length", rule="passed", passed=True),),
        soft_label={"delivery": 0.75, "price": 0.25} if number == 4 else {},
    )  # fmt: skip


def lost(number: int, route: Any = "gate", neighbour: str = "c_row001", **more: Any) -> Candidate:
    """A rejected candidate."""
    hit = GateResult(gate="near_run", rule="near_duplicate", passed=False, score=0.93, neighbour=neighbour)
    code = "gate.near_duplicate" if route == "gate" else f"rejected.{route}"
    ended = Decision(status="rejected", route=route, code=code, reason="", mean=None if route == "gate" else 6.2)
    judge = () if route == "gate" else (judged(6.2, "adjudicator", "gemma"),)
    return made(number, ended, **{"gates": (hit,) if route == "gate" else (), "reviews": judge} | more)


def fill(lake: Lake, *more: Candidate) -> DatasetVersion:
    """Eight rows, one of them a seed's, and four rejected candidates: two by a gate, one each by judges."""
    rejected = (lost(10), lost(11, neighbour="c_row006"), lost(12, "adjudicated"), lost(13, "low_mean"))
    lake.save_run(RUN)
    candidates = [*(kept(n) for n in range(7)), *rejected, *more]
    lake.commit("run1", "b1", candidates, [])
    rows = [
        Row(id=f"c_row{n:03}", text=kept(n).text, label=LABELS[n % 2], split="test" if n == 1 else "train",
            restricted=n == 6, source="seed" if n == 7 else "synthetic")
        for n in range(8)
    ]  # fmt: skip
    return publish(lake, run=RUN, rows=rows, models={"m": "MIT"}, seeds=2, card="# card")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    with Lake.open(Home(tmp_path_factory.mktemp("shop"))) as opened:
        fill(opened)
        yield opened


@pytest.fixture
def shop(shared: Lake) -> Lake:
    """The lake of all tests that publish nothing, without anybody's decisions."""
    shared.sql("DELETE FROM lake.edits")
    return shared


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Lake]:
    with Lake.open(Home(tmp_path)) as opened:
        yield opened


def say(lake: Lake, row: str, action: EditAction = "accept", by: str = "ann", **more: Any) -> Edit:
    edit = decide(lake, version(lake, "shop@1"), row, action, by=by, **more)
    record(lake, [edit])
    return edit


def ids(*numbers: int) -> tuple[str, ...]:
    return tuple(f"c_row{number:03}" for number in numbers)


def test_each_rule_has_its_order_and_reason(shop: Lake) -> None:
    found = version(shop, "shop")
    spread = queue(shop, found, "disagreement", by="ann")
    assert spread.ids == ids(1, 4, 2, 3) and spread.total == 4
    assert [one.why for one in spread.items[::3]] == ["reviewers' spread 2.1", "the adjudicator decided"]
    margin = queue(shop, found, "margin", by="ann")
    assert margin.ids == ids(5, 2, 1, 4, 3, 0)
    assert margin.items[1].why == "margin 0.03 over 'price'" and margin.items[1].score == 0.03
    assert (margin.items[3].score, margin.items[3].second) == (0.5, "price")  # by its soft label
    refused = queue(shop, found, "gate", by="ann", gate="near_run")
    assert set(refused.ids) == set(ids(10, 11)) and gates(shop, found) == [
        ("near_run", 2), ("adjudicator", 1), ("reviewers", 1),
    ]  # fmt: skip
    assert queue(shop, found, "gate", by="ann").total == 4
    judge = queue(shop, found, "gate", by="ann", gate="adjudicator").items[0]
    assert (judge.row_id, judge.why, judge.status) == ("c_row012", "rejected by the adjudicator, mean 6.2", "rejected")
    requested = queue(shop, found, "query", by="ann", where="label = 'price' AND length(text) > 10", size=2)
    assert requested.ids == ids(1, 3) and requested.total == 4 and requested.items[0].split == "test"


def test_a_random_queue_is_the_same_for_everybody(shop: Lake) -> None:
    found = version(shop, "shop")
    first = queue(shop, found, "random", by="ann")
    assert sorted(first.ids) == list(ids(*range(8))) and first == queue(shop, found, "random", by="bob")
    assert first.ids != queue(shop, found, "random", by="ann", seed=1).ids
    assert queue(shop, found, "random", by="ann", size=3).ids == first.ids[:3]
    assert chosen(shop, found, "random", by="ann", size=3) == (first.ids[:3], 8)


def test_an_item_shows_verdicts_and_hides_restricted_words(shop: Lake) -> None:
    found = version(shop, "shop")
    shown = item(shop, found, "c_row010")
    assert shown.why == "rejected by gate near_run (near_duplicate), 0.93 to c_row001" and shown.split is None
    assert shown.neighbour_text == kept(1).text and shown.score == 0.93
    hidden = item(shop, found, "c_row011")
    assert hidden.text == lost(11).text and hidden.neighbour_text == HIDDEN
    assert item(shop, found, "c_row011", restricted=True).neighbour_text == kept(6).text
    secret = item(shop, found, "c_row006")
    assert secret.text == HIDDEN and {answers.comment for answers in secret.reviews} == {HIDDEN}
    assert item(shop, found, "c_row006", restricted=True).text == kept(6).text
    answers = item(shop, found, "c_row003").reviews
    assert [(one.role, one.model, one.mean) for one in answers][2:] == [("adjudicator", "gemma", 8.0)]
    for name in ("c_row", "c_nobody"):
        with pytest.raises(NotFound, match=name):
            item(shop, found, name)


def test_what_is_decided_leaves_the_queue_and_comes_back_when_undone(shop: Lake) -> None:
    found = version(shop, "shop")
    taken = say(shop, "c_row001", "reject")
    say(shop, "c_row004", "skip")
    say(shop, "c_row002", "note", note="hm")
    assert queue(shop, found, "disagreement", by="ann").ids == ids(2, 3, 4)  # what she skipped comes last
    assert queue(shop, found, "disagreement", by="bob").ids == ids(4, 2, 3)
    blind = queue(shop, found, "random", by="bob", blind=True)
    assert blind.ids == ids(1) and queue(shop, found, "random", by="ann", blind=True).total == 0
    undo(shop, taken.id, by="ann")
    assert queue(shop, found, "disagreement", by="ann").ids == ids(1, 2, 3, 4)
    assert queue(shop, found, "random", by="bob", blind=True).total == 0


def test_an_undo_is_the_persons_own_and_final(shop: Lake) -> None:
    edit = say(shop, "c_row001", "relabel", label="delivery", queue="disagreement", seconds=3.5, blind=True)
    assert (edit.queue, edit.seconds, edit.blind) == ("disagreement", 3.5, True)
    with pytest.raises(GraftError, match="ann's, not bob's"):
        undo(shop, edit.id, by="bob")
    made_by = undo(shop, edit.id, by="bob", force=True)
    assert made_by.at > edit.at and edits(shop, "shop")[-1] == made_by
    for name, match in ((edit.id, "bob has already undone it"), (made_by.id, "an undo cannot be undone")):
        with pytest.raises(GraftError, match=match):
            undo(shop, name, by="ann")
    with pytest.raises(NotFound, match="no edit 'e_none'"):
        undo(shop, "e_none", by="ann")
    with pytest.raises(GraftError, match="refers to an edit"):
        decide(shop, version(shop, "shop"), "c_row001", "undo", by="ann")
    assert not rebase(shop, version(shop, "shop"), dry_run=True).changes


@pytest.mark.parametrize(
    ("rule", "more", "match"),
    [
        ("query", {}, "needs a condition"),
        ("query", {"where": "text = (SELECT 1)"}, "subquery is not allowed"),
        ("query", {"where": "nothing > 1"}, "no column 'nothing'"),
        ("query", {"where": "text AND true"}, "fails on some row"),
        ("query", {"where": "text || text = ''"}, "is not allowed"),
        ("severity", {}, "no queue 'severity'"),
    ],
)
def test_an_impossible_queue_is_an_error_with_its_reason(
    shop: Lake, rule: Any, more: dict[str, str], match: str
) -> None:
    with pytest.raises(GraftError, match=match) as caught:
        queue(shop, version(shop, "shop"), rule, by="ann", **more)
    assert kept(6).text not in str(caught.value)


@pytest.mark.parametrize(
    "where",
    ["contains(text, '6')", "NOT contains(text, 'cheap')", "text LIKE '%6%' OR length(text) <> 1", "md5(text) > ''",
     "text IS NOT NULL", "coalesce(text, 'x') <> 'x'", "CASE WHEN text > '' THEN true ELSE false END"],
)  # fmt: skip
def test_a_condition_sees_no_words_of_a_restricted_row(shop: Lake, where: str) -> None:
    found, hidden = version(shop, "shop"), f"({where}) AND restricted"
    assert "6" in kept(6).text and queue(shop, found, "query", by="ann", where="restricted").ids == ids(6)
    assert queue(shop, found, "query", by="ann", where=hidden).ids == ()
    assert queue(shop, found, "query", by="ann", where=hidden, restricted=True).ids == ids(6)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["accept", "reject", "skip", "note", "undo"]), st.sampled_from(["ann", "bob"]),
        st.sampled_from([*range(4), 10, 12]),
    ),
    max_size=10,
)  # fmt: skip


@given(steps=STEPS, blind=st.booleans())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_queue_returns_a_row_that_the_person_decided(shop: Lake, steps: list[Any], blind: bool) -> None:
    shop.sql("DELETE FROM lake.edits")
    found, some = version(shop, "shop"), list[Edit]()
    for place, (action, by, number) in enumerate(steps):
        before = [one for one in some if one.by == by and one.action != "undo"]
        undone = {one.undoes for one in some}
        target = next((one for one in reversed(before) if one.id not in undone), None) if action == "undo" else None
        if action != "undo" or target:
            name = target.row_id if target else f"c_row{number:03}"
            some.append(
                Edit(id=f"e{place}", dataset="shop", version=1, row_id=name, action=action, base_text="", base_label="",
                     note="n", by=by, at=AT + timedelta(seconds=place), undoes=target.id if target else "")
            )  # fmt: skip
    record(shop, some)
    undone = {one.undoes for one in some}
    stand = [one for one in some if one.id not in undone and one.action in ("accept", "reject")]
    mine, others = ({one.row_id for one in stand if (one.by == "ann") == own} for own in (True, False))
    for rule in get_args(QueueRule):
        where = "true" if rule == "query" else ""
        requested = set(queue(shop, found, rule, by="ann", blind=blind, where=where).ids)
        assert not requested & mine and (requested <= others if blind else not requested & others)


def test_an_accepted_candidate_that_a_run_rejected_becomes_a_row(own: Lake) -> None:
    first = fill(own, lost(14, neighbour="s_seed"), lost(15, text=kept(2).text.upper()), lost(16))
    say(own, "c_row010")
    say(own, "c_row014", "accept", label="price", text="how much is my plate?")
    say(own, "c_row015")
    say(own, "c_row016", "reject")
    say(own, "c_row012", "relabel", label="price")  # without an accept it stays out
    say(own, "c_row013", by="bob")
    undo(own, say(own, "c_row013", "reject").id, by="ann")
    say(own, "c_row011")
    gone = Recall(id="rc", dataset="shop", kind="row", value="c_row011", reason="wrong", rows=0, by="ann", at=AT)
    own.write(lambda _: own.insert("recalls", to_table(Recall, [gone])))
    planned = rebase(own, first, dry_run=True)
    assert planned.rescued == ids(10, 13, 14) and planned.rejected == () and planned.absent == ids(11, 12)
    assert [(one.edit.row_id, one.repeats) for one in planned.conflicts] == [("c_row015", "c_row002")]
    assert rebase(own, first, dry_run=True, force=True).rescued == planned.rescued
    second = apply(own, first)
    rows = {row.id: (row, *rest) for row, *rest in held_by(own, second)}
    assert len(rows) == 11 and "3 rescued" in second.note
    assert rows["c_row010"][0].split == "test" and rows["c_row010"][1:] == ("run1", "c_row010")  # as its neighbour
    given = rows["c_row014"][0]
    assert (given.text, given.label, given.split) == ("how much is my plate?", "price", "train")
    assert own.sql("SELECT * FROM lake.drops").num_rows == 0
    assert apply(own, second) == second and apply(own, first) == second
    assert "c_row010" not in queue(own, second, "gate", by="eve").ids
    say(own, "c_row010", "reject")
    assert rebase(own, second, dry_run=True).rejected == ids(10)
    assert rebase(own, first, dry_run=True).rescued == ids(13, 14)


def test_a_candidate_without_words_needs_some(own: Lake) -> None:
    fill(own, lost(14, text=""), lost(15, label=""))
    for name, missing in (("c_row014", "a text"), ("c_row015", "a label")):
        with pytest.raises(GraftError, match=missing):
            say(own, name)
    say(own, "c_row014", text="where is my desk?")
    assert rebase(own, version(own, "shop"), dry_run=True).rescued == ids(14)
    assert queue(own, version(own, "shop"), "gate", by="bob").total == 5  # nobody can judge an empty text


def test_of_one_message_several_responses_are_rows(own: Lake) -> None:
    """HarmAug's variants share their text: another response to it is no repeat, and goes where the message is."""
    more = {"text": kept(1).text, "neighbour": ""}
    fill(own, lost(14, response="I can't say.", **more), lost(15, response="i can't say", **more))
    own.save_run(RUN.model_copy(update={"recipe": {**RECIPE, "method": {"kind": "harmaug"}}}))
    say(own, "c_row014")
    say(own, "c_row015")
    planned = rebase(own, version(own, "shop"))
    assert planned.rescued == ids(14) and [one.repeats for one in planned.conflicts] == ["c_row014"]
    assert {row.id: row.split for row, *_ in held_by(own, version(own, "shop"))}["c_row014"] == "test"


def test_people_agree_as_far_as_the_figures_say(shop: Lake) -> None:
    for number in range(6):
        say(shop, f"c_row{number:03}", "reject" if number == 0 else "accept")
    say(shop, "c_row005", "reject")  # her first word counts
    for number in range(6):
        label = {"label": "price"} if number == 4 else {}
        action: EditAction = "relabel" if label else "accept"
        say(shop, f"c_row{number:03}", action, by="bob", blind=number != 1, **label)
    say(shop, "c_row010", by="bob")
    result = agreement(shop, "shop")
    assert (result.rows, result.people, result.blind) == (6, ("ann", "bob"), 5) and result.equal == pytest.approx(
        4 / 6, abs=1e-6
    )
    assert {one.row_id: one.said for one in result.differ} == {
        "c_row000": {"ann": "reject", "bob": "delivery"}, "c_row004": {"ann": "delivery", "bob": "price"},
    }  # fmt: skip
    pair = result.pairs[0]  # ann: reject, 3 price, 2 delivery; bob: 4 price, 2 delivery
    assert (pair.rows, pair.equal) == (6, 4) and pair.kappa == pytest.approx(
        (4 / 6 - 16 / 36) / (1 - 16 / 36), abs=1e-6
    )
    assert result.alpha is not None and 0.3 < result.alpha < 0.6 and result.missing == ""
    assert agreement(shop, "nothing").equal is None and agreement(shop, "nothing").missing


def test_judges_are_measured_against_people(shop: Lake) -> None:
    say(shop, "c_row003")
    say(shop, "c_row012")  # the adjudicator was wrong
    say(shop, "c_row000", "reject")
    say(shop, "c_row001", "relabel", label="delivery")
    say(shop, "c_row002", "edit", text="when does the lamp come?")
    say(shop, "c_row010", "reject")
    undo(shop, say(shop, "c_row013").id, by="ann")
    say(shop, "c_row007")  # a seed: no judge saw it
    result = against_people(shop, "shop")
    by = {(one.kind, one.name): one for one in result.judges}
    adjudicator = by["adjudicator", "gemma"]
    assert (adjudicator.rows, adjudicator.agreed, adjudicator.false_rejects) == (2, 1, 1)
    assert adjudicator.share == 0.5 and adjudicator.interval == pytest.approx((0.0945, 0.9055), abs=1e-3)
    easy, hard = by["reviewer", "minilm"], by["reviewer", "smollm2"]  # tau is 7: 9.0 passes, 6.0 does not
    assert (easy.rows, easy.accepted, easy.agreed, easy.false_accepts) == (4, 4, 2, 2)
    assert (hard.rows, hard.accepted, hard.agreed, hard.false_rejects) == (4, 0, 2, 2)
    assert (by["gate", "near_run"].rows, by["gate", "near_run"].agreed) == (1, 1)
    final = by["decision", "all"]
    assert (result.rows, final.rows, final.agreed, final.false_accepts, final.false_rejects) == (6, 6, 3, 2, 1)
    assert by["decision", "adjudicated"].rows == 2
    assert against_people(shop, "nothing").judges == ()


def test_a_labeler_agrees_where_it_named_the_label_that_stands(own: Lake) -> None:
    answers = [Review(stage="label", role="labeler", model="m", answer=name) for name in LABELS]
    ended = Decision(status="accepted", route="labelled", code="accepted.labelled", reason="")
    fill(own, *(made(20 + place, ended, label="price", reviews=(one,)) for place, one in enumerate(answers)))
    rows = [Row(id=name, text=f"text {name}", label="price", split="train") for name in ids(20, 21)]
    found = publish(own, run=RUN, rows=rows, models={}, seeds=0, card="#")
    for name in ids(20, 21):
        record(own, [decide(own, found, name, "accept", by="ann")])
    labeler = next(one for one in against_people(own, "shop").judges if one.kind == "labeler")
    assert (labeler.rows, labeler.accepted, labeler.agreed, labeler.false_rejects) == (2, 1, 1, 1)


def test_progress_and_the_list_of_decisions(shop: Lake) -> None:
    found = version(shop, "shop")
    say(shop, "c_row000", "relabel", label="price", seconds=2.0)
    say(shop, "c_row001", seconds=4.0)
    say(shop, "c_row006", "reject", by="bob", note="private words")
    say(shop, "c_row012", by="bob")
    say(shop, "c_row002", "skip")
    say(shop, "c_row001", "skip", by="bob")
    undo(shop, say(shop, "c_row003", "reject").id, by="ann")
    far = progress(shop, found)
    assert (far.rows, far.decided, far.outside, far.skipped, far.waiting) == (8, 3, 1, 1, 3)
    assert [(one.by, one.decided, one.skipped, one.seconds) for one in far.people] == [
        ("ann", 2, 1, 3.0), ("bob", 2, 1, None),
    ]  # fmt: skip
    listed = decisions(shop, found)
    assert [(one.edit.row_id, one.held) for one in listed] == [
        ("c_row012", "rejected"), ("c_row006", "accepted"), ("c_row001", "accepted"), ("c_row000", "accepted"),
    ]  # fmt: skip
    assert listed[1].edit.note == HIDDEN == listed[1].edit.base_text
    assert decisions(shop, found, restricted=True)[1].edit.note == "private words"
    assert standing(shop, found, "c_row006")[0].note == HIDDEN
    assert [one.action for one in standing(shop, found, "c_row006", restricted=True)] == ["reject"]
    assert standing(shop, found, "c_row003") == []


def test_two_people_on_the_same_rows_lose_nothing(own: Lake) -> None:
    fill(own)
    wrong: list[Exception] = []

    def work(by: str, action: EditAction) -> None:
        try:
            with Lake.open(own.home) as lake:
                for name in ids(*range(6)):
                    say(lake, name, action, by=by)
        except Exception as error:
            wrong.append(error)

    people = [threading.Thread(target=work, args=each) for each in (("ann", "accept"), ("bob", "reject"))]
    for one in people:
        one.start()
    for one in people:
        one.join()
    assert wrong == [] and len(edits(own, "shop")) == 12
    newest = {one.row_id: one for one in edits(own, "shop")}
    assert set(rebase(own, version(own, "shop"), dry_run=True).rejected) == {
        name for name, one in newest.items() if one.action == "reject"
    }
    target = next(one for one in edits(own, "shop") if one.by == "ann")
    done: list[str] = []

    def take_back() -> None:
        try:
            done.append(undo(own, target.id, by="ann").id)
        except GraftError as error:
            done.append(error.what)

    people = [threading.Thread(target=take_back) for _ in range(2)]
    for one in people:
        one.start()
    for one in people:
        one.join()
    assert sorted(done)[0] == "ann has already undone it" and len(edits(own, "shop")) == 13


def test_review_on_the_command_line(shop: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(shop.home.root))
    app = typer.Typer()
    app.command()(review)

    def call(*args: str) -> str:
        given = CliRunner().invoke(app, ["shop", "--by", "ann", *args], env={"COLUMNS": "200"})
        if given.exception is not None and not isinstance(given.exception, SystemExit):
            raise given.exception
        return given.output

    shown = call("--rule", "random")
    assert "drawn at random" in shown and kept(6).text not in shown and "graft dashboard, page Review" in shown
    assert kept(6).text in call("--rule", "random", "--restricted")
    with pytest.raises(GraftError, match="no queue"):
        call("--rule", "all")
    for by in ("ann", "bob"):
        say(shop, "c_row003", "reject" if by == "ann" else "accept", by=by)
    report = json.loads(call("--rule", "gate", "--json"))
    assert report["queue"]["total"] == 4 and report["progress"]["decided"] == 1 and report["gates"]["near_run"] == 2
    shown = call("--agreement")
    assert "ann: reject, bob: price" in shown and "adjudicator" in shown and "false accepts" in shown
