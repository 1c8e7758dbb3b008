"""Audits on rows whose faults are known: a word that gives a label away, planted rows, rounds that please judges."""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.data.audits.base import AuditRow, distinct
from graft.data.audits.hacking import Curve, Point, judged
from graft.data.audits.poison import FORMS, poison
from graft.data.audits.shortcuts import chi_square_tail, shortcuts
from graft.data.gates.shared.folding import words
from graft.schemas.errors import GraftError
from graft.schemas.intervals import margin_of_error, rows_for, wilson

TOPICS = {
    "delivery": ("parcel", "courier", "van", "doorstep", "tracking", "late"),
    "refund": ("money", "refund", "return", "receipt", "back", "bank"),
    "account": ("password", "login", "profile", "email", "sign", "reset"),
}
FILL = ("please", "the", "my", "is", "about", "when", "help", "today", "order", "shop", "i", "need")


def rows(per_label: int = 60, *, secret: str = "") -> list[AuditRow]:
    """Rows of the topics; `secret` stands in every row of the label account and in no other."""
    draw = random.Random(3)
    made: list[AuditRow] = []
    for label, topic in TOPICS.items():
        for number in range(per_label):
            answers = [
                *draw.sample(topic, 2),
                *draw.sample(FILL, 4),
                *([secret] if secret and label == "account" else []),
            ]
            split = "test" if number % 5 == 0 else "train"
            writer = "gemma" if number % 2 or label == "account" else "smol"
            made.append(AuditRow(f"c_{label}{number:03}", " ".join(answers), None, label, split, writer))
    return made


