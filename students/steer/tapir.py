"""TAPIR (arXiv 2405.13448): instructions on which the student falls behind its teacher, more of them in every round.

The paper distils an instruction model by a curriculum. A judge scores the teacher's and the student's response to the
same instruction; the difference is the instruction's model fitting difficulty. Hard instructions are kept, the teacher
expands them into new ones of the same task until the shares of tasks are those wanted, and each round's student learns
from a mixture whose share of hard instructions grows; then the new student is judged again.

Here the judges are the recipe's reviewers: an instruction is hard if their mean score of the student's response is more
than `base.HARD` points below the teacher's. A task is a domain, and the wanted shares are those of `target`: a domain's
weight is the number of hard rows that it lacks. Exemplars are hard rows, drawn anew in every round. Rows of the
round to come count as hard; easy rows are left out of the next student's training, by lot, until the hard ones have
their share.

Unlike the paper: no classifier sorts instructions into task types, since a row knows its domain; the teacher does not
rewrite its responses in a style for each task; the student is trained anew in every round. The paper's threshold,
shares and number of rounds could not be checked, so the figures below are Graft's own.
"""

from __future__ import annotations

import random
from collections import Counter

from graft.schemas.steering import SteerRow
from graft.students.steer.base import AnsweredRow, Evidence, OnResponses, Policy, Wish

FIRST, STEP, MOST = 0.4, 0.2, 0.8
"""Share of hard rows among those that the second round's student learns from, its growth by round, and its limit."""
EACH = 6
"""Most exemplars of one domain."""


async def wish(evidence: Evidence) -> Wish:
    """Hard exemplars, weights by the hard rows that domains lack, and easy rows that the next student leaves out."""
    rows = sorted((row for row in evidence.mined if isinstance(row, AnsweredRow)), key=lambda row: row.text)
    hard, easy = ([row for row in rows if row.wrong is side] for side in (True, False))
    rng, wanted = random.Random(f"tapir-{evidence.round}"), dict(evidence.wanted) or dict.fromkeys(evidence.labels, 1)
    exemplars = list[AnsweredRow]()
    for label in evidence.labels:
        own = [row for row in hard if row.label == label]
        exemplars += rng.sample(own, min(EACH, len(own)))
    share = hard_share(evidence.round)
    kept = easy_kept(len(hard) + sum(wanted.values()), len(easy), share)
    left_out = rng.sample(easy, len(easy) - kept)
    summary = (
        f"{len(hard)} of {len(rows)} instructions are hard for the student; the next one learns from at least "
        f"{share:.0%} hard ones, without {len(left_out)} easy ones"
    )
    return Wish(
        weights=lacking(Counter(row.label for row in hard), wanted), summary=summary,
        exemplars=tuple(SteerRow(text=row.text, label=row.label, response=row.response) for row in exemplars),
        left_out=frozenset(row.text for row in left_out),
    )  # fmt: skip


def hard_share(ended: int) -> float:
    """The least share of hard rows after round `ended`, counted from 1."""
    return min(MOST, FIRST + STEP * (ended - 1))


def easy_kept(hard: int, easy: int, share: float) -> int:
    """How many easy rows the next student learns from, so that hard ones have their share."""
    return min(easy, int(hard * (1 - share) / share + 1e-9))


def lacking(hard: Counter[str], wanted: dict[str, int]) -> dict[str, float]:
    """Each label's hard rows short of its wanted share, if the next round's rows are all hard."""
    rows = sum(wanted.values())
    whole = rows + sum(hard[label] for label in wanted)
    return {label: max(0.0, count / rows * whole - hard[label]) for label, count in wanted.items()}


KIND: Policy = OnResponses(wish)
