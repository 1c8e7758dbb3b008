"""Models and money: usage, price, yield and agreement of each model in each role, by day and dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from starlette.requests import Request
from starlette.responses import Response

from graft.dashboard.charts.shapes import bars, intervals, stacked_days
from graft.dashboard.context import Chart, Page, PageContext, Spec, context_of
from graft.schemas.errors import GraftError
from graft.schemas.sections import FEW, Column, Table

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.data.spending import DayUse, Spent
    from graft.data.spending.model import Part
    from graft.data.spending.scope import Filters

SPANS = {"": "all time", "7": "7 days", "30": "30 days", "90": "90 days"}
Figures = tuple["Spent", list["DayUse"]]
LATE_S = 20.0
"""Seconds by which figures may lag while a run commits."""
PATIENCE_S = 1.0
"""Seconds that the page waits for its figures before it is shown without them."""


def models(request: Request) -> Response:
    """Show every model in every role; `?dataset=` and `?days=` narrow it."""
    from graft.data.spending.scope import period
    from graft.data.spending.view import use_tables, worth_tables

    context, query = context_of(request), dict(request.query_params)
    filters, part = _filters(query), _part(query)
    patience = None if "csv" in query else PATIENCE_S
    found = _figures(context, filters, part, patience)
    spent = found[0] if found else None
    names = [
        str(row["dataset"]) for row in context.cache.rows("SELECT DISTINCT dataset FROM lake.runs ORDER BY dataset")
    ]
    tables = (*use_tables(spent.uses), *worth_tables(spent.worths), _datasets(spent.sets)) if spent else ()
    return context.page(
        request, "models.html.jinja", f"Models and money, {period(filters)}", tables=tables, spent=spent, names=names,
        spans=SPANS, chosen={"dataset": query.get("dataset", ""), "days": query.get("days", "")}, part=part,
    )  # fmt: skip


def _figures(context: PageContext, filters: Filters, part: Part, patience_s: float | None = None) -> Figures | None:
    """The scope's figures, cached. A large lake takes seconds: None if they take longer than `patience_s`."""
    key = ("spent", part, filters.get("dataset"), filters.get("since"))
    if patience_s is None:
        return context.cache.get(key, lambda: _count(context.lake, filters, part), late_s=LATE_S)
    return context.cache.soon(key, lambda: _count(context.lake, filters, part), late_s=LATE_S, patience_s=patience_s)


def _count(lake: Lake, filters: Filters, part: Part) -> Figures:
    from graft.data.spending import by_day, spent

    return spent(lake, **filters), by_day(lake, part, **filters)


def _filters(query: Mapping[str, str]) -> Filters:
    """The scope of calls: a dataset, and the last days (all time without `days`, as `graft models` counts)."""
    from graft.data.spending.scope import last_days

    days = query.get("days", "")
    if days not in SPANS:
        raise GraftError(f"unknown period {days[:20]!r}", where="days", fix=f"one of: {', '.join(filter(None, SPANS))}")
    return {"dataset": query.get("dataset") or None, "since": last_days(int(days)) if days else None}


def _part(query: Mapping[str, str]) -> Part:
    part = query.get("part") or "model"
    if part not in ("model", "role", "dataset"):
        raise GraftError(f"unknown part {part[:20]!r}", where="part", fix="model, role or dataset")
    return cast("Part", part)


def _datasets(sets: list[Any]) -> Table:
    rows = [{**one.model_dump(), "href": f"/models?dataset={one.dataset}"} for one in sets]
    columns = (
        Column("dataset", "dataset", link="href"), Column("runs", "runs", "number"), Column("calls", "calls", "number"),
        Column("tokens", "tokens", "number"), Column("price_usd", "price", "money"),
        Column("candidates", "candidates", "number"), Column("accepted", "accepted", "number"),
        Column("row_price_usd", "an accepted row", "money"),
    )  # fmt: skip
    return Table("datasets", "Datasets", columns, rows)


def _figures_now(context: PageContext, given: Mapping[str, str]) -> Figures:
    found = _figures(context, _filters(given), _part(given))
    assert found is not None, "waiting readers get a result"
    return found


def draw_days(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`part`, `dataset`, `days`: tokens of each day; `of=price` shows dollars if all prices are known."""
    priced = given.get("of") == "price"
    rows = [
        {"day": one.day.isoformat(), "part": one.part or "–", "value": one.price_usd if priced else one.tokens or 0}
        for one in _figures_now(context, given)[1]
    ]
    if not any(row["value"] for row in rows) or any(row["value"] is None for row in rows):
        return None
    return stacked_days(rows, day="day", value="value", part="part", title="US dollars" if priced else "tokens",
                        y_format="~f" if priced else "~s")  # fmt: skip


def draw_yields(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`part`, `dataset`, `days`: each writer's yield with its interval."""
    some = _figures_now(context, given)[0].worths
    rows = [{**one.model_dump(), "low": low, "high": high, "name": f"{one.model} ({one.role})"}
            for one in some if one.interval and (one.candidates or 0) >= FEW
            for low, high in [one.interval]]  # fmt: skip
    if not rows:
        return None
    return intervals(rows, category="name", value="share", low="low", high="high", title="share of its texts accepted")


def draw_prices(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`part`, `dataset`, `days`: each model's share of the price of 1,000 accepted rows, if prices are known."""
    some = [one for one in _figures_now(context, given)[0].uses if one.price_1000_usd]
    rows = [{"name": f"{one.model} ({one.role})", "usd": round(one.price_1000_usd or 0, 4)} for one in some]
    return bars(rows, category="name", value="usd", title="US dollars for 1,000 accepted rows") if rows else None


PAGES = (Page("/models", "models", models, menu="Models", plain=("dataset", "days", "part")),)
CHARTS = (
    Chart("spending", "tokens or dollars of each day, by model, role or dataset", draw_days),
    Chart("yields", "each writer's yield with its interval", draw_yields),
    Chart("prices", "each model's share of the price of 1,000 accepted rows", draw_prices),
)
