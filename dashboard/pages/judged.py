"""Reviews: agreement and severity of judges, adjudications, and changed labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from graft.dashboard.charts import ACCENT, OTHERS, SECOND
from graft.dashboard.charts.shapes import heat, histogram, lines, offsets, roomy, shares
from graft.dashboard.context import Chart, Page, PageContext, Spec, context_of, shown
from graft.dashboard.figures import judged as figures
from graft.dashboard.pages.datasets import rows_link
from graft.dashboard.tables import Part
from graft.data.versions import version
from graft.schemas.datasets import DatasetVersion
from graft.schemas.sections import FEW, Column, Section, Table

if TYPE_CHECKING:
    from graft.data.quality.model import Reviews

MOST = 24
"""Maximum number of labels in a heat map; labels with the most changes are drawn."""
PAIRS = 200
"""Maximum number of pairs of an intended and a final label in the table."""
ENDS = {"accepted": ACCENT, "rejected": SECOND, "failed": OTHERS}


def reviews(request: Request) -> Response:
    """Judgements of the candidates of a version's runs, and their effect on labels."""
    context = context_of(request)
    found = version(context.lake, request.path_params["ref"])
    part = judged_part(context, found, every=request.query_params.get("csv") == "relabelled")
    return context.page(
        request, "reviews.html.jinja", f"Reviews of {found.ref}", tables=part.tables, ref=found.ref, version=found,
        linked=True, judged_ready=part.ready, **part.values,
    )  # fmt: skip


def judged_part(context: PageContext, found: DatasetVersion, patience_s: float = 0.5, *, every: bool = False) -> Part:
    """Agreement and severity from the quality report; adjudications, relabelled rows and the methods' own figures."""
    from graft.data.quality import sections

    counted = _judged(context, found, patience_s)
    report = context.reports.of(found, patience_s)
    section = {one.name: one for one in sections(report)}["reviews"] if report else None
    held = report.reviews if report else None
    made = _reports(counted)
    return Part(
        tables=(
            _reviewers_table(held),
            _bias_table(held),
            _adjudicated_table(counted),
            _pairs_table(found, counted, every=every),
            *(table for _, one in made for table in one.tables),
        ),
        values={
            "reviews_section": section,
            "reviews": held,
            "counted": counted,
            "relabelled_rows": sum(row["rows"] for row in counted.relabels) if counted else 0,
            "made": made,
            "drawn": [table.name for _, one in made for table in one.tables if _drawable(table)],
        },
        ready=report is not None and counted is not None,
    )


def _judged(context: PageContext, found: DatasetVersion, patience_s: float = 0.5) -> figures.JudgementFigures | None:
    return context.reports.made(("judged", found.ref), lambda lake: figures.judged(lake, found), patience_s)


def _reports(counted: figures.JudgementFigures | None) -> list[tuple[str, Section]]:
    """Runs with their methods' reports; table names are made unique on the page."""
    return [
        (run_id, replace(one, tables=tuple(replace(table, name=f"{table.name}{number}") for table in one.tables)))
        for number, (run_id, one) in enumerate(counted.reports if counted else ())
    ]


def _reviewers_table(held: Reviews | None) -> Table:
    rows = [
        {"model": one.model, "reviews": one.reviews, "mean": one.mean, "severity": _signed(one.severity),
         "strictest": _furthest(one.bias, -1), "mildest": _furthest(one.bias, 1)}
        for one in (held.reviewers if held else ())
    ]  # fmt: skip
    columns = (
        Column("model", "model"), Column("reviews", "reviews", "number"), Column("mean", "mean score", "number", 2),
        Column("severity", "offset from its panels"), Column("strictest", "strictest on"),
        Column("mildest", "mildest on"),
    )  # fmt: skip
    note = "points of 10; an offset below 0 is severe, and a label's offset is in addition to the model's own"
    return Table("reviewers", "Models that judged", columns, rows, note=note)


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _furthest(bias: Mapping[str, float], sign: int) -> str:
    label = max(bias, key=lambda name: (sign * bias[name], name), default=None)
    return "–" if label is None or sign * bias[label] < 0.005 else f"{label} {bias[label]:+.2f}"


def _bias_table(held: Reviews | None) -> Table:
    judges = [one for one in (held.reviewers if held else ()) if one.bias]
    labels = sorted({label for one in judges for label in one.bias})
    rows = [{"label": label, **{f"m{n}": one.bias.get(label) for n, one in enumerate(judges)}} for label in labels]
    columns = (
        Column("label", "label"), *(Column(f"m{n}", one.model, "number", digits=2) for n, one in enumerate(judges)),
    )  # fmt: skip
    return Table("bias", "Bias by label", columns, rows)


def _adjudicated_table(counted: figures.JudgementFigures | None) -> Table:
    columns = (
        Column("label", "label"), Column("candidates", "candidates", "number"),
        Column("adjudicated", "to the adjudicator", "number"),
        Column("adjudicated_share", "share", "share", bar=True, of="candidates"),
        Column("overturned", "rejected by it", "number"),
        Column("overturned_share", "share of those", "share", bar=True, of="adjudicated"),
    )  # fmt: skip
    empty = "No candidate went to an adjudicator: reviewers agreed, or the method has no adjudicator."
    return Table("adjudicated", "Adjudications", columns, counted.labels if counted else (), empty=empty)


