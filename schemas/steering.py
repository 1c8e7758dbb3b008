"""Settings of `improve`, which steers runs by the student's errors, and the record of a loop of rounds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from graft.schemas.base import Value
from graft.schemas.kinds import POLICIES
from graft.schemas.problems import FieldErrors, Finding, did_you_mean, field_error
from graft.schemas.students import ClassScore

Arm = Literal["steered", "unsteered"]

NOTATION = ("| right: ", "| taken for: ")
"""How a prompt notes a mistake behind its text (`steered.jinja`). Small generators copy it into what they write."""


class SteerRow(Value):
    """An accepted row of an earlier round, or a row of the steering file, shown to the generator."""

    text: str = Field(min_length=1)
    label: str
    response: str | None = None
    taken_for: str = Field(default="", description="the label that the student was sure of; empty: no mistake")


class ReportedClass(ClassScore):
    """One label of the student's report on the rows that steer."""

    taken_for: str = Field(default="", description="the label that its rows are most often mistaken for")


class Steering(Value):
    """The requests of one round of a loop. They are part of its recipe, so that a rerun draws the same."""

    round: int = Field(ge=2, description="the first round is not steered")
    after: int = Field(ge=1, description="version of this dataset whose rows the round's version includes")
    exemplars: tuple[SteerRow, ...] = Field(
        default=(), description="shown to the generator before any seed; all of a label's mistakes"
    )
    report: tuple[ReportedClass, ...] = Field(
        default=(), description="the student's report, weakest label first: shown to the generator"
    )
    concepts: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="label to subjects of its texts, or to sets of them"
    )
    learner: str = Field(
        default="",
        description="student to whom rows about a concept must be neither easy nor too hard; empty: no limit",
    )
    partners: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="label to the labels that the student confuses it with, most frequent first"
    )


class ImproveSettings(Value):
    """A loop of rounds: make rows, train, evaluate, decide on the next rows."""

    rounds: int = Field(default=5, ge=1, le=100, description="maximum number of rounds; the first is not steered")
    policies: tuple[str, ...] = Field(
        default=(),
        description="policies that steer; the counts that they request are averaged. Empty: rounds that nothing steers",
    )
    rows_per_round: int | None = Field(
        default=None,
        ge=1,
        description="accepted rows of one round over all labels; null: as many as the recipe's target",
    )
    patience: int = Field(default=2, ge=1, description="rounds without a lower validation loss before the loop stops")
    enough: float = Field(
        default=0.95, gt=0, le=1, exclude_if=lambda enough: enough == 0.95,
        description="accuracy on the rows that steer from which there is nothing to steer by: the loop stops",
    )  # fmt: skip
    steer_on: str | None = Field(
        default=None,
        description="labelled file that steers, relative to the recipe; null: the versions' validation rows, and "
        "mistakes are looked for among the training rows. The generator is shown its rows: never name the test file",
    )
    least_share: float = Field(
        default=0.5, ge=0, le=1, description="minimum rows of every label in a round, as a share of an even count"
    )
    judge: bool = Field(
        default=True, description="from the second round on, the last student replaces the recipe's encoder as judge"
    )
    seeds: int = Field(
        default=1, ge=1, le=20, description="number of loops with different random seeds, to measure the spread"
    )
    compare: bool = Field(
        default=True, description="also spend the same candidates at once without steering, for comparison"
    )

    @field_validator("policies")
    @classmethod
    def _once(cls, policies: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(policies)) < len(policies):
            raise field_error((), "a policy is named twice", "name each policy once")
        return policies


def _known(settings: ImproveSettings) -> ImproveSettings:
    """Only a recipe must have known policies: the record of a past loop stays readable without them."""
    names = POLICIES.names
    unknown = [
        Finding(("policies", place), f"unknown policy {name!r}", f"{did_you_mean(name, names)}use {_or(names)}")
        for place, name in enumerate(settings.policies)
        if name not in names
    ]
    if unknown:
        raise FieldErrors(unknown)
    return settings


def _or(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" or {names[-1]}"


Improve = Annotated[ImproveSettings, AfterValidator(_known)]
"""A recipe's settings of a loop, whose policies must be registered."""


class RoundResult(Value):
    """One student of a loop and the cumulative cost of its rows. `round` 0 is the student of the seeds alone."""

    arm: Arm
    seed: int
    round: int = Field(ge=0)
    dataset: str = ""
    version: int | None = None
    run_id: str = ""
    student_id: str = ""
    rows: int = Field(default=0, description="synthetic rows in the version, earlier rounds' included")
    candidates: int = Field(default=0, description="candidates opened so far in this arm")
    calls: int = 0
    tokens: int = 0
    price_usd: float | None = None
    steering: float | None = Field(default=None, description="accuracy on the rows that steer; None without any")
    loss: float | None = Field(default=None, description="mean loss on the rows that steer, in nats")
    kept: bool = Field(default=False, description="whether its student has the lowest loss of its seed")
    test: float = Field(description="accuracy on the held-out file that steering never sees")
    interval: tuple[float, ...] = ()
    seconds: float = 0.0
    wanted: dict[str, int] = Field(default_factory=dict, description="label to rows requested by this round")
    said: tuple[str, ...] = Field(default=(), description="finding and request of each policy, in a sentence")


class Improvement(Value):
    """A whole loop, all seeds and both arms."""

    id: str
    dataset: str
    recipe_file: str
    settings: ImproveSettings
    test_file: str
    rounds: tuple[RoundResult, ...] = ()
    stopped_by: str = Field(default="", description="rounds, patience, no errors, or the failure of a round; by seed")
    created_at: datetime
