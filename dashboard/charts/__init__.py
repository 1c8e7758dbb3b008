"""Charts as Altair specifications, rendered as SVG (for a page) or PNG (for download) without a browser.

Text and axes use the page's colour (`currentColor`), so that a chart fits light and dark.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PALETTE = ("#1e97d5", "#c28113", "#007d30", "#a142be", "#d22c15", "#3369ea", "#f25474", "#79638c")
"""Colours of categories, in order: blue, orange, green, purple, red, royal blue, pink, mauve.

Found by annealing: each has a WCAG contrast of 3:1 or more against the light and the dark page, and any two of them and
`OTHERS` differ by 0.07 or more in Oklab to normal, protanopic, deuteranopic and tritanopic eyes, as simulated by
Machado et al. 2009. A ninth category is drawn in `OTHERS`; a ninth line has a colour again, with another dash.
"""

REST, OTHERS = "all others", "#8a8f96"
"""Name and colour of everything beyond the palette; the colour is also for points without a value."""

ACCENT, SECOND = PALETTE[:2]

SPLITS = {"train": PALETTE[0], "validation": PALETTE[2], "test": PALETTE[1]}


def shades(labels: Mapping[str, int]) -> dict[str, str]:
    """The colour of each label of a version: the labels with the most rows have their own, the rest share `OTHERS`."""
    ordered = sorted(labels, key=lambda name: (-labels[name], name))
    return {name: PALETTE[place] if place < len(PALETTE) else OTHERS for place, name in enumerate(ordered)}


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
