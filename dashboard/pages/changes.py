"""Changes: the diff and drift between two versions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from graft.dashboard.charts.shapes import dense, gains
from graft.dashboard.context import Chart, Page, PageContext, Spec, context_of, shown
from graft.dashboard.figures.datasets import shown_labels
from graft.dashboard.pages.datasets import as_file
from graft.dashboard.tables import Part
from graft.data.versions import latest_of, version, versions
from graft.schemas.datasets import DatasetVersion
from graft.schemas.errors import GraftError

FLOWS = 200
"""Maximum number of moves between two labels in the table."""
MOST = 60
"""Maximum number of labels in the chart."""


def changes(request: Request) -> Response:
    """Compare a version with `?against=demo@1`, by default the previous version; `?format=html` returns a file."""
    context = context_of(request)
    found = version(context.lake, request.path_params["ref"])
    every = versions(context.lake)
    against = request.query_params.get("against", "")
    other = version(context.lake, against) if against else before(found, every)
    if other is not None and request.query_params.get("format") == "html":
        return _file(context, other, found)
    part = changes_part(context, found, other) if other else Part()
    return context.page(
        request, "changes.html.jinja", f"Changes of {found.ref}", tables=part.tables, ref=found.ref, version=found,
        other=other, choices=_choices(found, every), linked=True, changes_ready=part.ready, **part.values,
    )  # fmt: skip


def before(found: DatasetVersion, every: list[DatasetVersion]) -> DatasetVersion | None:
    """The dataset's previous version, the default for drift."""
    earlier = [one for one in every if one.dataset == found.dataset and one.version < found.version]
    return earlier[-1] if earlier else None


def changes_part(context: PageContext, found: DatasetVersion, other: DatasetVersion, patience_s: float = 0.5) -> Part:
    """The diff from `other` to this version, and drift from it."""
    from graft.data import diff_view
    from graft.data.quality import sections

    diff = context.reports.diff(other, found, patience_s)
    usual = before(found, versions(context.lake, found.dataset))
    same = usual is not None and usual.ref == other.ref
    report = context.reports.of(found, patience_s, against=None if same else other)
    drift = {one.name: one for one in sections(report)}["drift"] if report else None
    shown_as = diff_view.sections(diff, FLOWS) if diff else ()
    return Part(
        tables=tuple(table for section in shown_as for table in section.tables),
        values={"diff": diff, "changed": shown_as, "drift": drift},
        ready=diff is not None and report is not None,
    )


def _file(context: PageContext, other: DatasetVersion, found: DatasetVersion) -> Response:
    from graft.data.diff_view import render_html

    diff = context.reports.diff(other, found, patience_s=60.0)
    if diff is None:
        raise GraftError("the versions are still being compared", where=found.ref, fix="reload in a minute")
    name = f"diff-{other.dataset}-{other.version}-{found.dataset}-{found.version}.html"
    return as_file(render_html(diff), "text/html", name)


def _choices(found: DatasetVersion, every: list[DatasetVersion]) -> list[tuple[str, list[str]]]:
    """Versions to compare with: the dataset's others, newest first, and the latest version of other datasets."""
    own = [one.ref for one in reversed(every) if one.dataset == found.dataset and one.version != found.version]
    others = itertools.groupby((one for one in every if one.dataset != found.dataset), key=lambda one: one.dataset)
    latest = {name: latest_of([*some]).ref for name, some in others}
    return [(name, refs) for name, refs in ((found.dataset, own), ("other datasets", [*latest.values()])) if refs]


def draw_changes(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`of`, `against`: two versions. Rows that each label gained or lost; of many labels those that changed most."""
    found = version(context.lake, given.get("of", ""))
    diff = context.reports.diff(version(context.lake, given.get("against", "")), found)
    changed = [one for one in diff.labels if one.change] if diff else []
    ranked = sorted(changed, key=lambda one: (-one.change, one.name))
    rows = shown_labels([{"label": shown(one.name), "change": one.change} for one in ranked], MOST)
    if not rows:
        return None
    return dense(gains(rows, category="label", value="change", title="change in rows"), len(rows))


PAGES = (Page("/datasets/{ref}/changes", "changes", changes, tab="Changes"),)
CHARTS = (Chart("changes", "rows that each label gained or lost", draw_changes),)
