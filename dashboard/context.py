"""Pages, forms and charts, and the context that they share: lake, writer, templates and their filters, reports."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast
from urllib.parse import parse_qsl, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from graft.dashboard.charts import shades, svg
from graft.dashboard.door import Door
from graft.dashboard.queues import Queues
from graft.dashboard.reports import Reports, StaleCache
from graft.dashboard.tables import table_csv
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.money import money
from graft.schemas.sections import FEW, Table, ago, ahead, number, seconds, share, spelled

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.data.query_cache import QueryCache
    from graft.flows.schedules import Overview
    from graft.schemas.display import View
    from graft.schemas.home import Home


T = TypeVar("T")
MEMORY = "450MB"
"""DuckDB's memory limit for all pages together; beyond it queries spill to the lake's folder."""
Spec = dict[str, Any]
"""A Vega-Lite specification."""
LARGEST = 2_000_000
"""Maximum bytes of a form; far more than a long response takes."""
Form = Mapping[str, str]


def shown(text: str | None) -> str:
    """A text for a page, with direction characters spelled out. Templates escape it."""
    return "–" if text is None else spelled(text)


def card(markdown: str) -> Markup:
    """A card as HTML. HTML in its text, links and images are removed."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    return Markup(reader.render(shown(markdown)))


def shades_of(labels: Mapping[str, int], views: Iterable[View] = ()) -> dict[str, str]:
    """The colours of a version's labels (rows of each), and of the kinds of span in these views."""
    pieces = (piece for view in views for part in view for piece in part.pieces)
    marks = sorted({piece.mark for piece in pieces if piece.mark})
    return {**shades(dict.fromkeys(marks, 0)), **shades(labels)}


FILTERS: dict[str, Any] = {
    "shown": shown, "card": card, "number": number, "share": share, "money": money, "ago": ago, "ahead": ahead,
    "seconds": seconds,
}  # fmt: skip
"""Filters by their names in templates."""


@dataclass(frozen=True)
class Page:
    """One address. A plain function runs on a thread, so that no page blocks another.

    `menu` is its title in the menu, `tab` its title among a dataset's tabs (its path then begins /datasets/{ref}).
    `plain` are the parameters that a link on another site may use: they select a view and run no search.
    None: no link on another site opens it. `posts` marks an address that changes something: it accepts only POST.
    """

    path: str
    name: str
    answer: Callable[[Request], Response] | Callable[[Request], Awaitable[Response]]
    menu: str = ""
    tab: str = ""
    posts: bool = False
    plain: tuple[str, ...] | None = ()


@dataclass(frozen=True)
class Chart:
    """A chart of a page, drawn from the same parameters on the page and as a file (`/charts/NAME.svg?…`).

    `draw` returns None if there is nothing to draw: no page has an empty chart. `label` is for screen readers.
    """

    name: str
    label: str
    draw: Callable[[PageContext, Mapping[str, str]], Spec | None]


@dataclass
class Pen:
    """The writer: a lake connection of its own, opened for the first decision. One thread writes at a time."""

    home: Home
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _lake: Lake | None = None

    def write(self, work: Callable[[Lake], T]) -> T:
        """Call `work` with a writable lake and return its result."""
        from graft.data.lake import Lake

        with self._lock:
            if self._lake is None:
                self._lake = Lake.open(self.home)
            return work(self._lake)

    def close(self) -> None:
        """Detach the lake if it was opened."""
        with self._lock:
            if self._lake is not None:
                self._lake.close()
                self._lake = None