def _pairs_table(found: DatasetVersion, counted: figures.JudgementFigures | None, *, every: bool = False) -> Table:
    pairs = counted.relabels if counted else []
    rows = [
        {**row, "link": rows_link(found, label=row["label"], intended=row["intended"])}
        for row in (pairs if every else pairs[:PAIRS])
    ]  # fmt: skip
    columns = (
        Column("intended", "intended"), Column("label", "became"), Column("rows", "rows", "number", link="link"),
        Column("share", "of those intended so", "share", bar=True),
    )  # fmt: skip
    note = f"{PAIRS} of {len(pairs):,} pairs, the most frequent" if len(pairs) > PAIRS else ""
    return Table("relabelled", "Relabelled rows", columns, rows, note=note)


def draw_bias(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`of`: the version. Each judge's additional offset on each label; the labels on which judges differ most."""
    report = context.reports.of(version(context.lake, given.get("of", "")))
    judges = [one for one in report.reviews.reviewers if one.bias] if report and report.reviews else []
    far = {label: max(abs(one.bias.get(label, 0.0)) for one in judges) for one in judges for label in one.bias}
    labels = sorted(sorted(far, key=lambda name: (-far[name], name))[:MOST])
    rows = [
        {"model": one.model, "label": shown(label), "bias": one.bias[label]}
        for label in labels for one in judges if label in one.bias
    ]  # fmt: skip
    if len(judges) < 2:
        return None
    return roomy(offsets(rows, x="model", y="label", value="bias", x_title="judge", y_title="label"), left=24, right=40)


def draw_scores(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`of`: the version. Candidates by mean score and outcome."""
    counted = _judged(context, version(context.lake, given.get("of", "")))
    if counted is None or sum(row["rows"] for row in counted.scores) < FEW:
        return None
    return histogram(
        counted.scores, part="status", title="mean score (0 to 10)", y_title="candidates", colours=ENDS, ends=(0, 10)
    )


def draw_relabelled(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`of`: the version. Rows by intended and final label if they differ; of many labels the most frequent."""
    counted = _judged(context, version(context.lake, given.get("of", "")))
    if counted is None or not counted.relabels or counted.meant < FEW:
        return None
    names = _busiest(counted.relabels)
    rows = {(row["intended"], row["label"]): row["rows"] for row in counted.relabels}
    cells = [
        {"intended": shown(a), "became": shown(b), "rows": rows.get((a, b), 0)} for a in names for b in names
    ]  # fmt: skip
    return roomy(
        heat(cells, x="became", y="intended", value="rows", x_title="became", y_title="intended"), left=24, right=110
    )


def _busiest(pairs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The labels with the most changed rows, by name."""
    seen: Counter[str] = Counter()
    for row in pairs:
        seen[row["intended"]] += row["rows"]
        seen[row["label"]] += row["rows"]
    return sorted(name for name, _ in sorted(seen.items(), key=lambda one: (-one[1], one[0]))[:MOST])


def draw_method(context: PageContext, given: Mapping[str, str]) -> Spec | None:
    """`of`: the version; `table`: the name of a table of its methods' own reports, which `_drawable` lets through.

    Shares by the number in its first column as lines, or its bar column as bars.
    """
    counted = _judged(context, version(context.lake, given.get("of", "")))
    found = [table for _, one in _reports(counted) for table in one.tables if table.name == given.get("table", "")]
    if not found or not _drawable(found[0]):
        return None
    table, (x, *_) = found[0], found[0].columns
    steps = [row for row in table.rows if _number(row[x.key]) is not None]
    if len(steps) >= 2:
        rows = [
            {"x": _number(row[x.key]), "share": row[column.key], "what": column.title}
            for row in steps for column in table.columns if column.kind == "share" and row[column.key] is not None
        ]  # fmt: skip
        return lines(rows, x="x", y="share", part="what", x_title=x.title, y_title="share", y_format="%")
    bar = next(column for column in table.columns if column.bar)
    words = [column.key for column in table.columns if column.kind == "text"]
    rows = [{"what": " · ".join(str(row[key]) for key in words), "share": row[bar.key]} for row in table.rows]
    return roomy(shares(rows, category="what", value="share", title=bar.title), left=24) if rows else None


def _drawable(table: Table) -> bool:
    """Return True if a method's table gets a chart: if it has a bar column."""
    return any(column.bar for column in table.columns)


def _number(value: Any) -> float | None:
    """A cell as a number, or None for words such as "all"."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


PAGES = (Page("/datasets/{ref}/reviews", "reviews", reviews, tab="Reviews"),)
CHARTS = (
    Chart("bias", "offset of each judge on each label", draw_bias),
    Chart("scores", "candidates by mean score and outcome", draw_scores),
    Chart("relabelled", "rows by intended and final label", draw_relabelled),
    Chart("method", "figures that the method reports", draw_method),
)
