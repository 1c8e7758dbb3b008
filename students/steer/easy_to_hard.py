"""Easy-to-hard exemplars: a curriculum over the gap between teacher and student, with equal counts of every label.

A row's difficulty is the teacher's probability of its label minus the student's. In round r of R the exemplars are the
rows about the r/R quantile of difficulty, the same number of each label; the counts stay even. TAPIR (arXiv 2405.13448)
also raises difficulty over rounds, but by a judge's scores of instructions: this is not it.
"""

from __future__ import annotations

from graft.students.steer.base import Evidence, Policy, SteeringRow, Wish, shown

EACH = 4
"""Exemplars of one label."""


def difficulty(row: SteeringRow) -> float:
    """-1 to 1: the teacher's probability of the row's label minus the student's; a person's label has probability 1."""
    taught = row.teacher.get(row.label, 0.0) if row.teacher else 1.0
    return taught - row.student.get(row.label, 0.0)


async def wish(evidence: Evidence) -> Wish:
    """Exemplars of the round's difficulty, and even weights."""
    level = evidence.round / max(1, evidence.rounds)
    chosen = list[SteeringRow]()
    for label in evidence.labels:
        rows = sorted((row for row in evidence.pool if row.label == label), key=lambda row: (difficulty(row), row.text))
        middle = round(level * (len(rows) - 1)) if rows else 0
        start = min(max(0, middle - EACH // 2), max(0, len(rows) - EACH))
        chosen += rows[start : start + EACH]
    summary = f"{len(chosen)} exemplars about the {level:.0%} quantile of difficulty"
    return Wish(weights=dict.fromkeys(evidence.labels, 1.0), exemplars=shown(chosen), summary=summary)


KIND: Policy = wish
