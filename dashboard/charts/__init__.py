"""Charts as Altair specifications, rendered as SVG (for a page) or PNG (for download) without a browser.

Text and axes use the page's colour (`currentColor`), so that a chart fits light and dark.
"""

from __future__ import annotations

from typing import Any

ACCENT, SECOND = "#3b82c4", "#c2792b"
"""Two colours that are distinct for every kind of colour vision, on light and dark."""

PALETTE = (ACCENT, SECOND, "#5a9e6f", "#b0569a", "#8a7b3c", "#5f6caf", "#c45b5b", "#4fa3a5", "#8d6e63", "#7d8794")
"""Colours of categories, in order; they repeat if there are more categories."""

SPLITS = {"train": ACCENT, "validation": "#7a9e3f", "test": SECOND}


def svg(chart: dict[str, Any], label: str, *, standalone: bool = False) -> str:
    """The chart as an SVG element with `label`, a trusted text, for screen readers.

    `standalone` draws it in black on white, for a file.
    """
    import vl_convert

    drawn = str(vl_convert.vegalite_to_svg(_on_white(chart) if standalone else chart))
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def png(chart: dict[str, Any]) -> bytes:
    """The chart as a PNG on white, at double resolution."""
    import vl_convert

    return bytes(vl_convert.vegalite_to_png(_on_white(chart), scale=2))


def _on_white(chart: dict[str, Any]) -> dict[str, Any]:
    return {**chart, "background": "white", "config": {**chart["config"], **_config("#222")}}


def finished(chart: Any, width: int, height: int | None = None) -> dict[str, Any]:
    """An Altair chart as a specification with the common style, `width` (and `height`) in pixels."""
    sized = chart.properties(width=width, **({"height": height} if height else {}))
    spec: dict[str, Any] = sized.to_dict(validate=False)
    spec["config"] = _config("currentColor")
    spec["background"] = None
    spec["padding"] = {"left": 14, "right": 10, "top": 6, "bottom": 6}  # a browser's font may be wider than ours
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
