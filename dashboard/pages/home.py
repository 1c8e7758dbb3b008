"""Home: datasets at a glance, current and next runs, pending reviews, and this month's cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import Response

from graft.dashboard.charts.shapes import sparkline
from graft.dashboard.context import Page, PageContext, context_of
from graft.dashboard.figures import datasets as figures
from graft.data.versions import version
from graft.schemas.live import read_live, so_far
from graft.schemas.sections import FEW

if TYPE_CHECKING:
    from graft.data.quality import Quality

GLANCED = 6
"""Number of datasets (the newest) whose quality the page shows."""
SMALL = 50_000
"""Rows up to which the page computes a version's quality; a larger version's quality is shown if it is cached."""
LATE_S = 30.0


def home(request: Request) -> Response:
    """Show the first page. On an empty lake it explains how to begin."""
    from graft.data.spending import month
    from graft.flows.pause import waiting

    context = context_of(request)
    found = context.cache.get("datasets", lambda: figures.datasets(context.lake), late_s=2.0)
    rows = [_dataset(context, row, glanced=place < GLANCED) for place, row in enumerate(found)]
    runs = context.lake.runs()
    running = [(run, read_live(context.home, run.id)) for run in runs if run.status == "running"]
    plan = context.plan.get()
    return context.page(
        request, "home.html.jinja", "Home", datasets=rows, running=running, all_runs=len(runs),
        runs=[so_far(context.home, run) for run in runs[:6]],
        month=context.cache.get("month", lambda: month(context.lake), late_s=LATE_S),
        waiting=waiting(context.home), plan=plan,
        computing=any(row["quality"] == "computing" for row in rows),
    )  # fmt: skip


def _dataset(context: PageContext, row: dict[str, Any], *, glanced: bool) -> dict[str, Any]:
    history = row["history"]
    return {
        **row, "spark": Markup(sparkline(history)), "before": history[-2] if len(history) > 1 else None,
        "quality": _glance(context, row) if glanced else "",
    }  # fmt: skip


def _glance(context: PageContext, row: dict[str, Any]) -> Any:
    """The quality report in a line, with changes of its figures; "computing" while it is computed."""
    from graft.data.quality import sections

    found = version(context.lake, f"{row['dataset']}@{row['version']}")
    if row["rows"] > SMALL and not context.reports.known(found):
        return ""
    report = context.reports.of(found, patience_s=0.0)
    if report is None:
        return "computing"
    odd = [section.title for section in sections(report) if section.unusual]
    return {"odd": odd, "figures": _figures(report)}


def _figures(report: Quality) -> list[tuple[str, float | None, float | None]]:
    """Name, value, and change since the previous version (None: no previous version)."""
    if report.rows < FEW:
        return []
    drift = report.drift
    now = report.wording.distinct_2 if drift is None else drift.distinct_2
    before = drift.distinct_2_before if drift else None
    moved = now - before if now is not None and before is not None else None
    shares = {one.figure: one for one in drift.changes} if drift else {}
    repeats = next((one for name, one in shares.items() if "duplicate" in name.lower()), None)
    known = repeats is not None and repeats.before is not None and repeats.now is not None
    return [
        ("diversity", now, moved),
        ("exact repeats", report.duplicates.exact, repeats.now - repeats.before if known else None),  # type: ignore[union-attr,operator]
    ]


PAGES = (Page("/", "home", home, menu="Home"),)