@dataclass(frozen=True)
class PageContext:
    """The context of all pages. The lake is read-only and shared between the server's threads."""

    home: Home
    lake: Lake
    cache: QueryCache
    plan: StaleCache[Overview]
    pen: Pen
    reports: Reports
    templates: Environment
    door: Door
    pages: tuple[Page, ...]
    charts: Mapping[str, Chart]
    queues: Queues = field(default_factory=Queues)

    @classmethod
    @contextmanager
    def open(cls, home: Home, door: Door, pages: tuple[Page, ...], charts: Mapping[str, Chart]) -> Iterator[Self]:
        """Attach the lake of this home until the block ends."""
        from graft.data.lake import Lake
        from graft.data.query_cache import QueryCache

        templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        templates.filters.update(FILTERS)
        templates.globals["FEW"] = FEW
        pen, plan = Pen(home), StaleCache(lambda: _overview(home))
        with Lake.open(home, read_only=True, memory=MEMORY) as lake:
            reports = Reports(lake)
            try:
                yield cls(home, lake, QueryCache(lake), plan, pen, reports, templates, door, pages, charts)
            finally:
                reports.close()
                pen.close()

    def page(
        self, request: Request, template: str, title: str, *, tables: tuple[Table, ...] = (), ref: str = "",
        **values: Any,
    ) -> Response:  # fmt: skip
        """Render `template` inside the frame, with its tables by name as `tables`.

        `?csv=NAME` returns that table as a file instead. `ref` (demo@2) shows the dataset's tabs above the page.
        """
        by_name = {table.name: table for table in tables}
        if (wanted := request.query_params.get("csv")) is not None:
            if wanted not in by_name:
                fix = f"one of: {', '.join(by_name) or 'none'}"
                raise NotFound(f"this page has no table {wanted!r}", where=request.url.path, fix=fix)
            return table_csv(by_name[wanted])
        return self.html(request, template, title, tables=by_name, ref=ref, **values)

    def html(
        self, request: Request, template: str, title: str, *, tables: Mapping[str, Table], ref: str = "", **values: Any
    ) -> Response:  # fmt: skip
        """Render the page, whatever parameters the address has."""
        body = self.templates.get_template(template).render(
            title=title, path=request.url.path, home=str(self.home.root), tables=tables, ref=ref,
            menu=[(page.menu, page.path) for page in self.pages if page.menu],
            tabs=[(page.tab, page.path.replace("{ref}", ref)) for page in self.pages if page.tab] if ref else [],
            person=self.door.person(request), figure=self.figure, csv_of=_csv_of(request), **values,
        )  # fmt: skip
        return HTMLResponse(body)

    def figure(self, chart: str, **given: object) -> Markup:
        """A chart with links to its files; empty if there is nothing to draw."""
        known, options = self.charts[chart], {name: str(value) for name, value in given.items()}
        spec = known.draw(self, options)
        if spec is None:
            return Markup("")
        query = urlencode(options)
        links = Markup(" ").join(
            Markup('<a href="/charts/{0}.{1}?{2}" download>{3}</a>').format(chart, kind, query, kind.upper())
            for kind in ("svg", "png")
        )
        drawn = Markup(svg(spec, known.label))
        return Markup("<figure>{0}<figcaption>{1}</figcaption></figure>").format(drawn, links)


def _overview(home: Home) -> Overview:
    from graft.flows.schedules import overview

    return overview(home, runs=0)


def context_of(request: Request) -> PageContext:
    """The context of the request's application."""
    return cast("PageContext", request.app.state.context)


def posted(work: Callable[[Request, Form], Response]) -> Callable[[Request], Awaitable[Response]]:
    """An address that accepts a form (urlencoded, as HTML sends it) and responds on a thread.

    If a field is sent several times the last value counts. Raises GraftError if the form is too large or invalid.
    """

    @wraps(work)
    async def answer(request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST:
                raise GraftError(f"a form of more than {LARGEST:,} bytes", where="form", fix="shorten the text")
        try:
            form = dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=1000))
        except ValueError as error:
            raise GraftError("this is not a form", where="form", fix="submit it from the page") from error
        if any("\x00" in value for pair in form.items() for value in pair):
            raise GraftError("this form holds a NUL character", where="form", fix="submit it from the page")
        return await run_in_threadpool(work, request, form)

    return answer


def _csv_of(request: Request) -> Callable[[str], str]:
    """The address of a table of the page as CSV; the page's filters are kept."""
    parameters = [(name, value) for name, value in request.query_params.multi_items() if name != "csv"]
    return lambda name: f"{request.url.path}?{urlencode([*parameters, ('csv', name)])}"


async def failure_page(request: Request, error: Exception) -> Response:
    """A page with the error and its fix, without a traceback."""
    known = error if isinstance(error, GraftError) else None
    status = getattr(error, "status_code", 500)
    code = 404 if isinstance(error, NotFound) or status == 404 else 400 if known else status
    what = known.what if known else ("there is no such page" if code == 404 else "this page could not be made")
    fix = known.fix if known else ("use the menu above" if code == 404 else "see the server's log")
    where = known.where if known else ""
    title = "Not found" if code == 404 else "Failed"
    answer = context_of(request).html(request, "failure.html.jinja", title, tables={}, what=what, fix=fix, where=where)
    answer.status_code = code
    return answer
