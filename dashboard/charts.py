"""Each chart once, as an Altair specification; drawn as SVG (for a page) or PNG (to take along) without a browser.

Text and axes take the page's own colour (`currentColor`), so that one drawing fits light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ACCENT, SECOND = "#3b82c4", "#c2792b"
"""Two colours that stand apart for every kind of colour vision, and on both grounds."""

SPLITS = {"train": ACCENT, "validation": "#7a9e3f", "test": SECOND}


def svg(chart: dict[str, Any], label: str) -> str:
    """The chart as an SVG element that says to a screen reader what it is. `label` is our own words."""
    import vl_convert

    drawn = str(vl_convert.vegalite_to_svg(chart))
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def png(chart: dict[str, Any]) -> bytes:
    """The chart as a PNG on white, at twice its size."""
    import vl_convert

    on_white = {**chart, "background": "white", "config": {**chart["config"], **_config("#222")}}
    return bytes(vl_convert.vegalite_to_png(on_white, scale=2))


def bars(rows: Sequence[dict[str, Any]], *, category: str, value: str, title: str, width: int = 420) -> dict[str, Any]:
    """A horizontal bar for each row, in the rows' order, its number at the end."""
    import altair as alt

    base = alt.Chart(alt.InlineData(values=list(rows))).encode(
        y=alt.Y(f"{category}:N", sort=None, title=None), x=alt.X(f"{value}:Q", title=title)
    )
    marks = base.mark_bar(color=ACCENT) + base.mark_text(align="left", dx=3).encode(
        text=alt.Text(f"{value}:Q", format=",")
    )
    return _finished(marks, width)


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
    return _finished(chart, 420)


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
    return _finished(chart, width, 160)


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


def _finished(chart: Any, width: int, height: int | None = None) -> dict[str, Any]:
    sized = chart.properties(width=width, **({"height": height} if height else {}))
    spec: dict[str, Any] = sized.to_dict(validate=False)
    spec["config"] = _config("currentColor")
    spec["background"] = None
    return spec


def _config(ink: str) -> dict[str, Any]:
    axis = {
        "labelColor": ink,
        "titleColor": ink,
        "domainColor": ink,
        "tickColor": ink,
        "gridOpacity": 0.15,
        "gridColor": ink,
    }
    return {
        "font": "system-ui, sans-serif",
        "axis": {**axis, "labelLimit": 180, "titleFontWeight": "normal"},
        "legend": {"labelColor": ink, "titleColor": ink},
        "text": {"color": ink},
        "view": {"stroke": None},
    }