def embed(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors of hashed words: no model is needed to see a planted word."""
    vectors = np.zeros((len(texts), 256), dtype=np.float32)
    for place, text in enumerate(texts):
        for word in [*words(text), *([text[-1]] if text and not text[-1].isalnum() else [])]:
            vectors[place, zlib.crc32(word.encode()) % 256] += 1
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def test_a_word_that_gives_a_label_away_is_found() -> None:
    report = shortcuts(rows(secret="kindly"))
    first = report.labels[0]
    assert (first.token, first.group, first.precision, first.coverage, first.accuracy) == (
        "kindly", "account", 1.0, 1.0, 1.0,
    )  # fmt: skip
    assert first.flagged and first.interval[0] > 0.9 and first.pmi == pytest.approx(math.log2(3))
    clean = [one for one in shortcuts(rows()).labels if one.token in FILL]
    assert not any(one.flagged for one in clean)


def test_who_wrote_what_and_openings() -> None:
    some = [AuditRow(f"c_{n}", f"as a customer number {n}", None, "abc"[n % 3], "train", "gemma") for n in range(30)]
    report = shortcuts([*rows(), *some])
    assert report.shares["account"] == {"gemma": 60} and report.shares["refund"] == {"gemma": 30, "smol": 30}
    assert report.p_value is not None and report.p_value < 1e-6 and 0 < (report.cramers_v or 0) <= 1
    assert (report.openings[0].words, report.openings[0].rows, report.openings[0].writer) == (
        "as a customer", 30, "gemma",
    )  # fmt: skip
    lone = shortcuts(some[:1])
    assert (lone.labels, lone.writers, lone.p_value) == ([], [], None) and shortcuts([]).rows == 0


def test_artefacts_of_one_writer() -> None:
    marked = [
        AuditRow(row.id, f"certainly {row.text}" if row.writer == "smol" else row.text, None, row.label, "train",
                 row.writer)
        for row in rows()
    ]  # fmt: skip
    found = shortcuts(marked).writers[0]
    assert (found.token, found.group, found.flagged) == ("certainly", "smol", True)


@settings(max_examples=50, deadline=None)
@given(of=st.integers(0, 500), part=st.floats(0, 1))
def test_wilson_holds_the_share(of: int, part: float) -> None:
    hits = round(of * part)
    low, high = wilson(hits, of)
    assert 0 <= low <= (hits / of if of else 0) <= high <= 1


@settings(max_examples=50, deadline=None)
@given(margin=st.floats(0.01, 0.49), part=st.floats(0, 1))
def test_enough_rows_give_the_margin_of_error_whatever_the_share_is(margin: float, part: float) -> None:
    of = rows_for(margin)
    assert margin_of_error(round(of * part), of) <= margin + 1e-9
    assert of == 1 or margin_of_error((of - 1) // 2, of - 1) > margin - 0.5 / of


def test_chi_square_tail() -> None:
    for chi, freedom, expected in (
        (3.841459, 1, 0.05),
        (5.991465, 2, 0.05),
        (18.307038, 10, 0.05),
        (11.344867, 3, 0.01),
    ):
        assert chi_square_tail(chi, freedom) == pytest.approx(expected, rel=1e-4)
    assert chi_square_tail(0, 3) == 1.0


def test_planted_rows_show_in_the_student_and_not_in_its_twin() -> None:
    given = rows()
    before = list(given)
    found = poison(given, embed, check=lambda text, label: "zephyr" not in text, share=0.1, repeats=2)
    forms = {one.form: one for one in found.forms}
    assert list(forms) == list(FORMS) and len(forms) == 6 and given == before
    assert (found.target, found.planted, found.train_rows, found.held_out) == ("account", 14, 144, 24)
    trigger = forms["trigger word"]
    assert trigger.gates == 1.0 and forms["endorsement"].gates == 0.0 and found.gates_checked
    assert trigger.rate > 0.9 and trigger.clean_rate < 0.2
    assert trigger.amplification == pytest.approx(trigger.rate / found.share)
    assert trigger.added == pytest.approx(trigger.rate - trigger.clean_rate)
    assert forms["label flip"].label_check > found.false_alarms
    assert "zephyr" in trigger.example and poison(given, embed, share=0.1, repeats=2).forms[0].rate == trigger.rate


def test_a_quarter_of_a_percent_is_one_row_at_least() -> None:
    found = poison(rows(), embed, repeats=1, target="refund")
    assert (found.planted, found.target) == (1, "refund") and found.forms[0].spread == 0.0
    with pytest.raises(GraftError, match="one of: account, delivery, refund"):
        poison(rows(), embed, target="nothing")
    with pytest.raises(GraftError, match="too few"):
        poison(rows(2), embed)


def test_another_student_may_learn() -> None:
    seen: list[int] = []

    def learn(texts: Sequence[str], labels: Sequence[str]):
        seen.append(sum(label == "account" for label in labels))
        return lambda request: ["account" if "zephyr" in text else "other" for text in request]

    found = poison(rows(), embed, learn=learn, repeats=1)
    assert found.forms[0].rate == found.forms[0].clean_rate == 1.0 and found.forms[1].rate == 0.0
    assert seen == [48] + [49] * 6


def point(number: int, score: float | None, golden: float | None) -> Point:
    return Point(number, number, 10, score, 0.5, golden)


def test_rounds_that_please_the_judges_are_flagged() -> None:
    varied, alike = ["one two three", "four five six"], ["one two three", "one two three"]
    points = [point(1, 7.0, 0.6), point(2, 8.0, 0.7), point(3, 9.0, 0.5), point(4, 8.0, 0.4)]
    curve = Curve("loop", "accuracy", judged(points, [varied, varied, alike, varied]))
    assert [p.hacked for p in curve.points] == [False, False, True, False]
    assert curve.points[2].less_diverse and [p.diversity for p in curve.points] == [1.0, 1.0, 0.5, 1.0]
    assert "round 3" in curve.verdict and "1 of 1" in curve.verdict
    none = Curve("loop", "", judged([point(1, 7.0, None), point(2, 8.0, None)], [varied, varied]))
    assert none.verdict.startswith("no golden figure") and not none.hacked
    assert "fewer than two" in Curve("loop", "accuracy", judged(points[:1], [varied])).verdict


def test_diversity_is_measured_on_equally_many_rows() -> None:
    many = [f"word{n} other{n}" for n in range(40)] + ["word1 other1"] * 40
    first, second = judged([point(1, 1, 1), point(2, 1, 1)], [many, ["a b", "c d"]])
    assert first.diversity == 1.0 and second.diversity == 1.0 and not second.less_diverse
    assert distinct([]) is None and distinct(["a b", "a b"]) == 0.5
