"""Home: every dataset at a glance, what runs now, and what this month has cost."""

from __future__ import annotations

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from dashboard.charts.shapes import sparkline
from dashboard.desk import desk_of
from dashboard.figures import home as figures
from dashboard.pages.page import Page


def home(request: Request) -> Response:
    """The first page. On an empty lake it says how to begin."""
    desk = desk_of(request)
    found = figures.datasets(desk.lake)
    for row in found:
        row["spark"] = Markup(sparkline(row["history"]))
        row["before"] = row["history"][-2] if len(row["history"]) > 1 else None
    runs = desk.lake.runs()
    return desk.page(
        request,
        "home.html.jinja",
        "Home",
        datasets=found,
        running=[run for run in runs if run.status == "running"],
        runs=runs[:6],
        month=figures.money_this_month(desk.lake),
    )


PAGES = (Page("/", "home", home, menu="Home"),)
