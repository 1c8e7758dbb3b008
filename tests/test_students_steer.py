"""Steering of a loop: policies weigh, one controller counts, and each round's steering follows from its evidence."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.schemas.steering import ImproveSettings
from graft.students.steer import (
    Evidence,
    SteeringRow,
    curriculum,
    decide,
    domain_gap,
    hard_negatives,
    rows_of,
    shares_of,
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
    rows = [judged(f"d{n}", "delivery", "refund", 0.5 + n / 20) for n in range(6)]
    rows += [judged("d", "delivery", "delivery"), judged("r", "refund", "refund"), judged("a", "account", "account")]
    wish = asyncio.run(hard_negatives.wish(evidence(rows)))
    assert [row.text for row in wish.exemplars] == ["d5", "d4", "d3", "d2"]
    assert {row.label for row in wish.exemplars} == {"delivery"}
    assert wish.partners == {"delivery": ("refund",), "refund": ("delivery",)}
    assert wish.weights == {"delivery": pytest.approx(1 + 6 / 7), "refund": 1, "account": 1}


def test_weakness_names_what_failed_in_two_rounds() -> None:
    again, once = judged("late", "delivery", "refund"), judged("lost", "account", "refund")
    wish = asyncio.run(weakness.wish(evidence([again, once], failed=[[again]])))
    assert wish.concepts == {"delivery": ("what 1 delivery texts share",)}
    assert wish.weights["delivery"] > wish.weights["account"]
    first = asyncio.run(weakness.wish(evidence([again, once])))
    assert set(first.concepts) == {"delivery", "account"}


def test_the_mix_follows_the_gap_to_the_teacher_smoothed() -> None:
    sure = {"delivery": 1.0, "refund": 0.0, "account": 0.0}
    behind, level = judged("x", "delivery", "refund", 0.9, sure), judged("y", "account", "account", 0.9)
    wish = asyncio.run(domain_gap.wish(evidence([behind, level])))
    assert wish.weights["delivery"] > wish.weights["account"]
    before = {"delivery": 0.0, "refund": 0.0, "account": 1.0}
    smoothed = asyncio.run(domain_gap.wish(evidence([behind, level], weights=before)))
    assert smoothed.weights["account"] > 0.5 > smoothed.weights["delivery"]
    unsure = judged("x", "delivery", "refund", 0.9, {"delivery": 0.05, "refund": 0.95, "account": 0.0})
    assert asyncio.run(domain_gap.wish(evidence([unsure, level]))).weights["delivery"] < wish.weights["delivery"]


def test_the_curriculum_shows_harder_rows_every_round_and_balances_labels() -> None:
    pool = [judged(f"{label}{n}", label, label, 0.34 + n / 20) for label in LABELS for n in range(12)]
    hardness = []
    for number in (1, 2, 4):
        wish = asyncio.run(curriculum.wish(evidence([], pool=pool, round=number)))
        assert {label: sum(row.label == label for row in wish.exemplars) for label in LABELS} == dict.fromkeys(
            LABELS, 4
        )
        by_text = {row.text: row for row in pool}
        hardness.append(sum(curriculum.difficulty(by_text[row.text]) for row in wish.exemplars))
    assert hardness == sorted(hardness) and hardness[0] < hardness[-1]


def test_policies_compose_into_one_steering() -> None:
    rows = [judged("late", "delivery", "refund"), judged("ok", "account", "account")]
    settings = ImproveSettings(policies=("hard_negatives", "weakness", "domain_gap", "curriculum"), least_share=0.5)
    decided = asyncio.run(decide(evidence(rows, pool=rows), settings, rows=30, after=3))
    assert sum(decided.wanted.values()) == 30 and min(decided.wanted.values()) >= 5
    assert decided.wanted["delivery"] == max(decided.wanted.values())
    assert decided.steering.round == 2 and decided.steering.after == 3
    assert len({(row.text, row.label) for row in decided.steering.exemplars}) == len(decided.steering.exemplars)
    assert decided.steering.concepts and decided.steering.partners
    assert [sentence.split(":")[0] for sentence in decided.summaries] == list(settings.policies)
