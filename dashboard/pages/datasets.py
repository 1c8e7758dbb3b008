"""Dataset: a version's card, its balance and lengths, its quality, and the versions before it."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from dashboard.charts.shapes import stacked
from dashboard.desk import Desk, desk_of
from dashboard.figures import datasets as figures
from dashboard.pages.page import Chart, Page, Spec
from dashboard.tables import Column, Table
from data.versions import version, versions
from schemas.errors import GraftError


def dataset(request: Request) -> Response:
    """One version (`demo`, `demo@2`)."""
    desk = desk_of(request)
    found = version(desk.lake, request.path_params["ref"])
    balance = figures.balance(desk.lake, found.dataset, found.version)
    columns = (Column("label", "label"), Column("split", "split"), Column("rows", "rows", "number"))
    return desk.page(
        request,
        "dataset.html.jinja",
        found.ref,
        tables=(Table("balance", "Balance", columns, balance),),
        ref=found.ref,
        version=found,
        versions=list(reversed(versions(desk.lake, found.dataset))),
    )


def draw_balance(desk: Desk, given: Mapping[str, str]) -> Spec | None:
    """`of`: the version. Rows of each label, in parts by split."""
    found = version(desk.lake, given.get("of", ""))
    rows = figures.balance(desk.lake, found.dataset, found.version)
    return stacked(rows, category="label", value="rows", part="split", title="rows")


def quality(request: Request) -> Response:
    """A version's quality report, the same that `graft quality` prints; `?format=html` and `json` give it as a file.

    Embeddings are left to the command line: no page waits for a model.
    """
    from data.quality import tables
    from data.quality.html import page

    desk = desk_of(request)
    found = version(desk.lake, request.path_params["ref"])
    form = request.query_params.get("format", "")
    report = desk.reports.of(found, patience_s=120.0 if form else 1.0)
    if form and report is None:
        raise GraftError("the figures are still being computed", where=found.ref, fix="ask again in a minute")
    if report is not None and form in ("html", "json"):
        body, kind = (page(report), "text/html") if form == "html" else (report.model_dump_json(), "application/json")
        name = f'attachment; filename="quality-{found.dataset}-{found.version}.{form}"'
        return Response(body, media_type=kind, headers={"Content-Disposition": name})
    sections = tables(report) if report is not None else ()
    return desk.page(
        request, "quality.html.jinja", f"Quality of {found.ref}", ref=found.ref, version=found, sections=sections
    )


PAGES = (
    Page("/datasets/{ref}", "dataset", dataset, tab="Overview"),
    Page("/datasets/{ref}/quality", "quality", quality, tab="Quality"),
)
CHARTS = (Chart("balance", "rows of each label, by split", draw_balance),)
