"""Differences between two versions: counted in the lake, shown in the terminal, as JSON and as one HTML file."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from graft.cli import versions as verbs
from graft.data.card import section_markdown
from graft.data.diff import diff
from graft.data.diff_view import render_html, sections
from graft.data.lake import Lake
from graft.data.versions import derive, held_by, publish, version
from graft.schemas.datasets import DatasetVersion, Row, Run
from graft.schemas.errors import NotFound
from graft.schemas.rows import Candidate, Decision, GateResult, Slot
from graft.schemas.sections import readable

AT = datetime(2026, 11, 25, tzinfo=UTC)
RUN = Run(id="run1", dataset="d", recipe={}, status="finished", started_at=AT, code_version="1", price_usd=None)
EVIL = '<script>alert(1)</script> & "q" {{ 7 * 7 }}'


def row(name: str, text: str, label: str = "a", **more: object) -> Row:
    return Row.model_validate({"id": name, "text": text, "label": label, "split": "train", **more})


def put(lake: Lake, some: list[Row], run: Run = RUN) -> DatasetVersion:
    return publish(lake, run=run, rows=some, models={}, seeds=0, card="# card")


BEFORE = [
    row("c_1", "where is my order"), row("c_2", "please refund me"), row("c_3", "old words here"),
    row("c_4", "hidden before", restricted=True), row("c_5", "told twice"), row("c_6", "let go"),
    row("c_7", "moves over"),
]  # fmt: skip
AFTER = [
    row("c_1", "where is my order"), row("c_2", "please refund me", "b"), row("c_3", "new words here"),
    row("c_4", "hidden after", restricted=True), row("x_5", "told twice"), row("c_7", "moves over", split="test"),
    row("c_8", EVIL, "b"), row("c_9", "unseen by all", "b", restricted=True),
]  # fmt: skip


def test_every_kind_of_change_is_counted(lake: Lake) -> None:
    a, b = put(lake, BEFORE), put(lake, AFTER)
    found = diff(lake, a, b)
    counts = {k: getattr(found, k) for k in ("unchanged", "added", "dropped", "relabelled", "edited", "moved")}
    assert counts == {"unchanged": 2, "added": 2, "dropped": 1, "relabelled": 1, "edited": 2, "moved": 1}
    assert found.renamed == 1 and not found.same and (found.a, found.b) == ("d@1", "d@2")
    assert [(o.name, o.a, o.b, o.change) for o in found.labels] == [("a", 7, 5, -2), ("b", 0, 3, 3)]
    assert [(o.name, o.change) for o in found.splits] == [("train", 0), ("test", 1)]
    assert [(o.before, o.after, o.rows) for o in found.relabels] == [("a", "b", 1)]
    assert [(o.before, o.after, o.rows) for o in found.moves] == [("train", "test", 1)]
    assert [(o.gate, o.rule, o.rows) for o in found.drops] == [("", "", 1)]
    shown = {(e.kind, e.id): (e.text_before, e.text_after) for e in found.examples}
    assert shown["edited", "c_3"] == ("old words here", "new words here")
    assert shown["edited", "c_4"] == ("(restricted)", "(restricted)")
    assert shown["added", "c_9"] == (None, "(restricted)") and shown["dropped", "c_6"] == ("let go", None)
    opened = diff(lake, a, b, restricted=True, examples=1)
    assert len(opened.examples) == 5 and "hidden" not in found.model_dump_json()
    assert {e.text_after for e in diff(lake, a, b, restricted=True).examples} >= {"unseen by all", "hidden after"}
    assert diff(lake, a, a).same and diff(lake, a, a).unchanged == 7
    back = diff(lake, b, a)
    assert (back.added, back.dropped, back.edited) == (1, 2, 2)
    tables = lake.query("SELECT count(*) AS n FROM duckdb_tables() WHERE database_name = 'temp'")
    assert tables[0]["n"] == 0


def test_lengths_and_diversity(lake: Lake) -> None:
    a = put(lake, [row("c_1", "one two one two"), row("c_2", "one two")])
    b = put(lake, [row("c_1", "Één twéé drie"), row("c_3", "vier vijf zes", response="ja")])
    found = {m.name: (m.a, m.b, m.change) for m in diff(lake, a, b).measures}
    assert found["distinct-2"] == (0.5, 1.0, 0.5)  # "one two", "two one", of four pairs; then four of four
    assert found["vocabulary"] == (2, 6, 4) and found["words a text, mean"] == (3, 3, 0)
    assert found["characters, mean"] == (11, 13, 2) and found["response characters, mean"] == (None, 2, None)
    assert "score, mean" not in found and found["reviewed rows"] == (0, 0, 0)


def candidate(name: str, run: str, mean: float, spread: float, route: str) -> Candidate:
    slot = Slot(id=f"slot_{name}", run_id=run, shard=0, round=0, index=0, label="a", seed=1)
    decision = Decision.model_validate(
        {"status": "accepted", "route": route, "code": "x", "reason": "", "mean": mean, "spread": spread}
    )
    return Candidate(id=name, slot=slot, text=name, label="a", intended_label="a", decision=decision)


def test_scores_drift_and_agreement(lake: Lake) -> None:
    lake.commit("run1", "b", [candidate("c_1", "run1", 9, 1, "agreed"), candidate("c_2", "run1", 7, 3, "agreed")], [])
    lake.commit("run2", "b", [candidate("c_2", "run2", 5, 2, "adjudicated")], [])
    a = put(lake, [row("c_1", "c_1"), row("c_2", "c_2"), row("s_1", "seed", source="seed")])
    b = put(lake, [row("c_2", "c_2")], RUN.model_copy(update={"id": "run2"}))
    found = {m.name: (m.a, m.b, m.change) for m in diff(lake, a, b).measures}
    assert found["reviewed rows"] == (2, 1, -1) and found["score, mean"] == (8, 5, -3)
    assert found["reviewers' spread, mean"] == (2, 2, 0) and found["reviewers agreed, share"] == (1, 0, -1)


def test_drops_name_their_rule_over_several_steps(lake: Lake) -> None:
    first = put(lake, BEFORE)

    def without(parent: DatasetVersion, name: str, rule: str) -> DatasetVersion:
        held = [one for one in held_by(lake, parent) if one[0].id != name]
        drop = GateResult(gate="near", rule=rule, passed=False)
        return derive(lake, parent, held, origin="gates", note="n", drops=[drop], dropped=[name])

    last = without(without(first, "c_6", "jaccard"), "c_1", "exact")
    found = diff(lake, first, last)
    assert [(o.rule, o.rows) for o in found.drops] == [("exact", 1), ("jaccard", 1)]
    assert {e.id: e.rule for e in found.examples} == {"c_1": "exact", "c_6": "jaccard"}
    assert [o.rule for o in diff(lake, version(lake, "d@2"), last).drops] == ["exact"]
    assert [o.rule for o in diff(lake, last, first).drops] == []


names, words = st.sampled_from(["c_1", "c_2", "c_3", "x_1", "x_2"]), st.sampled_from(["one", "two", "three"])
sides = st.dictionaries(names, st.tuples(words, st.sampled_from("ab")), min_size=1, max_size=5)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(left=sides, right=sides)
def test_every_row_is_counted_once(
    lake: Lake, left: dict[str, tuple[str, str]], right: dict[str, tuple[str, str]]
) -> None:
    a = put(lake, [row(n, *text) for n, text in left.items()])
    b = put(lake, [row(n, *text) for n, text in right.items()])
    found = diff(lake, a, b)
    was, now = ({(r.id, r.text, r.label) for r, *_ in held_by(lake, one)} for one in (a, b))
    assert found.rows_a - found.dropped == found.rows_b - found.added
    assert found.unchanged <= found.rows_a - found.dropped
    assert found.unchanged + found.relabelled + found.edited >= found.rows_a - found.dropped
    assert found.same == (was == now) or (found.same and found.renamed)
    back = diff(lake, b, a)
    assert (back.added, back.dropped, back.edited, back.renamed) == (
        found.dropped, found.added, found.edited, found.renamed,
    )  # fmt: skip


class Tags(HTMLParser):
    """Every element and attribute of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_html_is_one_inert_file(lake: Lake) -> None:
    a = put(lake, BEFORE)
    b = put(lake, [*AFTER, row("c_10", "fine", '"><img src=x onerror=alert(1)>')])
    page = render_html(diff(lake, a, b, examples=9))
    parser = Tags()
    parser.feed(page)
    assert {tag for tag, _ in parser.seen}.isdisjoint({"script", "img", "link", "iframe", "object", "base", "form"})
    assert not [attrs for _, attrs in parser.seen if any(n.startswith("on") or n in ("src", "href") for n in attrs)]
    assert "http:" not in page and "https:" not in page and "url(" not in page
    assert html.escape(EVIL, quote=False) in page.replace("&#34;", '"')
    assert "{{ 7 * 7 }}" in page and "hidden" not in page and "(restricted)" in page
    assert "prefers-color-scheme: dark" in page and page.count("<svg") == 5
    widths = [float(w) for w in re.findall(r'y="3" width="([\d.]+)"', page)]
    marks = [float(w) for w in re.findall(r'<line x1="([\d.]+)"', page)]
    assert max(widths + marks) == 170 and min(widths + marks) == 0


