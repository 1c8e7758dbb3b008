"""What a recipe says of people's review: how many rows, which, and for how long a run waits for it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from graft.schemas.base import Value

ReviewBy = Literal["disagreement", "margin", "random"]


class ReviewSettings(Value):
    """A run with these pauses when its version is published, and goes on with what people made of the rows."""

    rows: int = Field(default=50, ge=1, description="rows that people are asked for")
    by: ReviewBy = Field(
        default="disagreement", description="which rows: the judges' most disputed, the closest decisions, or any"
    )
    wait_minutes: float = Field(default=1440, gt=0, le=525_600, description="how long the run waits for a person")
    unanswered: Literal["go_on", "stop"] = Field(
        default="go_on", description="when nobody came: go on with what was decided, or end with an error"
    )


class Reviewed(Value):
    """A person's word that a review is done; Prefect's page asks for it with a form."""

    by: str = Field(min_length=1, max_length=200, description="who reviewed")
    note: str = Field(default="", max_length=2_000, description="what there is to say about it")
