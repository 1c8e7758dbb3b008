"""The pages. Each file here defines `PAGES` and `CHARTS`; list it in MODULES, in the menu's order."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from graft.dashboard.charts import png, svg
from graft.dashboard.context import Chart, Page, context_of
from graft.dashboard.pages import (
    acting,
    changes,
    datasets,
    home,
    judged,
    map,
    models,
    new,
    people,
    preview,
    report,
    review,
    row,
    rows,
    runs,
    schedules,
    settings,
    students,
    trying,
)
from graft.schemas.errors import NotFound

MODULES = (
    home, new, preview, acting, runs, datasets, report, judged, map, changes, people, rows, row, review, trying,
    students, models, schedules, settings,
)  # fmt: skip


def chart(request: Request) -> Response:
    """A page's chart as a file: `/charts/balance.png?of=demo@2`, `/charts/calls.svg?of=RUN`."""
    context, name, kind = context_of(request), request.path_params["name"], request.path_params["kind"]
    known = context.charts.get(name)
    if known is None or kind not in ("svg", "png"):
        fix = f"one of {', '.join(sorted(context.charts))}, as svg or png"
        raise NotFound("no such chart", where="charts", fix=fix)
    spec = known.draw(context, dict(request.query_params))
    if spec is None:
        raise NotFound("there is nothing to draw", where=f"chart {name}", fix="see the page that it belongs to")
    if kind == "png":
        return Response(png(spec), media_type="image/png")
    return Response(svg(spec, known.label, standalone=True), media_type="image/svg+xml")


PAGES: tuple[Page, ...] = (
    *(page for module in MODULES for page in module.PAGES),
    Page("/charts/{name}.{kind}", "chart", chart, plain=None),
)
CHARTS: dict[str, Chart] = {one.name: one for module in MODULES for one in getattr(module, "CHARTS", ())}
