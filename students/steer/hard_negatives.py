"""PGKD (arXiv 2411.05045): the student's surest mistakes are shown to the generator, and its weak labels get more rows.

The paper distils a hosted model into BERT-base by such a loop: the teacher sees the student's validation report for
each class and the samples that it is sure of and wrong about, writes new ones, and the loop ends when validation gets
no better. It reports students up to 130 times faster and 25 times cheaper than the model they learn from, and larger
gains with more classes.

Here: a label's weight is 1 plus its share of errors, so that a label that is always wrong gets twice what a perfect one
gets; of each label at most SHOWN mistakes are exemplars, the surest first; and the labels that it is confused with
become its partners in PromptMix.
"""

from __future__ import annotations

from collections import Counter

from graft.students.steer.base import Evidence, Policy, Wish, shown

SHOWN = 4
"""Most mistakes of one label that are shown."""


async def wish(evidence: Evidence) -> Wish:
    """Mistakes as exemplars, confusions as partners, errors as weights."""
    wrong = [row for row in evidence.rows if row.wrong]
    weights, partners, hardest = dict[str, float](), dict[str, tuple[str, ...]](), []
    for label in evidence.labels:
        rows = evidence.of(label)
        failed = sorted((row for row in rows if row.wrong), key=lambda row: (-row.sure, row.text))
        weights[label] = 1 + (len(failed) / len(rows) if rows else 0.0)
        hardest += failed[:SHOWN]
        taken = Counter(row.predicted for row in failed)
        taken.update(row.label for row in wrong if row.predicted == label)
        if taken:
            partners[label] = tuple(other for other, _ in sorted(taken.items(), key=lambda pair: (-pair[1], pair[0])))
    worst = max(weights, key=lambda label: weights[label])
    summary = f"{len(wrong)} of {len(evidence.rows)} steering rows wrong, {len(hardest)} of them shown"
    if wrong:
        summary += f"; most often {worst} ({weights[worst] - 1:.0%} of its rows)"
    return Wish(weights=weights, exemplars=shown(hardest), partners=partners, summary=summary)


KIND: Policy = wish
