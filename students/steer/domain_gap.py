"""DDK (arXiv 2407.16154): a label's share follows the student's smoothed gap to the teacher.

The paper trains small language models on a mixture that is moved, every so many steps, towards the domains in which
student and teacher lie furthest apart, with a smoothed update, as sampling by the raw figure makes training unstable.
Its tables could not be read here, so no figure of it is quoted.

Here: the gap of a label is exp(student's mean loss - teacher's mean loss) over its steering rows, where a row that a
person labelled has a teacher without loss; gaps are cut at MOST, made shares, and averaged with the last round's.
"""

from __future__ import annotations

import math
import statistics

from graft.students.steer.base import Evidence, Policy, Wish

SMOOTH = 0.5
"""Weight of the last round's shares."""
MOST = 10.0
"""Largest gap that counts, so that a label with two odd rows does not dominate."""


async def wish(evidence: Evidence) -> Wish:
    """Weights only."""
    gaps = dict[str, float]()
    for label in evidence.labels:
        rows = evidence.of(label)
        behind = [row.loss(row.student) - (row.loss(row.teacher) if row.teacher else 0.0) for row in rows]
        gaps[label] = min(MOST, math.exp(min(statistics.mean(behind), 50.0))) if behind else 1.0
    whole, even = sum(gaps.values()), 1 / len(evidence.labels)
    weights = {
        label: SMOOTH * evidence.weights.get(label, even) + (1 - SMOOTH) * gap / whole for label, gap in gaps.items()
    }
    widest = max(gaps, key=lambda label: gaps[label])
    return Wish(
        weights=weights, summary=f"the student is furthest behind the teacher in {widest} (gap {gaps[widest]:.2f})"
    )


KIND: Policy = wish
