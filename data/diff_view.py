"""A diff as sections, for the terminal, Markdown, the pages and one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from graft.data.diff import KINDS, Diff, Flow, Share
from graft.data.sections_html import render
from graft.schemas.sections import Column, Fact, Section, Table

WORDS = 400
"""Characters shown of an example; `graft diff --json` and the row's page have all of them."""


def sections(diff: Diff, most: int = 30) -> tuple[Section, ...]:
    """The diff by topic, without topics that have nothing to show. `most` moves between two labels are listed."""
    facts = [Fact("rows before", diff.rows_a, "number"), Fact("rows after", diff.rows_b, "number")]
    facts += [Fact(name, getattr(diff, name), "number") for name in ("unchanged", *KINDS)]
    if diff.renamed:
        facts.append(Fact("same text, another id", diff.renamed, "number"))
    same = "Both versions hold the same rows, labels and splits." if diff.same else ""
    groups = (
        ("rows", "Rows", (_drops(diff),)),
        ("labels", "Labels",
         (_shares("labels", diff, diff.labels), _flows("relabels", "Relabelled", diff.relabels, most))),
        ("splits", "Splits",
         (_shares("splits", diff, diff.splits), _flows("moves", "Moved between splits", diff.moves, most))),
        ("measures", "Length, diversity and reviews", (_measures(diff),)),
        ("examples", "Examples", (_examples(diff),)),
    )  # fmt: skip
    all_of = (
        Section(f"changed-{name}", title, text=same if name == "rows" else "",
                facts=tuple(facts) if name == "rows" else (), tables=tuple(one for one in tables if one.rows))
        for name, title, tables in groups
    )  # fmt: skip
    return tuple(one for one in all_of if one.known)


def render_html(diff: Diff) -> str:
    """The text of one HTML file. Words that the diff hides stay hidden."""
    return render(f"{diff.a} → {diff.b}", "Changes between two versions, by Graft.", sections(diff))


def _numbers(diff: Diff) -> tuple[Column, Column, Column]:
    after = Column("b", diff.b, "number", bar=True, mark="a")
    return Column("a", diff.a, "number"), after, Column("change", "change", "change")


def _drops(diff: Diff) -> Table:
    rows = [{"gate": one.gate or "not recorded", "rule": one.rule or None, "rows": one.rows} for one in diff.drops]
    columns = (Column("gate", "gate"), Column("rule", "rule"), Column("rows", "rows", "number"))
    return Table("dropped", "Why rows were dropped", columns, rows)


def _shares(name: str, diff: Diff, shares: Sequence[Share]) -> Table:
    return Table(name, "", (Column("name", name[:-1]), *_numbers(diff)), [one.model_dump() for one in shares],
                 note=f"the bar is {diff.b}, its mark {diff.a}")  # fmt: skip


def _measures(diff: Diff) -> Table:
    columns = (
        Column("group", "of"), Column("name", "figure"), Column("a", diff.a, "figure"), Column("b", diff.b, "figure"),
        Column("change", "change", "figure_change"),
    )  # fmt: skip
    note = f"diversity is measured over {diff.sampled:,} rows of each version"
    return Table("measures", "", columns, [one.model_dump() for one in diff.measures], note=note)


def _flows(name: str, title: str, flows: Sequence[Flow], most: int) -> Table:
    columns = (Column("before", "before"), Column("after", "after"), Column("rows", "rows", "number"))
    note = f"the {most} most frequent of {len(flows):,}" if len(flows) > most else ""
    return Table(name, title, columns, [one.model_dump() for one in flows[:most]], note=note)


def _examples(diff: Diff) -> Table:
    rows: list[dict[str, Any]] = [
        {
            "kind": one.kind, "id": one.id, "link": f"/rows/{quote(one.id, safe='')}",
            "label": _arrow(one.label_before, one.label_after), "split": _arrow(one.split_before, one.split_after),
            "why": f"{one.gate}: {one.rule}" if one.gate else None,
            "before": _cut(before), "after": "as before" if after == before else _cut(after),
        }
        for one in diff.examples
        for before, after in [(one.view_before or one.text_before, one.view_after or one.text_after)]
    ]  # fmt: skip
    why = (Column("why", "rule"),) if any(row["why"] for row in rows) else ()
    columns = (
        Column("kind", "change"), Column("id", "row", "code", link="link"), Column("label", "label"),
        Column("split", "split"), *why, Column("before", f"in {diff.a}"), Column("after", f"in {diff.b}"),
    )  # fmt: skip
    return Table("examples", "", columns, rows)


def _arrow(was: str | None, now: str | None) -> str | None:
    if was is None or now is None or was == now:
        return was if now is None else now
    return f"{was} → {now}"


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= WORDS else text[: WORDS - 1] + "…"
