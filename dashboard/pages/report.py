"""The report of a version as one HTML file: the parts of its pages, no script, nothing loaded from elsewhere.

It has the tables, charts and sentences of the pages. The same version gives the same bytes on the page and from the
command line. The file includes each table as CSV too.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from graft.dashboard.charts import svg
from graft.dashboard.context import Page, PageContext, context_of
from graft.dashboard.pages.changes import before, changes_part
from graft.dashboard.pages.datasets import as_file, overview
from graft.dashboard.pages.judged import judged_part
from graft.dashboard.tables import Part, for_file, moment, section_for_file, table_csv
from graft.data.versions import version, versions
from graft.schemas.errors import GraftError
from graft.schemas.sections import Table

if TYPE_CHECKING:
    from graft.schemas.datasets import DatasetVersion

STYLES = Path(__file__).parents[1] / "static" / "graft.css"
PATIENCE_S = 3600.0
"""Seconds that the command line waits for figures: two versions of a million rows take a minute or two."""


def whole(request: Request) -> Response:
    """A version's report as one HTML file, as written by `graft report`."""
    context = context_of(request)
    found = version(context.lake, request.path_params["ref"])
    return as_file(render(context, found, patience_s=60.0), "text/html", file_name(found))


def file_name(found: DatasetVersion) -> str:
    """The default name of the file."""
    return f"report-{found.dataset}-{found.version}.html"


def render(context: PageContext, found: DatasetVersion, *, patience_s: float = PATIENCE_S) -> bytes:
    """The file's content, UTF-8. Text of restricted rows is hidden.

    Raises GraftError if the figures take longer than `patience_s` seconds.
    """
    from graft.data.quality import sections

    other = before(found, versions(context.lake, found.dataset))
    unchanged = Part(values={"diff": None, "changed": (), "drift": None})
    parts = [
        changes_part(context, found, other, patience_s) if other else unchanged,
        judged_part(context, found, patience_s),
        overview(context, found, patience_s),
    ]
    if not all(part.ready for part in parts):
        raise GraftError("the figures are still being computed", where=found.ref, fix="try again in a minute")
    held = {table.name: for_file(table) for part in parts for table in part.tables}
    values = {name: value for part in parts for name, value in part.values.items()}
    values["changed"] = [section_for_file(one) for one in values["changed"]]
    page = context.templates.get_template("report.html.jinja").render(
        **values, tables=held, other=other, linked=False, groups=sections(values["report"]), published=moment,
        style=Markup(STYLES.read_text(encoding="utf-8")), figure=_figure(context), csv_of=_csv_of(held),
    )  # fmt: skip
    return page.encode("utf-8")


def _figure(context: PageContext) -> Callable[..., Markup]:
    """The pages' charts without links to their files."""

    def figure(chart: str, **given: object) -> Markup:
        known = context.charts[chart]
        spec = known.draw(context, {name: str(value) for name, value in given.items()})
        return Markup("<figure>{0}</figure>").format(Markup(svg(spec, known.label))) if spec else Markup("")

    return figure


def _csv_of(held: dict[str, Table]) -> Callable[[str], str]:
    """A table of the file as CSV, as a data link."""
    return lambda name: "data:text/csv;base64," + base64.b64encode(bytes(table_csv(held[name]).body)).decode()


PAGES = (Page("/datasets/{ref}/report", "report", whole, plain=None),)
