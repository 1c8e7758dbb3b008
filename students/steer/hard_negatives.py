"""PGKD (arXiv 2411.05045): the generator sees the student's report and its surest mistakes; weak labels get more rows.

The paper distils a hosted model into BERT-base by such a loop: the teacher sees the student's validation report for
each class and the samples that it is sure of and wrong about, writes new ones, and training ends when the validation
loss gets no lower.

Here: a hard negative is a mistake that is surer than the median of the student's right answers. The report is of the
rows that steer; the mistakes are from a file that steers or, out of fold, from the training rows. A label's weight is
1 plus its share of errors, so that a label that is always wrong gets twice what a perfect one gets, and the labels that
it is confused with become its partners in PromptMix. The paper asks for rows of all labels in one call; here each call
is for one label, and shows the mistakes of that label and those taken for it.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from graft.schemas.steering import ReportedClass, SteerRow
from graft.students.evaluate import evaluate
from graft.students.steer.base import Evidence, Policy, SteeringRow, Wish

SHOWN = 8
"""Most mistakes of one label that are shown."""
REPORTED = 12
"""Most labels in the report: a generator with 77 labels reads of its weakest."""


def hard_negatives(rows: Sequence[SteeringRow]) -> list[SteeringRow]:
    """The wrong rows that the student is surer of than of the median right row, the surest first."""
    right = [row.sure for row in rows if not row.wrong]
    least = statistics.median(right) if right else 0.0
    return sorted((row for row in rows if row.wrong and row.sure > least), key=lambda row: (-row.sure, row.text))


def report_of(rows: Sequence[SteeringRow], labels: Sequence[str]) -> tuple[ReportedClass, ...]:
    """The student's scores of each label that has rows, by rising F1, each with its most frequent confusion."""
    if not rows:
        return ()
    pairs = [(row.text, row.label) for row in rows]
    judged = evaluate([row.predicted for row in rows], pairs, labels, student_id="", test_file="steering rows")
    found = list[ReportedClass]()
    for place, scores in enumerate(judged.classes):
        taken = {label: count for at, (label, count) in enumerate(zip(labels, judged.confusion[place], strict=True))
                 if at != place and count}  # fmt: skip
        top = max(taken, key=lambda label: taken[label], default="")
        if scores.support:
            found.append(ReportedClass(**scores.model_dump(), taken_for=top))
    return tuple(sorted(found, key=lambda one: (one.f1, one.label))[:REPORTED])


async def wish(evidence: Evidence) -> Wish:
    """Report and mistakes for the generator, confusions as partners, errors as weights."""
    mistakes = hard_negatives(evidence.mined)
    seen = {(row.text, row.label): row for row in (*evidence.rows, *evidence.mined) if row.wrong}.values()
    weights, partners, chosen = dict[str, float](), dict[str, tuple[str, ...]](), list[SteeringRow]()
    for label in evidence.labels:
        rows = evidence.of(label)
        weights[label] = 1 + (sum(row.wrong for row in rows) / len(rows) if rows else 0.0)
        chosen += [row for row in mistakes if row.label == label][:SHOWN]
        taken = Counter(row.predicted for row in seen if row.label == label)
        taken.update(row.label for row in seen if row.predicted == label)
        if taken:
            partners[label] = tuple(other for other, _ in sorted(taken.items(), key=lambda pair: (-pair[1], pair[0])))
    worst, wrong = max(weights, key=lambda label: weights[label]), sum(row.wrong for row in evidence.rows)
    summary = f"{wrong} of {len(evidence.rows)} steering rows wrong, {len(chosen)} sure mistakes shown"
    if wrong:
        summary += f"; most often {worst} ({weights[worst] - 1:.0%} of its rows)"
    return Wish(
        weights=weights, partners=partners, summary=summary, report=report_of(evidence.rows, evidence.labels),
        exemplars=tuple(SteerRow(text=row.text, label=row.label, taken_for=row.predicted) for row in chosen),
    )  # fmt: skip


KIND: Policy = wish
