"""A diff as one HTML file: without scripts and outside resources; all text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graft.data.diff import Diff, Measure, Share

LEAST_BAR = 0.4
"""Least per cent of a bar's room, so that one row is still visible."""

STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --dim: #667085; --line: #e3e6ec; --paper: #ffffff; --soft: #f6f7f9;
  --a: #9aa7b8; --b: #3f7d6e; --up: #2f7d4f; --down: #b0493f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ec; --dim: #98a2b3; --line: #2c323d; --paper: #14171c;
  --soft: #1b1f26; --a: #5d6979; --b: #62b39e; --up: #6cc08b; --down: #e08a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.5rem; font-weight: 600; margin: 0 0 .3rem; }
h2 { font-size: 1.05rem; font-weight: 600; margin: 2.4rem 0 .7rem; }
p, .dim { color: var(--dim); margin: 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .7rem; margin-top: 1.4rem; }
.card { background: var(--soft); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem; }
.card b { display: block; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .4rem .7rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--dim); font-weight: 500; font-size: .87rem; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.w { overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: 1.4rem; min-width: 8rem; }
.key { display: inline-block; width: .7rem; height: .7rem; border-radius: .15rem; margin: 0 .3rem 0 .8rem; }
.before { background: var(--a); } .after { background: var(--b); }
rect.before { fill: var(--a); } rect.after { fill: var(--b); }
.up { color: var(--up); } .down { color: var(--down); }
del { color: var(--down); } ins { color: var(--up); text-decoration: none; }
pre { font: inherit; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
"""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ d.a }} → {{ d.b }}</title><style>{{ style }}</style></head><body>
<h1>{{ d.a }} → {{ d.b }}</h1>
<p>{{ "{:,}".format(d.rows_a) }} rows before, {{ "{:,}".format(d.rows_b) }} after.
{% if d.same %}Both hold the same rows.{% endif %}
{% if d.renamed %}{{ "{:,}".format(d.renamed) }} have the same text under another id.{% endif %}</p>
<div class="cards">{% for name, rows in counts %}
<div class="card"><b>{{ "{:,}".format(rows) }}</b><span class="dim">{{ name }}</span></div>{% endfor %}</div>
{% macro shares(title, all) %}{% if all %}
<h2>{{ title }} <span class="dim"><i class="key before"></i>{{ d.a }}<i class="key after"></i>{{ d.b }}</span></h2>
<table><tr><th>name</th><th></th><th class="n">before</th><th class="n">after</th><th class="n">change</th></tr>
{% for one, x, y in all %}<tr><td class="w">{{ one.name }}</td><td style="width:40%">
<svg viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{{ one.a }} before, {{ one.b }} after">
<rect class="before" x="0" y="0.5" height="4" width="{{ x }}"/>
<rect class="after" x="0" y="5.5" height="4" width="{{ y }}"/></svg></td>
<td class="n">{{ "{:,}".format(one.a) }}</td><td class="n">{{ "{:,}".format(one.b) }}</td>
<td class="n {{ 'up' if one.change > 0 else 'down' if one.change < 0 }}">{{ "{:+,}".format(one.change) }}</td>
</tr>{% endfor %}</table>{% endif %}{% endmacro %}
{{ shares("Labels", labels) }}{{ shares("Splits", splits) }}
{% for title, all in measures %}<h2>{{ title }}</h2>
<table><tr><th></th><th class="n">before</th><th class="n">after</th><th class="n">change</th></tr>
{% for name, a, b, change in all %}<tr><td>{{ name }}</td><td class="n">{{ a }}</td><td class="n">{{ b }}</td>
<td class="n">{{ change }}</td></tr>{% endfor %}</table>{% endfor %}
{% if d.drops %}<h2>Why rows were dropped</h2>
<table><tr><th>gate</th><th>rule</th><th class="n">rows</th></tr>{% for one in d.drops %}
<tr><td>{{ one.gate or "not recorded" }}</td><td class="w">{{ one.rule }}</td>
<td class="n">{{ "{:,}".format(one.rows) }}</td></tr>{% endfor %}</table>{% endif %}
{% for title, all in flows %}{% if all %}<h2>{{ title }}</h2>
<table><tr><th>before</th><th>after</th><th class="n">rows</th></tr>{% for one in all[:most] %}
<tr><td class="w">{{ one.before }}</td><td class="w">{{ one.after }}</td>
<td class="n">{{ "{:,}".format(one.rows) }}</td></tr>{% endfor %}</table>
{% if all | length > most %}<p>and {{ all | length - most }} more</p>{% endif %}{% endif %}{% endfor %}
{% for kind, all in examples %}{% if all %}<h2>Examples: {{ kind }}</h2>
<table><tr><th>row</th><th>text</th><th>label</th><th>split</th></tr>{% for one in all %}
<tr><td class="w dim">{{ one.id }}{% if one.gate %}<br>{{ one.gate }}: {{ one.rule }}{% endif %}</td><td class="w">
{{ change(one.text_before, one.text_after, "pre") }}</td><td class="w">
{{ change(one.label_before, one.label_after, "span") }}</td><td>
{{ change(one.split_before, one.split_after, "span") }}</td></tr>{% endfor %}</table>{% endif %}{% endfor %}
</body></html>
"""

CHANGE = """{% macro change(before, after, tag) %}{% if before is none or after is none or before == after %}
<{{ tag }}>{{ before if after is none else after }}</{{ tag }}>{% else %}
<{{ tag }}><del>{{ before }}</del></{{ tag }}> <{{ tag }}><ins>{{ after }}</ins></{{ tag }}>{% endif %}{% endmacro %}"""

TITLES = {"length": "Length", "diversity": "Diversity", "reviews": "Reviews"}
MOST_FLOWS = 30


def render_html(diff: Diff) -> str:
    """The whole page. Words that the diff hides stay hidden."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from graft.data.diff import KINDS

    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(CHANGE + PAGE)
    return page.render(
        d=diff,
        style=Markup(STYLE),
        counts=[(name, getattr(diff, name)) for name in ("unchanged", *KINDS)],
        labels=_bars(diff.labels),
        splits=_bars(diff.splits),
        measures=[(title, _figures(diff.measures, group)) for group, title in TITLES.items()],
        flows=[("Relabelled", diff.relabels), ("Moved between splits", diff.moves)],
        examples=[(kind, [one for one in diff.examples if one.kind == kind]) for kind in KINDS],
        most=MOST_FLOWS,
    )


def _bars(shares: Sequence[Share]) -> list[tuple[Share, str, str]]:
    """Each entry with the lengths of its two bars, per cent of the longest."""
    most = max((max(one.a, one.b) for one in shares), default=0) or 1
    return [(one, _length(one.a, most), _length(one.b, most)) for one in shares]


def _length(rows: int, most: int) -> str:
    return f"{max(LEAST_BAR, 100 * rows / most) if rows else 0:.2f}"


def figure(value: float | None, *, signed: bool = False) -> str:
    """A figure for people: at most four decimals; a dash if there is none."""
    if value is None:
        return "–"
    text = f"{value:+,.4f}" if signed else f"{value:,.4f}"
    return text.rstrip("0").rstrip(".")


def _figures(measures: Sequence[Measure], group: str) -> list[tuple[str, str, str, str]]:
    return [
        (one.name, figure(one.a), figure(one.b), figure(one.change, signed=True))
        for one in measures
        if one.group == group
    ]
