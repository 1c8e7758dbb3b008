"""Charts as files: the same specification that a page shows, as SVG or PNG."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from dashboard import figures
from dashboard.charts import line, png, stacked, svg
from dashboard.views import desk_of
from data.versions import version
from schemas.errors import NotFound


def chart(request: Request) -> Response:
    """`/charts/balance.png?of=demo@2`, `/charts/calls.svg?of=RUN`."""
    desk, name, kind = desk_of(request), request.path_params["name"], request.path_params["kind"]
    of = request.query_params.get("of", "")
    if kind not in ("svg", "png") or name not in ("balance", "calls"):
        raise NotFound("no such chart", where="charts", fix="balance or calls, as svg or png")
    if name == "balance":
        found = version(desk.lake, of)
        rows = figures.balance(desk.lake, found.dataset, found.version)
        spec = stacked(rows, category="label", value="rows", part="split", title="rows")
    else:
        rows = figures.over_time(desk.lake, of)
        spec = line(rows, x="seconds", y="calls", x_title="seconds since the first call", y_title="calls answered")
    if kind == "png":
        return Response(png(spec), media_type="image/png")
    return Response(svg(spec, name), media_type="image/svg+xml")
