"""A recipe's block `review`: number and choice of rows, and how long a run waits for people."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from graft.schemas.base import Value

ReviewBy = Literal["disagreement", "margin", "random"]


class ReviewSettings(Value):
    """Settings of people's review: the run pauses after publishing its version, then applies the decisions."""

    rows: int = Field(default=50, ge=1, description="number of rows to review")
    by: ReviewBy = Field(
        default="disagreement",
        description="choice of rows: the judges' largest disagreements, the closest decisions, or random",
    )
    wait_minutes: float = Field(default=1440, gt=0, le=525_600, description="how long the run waits for review")
    unanswered: Literal["go_on", "stop"] = Field(
        default="go_on",
        description="if nobody finishes the review: continue with the decisions so far, or end with an error",
    )


class Reviewed(Value):
    """A person's confirmation that a review is done; Prefect's page shows it as a form."""

    by: str = Field(min_length=1, max_length=200, description="who reviewed")
    note: str = Field(default="", max_length=2_000, description="a note about the review")
