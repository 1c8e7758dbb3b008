"""Dataset: a version's card, its balance and lengths, its quality, and the versions before it."""

from __future__ import annotations

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from dashboard import figures
from dashboard.charts import stacked, svg
from dashboard.views import as_csv, desk_of
from data.versions import version, versions
from schemas.errors import GraftError


def dataset(request: Request) -> Response:
    """One version (`demo`, `demo@2`); `?format=csv` gives its balance as a file."""
    desk = desk_of(request)
    found = version(desk.lake, request.path_params["ref"])
    balance = figures.balance(desk.lake, found.dataset, found.version)
    if request.query_params.get("format") == "csv":
        return as_csv(["label", "split", "rows"], balance, f"balance-{found.dataset}-{found.version}")
    chart = stacked(balance, category="label", value="rows", part="split", title="rows")
    return desk.page(
        request,
        "dataset.html.jinja",
        found.ref,
        version=found,
        versions=list(reversed(versions(desk.lake, found.dataset))),
        balance=balance,
        chart=Markup(svg(chart, "rows of each label, by split")),
    )


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
    return desk.page(request, "quality.html.jinja", f"Quality of {found.ref}", version=found, sections=sections)