def test_the_same_sections_render_as_markdown(lake: Lake) -> None:
    a, b = put(lake, BEFORE), put(lake, AFTER)
    text = "\n\n".join(section_markdown(one) for one in sections(diff(lake, a, b, examples=9)))
    lines = text.splitlines()
    assert "- rows before: 7" in lines and "- dropped: 1" in lines and "- same text, another id: 1" in lines
    assert "| label | d\\@1 | d\\@2 | change |" in lines and "| b | 0 | 3 | +3 |" in lines
    assert "| moved | c\\_7 | a | train → test | moves over | as before |" in lines
    assert "<script>" not in text and "&lt;script&gt;" in text and "hidden" not in text, "model text stays text"
    same = sections(diff(lake, a, a))
    assert [one.name for one in same] == ["changed-rows", "changed-labels", "changed-splits", "changed-measures"]
    assert "hold the same rows" in section_markdown(same[0])


def test_figures() -> None:
    shown = [readable(value, "figure") for value in (None, 3.0, 0.0, 0.123456, 1234.5)]
    assert [*shown, readable(-0.5, "figure_change"), readable(12.0, "figure_change")] == [
        "–", "3", "0", "0.1235", "1,234.5", "-0.5", "+12",
    ]  # fmt: skip


def test_diff_on_the_command_line(lake: Lake, tmp_path: Path) -> None:
    put(lake, BEFORE)
    put(lake, AFTER)
    app = typer.Typer()
    app.command()(verbs.diff)
    file = tmp_path / "out" / "d.html"
    shown = CliRunner().invoke(app, ["d@1", "d", "--html", str(file)], env={"COLUMNS": "160"})
    assert shown.exit_code == 0, shown.output
    assert "relabelled" in shown.output and "hidden before" not in shown.output and file.read_text().startswith("<!doc")
    report = json.loads(CliRunner().invoke(app, ["d@1", "d", "--json", "--restricted"]).stdout)
    assert report["added"] == 2 and any(e["text_before"] == "hidden before" for e in report["examples"])
    assert isinstance(CliRunner().invoke(app, ["d@1", "d@9"]).exception, NotFound)
