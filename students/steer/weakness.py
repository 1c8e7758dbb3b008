"""SwS (arXiv 2506.08989): names the student's repeated failures, and new rows target combinations of them.

The paper finds the problems that a reasoning model fails all through training, lets a model list the concepts of each,
samples sets of concepts that go together, and writes new problems on them; it keeps those whose answer several samples
agree on and which the trained student gets neither always nor never.

Here a pass is a round. A row is weak if it is wrong in this round and the last, and its label has not become more
probable; in the first round, if it is wrong. A model lists the concepts of each weak row. Sets of two or three are
sampled as in the paper: the first concept by frequency, each further one by a softmax over the concepts that it stands
beside and those that it is close to. Every second slot of the label is about one set. Of these rows those are kept
whose judges agree on the label by majority and whose label the student gives 0.1 to 0.9 (gate `difficulty`). A label's
weight is its share of the weak rows.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graft.students.steer.base import Evidence, Policy, SteeringRow, Wish

TEXTS = 6
"""Most weak rows of a label whose concepts are named."""
SETS = 8
"""Most sets of concepts of a label."""
SIZES = (2, 3)
TEMPERATURE = 0.2

Vectors = NDArray[np.floating]


async def wish(evidence: Evidence) -> Wish:
    """Sets of concepts of the labels that keep failing."""
    weak = weak_rows(evidence)
    counts = Counter(row.label for row in weak)
    concepts, named_all = dict[str, tuple[str, ...]](), 0
    for label in evidence.labels:
        own = sorted((row for row in weak if row.label == label), key=lambda row: (-row.sure, row.text))[:TEXTS]
        named = [found for row in own if (found := await evidence.name(label, [row.text]))]
        names = sorted({concept for one in named for concept in one})
        named_all += len(names)
        if names:
            vectors = evidence.embed(names) if evidence.embed else np.zeros((len(names), 1))
            rng = random.Random(f"concepts-{evidence.round}-{label}")
            sets = dict.fromkeys(concept_set(named, names, np.asarray(vectors), rng) for _ in range(SETS))
            concepts[label] = tuple(map(in_words, sets))
    summary = f"{len(weak)} weak rows; {named_all} concepts named for {len(concepts)} labels"
    weights = {label: float(counts[label]) for label in evidence.labels} if weak else {}
    return Wish(weights=weights, concepts=concepts, medium=bool(concepts), summary=summary)


def weak_rows(evidence: Evidence) -> list[SteeringRow]:
    """Rows that the student gets wrong again, with no more probability of their label; if there are none, all wrong."""
    now = [row for row in evidence.mined if row.wrong]
    if not evidence.failed:
        return now
    before = {(row.text, row.label): row.student.get(row.label, 0.0) for row in evidence.failed[-1]}
    again = [row for row in now if row.student.get(row.label, 0.0) <= before.get((row.text, row.label), -1.0)]
    return again or now


def concept_set(
    named: Sequence[Sequence[str]], names: Sequence[str], vectors: Vectors, rng: random.Random
) -> tuple[str, ...]:  # fmt: skip
    """Two or three concepts that go together, in alphabetical order; one if there is no other.

    Args:
        named: the concepts of each row
        names: all of them, each once
        vectors: a unit vector of each name, shape (names, d)
        rng: draws
    """
    frequency = Counter(concept for one in named for concept in set(one))
    chosen = rng.choices(range(len(names)), [frequency[name] for name in names])
    size = min(rng.choice(SIZES), len(names))
    while len(chosen) < size:
        left = [at for at in range(len(names)) if at not in chosen]
        chosen += rng.choices(left, chances([_fit(at, chosen, named, names, vectors) for at in left]))
    return tuple(sorted(names[at] for at in chosen))


def chances(fits: Sequence[float]) -> list[float]:
    """Softmax at TEMPERATURE."""
    top = max(fits)
    raw = [math.exp((fit - top) / TEMPERATURE) for fit in fits]
    return [value / sum(raw) for value in raw]


def _fit(
    at: int, chosen: Sequence[int], named: Sequence[Sequence[str]], names: Sequence[str], vectors: Vectors
) -> float:
    """Rows that name a concept and a chosen one, plus its cosines with the chosen ones."""
    beside = sum(names[at] in one and names[other] in one for one in named for other in chosen)
    return beside + float(sum(vectors[at] @ vectors[other] for other in chosen))


def in_words(concepts: Sequence[str]) -> str:
    """`a`, `a and b`, or `a, b and c`."""
    *first, last = concepts
    return f"{', '.join(first)} and {last}" if first else last


KIND: Policy = wish
