"""Sections as one HTML file: without outside resources and scripts; all text is escaped, bars are inline SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graft.schemas.sections import Column, Section, Table, spelled

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ title | spelled }}</title>
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
</style>
</head>
<body>
<h1>{{ title | spelled }}</h1>
<p class="soft">{{ lead | spelled }}</p>
{% for section in sections %}
<section id="{{ section.name }}">
<h2>{{ section.title | spelled }}</h2>
{% if section.text %}<p class="{{ 'unusual' if section.unusual else 'usual' if section.known else 'soft' }}">
{{ '▲ ' if section.unusual else '' }}{{ section.text | spelled }}</p>
{% endif %}
<div class="row">
{% if section.facts %}
<table><tbody>
{% for fact in section.facts %}
<tr><th>{{ fact.name | spelled }}</th><td class="right">{{ fact.text | spelled }}</td></tr>
{% endfor %}
</tbody></table>
{% endif %}
{% for table in section.tables if table.rows or table.empty %}
<table>
{% if table.title %}<caption>{{ table.title | spelled }}</caption>{% endif %}
<thead><tr>{% for column in table.columns %}<th{% if column.right %} class="right"{% endif %}>
{{- column.title | spelled }}</th>{% if column.bar %}<th></th>{% endif %}{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for column in table.columns %}<td{% if column.right %} class="right"{% endif %}>
{{- column.text(row) | spelled }}</td>{% if column.bar %}<td>{% if not column.few(row) %}
<svg role="img" aria-label="{{ column.title | spelled }}" width="170" height="18">
<rect x="0" y="3" width="{{ width(table, column, row, column.key) }}" height="12"></rect>
{% if column.mark and row[column.mark] is not none %}{% set at = width(table, column, row, column.mark) %}
<line x1="{{ at }}" x2="{{ at }}" y1="0" y2="18"></line>{% endif %}</svg>{% endif %}</td>{% endif %}{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
{% set below = table.note if table.rows else table.empty %}
{% if below %}<p class="soft">{{ below | spelled }}</p>{% endif %}
{% endfor %}
</div>
{% for note in section.notes %}<p class="soft">{{ note | spelled }}</p>
{% endfor %}
</section>
{% endfor %}
</body>
</html>
"""
WIDTH = 170.0
"""Pixels of the longest bar."""


def render(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The text of an HTML file with the sections below a title and one line."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["spelled"] = spelled
    return environment.from_string(PAGE).render(title=title, lead=lead, sections=sections, width=_width)


def _width(table: Table, column: Column, row: Mapping[str, Any], key: str) -> float:
    """The length of a value's bar, in pixels; the column's longest bar or mark fills the width."""
    return round(WIDTH * (row[key] or 0.0) / table.longest(column), 1)
