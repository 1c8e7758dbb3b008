"""Chart shapes, each a function from rows to a specification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date
from typing import Any

from graft.dashboard.charts import ACCENT, OTHERS, PALETTE, REST, SECOND, SPLITS, finished, svg


def bars(rows: Sequence[dict[str, Any]], *, category: str, value: str, title: str, width: int = 420) -> dict[str, Any]:
    """Horizontal bars in the rows' order, each with its number."""
    import altair as alt

    base = alt.Chart(alt.InlineData(values=list(rows))).encode(
        y=alt.Y(f"{category}:N", sort=None, title=None), x=alt.X(f"{value}:Q", title=title)
    )
    marks = base.mark_bar(color=ACCENT) + base.mark_text(align="left", dx=3).encode(
        text=alt.Text(f"{value}:Q", format=",")
    )
    return finished(marks, width)


def stacked(rows: Sequence[dict[str, Any]], *, category: str, value: str, part: str, title: str) -> dict[str, Any]:
    """A stacked horizontal bar for each category (parts are splits); the legend has the splits with rows."""
    import altair as alt

    held = {row[part] for row in rows}
    splits = {name: colour for name, colour in SPLITS.items() if name in held}
    chart = (
        alt.Chart(alt.InlineData(values=list(rows)))
        .mark_bar()
        .encode(
            y=alt.Y(f"{category}:N", sort=None, title=None),
            x=alt.X(f"sum({value}):Q", title=title),
            color=alt.Color(
                f"{part}:N",
                title=None,
                scale=alt.Scale(domain=list(splits), range=list(splits.values())),
                legend=alt.Legend(orient="top"),
            ),
        )
    )
    return finished(chart, 420)


def line(
    rows: Sequence[dict[str, Any]], *, x: str, y: str, x_title: str, y_title: str, width: int = 520, y_format: str = ""
) -> dict[str, Any]:
    """A line with a filled area."""
    import altair as alt

    chart = (
        alt.Chart(alt.InlineData(values=list(rows)))
        .mark_area(line={"color": ACCENT}, color=ACCENT, opacity=0.35)
        .encode(x=alt.X(f"{x}:Q", title=x_title), y=alt.Y(f"{y}:Q", title=y_title, axis=_axis(y_format)))
    )
    return finished(chart, width, 160)


def lines(
    rows: Sequence[dict[str, Any]], *, x: str, y: str, part: str, x_title: str, y_title: str, width: int = 520,
    height: int = 220, low: str = "", high: str = "", zero: bool = True, y_format: str = "",
) -> dict[str, Any]:  # fmt: skip
    """A line with points for each value of `part`. `low` and `high` name the ends of an interval, drawn
    as a band.
    """
    import altair as alt

    colour = alt.Color(f"{part}:N", title=None, scale=alt.Scale(range=list(PALETTE)), legend=alt.Legend(orient="top"))
    base = alt.Chart(alt.InlineData(values=list(rows))).encode(
        x=alt.X(f"{x}:Q", title=x_title, axis=_axis("d" if all(float(row[x]).is_integer() for row in rows) else "")),
        color=colour,
    )
    drawn: Any = base.mark_line(point=True).encode(
        y=alt.Y(f"{y}:Q", title=y_title, scale=alt.Scale(zero=zero), axis=_axis(y_format)),
        strokeDash=alt.StrokeDash(f"{part}:N", title=None, legend=alt.Legend(orient="top")),
    )
    if low and high:
        drawn = base.mark_area(opacity=0.15).encode(y=f"{low}:Q", y2=f"{high}:Q") + drawn
    return finished(drawn, width, height)


def heat(rows: Sequence[dict[str, Any]], *, x: str, y: str, value: str, x_title: str, y_title: str) -> dict[str, Any]:
    """A heat map with the number in each cell, for up to about 30 x 30."""
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
    labels = (
        base.mark_text(fontSize=11)
        .encode(text=alt.Text(f"{value}:Q", format=","))
        .transform_filter(f"datum['{value}'] > 0")
    )
    size = 34 if len(names) <= 12 else 24
    return finished(cells + labels, size * len(columns), size * len(names))


