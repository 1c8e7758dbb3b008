"""SwS (arXiv 2506.08989): names the student's repeated failures, and new rows target them.

The paper finds the problems that a reasoning model fails all through training, takes their concepts, and writes new
problems on them; with the larger set its 7B and 32B models gain 10.0 and 7.7 points on average over eight benchmarks.

Here: rows failed in the last two rounds (in the first one: just failed) are gathered by label; a model names what they
are about; those concepts condition every second slot of the label. A label's weight is 1 plus its share of the failed.
"""

from __future__ import annotations

from collections import defaultdict

from graft.students.steer.base import Evidence, Policy, SteeringRow, Wish

TEXTS = 6
"""Most failed texts of a label that a model sees."""


async def wish(evidence: Evidence) -> Wish:
    """Concepts of the labels that keep failing."""
    by_label: dict[str, list[SteeringRow]] = defaultdict(list)
    for row in _again(evidence):
        by_label[row.label].append(row)
    whole = sum(map(len, by_label.values()))
    concepts = dict[str, tuple[str, ...]]()
    for label in evidence.labels:
        texts = [row.text for row in sorted(by_label[label], key=lambda row: (-row.sure, row.text))[:TEXTS]]
        named = await evidence.name(label, texts) if texts else ()
        if named:
            concepts[label] = named
    weights = {label: 1 + (len(by_label[label]) / whole if whole else 0.0) for label in evidence.labels}
    named_all = sum(map(len, concepts.values()))
    summary = f"{whole} rows failed again; {named_all} concepts named for {len(concepts)} labels"
    return Wish(weights=weights, concepts=concepts, summary=summary)


def _again(evidence: Evidence) -> list[SteeringRow]:
    """Rows that fail now and also failed in the round before, if they were tested then."""
    now = [row for row in evidence.rows if row.wrong]
    if not evidence.failed:
        return now
    before = {row.text for row in evidence.failed[-1]}
    return [row for row in now if row.text in before] or now


KIND: Policy = wish
