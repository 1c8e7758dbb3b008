"""Rows: a version's, or what its run rejected, searched and filtered page by page in the database; one row whole."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from dashboard.desk import desk_of
from dashboard.figures import rows as figures
from dashboard.pages.page import Page
from dashboard.tables import as_csv
from data.explain import explain
from data.versions import version, versions
from schemas.restricted import HIDDEN

SIZE = 50


def rows(request: Request) -> Response:
    """A version's rows; with `?rejected=1` what its run did not accept. Restricted words are hidden."""
    desk, asked = desk_of(request), request.query_params
    refs = [found.ref for found in reversed(versions(desk.lake))]
    if not refs:
        return desk.page(request, "empty.html.jinja", "Rows", what="There is no row yet.")
    found = version(desk.lake, asked.get("ref") or refs[0])
    rejected, page = asked.get("rejected") == "1", _page(asked.get("page", "0"))
    chosen = {name: asked.get(name, "") for name in ("words", "label", "split", "source", "code", "sort")}
    if rejected:
        total, table = figures.find_candidates(
            desk.lake, found.run_id, words=chosen["words"], code=chosen["code"], status="", page=page, size=SIZE
        )
    else:
        sort = chosen["sort"] if chosen["sort"] in figures.SORTS else "id"
        names = ("words", "label", "split", "source")
        given = {name: chosen[name] for name in names}
        total, table = figures.find_rows(
            desk.lake, found.dataset, found.version, **given, sort=sort, page=page, size=SIZE
        )
    table = [_hidden(row) for row in table]
    if asked.get("format") == "csv":
        return as_csv(list(table[0]) if table else ["id"], table, f"rows-{found.dataset}-{found.version}")
    query = {"ref": found.ref, **{k: v for k, v in chosen.items() if v}, **({"rejected": "1"} if rejected else {})}
    return desk.page(
        request, "rows.html.jinja", f"Rows of {found.ref}", version=found, refs=refs, rejected=rejected, rows=table,
        total=total, page=page, pages=max(1, -(-total // SIZE)), chosen=chosen, sorts=list(figures.SORTS),
        link=lambda **more: "/rows?" + urlencode({**query, **more}),
    )  # fmt: skip


def row(request: Request) -> Response:
    """A row's whole history. `?show=1` shows a restricted one, this once."""
    desk = desk_of(request)
    history = explain(desk.lake, request.path_params["row_id"], restricted=request.query_params.get("show") == "1")
    return desk.page(request, "row.html.jinja", f"Row {history['id']}", row=history)


def _hidden(row: dict[str, Any]) -> dict[str, Any]:
    if not row["restricted"]:
        return row
    return {**row, **{name: HIDDEN for name in ("text", "response", "reason") if row.get(name)}}


def _page(said: str) -> int:
    return min(int(said), 10**7) if said.isascii() and said.isdigit() else 0


PAGES = (
    Page("/rows", "rows", rows, menu="Rows"),
    Page("/rows/{row_id}", "row", row),
)
