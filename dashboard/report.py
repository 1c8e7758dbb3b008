"""One HTML file of a version, to send on and to keep: the parts of its pages, no script, nothing loaded from elsewhere.

The tables, charts and sentences are those of the pages; the same version gives the same bytes to the page and to the
command line. What a table holds is in the file as CSV too.
"""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from graft.dashboard.charts import svg
from graft.dashboard.parts import Part, for_file, moment
from graft.dashboard.tables import table_csv
from graft.schemas.errors import GraftError, MissingExtra
from graft.schemas.sections import Table

if TYPE_CHECKING:
    from graft.dashboard.context import PageContext
    from graft.schemas.datasets import DatasetVersion
    from graft.schemas.home import Home

STYLES = Path(__file__).parent / "static" / "graft.css"
PATIENCE_S = 3600.0
"""What the command line waits for the figures: two versions of a million rows take a minute or two."""


def file_name(found: DatasetVersion) -> str:
    """What the file is called unless a person says otherwise."""
    return f"report-{found.dataset}-{found.version}.html"


def render(context: PageContext, found: DatasetVersion, *, patience_s: float = PATIENCE_S) -> bytes:
    """The file's content, UTF-8. Words of restricted rows are hidden.

    Raises GraftError where the figures are not there after `patience_s` seconds.
    """
    from graft.dashboard.pages.changes import before, changes_part
    from graft.dashboard.pages.datasets import overview
    from graft.dashboard.pages.judged import judged_part
    from graft.data.quality import sections
    from graft.data.versions import versions

    other = before(found, versions(context.lake, found.dataset))
    parts = [
        changes_part(context, found, other, patience_s) if other else Part(values={"diff": None, "drift": None}),
        judged_part(context, found, patience_s),
        overview(context, found, patience_s),
    ]
    if not all(part.ready for part in parts):
        raise GraftError("the figures are still being computed", where=found.ref, fix="ask again in a minute")
    held = {table.name: for_file(table) for part in parts for table in part.tables}
    values = {name: value for part in parts for name, value in part.values.items()}
    page = context.templates.get_template("report.html.jinja").render(
        **values, tables=held, other=other, linked=False, groups=sections(values["report"]), published=moment,
        style=Markup(STYLES.read_text(encoding="utf-8")), figure=_figure(context), csv_of=_csv_of(held),
    )  # fmt: skip
    return page.encode("utf-8")


def write_report(home: Home, ref: str, out: Path | None = None) -> Path:
    """Write the file of a version (`demo`, `demo@2`); returns where it lies, by default in the working folder.

    It is there whole or not at all. Raises NotFound, MissingExtra where the charts' library is not installed, and
    GraftError where it cannot be written.
    """
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise MissingExtra("the report's charts need altair", fix="pip install 'graft-factory[dashboard]'") from error
    from graft.dashboard.context import PageContext
    from graft.dashboard.pages import CHARTS, PAGES
    from graft.dashboard.people import Door
    from graft.data.versions import version

    with PageContext.open(home, Door(), PAGES, CHARTS) as context:
        found = version(context.lake, ref)
        file = out if out is not None else Path(file_name(found))
        _check(file)
        content = render(context, found)
    _replace(file, content)
    return file


def _check(file: Path) -> None:
    """That the file may be written, before a minute is spent on it."""
    if file.is_dir():
        raise GraftError("this is a folder", where=str(file), fix=f"--out {file / 'report.html'}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise _unwritable(file, error) from error


def _replace(file: Path, content: bytes) -> None:
    """Put the content in place of what the file was, in one step."""
    made = file.with_name(f".{file.name[:200]}.{os.getpid()}")
    try:
        made.write_bytes(content)
        made.replace(file)
    except OSError as error:
        with suppress(OSError):
            made.unlink()
        raise _unwritable(file, error) from error


def _unwritable(file: Path, error: OSError) -> GraftError:
    return GraftError(f"cannot be written: {error.strerror}", where=str(file), fix="another --out FILE")


def _figure(context: PageContext) -> Callable[..., Markup]:
    """The pages' charts without links to their files."""

    def figure(chart: str, **given: object) -> Markup:
        known = context.charts[chart]
        spec = known.draw(context, {name: str(value) for name, value in given.items()})
        return Markup("<figure>{0}</figure>").format(Markup(svg(spec, known.label))) if spec else Markup("")

    return figure


def _csv_of(held: dict[str, Table]) -> Callable[[str], str]:
    """A table of the file as CSV, in its link."""
    return lambda name: "data:text/csv;base64," + base64.b64encode(bytes(table_csv(held[name]).body)).decode()
