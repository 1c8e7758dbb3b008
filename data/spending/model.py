"""Values for model usage and spending. A price is in US dollars, and None if it is unknown, never 0.

`schemas.money` puts a price into words; `local` and `least_usd` are what it needs beside the amount.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal

from pydantic import Field

from graft.schemas.base import Value


class Paid(Value):
    """The price of some calls."""

    price_usd: float | None = Field(description="None if the price of an answered call is unknown")
    local: bool = Field(default=False, description="whether only local models made the calls")
    least_usd: float = Field(default=0.0, description="sum of the known prices")


class Total(Paid):
    """Totals of all calls in scope."""

    calls: int = Field(description="distinct calls, including failed ones")
    tokens: int | None = Field(description="prompt and completion; None if a server did not report them")
    counted: int = Field(default=0, description="tokens of the calls whose server reported them")


class ModelUse(Paid):
    """The calls of one model in one role."""

    model: str
    role: str
    calls: int = Field(description="distinct calls, including failed ones")
    cached: int = Field(description="repeated calls that were read from the journal instead of made")
    failed: int = Field(description="calls that never returned a usable answer")
    failures: dict[str, int] = Field(description="number of failed calls by code")
    prompt_tokens: int | None = Field(description="of answered calls; None if a server did not report them")
    completion_tokens: int | None
    cached_tokens: int | None = Field(description="prompt tokens from the server's cache, as far as reported")
    price_1000_usd: float | None = Field(description="price per 1,000 accepted candidates of all models")
    unreadable: float | None = Field(
        description="share of the calls that ended malformed, empty or violating their schema"
    )
    refused: float | None = Field(description="share of the calls that ended as a refusal")
    retried: int = Field(description="answered calls that took more than one attempt")
    p50_s: float | None = Field(description="median seconds of answers that were not cached")
    p95_s: float | None


class Worth(Value):
    """A model's results in a role and their price. Writers have candidates, judges have reviews; the rest is None."""

    model: str
    role: str
    candidates: int | None = Field(default=None, description="candidates that it wrote")
    accepted: int | None = None
    share: float | None = Field(default=None, description="accepted share of its candidates: its yield")
    interval: tuple[float, float] | None = Field(default=None, description="Wilson's 95% interval of the yield")
    row_price_usd: float | None = Field(default=None, description="price of its own calls per accepted candidate")
    refused: float | None = Field(default=None, description="share of its candidates that were refusals")
    duplicates: float | None = Field(default=None, description="share of its candidates that repeat another row")
    reviews: int | None = Field(default=None, description="reviews requested from it")
    failed: int | None = Field(default=None, description="reviews without a judgement")
    mean: float | None = Field(default=None, description="its mean score, 0 to 10")
    severity: float | None = Field(default=None, description="mean offset from the panel's mean, points; < 0: severe")
    agrees_decision: float | None = Field(
        default=None, description="share of its judgements that agree with the decision"
    )
    agrees_others: float | None = Field(
        default=None, description="share of other models' judgements that agree with it"
    )
    review_price_usd: float | None = Field(default=None, description="price of its calls per review")
    price_usd: float | None = Field(description="price of its calls in this role; None also if the lake has none")
    local: bool = Field(default=False, description="whether it runs on this machine and nobody charges for it")


class DayUse(Paid):
    """One day (UTC) of one model, role or dataset; a day without a call has zeros."""

    day: date
    part: str = Field(description="the model, role or dataset; empty: all of them")
    calls: int
    tokens: int | None


class DatasetUse(Paid):
    """Usage and results of the runs of a dataset."""

    dataset: str
    runs: int
    calls: int
    tokens: int | None
    candidates: int
    accepted: int
    row_price_usd: float | None = Field(description="price per accepted candidate")


class Stretch(Value):
    """One of a run's equal intervals; `so far` counts from the run's first call to the interval's end."""

    seconds: float = Field(description="from the run's first call to the end of the interval")
    calls: int = Field(description="distinct calls made in the interval")
    candidates: int = Field(description="candidates whose last call was in the interval")
    accepted: int
    yield_so_far: float | None
    price_so_far: float | None = Field(description="None from the first answered call whose price is unknown")
    row_price_so_far: float | None


class Failure(Value):
    """One kind of failure of a run's calls, without any content of the calls."""

    code: str
    model: str
    role: str
    calls: int = Field(description="distinct calls that failed in this way")
    answered: int = Field(description="those of them that another attempt of the run answered")
    first: datetime
    last: datetime


class RunFigures(Paid):
    """A run as one column of a comparison, with the candidates and calls currently in the lake."""

    run_id: str
    dataset: str
    status: str
    stopped_by: str
    started_at: datetime
    method: str = Field(description="empty if its recipe does not name one")
    version: int | None
    opened: int
    accepted: int
    share: float | None = Field(description="accepted share of the opened slots: its yield")
    calls: int
    tokens: int | None
    row_price_usd: float | None
    seconds: float = Field(description="as recorded; 0 while it is running")
    rows_per_minute: float | None
    models: dict[str, tuple[str, ...]] = Field(description="models called in each role")
    codes: dict[str, int] = Field(
        description="the most frequent codes of candidates that were not accepted, most first"
    )


Part = Literal["all", "model", "role", "dataset"]
