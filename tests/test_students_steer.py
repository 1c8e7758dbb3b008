"""Steering of a loop: policies weigh, one controller counts, and each round's steering follows from its evidence."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.schemas.kinds import POLICIES
from graft.schemas.steering import ImproveSettings
from graft.students.steer import (
    AnsweredRow,
    Evidence,
    SteeringRow,
    decide,
    domain_gap,
    easy_to_hard,
    hard_negatives,
    rows_of,
    shares_of,
    steered_kind,
    tapir,
    weakness,
)

LABELS = ("delivery", "refund", "account")


def judged(
    text: str, label: str, predicted: str, sure: float = 0.8, teacher: dict[str, float] | None = None
) -> SteeringRow:
    rest = (1 - sure) / (len(LABELS) - 1)
    return SteeringRow(text, label, {name: sure if name == predicted else rest for name in LABELS}, teacher)


def evidence(rows: Sequence[SteeringRow], **more: Any) -> Evidence:
    async def name(label: str, texts: Sequence[str]) -> tuple[str, ...]:
        return (f"what {len(texts)} {label} texts share",)

    given: dict[str, Any] = {"round": 1, "rounds": 4, "labels": LABELS, "rows": rows, "pool": (), "name": name}
    return Evidence(**{**given, **more})


@given(
    st.lists(st.dictionaries(st.sampled_from(LABELS), st.floats(0, 1e6), max_size=3), max_size=4),
    st.floats(0, 1),
    st.integers(0, 500),
)
def test_counts_add_up_and_no_label_falls_under_its_floor(
    wishes: list[dict[str, float]], least: float, rows: int
) -> None:
    shares = shares_of(wishes, LABELS, least)
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) >= least / len(LABELS) - 1e-9
    counts = rows_of(shares, rows)
    assert sum(counts.values()) == rows
    assert all(abs(counts[label] - share * rows) < 1 for label, share in shares.items())


def test_the_surest_mistakes_are_shown_and_confusions_become_partners() -> None:
    rows = [judged(f"d{n}", "delivery", "refund", 0.7 + n / 20) for n in range(6)]
    rows += [judged("d", "delivery", "delivery"), judged("r", "refund", "refund"), judged("a", "account", "account")]
    wish = asyncio.run(hard_negatives.wish(evidence(rows)))
    assert wish.exemplars == (), "the rows that steer are shown only if a file holds them"
    wish = asyncio.run(hard_negatives.wish(evidence(rows, mined=rows)))
    assert [row.text for row in wish.exemplars] == ["d5", "d4", "d3"], "surer than the median right row: above 0.8"
    assert {(row.label, row.taken_for) for row in wish.exemplars} == {("delivery", "refund")}
    assert wish.partners == {"delivery": ("refund",), "refund": ("delivery",)}
    assert wish.weights == {"delivery": pytest.approx(1 + 6 / 7), "refund": 1, "account": 1}


def test_weakness_names_what_failed_again_and_became_no_more_probable() -> None:
    again, once = judged("late", "delivery", "refund"), judged("lost", "account", "refund")
    wish = asyncio.run(weakness.wish(evidence([], mined=[again, once], failed=[[again]])))
    assert wish.concepts == {"delivery": ("what 1 delivery texts share",)} and wish.medium
    assert wish.weights == {"delivery": 1, "refund": 0, "account": 0}
    first = asyncio.run(weakness.wish(evidence([], mined=[again, once])))
    assert set(first.concepts) == {"delivery", "account"}
    worse = judged("late", "delivery", "refund", 0.95)
    rising = asyncio.run(weakness.wish(evidence([], mined=[again, once], failed=[[worse, once]])))
    assert set(rising.concepts) == {"account"}, "the student is learning the other row"
    none = asyncio.run(weakness.wish(evidence([], mined=[judged("ok", "refund", "refund")])))
    assert not none.concepts and not none.weights and not none.medium


WORDS = ("vans", "snow", "keys", "locks", "bills")


@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4), min_size=1, max_size=6), st.integers())
def test_a_set_of_concepts_is_two_or_three_that_were_named(named: list[list[str]], seed: int) -> None:
    names = sorted({name for one in named for name in one})
    found = weakness.concept_set(named, names, np.zeros((len(names), 1)), random.Random(seed))
    assert len(set(found)) == len(found) and set(found) <= set(names)
    assert min(2, len(names)) <= len(found) <= 3


def test_concepts_that_stand_together_or_are_close_go_together() -> None:
    named = [["vans", "snow"], ["vans", "snow"], ["keys", "locks"], ["bills"]]
    names = sorted(WORDS)
    apart = np.eye(len(names))

    def pairs(vectors: Any) -> Counter[tuple[str, ...]]:
        sets = (weakness.concept_set(named, names, vectors, random.Random(seed)) for seed in range(400))
        return Counter(one for one in sets if len(one) == 2)

    together = pairs(apart)
    assert together["snow", "vans"] > 10 * together["keys", "vans"], "two rows name both"
    close = apart.copy()
    close[names.index("bills")] = close[names.index("keys")]
    assert pairs(close)["bills", "keys"] > 5 * max(1, together["bills", "keys"])


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6))
def test_chances_are_a_softmax(fits: list[float]) -> None:
    found = weakness.chances(fits)
    assert sum(found) == pytest.approx(1)
    assert [found[a] >= found[b] for a in range(len(fits)) for b in range(len(fits)) if fits[a] >= fits[b]].count(
        False
    ) == 0


def test_concepts_are_said_in_words() -> None:
    assert [weakness.in_words(WORDS[:n]) for n in (1, 2, 3)] == ["vans", "vans and snow", "vans, snow and keys"]


SHARES = st.lists(st.floats(1e-3, 1), min_size=3, max_size=3).map(
    lambda given: {label: share / sum(given) for label, share in zip(LABELS, given, strict=True)}
)
GAPS = st.fixed_dictionaries({label: st.floats(1 / 20, 20) for label in LABELS})


@given(SHARES, GAPS)
def test_a_label_moves_by_its_old_share_times_the_exponent_of_its_gap(
    before: dict[str, float], gaps: dict[str, float]
) -> None:
    after = domain_gap.moved(before, gaps)
    whole = sum(before[label] * math.exp(gaps[label]) for label in LABELS)
    for label in LABELS:
        assert after[label] == pytest.approx(0.5 * before[label] * math.exp(gaps[label]) / whole + 0.5 / 3)
    assert sum(after.values()) == pytest.approx(1) and min(after.values()) >= 0.5 / 3


@given(SHARES, st.floats(1 / 20, 20))
def test_equal_gaps_move_the_mix_halfway_to_even(before: dict[str, float], gap: float) -> None:
    after = domain_gap.moved(before, dict.fromkeys(LABELS, gap))
    assert after == pytest.approx({label: (share + 1 / 3) / 2 for label, share in before.items()})


@given(GAPS)
def test_the_first_mix_is_the_exponents_alone(gaps: dict[str, float]) -> None:
    first = domain_gap.moved({}, gaps)
    assert first == pytest.approx(
        {label: math.exp(gap) / sum(map(math.exp, gaps.values())) for label, gap in gaps.items()}
    )


@given(st.lists(st.floats(0, 50), min_size=1))
def test_a_perplexity_is_capped(losses: list[float]) -> None:
    assert 1 <= domain_gap.perplexity(losses) <= 20.0001


def test_the_mix_follows_the_gap_to_the_teacher() -> None:
    sure = {"delivery": 1.0, "refund": 0.0, "account": 0.0}
    behind, level = judged("x", "delivery", "refund", 0.9, sure), judged("y", "account", "account", 0.9)
    wish = asyncio.run(domain_gap.wish(evidence([behind, level])))
    assert (
        wish.weights["delivery"] > wish.weights["account"]
        and "rows without a teacher, which counts as certain: 1" in wish.summary
    )
    before = {"delivery": 0.01, "refund": 0.01, "account": 0.98}
    moved = asyncio.run(domain_gap.wish(evidence([behind, level], weights=before)))
    assert moved.weights["delivery"] > wish.weights["delivery"] / 2, "the product with the last share, halved to even"
    unsure = judged("x", "delivery", "refund", 0.9, {"delivery": 0.05, "refund": 0.95, "account": 0.0})
    assert asyncio.run(domain_gap.wish(evidence([unsure, level]))).weights["delivery"] < wish.weights["delivery"]


def test_labelers_judge_the_rows_that_have_no_teacher() -> None:
    asked = list[str]()

    async def teach(texts: Sequence[str]) -> list[dict[str, float] | None]:
        asked.extend(texts)
        return [{"delivery": 0.05, "refund": 0.95, "account": 0.0} for _ in texts]

    known, unknown = judged("y", "account", "account", 0.9, {"account": 1.0}), judged("x", "delivery", "refund", 0.9)
    taught = asyncio.run(domain_gap.wish(evidence([known, unknown], teach=teach)))
    assert asked == ["x"]
    certain = asyncio.run(domain_gap.wish(evidence([known, unknown])))
    assert taught.weights["delivery"] < certain.weights["delivery"], "the teacher is no better on it than the student"
    many = [judged(f"d{n}", "delivery", "refund") for n in range(domain_gap.ASKED + 5)]
    asked.clear()
    asyncio.run(domain_gap.wish(evidence(many, teach=teach)))
    assert len(asked) == domain_gap.ASKED


def test_each_policy_gets_its_own_weights_of_the_round_before() -> None:
    rows = [judged("late", "delivery", "refund", 0.9), judged("ok", "account", "account")]
    settings = ImproveSettings(policies=("hard_negatives", "domain_gap"), least_share=0.5)
    first = asyncio.run(decide(evidence(rows), settings, rows=30, after=3))
    second = asyncio.run(decide(evidence(rows), settings, rows=30, after=4, before=first.weights))
    gaps = asyncio.run(domain_gap.wish(evidence(rows))).weights
    assert first.weights["domain_gap"] == gaps and first.weights["hard_negatives"] != gaps
    expected = asyncio.run(domain_gap.wish(evidence(rows, weights=gaps))).weights
    assert second.weights["domain_gap"] == expected


def test_the_report_has_the_weakest_labels_first_with_their_top_confusion() -> None:
    rows = [judged(f"r{n}", "refund", "delivery" if n < 3 else "refund") for n in range(4)]
    rows += [judged("d", "delivery", "delivery"), judged("a", "account", "account")]
    report = hard_negatives.report_of(rows, LABELS)
    assert [one.label for one in report] == ["delivery", "refund", "account"]
    assert [(one.taken_for, one.support) for one in report] == [("", 1), ("delivery", 4), ("", 1)]
    assert report[1].recall == 0.25 and report[1].precision == 1 and report[0].precision == 0.25
    assert hard_negatives.report_of([], LABELS) == ()


def test_easy_to_hard_shows_harder_rows_every_round_and_balances_labels() -> None:
    pool = [judged(f"{label}{n}", label, label, 0.34 + n / 20) for label in LABELS for n in range(12)]
    hardness = []
    for number in (1, 2, 4):
        wish = asyncio.run(easy_to_hard.wish(evidence([], pool=pool, round=number)))
        assert {label: sum(row.label == label for row in wish.exemplars) for label in LABELS} == dict.fromkeys(
            LABELS, 4
        )
        by_text = {row.text: row for row in pool}
        hardness.append(sum(easy_to_hard.difficulty(by_text[row.text]) for row in wish.exemplars))
    assert hardness == sorted(hardness) and hardness[0] < hardness[-1]


def answered(text: str, label: str, behind: float) -> AnsweredRow:
    return AnsweredRow(text, label, {}, None, f"answer to {text}", 8, 8 - behind)


def test_an_instruction_is_hard_if_its_student_falls_behind_the_teacher() -> None:
    rows = [answered("a", "delivery", behind) for behind in (-1, 0, 2, 2.5)]
    assert [row.wrong for row in rows] == [False, False, False, True]
    assert [row.cost for row in rows] == [0, 0, 2, 2.5]


def test_tapir_shows_hard_instructions_and_asks_for_those_that_a_domain_lacks() -> None:
    mined = [answered(f"d{n}", "delivery", 5) for n in range(8)] + [answered("r", "refund", 3)]
    mined += [answered(f"a{n}", "account", 0) for n in range(4)]
    wish = asyncio.run(tapir.wish(evidence([], mined=mined, wanted={"delivery": 4, "refund": 4, "account": 2})))
    shown = Counter(row.label for row in wish.exemplars)
    assert shown == {"delivery": tapir.EACH, "refund": 1} and all(row.response for row in wish.exemplars)
    # 9 hard rows and 10 to come: 7.6 of delivery are wanted, which has 8, of refund 7.6, of account 3.8
    assert wish.weights == pytest.approx({"delivery": 0, "refund": 6.6, "account": 3.8})
    assert "9 of 13 instructions are hard" in wish.summary
    assert wish == asyncio.run(
        tapir.wish(evidence([], mined=mined[::-1], wanted={"delivery": 4, "refund": 4, "account": 2}))
    )


def test_tapir_leaves_out_more_easy_rows_in_every_round() -> None:
    mined = [answered(f"a{n}", "account", 0) for n in range(40)] + [answered(f"d{n}", "delivery", 5) for n in range(5)]
    left = []
    for number in (1, 2, 3, 9):
        wish = asyncio.run(tapir.wish(evidence([], mined=mined, round=number, wanted=dict.fromkeys(LABELS, 5))))
        hard, easy = 5 + 15, 40 - len(wish.left_out)
        assert wish.left_out <= {row.text for row in mined if not row.wrong}
        assert hard / (hard + easy) >= tapir.hard_share(number) > hard / (hard + easy + 1)
        left.append(len(wish.left_out))
    assert left == [10, 27, 35, 35], "a fifth stays easy"


def test_only_tapir_steers_students_that_respond() -> None:
    steers = {name: steered_kind(POLICIES.get(name)) for name in POLICIES.own}
    assert [name for name, what in steers.items() if what == "responses"] == ["tapir"]


def test_without_a_policy_a_round_is_even_and_shows_nothing() -> None:
    assert ImproveSettings().policies == ()
    decided = asyncio.run(decide(evidence([judged("late", "delivery", "refund")]), ImproveSettings(), rows=9, after=1))
    assert decided.wanted == dict.fromkeys(LABELS, 3) and not decided.steering.exemplars and not decided.summaries


def test_policies_compose_into_one_steering() -> None:
    rows = [judged("late", "delivery", "refund", 0.9), judged("ok", "account", "account")]
    settings = ImproveSettings(policies=("hard_negatives", "weakness", "domain_gap", "easy_to_hard"), least_share=0.5)
    decided = asyncio.run(decide(evidence(rows, pool=rows, mined=rows), settings, rows=30, after=3))
    assert sum(decided.wanted.values()) == 30 and min(decided.wanted.values()) >= 5
    assert decided.wanted["delivery"] == max(decided.wanted.values())
    assert decided.steering.round == 2 and decided.steering.after == 3
    assert len({(row.text, row.label) for row in decided.steering.exemplars}) == len(decided.steering.exemplars)
    assert decided.steering.concepts and decided.steering.partners
    assert [sentence.split(":")[0] for sentence in decided.summaries] == list(settings.policies)
