"""Models and money: what each model took in each role, by day and dataset, and whether it was worth its price."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from dashboard.charts.shapes import bars, intervals, stacked_days
from dashboard.desk import Desk, desk_of
from dashboard.pages.page import Chart, Page, Spec
from dashboard.tables import Column, Table
from schemas.base import utc_now
from schemas.errors import GraftError

if TYPE_CHECKING:
    from data.spending import ModelUse, Worth
    from data.spending.scope import Filters

SPANS = {"7": "7 days", "30": "30 days", "90": "90 days", "": "all time"}
LATE_S = 20.0
"""Seconds for which figures may be behind while a run commits."""


def models(request: Request) -> Response:
    """Every model in every role; `?dataset=` and `?days=` narrow it."""
    from data.spending import by_dataset, total

    desk, asked = desk_of(request), dict(request.query_params)
    filters = _filters(asked)
    key = (filters.get("dataset"), filters.get("since"))
    uses, worths = _used(desk, filters), _worths(desk, filters)
    sums = desk.memo.get(("total", *key), lambda: total(desk.lake, **filters), late_s=LATE_S)
    sets = desk.memo.get(("by dataset", *key), lambda: by_dataset(desk.lake, **filters), late_s=LATE_S)
    names = [str(row["dataset"]) for row in desk.memo.rows("SELECT DISTINCT dataset FROM lake.runs ORDER BY dataset")]
    tables = (_uses(uses), _writers(worths), _judges(worths), _datasets(sets))
    return desk.page(
        request, "models.html.jinja", "Models and money", tables=tables, total=sums, names=names, spans=SPANS,
        chosen={"dataset": asked.get("dataset", ""), "days": asked.get("days", "30")}, part=_part(asked),
        tokens=sum(_sum(one.prompt_tokens, one.completion_tokens) or 0 for one in uses),
        silent=", ".join(dict.fromkeys(one.model for one in uses if one.prompt_tokens is None)),
        candidates=sum(one.candidates for one in sets),
        accepted=sum(one.accepted for one in sets),
    )  # fmt: skip


def _used(desk: Desk, filters: Filters) -> list[ModelUse]:
    from data.spending import by_model

    key = ("models", filters.get("dataset"), filters.get("since"))
    return desk.memo.get(key, lambda: by_model(desk.lake, **filters), late_s=LATE_S)


def _worths(desk: Desk, filters: Filters) -> list[Worth]:
    from data.spending import worth

    key = ("worth", filters.get("dataset"), filters.get("since"))
    return desk.memo.get(key, lambda: worth(desk.lake, _used(desk, filters), **filters), late_s=LATE_S)


def _filters(asked: Mapping[str, str]) -> Filters:
    """Which calls: of a dataset, of the last days (30 unless said otherwise)."""
    days = asked.get("days", "30")
    if days not in SPANS:
        raise GraftError(
            f"no such stretch: {days[:20]!r}", where="days", fix=f"one of: {', '.join(filter(None, SPANS))}"
        )
    since: date | None = utc_now().date() - timedelta(days=int(days) - 1) if days else None
    return {"dataset": asked.get("dataset") or None, "since": since}


def _part(asked: Mapping[str, str]) -> str:
    part = asked.get("part") or "model"
    if part not in ("model", "role", "dataset"):
        raise GraftError(f"no part {part[:20]!r}", where="part", fix="model, role or dataset")
    return part


def _uses(uses: list[ModelUse]) -> Table:
    rows = [
        {**one.model_dump(), "tokens": _sum(one.prompt_tokens, one.completion_tokens),
         "codes": ", ".join(f"{code} {count:,}" for code, count in one.failures.items())}
        for one in uses
    ]  # fmt: skip
    columns = (
        Column("model", "model"), Column("role", "role"), Column("calls", "calls", "number"),
        Column("cached", "read again", "number"), Column("tokens", "tokens", "number"),
        Column("cached_tokens", "from server's cache", "number"), Column("price_usd", "price", "money"),
        Column("price_1000_usd", "of 1,000 rows", "money"), Column("unreadable", "unreadable", "share"),
        Column("refused", "refused", "share"), Column("retried", "retried", "number"),
        Column("p50_s", "median", "seconds"), Column("p95_s", "95%", "seconds"), Column("codes", "failures"),
    )  # fmt: skip
    note = "unreadable: malformed, empty or off its schema; read again: answered from the journal, not paid twice"
    return Table("uses", "What each took", columns, rows, note=note)


def _writers(worths: list[Worth]) -> Table:
    rows = [_spread(one) for one in worths if one.candidates is not None]
    columns = (
        Column("model", "model"), Column("role", "role"), Column("candidates", "candidates", "number"),
        Column("accepted", "accepted", "number"), Column("share", "yield", "share", bar=True),
        Column("low", "95% from", "share"), Column("high", "to", "share"),
        Column("row_price_usd", "an accepted row", "money"), Column("refused", "refused", "share"),
        Column("duplicates", "duplicates", "share"),
    )  # fmt: skip
    return Table("writers", "Writers", columns, rows)


def _judges(worths: list[Worth]) -> Table:
    rows = [_spread(one) for one in worths if one.reviews is not None]
    columns = (
        Column("model", "model"), Column("role", "role"), Column("reviews", "reviews", "number"),
        Column("failed", "no judgement", "number"), Column("mean", "mean score", "number", digits=2),
        Column("severity", "severity", "number", digits=2), Column("agrees_decision", "with the decision", "share"),
        Column("agrees_others", "with the others", "share"), Column("review_price_usd", "a review", "money"),
    )  # fmt: skip
    return Table("worth", "Judges", columns, rows, note="severity: points off its panels' mean; below 0 is severe")


def _datasets(sets: list[Any]) -> Table:
    rows = [{**one.model_dump(), "href": f"/models?dataset={one.dataset}"} for one in sets]
    columns = (
        Column("dataset", "dataset", link="href"), Column("runs", "runs", "number"), Column("calls", "calls", "number"),
        Column("tokens", "tokens", "number"), Column("price_usd", "price", "money"),
        Column("candidates", "candidates", "number"), Column("accepted", "accepted", "number"),
        Column("row_price_usd", "an accepted row", "money"),
    )  # fmt: skip
    return Table("datasets", "Datasets", columns, rows)


def _spread(one: Worth) -> dict[str, Any]:
    low, high = one.interval or (None, None)
    return {**one.model_dump(), "low": low, "high": high}


def _sum(*values: int | None) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def draw_days(desk: Desk, given: Mapping[str, str]) -> Spec | None:
    """`part`, `dataset`, `days`: tokens of each day; `of=price` shows dollars where all are known."""
    from data.spending import by_day

    filters, part = _filters(given), _part(given)
    key = ("days", part, filters.get("dataset"), filters.get("since"))
    days = desk.memo.get(key, lambda: by_day(desk.lake, part, **filters), late_s=LATE_S)  # type: ignore[arg-type]
    priced = given.get("of") == "price"
    rows = [
        {"day": one.day.isoformat(), "part": one.part or "–", "value": one.price_usd if priced else one.tokens or 0}
        for one in days
    ]
    if not any(row["value"] for row in rows) or any(row["value"] is None for row in rows):
        return None
    return stacked_days(rows, day="day", value="value", part="part", title="US dollars" if priced else "tokens")


def draw_yields(desk: Desk, given: Mapping[str, str]) -> Spec | None:
    """`dataset`, `days`: each writer's yield with its interval."""
    some = [one for one in _worths(desk, _filters(given)) if one.interval is not None]
    rows = [{**_spread(one), "name": f"{one.model} ({one.role})"} for one in some]
    if not rows:
        return None
    return intervals(rows, category="name", value="share", low="low", high="high", title="accepted of what it wrote")


def draw_prices(desk: Desk, given: Mapping[str, str]) -> Spec | None:
    """`dataset`, `days`: what each model puts on the price of 1,000 accepted rows, where prices are known."""
    some = [one for one in _used(desk, _filters(given)) if one.price_1000_usd]
    rows = [{"name": f"{one.model} ({one.role})", "usd": round(one.price_1000_usd or 0, 4)} for one in some]
    return bars(rows, category="name", value="usd", title="US dollars on 1,000 accepted rows") if rows else None


PAGES = (Page("/models", "models", models, menu="Models"),)
CHARTS = (
    Chart("spending", "tokens or dollars of each day, by model, role or dataset", draw_days),
    Chart("yields", "each writer's yield with its interval", draw_yields),
    Chart("prices", "what each model puts on the price of 1,000 accepted rows", draw_prices),
)
