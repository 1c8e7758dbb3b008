"""How `improve` steers a run by what the student still gets wrong, and what a loop of rounds left behind."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from graft.schemas.base import Value
from graft.schemas.kinds import POLICIES
from graft.schemas.problems import FieldErrors, Finding, did_you_mean, field_error

Arm = Literal["steered", "unsteered"]


class SteerRow(Value):
    """An accepted row of an earlier round, or a row of the steering file, that the generator is shown."""

    text: str = Field(min_length=1)
    label: str
    response: str | None = None


class Steering(Value):
    """What one round of a loop asks for beyond its recipe. It is part of the recipe, so a rerun draws the same."""

    round: int = Field(ge=2, description="the first round is not steered")
    after: int = Field(ge=1, description="the version of this dataset whose rows the round's version holds as well")
    exemplars: tuple[SteerRow, ...] = Field(default=(), description="shown to the generator beside the seeds")
    concepts: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="label to what its texts are about")
    partners: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="label to the labels that the student takes it for, most often first"
    )


class ImproveSettings(Value):
    """A loop of rounds: make rows, train, evaluate, decide what the next rows are to be."""

    rounds: int = Field(default=5, ge=1, le=100, description="rounds at most; the first is not steered")
    policies: tuple[str, ...] = Field(
        default=("hard_negatives", "domain_gap"), description="what steers; their wishes for counts are averaged"
    )
    rows_per_round: int | None = Field(
        default=None, ge=1, description="accepted rows of one round over all labels; null: the target, shared out"
    )
    patience: int = Field(default=2, ge=1, description="rounds without a better student before the loop stops")
    steer_on: str | None = Field(
        default=None,
        description="labelled file that steers, relative to the recipe; null: the versions' validation rows. It is "
        "shown to the generator: never the test file",
    )
    least_share: float = Field(
        default=0.5, ge=0, le=1, description="share of an even count that every label gets in any round"
    )
    judge: bool = Field(
        default=True, description="from the second round on the last student judges in place of the recipe's encoder"
    )
    seeds: int = Field(default=1, ge=1, le=20, description="loops with other random seeds, for the spread")
    compare: bool = Field(default=True, description="spend the same candidates at once without steering, to compare")

    @field_validator("policies")
    @classmethod
    def _once(cls, policies: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(policies)) < len(policies):
            raise field_error((), "a policy is named twice", "name each policy once")
        return policies


def _known(settings: ImproveSettings) -> ImproveSettings:
    """Only a recipe is refused for a policy that is not there: a loop of the past stays readable without it."""
    names = POLICIES.names
    unknown = [
        Finding(("policies", place), f"there is no policy {name!r}", f"{did_you_mean(name, names)}use {_or(names)}")
        for place, name in enumerate(settings.policies)
        if name not in names
    ]
    if unknown:
        raise FieldErrors(unknown)
    return settings


def _or(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" or {names[-1]}"


Improve = Annotated[ImproveSettings, AfterValidator(_known)]
"""A recipe's settings of a loop: its policies are there."""


class RoundResult(Value):
    """One student of a loop and what its rows had cost up to there. `round` 0 is the student of the seeds alone."""

    arm: Arm
    seed: int
    round: int = Field(ge=0)
    dataset: str = ""
    version: int | None = None
    run_id: str = ""
    student_id: str = ""
    rows: int = Field(default=0, description="synthetic rows in the version, earlier rounds' included")
    candidates: int = Field(default=0, description="opened so far in this arm")
    calls: int = 0
    tokens: int = 0
    price_usd: float | None = None
    steering: float | None = Field(default=None, description="accuracy on the rows that steer; None before round 1")
    test: float = Field(description="accuracy on the held-out file that steering never sees")
    interval: tuple[float, ...] = ()
    seconds: float = 0.0
    wanted: dict[str, int] = Field(default_factory=dict, description="label to rows that this round asked for")
    said: tuple[str, ...] = Field(default=(), description="what each policy saw and wished, in a sentence")


class Improvement(Value):
    """A whole loop, all seeds and both arms."""

    id: str
    dataset: str
    recipe_file: str
    settings: ImproveSettings
    test_file: str
    rounds: tuple[RoundResult, ...] = ()
    stopped_by: str = Field(default="", description="rounds, patience, or why a round could not be made; by seed")
    created_at: datetime
