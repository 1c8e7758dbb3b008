"""The contract of a policy: evidence on a student after a round, and a wish for the next round.

A policy is an async function from `Evidence` to a `Wish`, one file each, which holds it as `KIND`; one for students
that write responses is wrapped in `OnResponses`. It may use a model to name things (`Evidence.name`); it touches
neither the lake nor Prefect. Policies only weigh: `steer.decide` counts.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from graft.agents.local.encoder import Embed
from graft.schemas.steering import ReportedClass, SteerRow

Name = Callable[[str, Sequence[str]], Awaitable[tuple[str, ...]]]
"""(label, texts) to the subjects of the texts, in a few words each; empty if no model could name them."""

Teach = Callable[[Sequence[str]], Awaitable[Sequence[Mapping[str, float] | None]]]
"""Texts to the labelers' mean probabilities of the labels, one for each text; None for a text that none judged."""

Judge = Callable[[str, str], Awaitable[float | None]]
"""(instruction, response) to the reviewers' mean score, 0 to 10; None if none gave one."""

LABELS, RESPONSES = "labels", "responses"
"""Kinds of output that a policy can steer by."""

HARD = 2.0
"""Points of the reviewers' scale beyond which an instruction is hard: so far is the student's response behind."""

LEAST = 1e-6
"""Lower bound of a probability before its logarithm."""


@dataclass(frozen=True)
class SteeringRow:
    """A row that the student did not learn from, with the student's probability of each label.

    `teacher` has the judges' probabilities, if they gave any; a person's label has none.
    """

    text: str
    label: str
    student: Mapping[str, float]
    teacher: Mapping[str, float] | None = None

    @property
    def predicted(self) -> str:
        """The student's label."""
        return max(self.student, key=lambda label: self.student[label])

    @property
    def wrong(self) -> bool:
        """True if the student's label differs from the row's."""
        return self.predicted != self.label

    @property
    def sure(self) -> float:
        """The probability of the student's label, 0 to 1."""
        return self.student[self.predicted]

    def loss(self, shares: Mapping[str, float]) -> float:
        """Negative log-probability of the row's label, in nats."""
        return -math.log(max(shares.get(self.label, 0.0), LEAST))

    @property
    def cost(self) -> float:
        """The figure that the loop lowers: the student's loss, in nats."""
        return self.loss(self.student)


@dataclass(frozen=True)
class AnsweredRow(SteeringRow):
    """An instruction whose response by the teacher and by the student the same reviewers scored, 0 to 10 each.

    `student` and `teacher` are empty: there is no distribution. `label` is the instruction's domain.
    """

    response: str = ""
    taught: float = 0.0
    given: float = 0.0

    @property
    def behind(self) -> float:
        """TAPIR's model fitting difficulty: the teacher's score minus the student's."""
        return self.taught - self.given

    @property
    def wrong(self) -> bool:
        """True if the instruction is hard for the student."""
        return self.behind > HARD

    @property
    def cost(self) -> float:
        """The figure that the loop lowers: the points by which the student is behind; 0 if it is ahead."""
        return max(0.0, self.behind)


async def no_teacher(texts: Sequence[str]) -> Sequence[Mapping[str, float] | None]:
    """The answer of a `Teach` without a labeler."""
    return [None] * len(texts)


@dataclass(frozen=True)
class Evidence:
    """Evidence after round `round` of `rounds`. `rows` steer.

    `mined` are the rows in which mistakes are looked for that the generator may see: those of a file that steers, else
    the training rows, judged out of fold. `pool` are accepted rows (train split) that may be shown too. `weights` are
    this policy's own weights of the round before; empty before its first decision. `failed` has the wrong
    rows of `mined` of each earlier round.
    `student` is the id of the round's student, `embed` gives unit vectors of texts, if an encoder is installed.
    `wanted` are the rows of each label that the recipe wants of a round. Rows of students that write responses are
    `AnsweredRow`s.
    """

    round: int
    rounds: int
    labels: Sequence[str]
    rows: Sequence[SteeringRow]
    pool: Sequence[SteeringRow]
    name: Name
    teach: Teach = no_teacher
    embed: Embed | None = None
    student: str = ""
    mined: Sequence[SteeringRow] = ()
    failed: Sequence[Sequence[SteeringRow]] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    wanted: Mapping[str, int] = field(default_factory=dict)

    def of(self, label: str) -> list[SteeringRow]:
        """The steering rows of a label."""
        return [row for row in self.rows if row.label == label]


@dataclass(frozen=True)
class Wish:
    """A policy's wish for the next round. No weights: the policy leaves the counts alone. `summary` is one sentence.

    Exemplars with `taken_for` are mistakes: every slot of their label shows them all, with the `report`. `medium`: rows
    about concepts are kept only if judges agree on them and the student finds them neither easy nor too hard.
    `left_out`: texts of rows that the next student does not learn from.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    exemplars: tuple[SteerRow, ...] = ()
    report: tuple[ReportedClass, ...] = ()
    concepts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    medium: bool = False
    partners: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()
    summary: str = ""


def shown(rows: Sequence[SteeringRow]) -> tuple[SteerRow, ...]:
    """Rows as exemplars."""
    return tuple(SteerRow(text=row.text, label=row.label) for row in rows)


Policy = Callable[[Evidence], Awaitable[Wish]]
"""Type of a policy module's `KIND`."""


@dataclass(frozen=True)
class OnResponses:
    """A policy for students that write responses."""

    wish: Policy
    steers: ClassVar[str] = RESPONSES

    async def __call__(self, evidence: Evidence) -> Wish:
        """The policy's wish."""
        return await self.wish(evidence)


def steered_kind(policy: Policy) -> str:
    """The output of the students that a policy steers: LABELS, unless it says otherwise."""
    return str(getattr(policy, "steers", LABELS))
