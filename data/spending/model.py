"""The figures of models and money as values. A price is in US dollars, and None where it is not known, never 0."""

from __future__ import annotations

from datetime import date, datetime
from typing import Literal

from pydantic import Field

from graft.schemas.base import Value


class Total(Value):
    """All calls of what was asked for."""

    calls: int = Field(description="different calls, those that failed included")
    tokens: int | None = Field(description="prompt and completion; None where a server did not say")
    price_usd: float | None = Field(description="None where the price of an answered call is unknown")


class ModelUse(Value):
    """The calls of one model in one role."""

    model: str
    role: str
    calls: int = Field(description="different calls, those that failed included")
    cached: int = Field(description="times that one was asked again and read instead of made")
    failed: int = Field(description="calls that never got a usable answer")
    failures: dict[str, int] = Field(description="code to how many of the failed")
    prompt_tokens: int | None = Field(description="of answered calls; None where a server did not say")
    completion_tokens: int | None
    cached_tokens: int | None = Field(description="prompt tokens from the server's cache, as far as servers say")
    price_usd: float | None
    price_1000_usd: float | None = Field(description="price over accepted candidates of all models, times 1,000")
    unreadable: float | None = Field(description="share of the calls that ended malformed, empty or off their schema")
    refused: float | None = Field(description="share of the calls that ended as a refusal")
    retried: int = Field(description="answered calls that took more than one attempt")
    p50_s: float | None = Field(description="median seconds of answers that were not cached")
    p95_s: float | None


class Worth(Value):
    """What a model did in a role for its price. Writers have candidates, judges have reviews; the rest is None."""

    model: str
    role: str
    candidates: int | None = Field(default=None, description="that it wrote")
    accepted: int | None = None
    share: float | None = Field(default=None, description="accepted over candidates: its yield")
    interval: tuple[float, float] | None = Field(default=None, description="Wilson's 95% interval of the yield")
    row_price_usd: float | None = Field(default=None, description="price of its own calls over its accepted candidates")
    refused: float | None = Field(default=None, description="share of its candidates that were refusals")
    duplicates: float | None = Field(default=None, description="share of them that said what another row says")
    reviews: int | None = Field(default=None, description="that it was asked for")
    failed: int | None = Field(default=None, description="reviews that gave no judgement")
    mean: float | None = Field(default=None, description="its mean score, 0 to 10")
    severity: float | None = Field(default=None, description="mean offset from the panel's mean, points; < 0: severe")
    agrees_decision: float | None = Field(
        default=None, description="share of its judgements that the decision followed"
    )
    agrees_others: float | None = Field(default=None, description="share of other models' judgements that say the same")
    review_price_usd: float | None = Field(default=None, description="price of its calls over its reviews")
    price_usd: float | None = Field(description="of its calls in this role; None also where the lake has none")


class DayUse(Value):
    """One day (UTC) of one model, role or dataset; a day without a call has zeros."""

    day: date
    part: str = Field(description="which model, role or dataset; empty: all of them")
    calls: int
    tokens: int | None
    price_usd: float | None


class DatasetUse(Value):
    """What the runs of one dataset took."""

    dataset: str
    runs: int
    calls: int
    tokens: int | None
    price_usd: float | None
    candidates: int
    accepted: int
    row_price_usd: float | None = Field(description="price over accepted candidates")


class Stretch(Value):
    """One of the equal stretches of a run; `so far` counts from the run's first call to the stretch's end."""

    seconds: float = Field(description="from the run's first call to the end of the stretch")
    calls: int = Field(description="different calls made in the stretch")
    candidates: int = Field(description="candidates whose last call was in the stretch")
    accepted: int
    yield_so_far: float | None
    price_so_far: float | None = Field(description="None from the first answered call on whose price is unknown")
    row_price_so_far: float | None


class Failure(Value):
    """One way in which calls of a run failed. What was said is in no such figure."""

    code: str
    model: str
    role: str
    calls: int = Field(description="different calls that met with it")
    answered: int = Field(description="those of them that another attempt of the run got answered")
    first: datetime
    last: datetime


class RunFigures(Value):
    """A run as one column of a comparison; candidates and calls as the lake has them now."""

    run_id: str
    dataset: str
    status: str
    stopped_by: str
    started_at: datetime
    method: str = Field(description="empty where its recipe does not say")
    version: int | None
    opened: int
    accepted: int
    share: float | None = Field(description="accepted over opened: its yield")
    calls: int
    tokens: int | None
    price_usd: float | None
    row_price_usd: float | None
    seconds: float = Field(description="as its record says; 0 while it goes on")
    rows_per_minute: float | None
    models: dict[str, tuple[str, ...]] = Field(description="role to the models that were called in it")
    codes: dict[str, int] = Field(description="the commonest ways in which candidates were not accepted, most first")


Part = Literal["all", "model", "role", "dataset"]
