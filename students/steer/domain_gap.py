"""DDK (arXiv 2407.16154): the mixture of labels follows the gap between the student's perplexity and its teacher's.

The paper trains small language models on a mixture of domains that is moved, every so many steps, towards those in
which student and teacher lie furthest apart: r <- r * exp(l_S / l_T), normalised, with l the perplexities on a domain's
validation set, and smoothed, as sampling by the raw figure makes training unstable.

Here a domain is a label and one round is one interval. Perplexities are of a row's label under the student's and the
judges' distributions, capped at MOST. The labelers judge steering rows that have no soft label, such as those of a
file; if they cannot, the teacher counts as certain (perplexity 1). The paper's loss (cross-entropy with a KL to the
teacher) is the student's `soft_weight`, not this policy's.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from graft.students.steer.base import Evidence, Policy, SteeringRow, Wish

ALPHA = 0.5
"""Weight of the moved mixture; the rest is even, so that every label keeps (1 - ALPHA) / labels."""
MOST = 20.0
"""Largest perplexity that counts, so that a label with two odd rows does not take everything."""
ASKED = 100
"""Most rows of one label that labelers judge."""


def moved(before: Mapping[str, float], gaps: Mapping[str, float]) -> dict[str, float]:
    """The next shares of the labels, summing to 1.

    Args:
        before: the last shares; empty at the start, which takes exp(gap) as it is
        gaps: the student's perplexity over the teacher's, 1/MOST to MOST
    """
    factors = {label: before.get(label, 0.0) if before else 1.0 for label in gaps}
    raw = {label: factors[label] * math.exp(gap) for label, gap in gaps.items()}
    whole, alpha = sum(raw.values()), ALPHA if before else 1.0
    return {label: alpha * share / whole + (1 - alpha) / len(gaps) for label, share in raw.items()}


def perplexity(losses: Sequence[float]) -> float:
    """exp of the mean loss in nats, at most MOST."""
    return math.exp(min(statistics.mean(losses), math.log(MOST)))


async def wish(evidence: Evidence) -> Wish:
    """Weights only."""
    rows = await _taught(evidence)
    gaps, teacherless = dict[str, float](), 0
    for label in evidence.labels:
        own = [row for row in rows if row.label == label]
        taught = [row.loss(row.teacher) if row.teacher else 0.0 for row in own]
        teacherless += sum(row.teacher is None for row in own)
        gaps[label] = perplexity([row.loss(row.student) for row in own]) / perplexity(taught) if own else 1.0
    widest = max(gaps, key=lambda label: gaps[label])
    summary = f"the student is furthest behind the teacher in {widest} (perplexity {gaps[widest]:.2f} times as high)"
    if teacherless:
        summary += f"; rows without a teacher, which counts as certain: {teacherless}"
    return Wish(weights=moved(evidence.weights, gaps), summary=summary)


async def _taught(evidence: Evidence) -> list[SteeringRow]:
    """The steering rows; those without a teacher are judged, at most ASKED of a label, and the others left out."""
    having = [row for row in evidence.rows if row.teacher]
    lacking = [
        row for label in evidence.labels for row in [one for one in evidence.of(label) if one.teacher is None][:ASKED]
    ]
    teachers = await evidence.teach([row.text for row in lacking]) if lacking else ()
    return having + [replace(row, teacher=teacher) for row, teacher in zip(lacking, teachers, strict=True)]


KIND: Policy = wish