def reliability(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A reliability diagram: confidence against accuracy, both 0 to 1, with the diagonal. Rows: confidence,
    accuracy, rows (the size of a point)."""
    import altair as alt

    shares = alt.Scale(domain=[0, 1])
    ideal = alt.Chart(alt.InlineData(values=[{"at": 0, "to": 0}, {"at": 1, "to": 1}])).mark_line(
        strokeDash=[4, 4], color=OTHERS
    ).encode(x=alt.X("at:Q", scale=shares), y=alt.Y("to:Q", scale=shares))  # fmt: skip
    base = alt.Chart(alt.InlineData(values=list(rows))).encode(
        x=alt.X("confidence:Q", scale=shares, title="confidence", axis=alt.Axis(format="%")),
        y=alt.Y("accuracy:Q", scale=shares, title="accuracy", axis=alt.Axis(format="%")),
    )
    dots = base.mark_circle(color=ACCENT, opacity=0.9).encode(
        size=alt.Size("rows:Q", scale=alt.Scale(range=[30, 320]), legend=None)
    )
    return finished(ideal + base.mark_line(color=ACCENT) + dots, 300, 300)


def intervals(rows: Sequence[dict[str, Any]], *, category: str, value: str, low: str, high: str, title: str,
              width: int = 420) -> dict[str, Any]:  # fmt: skip
    """A point with its interval for each row, in the rows' order, to compare shares (0 to 1)."""
    import altair as alt

    base = alt.Chart(alt.InlineData(values=list(rows))).encode(y=alt.Y(f"{category}:N", sort=None, title=None))
    axis = alt.Axis(format="%", tickCount=6, tickMinStep=0.01, labelFlush=False)
    span = base.mark_rule(color=ACCENT, strokeWidth=2, opacity=0.6).encode(
        x=alt.X(f"{low}:Q", title=title, scale=alt.Scale(zero=False), axis=axis), x2=f"{high}:Q"
    )
    point = base.mark_circle(color=SECOND, size=70, opacity=1).encode(x=f"{value}:Q")
    return finished(span + point, width)


def sparkline(values: Sequence[float]) -> str:
    """A sparkline as SVG: the history of one number. Empty for a single value."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1
    points = " ".join(
        f"{2 + 76 * i / (len(values) - 1):.1f},{18 - 16 * (v - low) / span:.1f}" for i, v in enumerate(values)
    )
    label = f"from {values[0]:,} to {values[-1]:,} in {len(values)} versions"
    return (
        f'<svg class="spark" role="img" aria-label="{label}" width="80" height="20" viewBox="0 0 80 20">'
        f'<polyline points="{points}" fill="none" stroke="{ACCENT}" stroke-width="1.5"/></svg>'
    )


def dense(spec: dict[str, Any], rows: int) -> dict[str, Any]:
    """A chart of horizontal bars whose height grows with its categories, ever more slowly."""
    step = 20 if rows <= 20 else 16 if rows <= 50 else 12
    return roomy({**spec, "height": {"step": step}}, left=24)


def roomy(spec: dict[str, Any], *, left: int = 5, right: int = 5) -> dict[str, Any]:
    """A chart with a margin (pixels) for long names: a browser's font may be wider than the measured font."""
    return {**spec, "padding": {"left": left, "right": right, "top": 5, "bottom": 5}}


def histogram(
    rows: Sequence[dict[str, Any]], *, part: str, title: str, y_title: str = "rows",
    colours: dict[str, str] | None = None, ends: tuple[float, float] | None = None, width: int = 520,
    height: int = 200,
) -> dict[str, Any]:  # fmt: skip
    """A stacked histogram: bars from `start` to `end` with `rows` as height. The axis goes from one of
    `ends` to the other; by default it covers the bars."""
    import altair as alt

    low, high = ends or (min(row["start"] for row in rows), max(row["end"] for row in rows))
    known = colours or SPLITS
    names = [name for name in known if any(row[part] == name for row in rows)]
    colour = alt.Scale(domain=names, range=[known[name] for name in names])
    chart = (
        alt.Chart(alt.InlineData(values=list(rows)))
        .mark_bar(binSpacing=1)
        .encode(
            x=alt.X("start:Q", bin="binned", title=title, scale=alt.Scale(domain=[low, high], nice=False)),
            x2="end:Q",
            y=alt.Y("sum(rows):Q", title=y_title, axis=alt.Axis(tickMinStep=1, format=",d")),
            color=alt.Color(f"{part}:N", title=None, scale=colour, legend=alt.Legend(orient="top")),
            order=alt.Order(f"{part}:N"),
        )
    )
    return finished(chart, width, height)


def shares(
    rows: Sequence[dict[str, Any]], *, category: str, value: str, title: str, width: int = 360
) -> dict[str, Any]:
    """Horizontal bars of shares (0 to 1) in the rows' order, each with its percentage."""
    import altair as alt

    base = alt.Chart(alt.InlineData(values=list(rows))).encode(
        y=alt.Y(f"{category}:N", sort=None, title=None),
        x=alt.X(f"{value}:Q", title=title, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
    )
    labels = base.mark_text(align="left", dx=3).encode(text=alt.Text(f"{value}:Q", format=".0%"))
    return finished(base.mark_bar(color=ACCENT) + labels, width)


def gains(rows: Sequence[dict[str, Any]], *, category: str, value: str, title: str, width: int = 420) -> dict[str, Any]:
    """Horizontal bars to the right of zero or, in the second colour, to the left, each with its number."""
    import altair as alt

    signed = {"condition": {"test": f"datum['{value}'] < 0", "value": SECOND}, "value": ACCENT}
    base = alt.Chart(alt.InlineData(values=list(rows))).encode(
        y=alt.Y(f"{category}:N", sort=None, title=None),
        x=alt.X(f"{value}:Q", title=title, scale=alt.Scale(padding=28), axis=alt.Axis(tickMinStep=1, format="+,d")),
    )
    text = alt.Text(f"{value}:Q", format="+,")
    right = base.mark_text(align="left", dx=3).encode(text=text).transform_filter(f"datum['{value}'] > 0")
    left = base.mark_text(align="right", dx=-3).encode(text=text).transform_filter(f"datum['{value}'] < 0")
    return finished(alt.layer(base.mark_bar().encode(color=signed), right, left), width)


def offsets(
    rows: Sequence[dict[str, Any]], *, x: str, y: str, value: str, x_title: str, y_title: str
) -> dict[str, Any]:
    """A heat map of signed values: the first colour above zero, the second below, darker with the
    distance, with the number in each cell."""
    import altair as alt

    names = list(dict.fromkeys(str(row[y]) for row in rows))
    columns = list(dict.fromkeys(str(row[x]) for row in rows))
    far = max((abs(float(row[value])) for row in rows), default=0.0) or 1.0
    base = alt.Chart(alt.InlineData(values=list(rows))).encode(
        x=alt.X(f"{x}:N", sort=columns, title=x_title, axis=alt.Axis(orient="top", labelAngle=-30)),
        y=alt.Y(f"{y}:N", sort=names, title=y_title),
    )
    cells = (
        base.transform_calculate(far=f"abs(datum['{value}'])")
        .mark_rect()
        .encode(
            color={"condition": {"test": f"datum['{value}'] < 0", "value": SECOND}, "value": ACCENT},
            opacity=alt.Opacity("far:Q", scale=alt.Scale(domain=[0, far], range=[0.03, 0.7]), legend=None),
        )
    )
    labels = base.mark_text(fontSize=10).encode(text=alt.Text(f"{value}:Q", format="+.2f"))
    return finished(
        cells + labels, max(90, 480 // len(columns)) * len(columns), (20 if len(names) <= 24 else 14) * len(names)
    )


def scatter(
    rows: Sequence[dict[str, Any]], *, x: str, y: str, value: str, part: str, colours: dict[str, str], title: str
) -> dict[str, Any]:
    """A scatter plot without axes: `value` by colour, `part` (row, seed) by shape. Only distances carry meaning."""
    import altair as alt

    shapes, held = {"row": "circle", "seed": "diamond"}, {row[part] for row in rows}
    kinds = [kind for kind in shapes if kind in held]

    chart = (
        alt.Chart(alt.InlineData(values=list(rows)))
        .mark_point(filled=True, size=22, opacity=0.8)
        .encode(
            x=alt.X(f"{x}:Q", axis=None, scale=alt.Scale(zero=False)),
            y=alt.Y(f"{y}:Q", axis=None, scale=alt.Scale(zero=False)),
            color=alt.Color(
                f"{value}:N",
                title=title,
                sort=None,
                scale=alt.Scale(domain=list(colours), range=list(colours.values())),
            ),
            shape=alt.Shape(
                f"{part}:N", title=None, scale=alt.Scale(domain=kinds, range=[shapes[kind] for kind in kinds])
            ),
            size=alt.Size(f"{part}:N", legend=None, scale=alt.Scale(domain=["row", "seed"], range=[22, 80])),
        )
    )
    return finished(chart, 760, 560)


def stacked_days(rows: Sequence[dict[str, Any]], *, day: str, value: str, part: str, title: str,
                 y_format: str = "~s") -> dict[str, Any]:  # fmt: skip
    """A stacked column for each day (ISO dates), with each date once on its axis.

    The seven largest parts have a colour each, the rest share one.
    """
    import altair as alt

    rows = _folded(rows, part, value)
    names, known = (
        list(dict.fromkeys(str(row[part]) for row in rows)),
        sorted(date.fromisoformat(row[day]) for row in rows),
    )
    days = (known[-1] - known[0]).days + 1
    dates = alt.Axis(format="%d %b", labelOverlap=True, tickCount={"interval": "day", "step": -(-days // 8)})
    chart = (
        alt.Chart(alt.InlineData(values=list(rows)))
        .mark_bar(size=max(2, min(28, int(400 / days))))
        .encode(
            x=alt.X(f"yearmonthdate({day}):T", title=None, axis=dates),
            y=alt.Y(f"sum({value}):Q", title=title, axis=alt.Axis(format=y_format)),
            color=alt.Color(
                f"{part}:N", title=None, scale=alt.Scale(domain=names, range=[OTHERS if name == REST else shade
                                                                 for name, shade in zip(names, PALETTE, strict=False)]),
                legend=alt.Legend(orient="top") if len(names) > 1 else None,
            ),
        )
    )  # fmt: skip
    return finished(chart, 480, 200)


def _axis(form: str) -> Any:
    """An axis of this format without two ticks of one name."""
    import altair as alt

    least = {"%": 0.01, "d": 1}.get(form)
    return alt.Axis(format=form or alt.Undefined, tickMinStep=least or alt.Undefined)


def _folded(rows: Sequence[dict[str, Any]], part: str, value: str) -> Sequence[dict[str, Any]]:
    """The rows, with the parts beyond the palette's colours as `REST`."""
    sizes: Counter[str] = Counter()
    for row in rows:
        sizes[str(row[part])] += row[value] or 0
    if len(sizes) <= len(PALETTE):
        return rows
    kept = {name for name, _ in sizes.most_common(len(PALETTE) - 1)}
    return [row if str(row[part]) in kept else {**row, part: REST} for row in rows]


def warm() -> None:
    """Draw a chart in advance, to load the libraries: the first chart of a process takes seconds."""
    svg(bars([{"name": "", "rows": 1}], category="name", value="rows", title=""), "")
