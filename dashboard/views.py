"""What every page is given: the lake, the templates, and the ways in which values are shown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from dashboard.reports import Reports
from schemas.base import utc_now
from schemas.cells import inert_cell
from schemas.errors import GraftError, NotFound

if TYPE_CHECKING:
    from data.lake import Lake
    from schemas.home import Home

TRICKS = {
    ord(c): f"⟨U+{ord(c):04X}⟩" for c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
}
"""Signs that turn the direction of writing, spelled out where a text is shown."""


@dataclass(frozen=True)
class Desk:
    """What pages work with. The lake is read-only and shared between the server's threads."""

    home: Home
    lake: Lake
    reports: Reports
    templates: Environment

    @classmethod
    @contextmanager
    def open(cls, home: Home) -> Iterator[Self]:
        """Attach the lake of this home until the block ends."""
        from data.lake import Lake

        folder = Path(__file__).parent / "templates"
        templates = Environment(
            loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        templates.filters.update(shown=shown, ago=ago, number=number, share=share, money=money, card=card)
        reports = Reports(home)
        try:
            with Lake.open(home, read_only=True) as lake:
                yield cls(home, lake, reports, templates)
        finally:
            reports.close()

    def page(self, request: Request, template: str, title: str, **values: Any) -> Response:
        """A page of the house: `template` inside the frame."""
        body = self.templates.get_template(template).render(
            title=title, path=request.url.path, home=str(self.home.root), now=utc_now(), **values
        )
        return HTMLResponse(body)


def desk_of(request: Request) -> Desk:
    """The desk of the application that was asked."""
    return cast("Desk", request.app.state.desk)


async def failure_page(request: Request, error: Exception) -> Response:
    """A page that says what went wrong and what to do, without a traceback."""
    known = error if isinstance(error, GraftError) else None
    code = 404 if isinstance(error, NotFound) or getattr(error, "status_code", 500) == 404 else 500
    what = known.what if known else ("there is no such page" if code == 404 else "this page could not be made")
    fix = known.fix if known else ("go by the menu above" if code == 404 else "the server's log says why")
    answer = desk_of(request).page(
        request, "failure.html.jinja", "Not found" if code == 404 else "Failed", what=what, fix=fix
    )
    answer.status_code = code
    return answer


def shown(text: str | None) -> str:
    """A text as it may stand on a page: signs that reverse the writing are spelled out. Escaping is the template's."""
    return "–" if text is None else text.translate(TRICKS).replace("\x00", "⟨NUL⟩")


def card(markdown: str) -> Markup:
    """A card as HTML. No HTML of its own, no link and no image comes through."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    return Markup(reader.render(shown(markdown)))


def number(value: float | int | None, digits: int = 0) -> str:
    """A number with thousands apart; a dash where it is not known."""
    return "–" if value is None else f"{value:,.{digits}f}"


def share(value: float | None, digits: int = 1) -> str:
    """A share as a percentage; a dash where it is not known."""
    return "–" if value is None else f"{value:.{digits}%}"


def money(value: float | None) -> str:
    """US dollars, or that nobody knows."""
    return "unknown" if value is None else f"${value:,.4f}"


def ago(moment: datetime | None) -> str:
    """How long ago, in the largest unit that fits."""
    if moment is None:
        return "–"
    seconds = max(0, int((utc_now() - moment).total_seconds()))
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            count = seconds // size
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def as_csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], name: str) -> Response:
    """A table as a file; a cell that a spreadsheet would take for a formula gets an apostrophe before it."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows([_safe(row[column]) for column in columns] for row in rows)
    return Response(
        out.getvalue(), media_type="text/csv", headers={"Content-Disposition": f'attachment; filename="{name}.csv"'}
    )


def _safe(value: Any) -> Any:
    return inert_cell(value) if isinstance(value, str) else "" if value is None else value
