"""Changes: the diff and drift between two versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from graft.dashboard.charts.shapes import dense, gains
from graft.dashboard.context import Chart, Page, PageContext, Spec, context_of, shown
from graft.dashboard.figures.datasets import shown_labels
from graft.dashboard.pages.datasets import as_file
from graft.dashboard.tables import Part
from graft.data.versions import version, versions
from graft.schemas.datasets import DatasetVersion
from graft.schemas.errors import GraftError
from graft.schemas.sections import Column, Table

if TYPE_CHECKING:
    from graft.data.diff import Diff, Flow, Share

FLOWS = 200
WORDS = 400
"""Characters shown of an example; the row's page has all of it."""
MOST = 60
"""Maximum number of labels in the chart."""


def changes(request: Request) -> Response:
    """Compare a version with `?against=demo@1`, by default the previous version; `?format=html` returns a file."""
    context = context_of(request)
    found = version(context.lake, request.path_params["ref"])
    every = versions(context.lake)
    asked = request.query_params.get("against", "")
    other = version(context.lake, asked) if asked else before(found, every)
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
    from graft.data.quality import sections

    diff = context.reports.diff(other, found, patience_s)
    usual = before(found, versions(context.lake, found.dataset))
    same = usual is not None and usual.ref == other.ref
    report = context.reports.of(found, patience_s, against=None if same else other)
    drift = {one.name: one for one in sections(report)}["drift"] if report else None
    return Part(
        tables=_tables(diff) if diff else (),
        values={"diff": diff, "drift": drift},
        ready=diff is not None and report is not None,
    )


def _file(context: PageContext, other: DatasetVersion, found: DatasetVersion) -> Response:
    from graft.data.diff_html import render_html

    diff = context.reports.diff(other, found, patience_s=60.0)
    if diff is None:
        raise GraftError("the versions are still being compared", where=found.ref, fix="reload in a minute")
    name = f"diff-{other.dataset}-{other.version}-{found.dataset}-{found.version}.html"
    return as_file(render_html(diff), "text/html", name)


def _choices(found: DatasetVersion, every: list[DatasetVersion]) -> list[tuple[str, list[str]]]:
    """Versions to compare with: the dataset's others, newest first, and the latest version of other datasets."""
    own = [one.ref for one in reversed(every) if one.dataset == found.dataset and one.version != found.version]
    latest = {one.dataset: one.ref for one in every if one.dataset != found.dataset}
    return [(name, refs) for name, refs in ((found.dataset, own), ("other datasets", [*latest.values()])) if refs]


def _tables(diff: Diff) -> tuple[Table, ...]:
    numbers = (Column("a", diff.a, "number"), Column("b", diff.b, "number"), Column("change", "change"))
    drops = [{"gate": one.gate or "not recorded", "rule": one.rule or "–", "rows": one.rows} for one in diff.drops]
    why = (Column("gate", "gate"), Column("rule", "rule"), Column("rows", "rows", "number"))
    measures = (
        Column("group", "of"), Column("name", "figure"), Column("a", diff.a), Column("b", diff.b),
        Column("change", "change"),
    )  # fmt: skip
    return (
        Table("dropped", "Why rows were dropped", why, drops),
        Table("labels", "Labels", (Column("name", "label"), *numbers), [_share(one) for one in diff.labels]),
        Table("splits", "Splits", (Column("name", "split"), *numbers), [_share(one) for one in diff.splits]),
        Table("measures", "Lengths, variety and reviews", measures, _measures(diff),
              note=f"variety is measured over {diff.sampled:,} rows of each"),
        _flows("relabels", "Relabelled", diff.relabels),
        _flows("moves", "Moved between splits", diff.moves),
        _examples(diff),
    )  # fmt: skip


def _share(one: Share) -> dict[str, Any]:
    return {"name": one.name, "a": one.a, "b": one.b, "change": f"{one.change:+,}" if one.change else "–"}


def _measures(diff: Diff) -> list[dict[str, Any]]:
    from graft.data.diff_html import TITLES, figure

    return [
        {"group": TITLES[one.group].lower(), "name": one.name, "a": figure(one.a), "b": figure(one.b),
         "change": figure(one.change, signed=True)}
        for one in diff.measures
    ]  # fmt: skip


def _flows(name: str, title: str, flows: tuple[Flow, ...]) -> Table:
    columns = (Column("before", "before"), Column("after", "after"), Column("rows", "rows", "number"))
    note = f"the {FLOWS} most frequent of {len(flows):,}" if len(flows) > FLOWS else ""
    return Table(name, title, columns, [one.model_dump() for one in flows[:FLOWS]], note=note)


def _examples(diff: Diff) -> Table:
    rows = [
        {
            "kind": one.kind, "id": one.id, "link": f"/rows/{quote(one.id, safe='')}",
            "label": _arrow(one.label_before, one.label_after), "split": _arrow(one.split_before, one.split_after),
            "why": f"{one.gate}: {one.rule}" if one.gate else "–",
            "before": _cut(one.text_before), "after": "as before" if one.text_after == one.text_before
            else _cut(one.text_after),
        }
        for one in diff.examples
    ]  # fmt: skip
    columns = (
        Column("kind", "change"), Column("id", "row", "code", link="link"), Column("label", "label"),
        Column("split", "split"), Column("why", "rule"), Column("before", f"in {diff.a}"),
        Column("after", f"in {diff.b}"),
    )  # fmt: skip
    return Table("examples", "Examples", columns, rows)


def _arrow(was: str | None, now: str | None) -> str:
    if was is None or now is None or was == now:
        return (was if now is None else now) or "–"
    return f"{was} → {now}"


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= WORDS else text[: WORDS - 1] + "…"


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
