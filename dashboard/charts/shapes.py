"""The shapes that charts are made of, each a function from rows to a specification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dashboard.charts import ACCENT, PALETTE, SECOND, SPLITS, finished


def bars(rows: Sequence[dict[str, Any]], *, category: str, value: str, title: str, width: int = 420) -> dict[str, Any]:
    """A horizontal bar for each row, in the rows' order, its number at the end."""
    import altair as alt

    base = alt.Chart(alt.InlineData(values=list(rows))).encode(
        y=alt.Y(f"{category}:N", sort=None, title=None), x=alt.X(f"{value}:Q", title=title)
    )
    marks = base.mark_bar(color=ACCENT) + base.mark_text(align="left", dx=3).encode(
        text=alt.Text(f"{value}:Q", format=",")
    )
    return finished(marks, width)


def stacked(rows: Sequence[dict[str, Any]], *, category: str, value: str, part: str, title: str) -> dict[str, Any]:
    """A horizontal bar for each category, in parts (splits)."""
    import altair as alt

    chart = (
        alt.Chart(alt.InlineData(values=list(rows)))
        .mark_bar()
        .encode(
            y=alt.Y(f"{category}:N", sort=None, title=None),
            x=alt.X(f"sum({value}):Q", title=title),
            color=alt.Color(
                f"{part}:N",
                title=None,
                scale=alt.Scale(domain=list(SPLITS), range=list(SPLITS.values())),
                legend=alt.Legend(orient="top"),
            ),
        )
    )
    return finished(chart, 420)


def line(
    rows: Sequence[dict[str, Any]], *, x: str, y: str, x_title: str, y_title: str, width: int = 520
) -> dict[str, Any]:
    """A line with its area."""
    import altair as alt

    chart = (
        alt.Chart(alt.InlineData(values=list(rows)))
        .mark_area(line={"color": ACCENT}, color=ACCENT, opacity=0.35)
        .encode(x=alt.X(f"{x}:Q", title=x_title), y=alt.Y(f"{y}:Q", title=y_title))
    )
    return finished(chart, width, 160)


def lines(
    rows: Sequence[dict[str, Any]], *, x: str, y: str, part: str, x_title: str, y_title: str, width: int = 520,
    height: int = 220, low: str = "", high: str = "", zero: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """A line with its points for each value of `part`. `low` and `high` name an interval's ends, drawn as a band."""
    import altair as alt

    colour = alt.Color(f"{part}:N", title=None, scale=alt.Scale(range=list(PALETTE)), legend=alt.Legend(orient="top"))
    base = alt.Chart(alt.InlineData(values=list(rows))).encode(
        x=alt.X(f"{x}:Q", title=x_title, axis=alt.Axis(tickMinStep=1)), color=colour
    )
    drawn: Any = base.mark_line(point=True).encode(
        y=alt.Y(f"{y}:Q", title=y_title, scale=alt.Scale(zero=zero)),
        strokeDash=alt.StrokeDash(f"{part}:N", legend=None),
    )
    if low and high:
        drawn = base.mark_area(opacity=0.15).encode(y=f"{low}:Q", y2=f"{high}:Q") + drawn
    return finished(drawn, width, height)


def heat(rows: Sequence[dict[str, Any]], *, x: str, y: str, value: str, x_title: str, y_title: str) -> dict[str, Any]:
    """A matrix whose cells are the darker the larger their `value`, with the number in each. Up to about 30 x 30."""
    import altair as alt

    names = list(dict.fromkeys(str(row[y]) for row in rows))
    columns = list(dict.fromkeys(str(row[x]) for row in rows))
    top = max((float(row[value]) for row in rows), default=0.0) or 1.0
    base = alt.Chart(alt.InlineData(values=list(rows))).encode(
        x=alt.X(f"{x}:N", sort=columns, title=x_title, axis=alt.Axis(orient="top", labelAngle=-40)),
        y=alt.Y(f"{y}:N", sort=names, title=y_title),
    )
    cells = base.mark_rect(color=ACCENT).encode(
        opacity=alt.Opacity(f"{value}:Q", scale=alt.Scale(domain=[0, top], range=[0.04, 0.85]), legend=None)
    )
    said = (
        base.mark_text(fontSize=11)
        .encode(text=alt.Text(f"{value}:Q", format=","))
        .transform_filter(f"datum['{value}'] > 0")
    )
    size = 34 if len(names) <= 12 else 24
    return finished(cells + said, size * len(columns), size * len(names))


def reliability(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Confidence against accuracy, both 0 to 1, with the line of a perfectly calibrated one. Rows: confidence,
    accuracy, rows (the size of a point)."""
    import altair as alt

    shares = alt.Scale(domain=[0, 1])
    ideal = alt.Chart(alt.InlineData(values=[{"at": 0, "to": 0}, {"at": 1, "to": 1}])).mark_line(
        strokeDash=[4, 4], color="#8a8f96"
    ).encode(x=alt.X("at:Q", scale=shares), y=alt.Y("to:Q", scale=shares))  # fmt: skip
    base = alt.Chart(alt.InlineData(values=list(rows))).encode(
        x=alt.X("confidence:Q", scale=shares, title="confidence", axis=alt.Axis(format="%")),
        y=alt.Y("accuracy:Q", scale=shares, title="right", axis=alt.Axis(format="%")),
    )
    dots = base.mark_circle(color=ACCENT, opacity=0.9).encode(
        size=alt.Size("rows:Q", scale=alt.Scale(range=[30, 320]), legend=None)
    )
    return finished(ideal + base.mark_line(color=ACCENT) + dots, 300, 300)


def intervals(rows: Sequence[dict[str, Any]], *, category: str, value: str, low: str, high: str, title: str,
              width: int = 420) -> dict[str, Any]:  # fmt: skip
    """A point with its interval for each row, in the rows' order: shares (0 to 1) that are to be compared."""
    import altair as alt

    base = alt.Chart(alt.InlineData(values=list(rows))).encode(y=alt.Y(f"{category}:N", sort=None, title=None))
    span = base.mark_rule(color=ACCENT, strokeWidth=2, opacity=0.6).encode(
        x=alt.X(f"{low}:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(format="%")), x2=f"{high}:Q"
    )
    point = base.mark_circle(color=SECOND, size=70, opacity=1).encode(x=f"{value}:Q")
    return finished(span + point, width)


def sparkline(values: Sequence[float]) -> str:
    """A small line as SVG, without axes: the history of one number. Empty where there is but one value."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1
    points = " ".join(
        f"{2 + 76 * i / (len(values) - 1):.1f},{18 - 16 * (v - low) / span:.1f}" for i, v in enumerate(values)
    )
    said = f"from {values[0]:,} to {values[-1]:,} in {len(values)} versions"
    return (
        f'<svg class="spark" role="img" aria-label="{said}" width="80" height="20" viewBox="0 0 80 20">'
        f'<polyline points="{points}" fill="none" stroke="{ACCENT}" stroke-width="1.5"/></svg>'
    )
