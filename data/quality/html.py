"""The report as one HTML file: no outside resource, no script; every text is escaped, charts are inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

from graft.data.quality.model import Quality
from graft.data.quality.view import tables

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ report.ref }}: quality</title>
<style>
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #5a636e; --line: #d9dee4; --bar: #2f6fb2;
  --warn: #9a5b00; --fine: #1f7a45; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --paper: #14171b; --soft: #9aa4af; --line: #323841; --bar: #6aa9e9; --warn: #e5a54b;
    --fine: #63c28d; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .2rem; }
.soft { color: var(--soft); }
.unusual { color: var(--warn); }
.usual { color: var(--fine); }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
table { border-collapse: collapse; margin: .6rem 0; }
caption { text-align: left; font-weight: 600; }
th, td { padding: .2rem .7rem .2rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
.right { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
svg { display: block; }
svg rect { fill: var(--bar); }
svg line { stroke: var(--soft); stroke-dasharray: 3 3; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
</style>
</head>
<body>
<h1>{{ report.ref }}</h1>
<p class="soft">{{ "{:,}".format(report.rows) }} rows; quality report by Graft</p>
{% for section in sections %}
<section id="{{ section.name }}">
<h2>{{ section.title }}</h2>
<p class="{{ 'unusual' if section.unusual else 'usual' if section.tables else 'soft' }}">
{{ '▲ ' if section.unusual else '' }}{{ section.verdict }}</p>
<div class="row">
{% for table in section.tables %}
<table>
{% if table.title %}<caption>{{ table.title }}</caption>{% endif %}
<thead><tr>{% for column in table.columns %}<th{% if column in table.right %} class="right"{% endif %}>{{ column }}</th>
{%- endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for cell in row %}<td{% if table.columns[loop.index0] in table.right %} class="right"{% endif %}>
{{- "–" if cell is none else cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
{% endfor %}
{% for chart in charts[section.name] %}
<svg role="img" aria-label="{{ chart.title }}" width="340" height="{{ 20 * chart.bars | length + 18 }}">
<title>{{ chart.title }}</title>
<text x="0" y="11">{{ chart.title }}</text>
{% for bar in chart.bars %}
<text x="0" y="{{ 20 * loop.index0 + 31 }}">{{ bar.name }}</text>
<rect x="110" y="{{ 20 * loop.index0 + 21 }}" width="{{ bar.width }}" height="12"></rect>
{% if bar.mark is not none %}<line x1="{{ 110 + bar.mark }}" x2="{{ 110 + bar.mark }}" y1="{{ 20 * loop.index0 + 18 }}"
 y2="{{ 20 * loop.index0 + 36 }}"></line>{% endif %}
<text x="{{ 115 + bar.width }}" y="{{ 20 * loop.index0 + 31 }}">{{ bar.told }}</text>
{% endfor %}
</svg>
{% endfor %}
</div>
{% for note in section.notes %}<p class="soft">{{ note }}</p>
{% endfor %}
</section>
{% endfor %}
{% if report.sampled %}
<section id="sampled"><h2>Sampled</h2><ul>{% for line in report.sampled %}<li>{{ line }}</li>{% endfor %}</ul></section>
{% endif %}
</body>
</html>
"""
WIDTH = 170.0
NAME = 16
"""Letters of a name beside a bar."""

Bars = list[dict[str, str | float | None]]


def page(report: Quality) -> str:
    """The report as the text of an HTML file."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    sections = tables(report)
    charts = {section.name: _charts(report, section.name) for section in sections}
    return environment.from_string(PAGE).render(report=report, sections=sections, charts=charts)


def _charts(report: Quality, name: str) -> list[dict[str, str | Bars]]:
    """The charts beside a section's tables: a title and its bars."""
    if name == "balance":
        labels = report.balance.labels
        bars = _bars([(one.label, one.share, one.expected, f"{one.rows:,}") for one in labels])
        return [{"title": "rows by label; dashed: expected", "bars": bars}]
    if name == "wording":
        kinds = [(f"distinct-{n}", getattr(report.wording, f"distinct_{n}")) for n in (1, 2, 3)]
        known = [(kind, value, None, f"{value:.3f}") for kind, value in kinds if value is not None]
        return [{"title": "distinct n-grams", "bars": _bars(known, 1.0)}] if known else []
    if name == "yields" and report.yields:
        shares = [(one.label, one.accepted / one.candidates) for one in report.yields.labels]
        return [{"title": "yield by label", "bars": _bars([(n, v, None, f"{v:.0%}") for n, v in shares], 1.0)}]
    if name == "calibration" and report.calibration and report.calibration.bins:
        found = [(f"from {b.low:.1f}", b.accuracy, b.confidence, f"{b.accuracy:.0%}") for b in report.calibration.bins]
        return [{"title": "accuracy by confidence; dashed: confidence", "bars": _bars(found, 1.0)}]
    return []


def _bars(values: Sequence[tuple[str, float, float | None, str]], most: float | None = None) -> Bars:
    """(name, value, mark, what is told beside it) as widths in pixels."""
    top = most or max((max(value, mark or 0.0) for _, value, mark, _ in values), default=1.0) or 1.0
    return [
        {
            "name": name if len(name) <= NAME else name[: NAME - 1] + "…",
            "width": round(WIDTH * value / top, 1),
            "mark": None if mark is None else round(WIDTH * mark / top, 1),
            "told": told,
        }
        for name, value, mark, told in values
    ]
