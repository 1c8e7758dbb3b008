"""The pages, in the order of the menu. A page is a file here; add it to PAGES and, for the menu, to base.html.jinja."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from dashboard.pages import charts, datasets, home, rows, runs


@dataclass(frozen=True)
class Page:
    """One address and what answers it: a plain function runs on a thread, so that one page holds up no other."""

    path: str
    name: str
    answer: Callable[[Request], Response] | Callable[[Request], Awaitable[Response]]


PAGES = (
    Page("/", "home", home.home),
    Page("/runs", "runs", runs.runs),
    Page("/runs/{run_id}", "run", runs.run),
    Page("/datasets/{ref}", "dataset", datasets.dataset),
    Page("/datasets/{ref}/quality", "quality", datasets.quality),
    Page("/rows", "rows", rows.rows),
    Page("/rows/{row_id}", "row", rows.row),
    Page("/charts/{name}.{kind}", "chart", charts.chart),
)
