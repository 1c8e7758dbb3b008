"""Rows of every shape from an import through version, pages, exports and people's edits to the next version."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from starlette.testclient import TestClient
from test_tasks_shapes import ANSWER, ASKED, CALL, PASSAGE, TOLD, WEATHER
from typer.testing import CliRunner

from graft.cli import read, versions
from graft.cli.intake import bring_in as verb
from graft.dashboard.app import create_app
from graft.dashboard.door import Door
from graft.data.diff import diff
from graft.data.diff_view import render_html
from graft.data.edits import apply, decide, edits, rebase, record
from graft.data.explain import explain
from graft.data.export import export
from graft.data.gates import Admission
from graft.data.lake import Lake
from graft.data.quality.report import quality
from graft.data.quality.view import sections
from graft.data.versions import held_by, version
from graft.flows import train_student as training
from graft.flows.import_dataset import Ask, bring_in
from graft.schemas.datasets import DatasetVersion, Row
from graft.schemas.display import of_data, plain
from graft.schemas.errors import GraftError, InputInvalid
from graft.schemas.home import Home
from graft.schemas.load import load_recipe
from graft.schemas.recipe import Recipe, Splits
from graft.schemas.rows import Proposal

TRICK = "<img src=x onerror=alert(1)> {{ 7 * 7 }} [a](http://evil.example)"
FILES: dict[str, list[dict[str, Any]]] = {
    "extraction": [
        {"text": "  Ann flew to Rome.",
         "spans": [{"text": "Rome", "type": "city"}, {"start": 2, "end": 5, "type": "name"}]},
        {"text": f"Nothing {TRICK}", "spans": [{"text": TRICK, "type": TRICK}]},
    ],
    "conversation": [
        {"messages": [ASKED, CALL, TOLD, ANSWER], "tools": [{"type": "function", "function": WEATHER}]},
        {"messages": [{"role": "user", "content": TRICK}, {"role": "assistant", "content": TRICK}]},
    ],
    "qa": [
        {"text": PASSAGE, "question": "When does it open?", "response": "nine", "evidence": "opens at nine"},
        {"text": PASSAGE, "question": "When is it shut?", "response": "After five.", "evidence": "closes at five"},
    ],
    "ranking": [
        {"text": "opening hours", "candidates": [{"text": "nine to five", "grade": 2}, {"text": TRICK, "grade": 0}]},
    ],
    "pairs": [{"text": "a b", "other": "b a", "label": "same"}, {"text": "a b", "other": TRICK, "label": "other"}],
    "rewrite": [{"text": "at 9", "response": "nine o'clock"}],
}  # fmt: skip
EXPORTED: dict[tuple[str, str], list[Any]] = {
    ("extraction", "spacy"): [{"text": "  Ann flew to Rome.", "entities": [[2, 5, "name"], [14, 18, "city"]]}],
    ("extraction", "gliner"): [{"tokenized_text": ["Ann", "flew", "to", "Rome", "."],
                                "ner": [[0, 0, "name"], [3, 3, "city"]]}],
    ("conversation", "messages"): [{
        "messages": [ASKED, {**CALL, "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}]}, TOLD, ANSWER],
        "tools": [{"type": "function", "function": WEATHER}]}],
    ("conversation", "sharegpt"): [{"conversations": [
        {"from": "human", "value": ASKED["content"]},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bern"}}'},
        {"from": "observation", "value": "sunny"}, {"from": "gpt", "value": "It is."},
    ], "tools": json.dumps([WEATHER])}],
    ("qa", "squad"): [
        {"context": PASSAGE, "question": "When does it open?", "title": "",
         "answers": {"text": ["nine"], "answer_start": [18]}},
        {"context": PASSAGE, "question": "When is it shut?", "title": "",
         "answers": {"text": ["closes at five"], "answer_start": [27]}}],
    ("qa", "messages"): [{"messages": [{"role": "user", "content": f"{PASSAGE}\n\nWhen does it open?"},
                                       {"role": "assistant", "content": "nine"}]}],
    ("ranking", "ranked_lists"): [{"query": "opening hours", "docs": ["nine to five", TRICK], "labels": [2.0, 0.0]}],
    ("ranking", "triplets"): [{"anchor": "opening hours", "positive": "nine to five", "negative": TRICK}],
    ("pairs", "sentence_pairs"): [{"sentence1": "a b", "sentence2": "b a", "label": 1}],
    ("rewrite", "prompt_completion"): [{"prompt": [{"role": "user", "content": "at 9"}],
                                        "completion": [{"role": "assistant", "content": "nine o'clock"}]}],
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    return Home.find()


@pytest.fixture
def lake(home: Home) -> Iterator[Lake]:
    with Lake.open(home) as opened:
        yield opened


def brought(folder: Path, kind: str, rows: list[dict[str, Any]] | None = None, **ask: Any) -> DatasetVersion:
    file = folder / f"{kind}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows or FILES[kind]), encoding="utf-8")
    splits = Splits(train=1, validation=0, test=0)
    return bring_in(str(file), kind, Ask(task=kind, splits=splits, **ask)).version


def held(lake: Lake, found: DatasetVersion, word: str) -> Row:
    return next(row for row, *_ in held_by(lake, found) if word in row.text + str(row.data))


def run(verb: Callable[..., Any], *words: str) -> str:
    app = typer.Typer()
    app.command()(verb)
    made = CliRunner().invoke(app, words, catch_exceptions=False)
    assert made.exit_code == 0, made.output
    return made.output


@pytest.mark.parametrize("kind", FILES)
def test_each_shape_is_imported_shown_and_measured(tmp_path: Path, lake: Lake, home: Home, kind: str) -> None:
    found = brought(tmp_path, kind)
    assert found.rows == len(FILES[kind]) and "## A row" in found.card and "<img" not in found.card
    rows = [row for row, *_ in held_by(lake, found)]
    recipe = Recipe.stored(lake.run(found.run_id).recipe)  # type: ignore[union-attr]
    gates = Admission(recipe).gates
    gate = next(one for one in gates if one.name == "fits_task")
    assert all(gate.check(Proposal(row.text, row.response, row.label, data=row.data)).passed for row in rows)
    history = explain(lake, rows[0].id)
    view = of_data(history["view"])
    assert plain(view) and json.dumps(history["data"])
    report = quality(lake, found)
    assert report.shape and report.shape.rows == len(rows)
    assert sections(report)[-1].name == "shape" and sections(report)[-1].tables
    shown = run(read.show, found.ref)
    assert plain(view).split("\n")[0][:12].split("[")[0] in shown
    with TestClient(create_app(home, door=Door()), "http://127.0.0.1") as pages:
        for path in (f"/rows/{rows[0].id}", f"/rows?ref={found.ref}", f"/review?ref={found.ref}&rule=random",
                     f"/datasets/{found.ref}", f"/datasets/{found.ref}/quality"):  # fmt: skip
            page = pages.get(path)
            assert page.status_code == 200 and "<img src=x" not in page.text
        assert ("<mark" in pages.get(f"/rows?ref={found.ref}").text) is (kind in ("extraction", "qa"))


@pytest.mark.parametrize(("kind", "format"), EXPORTED)
def test_each_shape_is_exported_as_its_trainers_read_it(tmp_path: Path, lake: Lake, kind: str, format: str) -> None:
    found = brought(tmp_path, kind)
    files = export(lake, found.ref, format=format, out=tmp_path / "out")
    lines = [json.loads(line) for line in files[0].read_text(encoding="utf-8").splitlines()]
    lines = [{name: value for name, value in line.items() if name != "id"} for line in lines]
    for row in EXPORTED[kind, format]:
        assert row in lines
    with pytest.raises(GraftError, match="which this format writes"):
        export(lake, found.ref, format="conll" if kind != "extraction" else "squad", out=tmp_path / "other")


def test_spans_become_bio_tags(tmp_path: Path, lake: Lake) -> None:
    rows = [{"text": "New York's mayor", "spans": [{"start": 0, "end": 8, "type": "big city"}]}]
    found = brought(tmp_path, "extraction", rows)
    file = export(lake, found.ref, format="conll", out=tmp_path / "out")[0]
    assert file.name == "train.conll"
    assert file.read_text() == "New\tB-big_city\nYork\tI-big_city\n'\tO\ns\tO\nmayor\tO\n\n"
    with pytest.raises(GraftError, match="cannot be written with 'gzip'"):
        export(lake, found.ref, format="conll", out=tmp_path / "zip", compression="gzip")


def test_bad_rows_are_listed_with_their_line_and_element(tmp_path: Path) -> None:
    rows = [
        *FILES["extraction"], {"text": "Paris", "spans": [{"start": 0, "end": 4, "type": "city", "text": "Paris"}]},
        {"text": "Paris", "spans": [{"text": "Lyon", "type": "city"}]}, {"text": "Paris"},
    ]  # fmt: skip
    with pytest.raises(InputInvalid) as caught:
        brought(tmp_path, "extraction", rows)
    said = [(one.line, one.field, one.what) for one in caught.value.problems]
    assert said == [
        (3, "spans", "span 1: offsets 0–4 hold 'Pari', not 'Paris'"),
        (4, "spans", "span 1: 'Lyon' does not occur in the text"),
        (5, "row", "the row has no spans: an empty list states that there are none"),
    ]
    assert brought(tmp_path, "extraction", rows, skip_bad=True).rows == 2
    with pytest.raises(InputInvalid, match="rows for ranking need candidates"):
        brought(tmp_path, "ranking", [{"text": "a"}])
    with pytest.raises(InputInvalid, match=r"weather: 'city' is a required property"):
        turns = [ASKED, {**CALL, "tool_calls": [{"name": "weather", "arguments": {}}]}, TOLD, ANSWER]
        brought(tmp_path, "conversation", [{"messages": turns, "tools": [WEATHER]}])


def test_columns_are_mapped_and_read_from_csv(tmp_path: Path, lake: Lake, home: Home) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text('first,second,same\n"a b","b a",yes\n"c","d",no\n')
    run(verb, str(file), "--name", "p", "--task", "pairs", "--map", "text=first,other=second,label=same")
    rows = [row for row, *_ in held_by(lake, version(lake, "p"))]
    assert {(row.text, row.data["other"], row.label) for row in rows} == {("a b", "b a", "yes"), ("c", "d", "no")}
    spans = tmp_path / "spans.csv"
    spans.write_text('text,spans\nRome,"[{""text"": ""Rome"", ""type"": ""city""}]"\n')
    run(verb, str(spans), "--name", "s", "--task", "extraction")
    (row,) = [row for row, *_ in held_by(lake, version(lake, "s"))]
    assert row.data == {"spans": [{"start": 0, "end": 4, "type": "city"}]} and row.text == "Rome"


def test_edits_of_text_and_spans_meet_in_the_next_version(tmp_path: Path, lake: Lake) -> None:
    first = brought(tmp_path, "extraction")
    row = held(lake, first, "Rome")
    with pytest.raises(GraftError, match="'Rome' does not occur"):
        decide(lake, first, row.id, "edit", text="Ann stayed.", by="ann")
    with pytest.raises(GraftError, match="span 1: offsets 0–99"):
        decide(lake, first, row.id, "edit", data={"spans": [{"start": 0, "end": 99, "type": "x"}]}, by="ann")
    text = decide(lake, first, row.id, "edit", text="To Rome flew Ann.", by="ann")
    spans = decide(lake, first, row.id, "edit", data={"spans": [{"text": "Rome", "type": "place"}]}, by="bob")
    assert record(lake, [text, spans]) == 2 and edits(lake, "extraction")[-1] == spans
    second = apply(lake, first)
    changed = held(lake, second, "Rome")
    assert (changed.text, changed.data) == ("To Rome flew Ann.", {"spans": [{"start": 3, "end": 7, "type": "place"}]})
    found = diff(lake, first, second)
    assert (found.edited, found.unchanged) == (1, 1)
    assert (
        found.examples[0].view_after == "To [Rome](place) flew Ann." and "[Rome](city)" in found.examples[0].view_before
    )
    assert "[Rome](place)" in render_html(found)
    assert apply(lake, second) == second  # nothing is left to do
    later = decide(lake, second, held(lake, second, "Nothing").id, "edit", data={"spans": []}, by="ann")
    stale = later.model_copy(update={"id": "e_stale", "base_data": {"spans": [{"start": 0, "end": 2, "type": "x"}]},
                                     "data": {"spans": [{"start": 0, "end": 1, "type": "x"}]}})  # fmt: skip
    record(lake, [stale])
    assert [one.field for one in rebase(lake, second, dry_run=True).conflicts] == ["data"]


def test_edits_that_break_the_row_together_are_a_conflict(tmp_path: Path, lake: Lake) -> None:
    first = brought(tmp_path, "qa")
    row = held(lake, first, "open?")
    shorter = decide(lake, first, row.id, "edit", text="It opens at nine.", by="ann")
    quote = decide(lake, first, row.id, "edit", data={"evidence": "The shop opens at nine"}, by="bob")
    record(lake, [shorter, quote])
    made = rebase(lake, first, force=True)
    assert [(one.field, one.fault) for one in made.conflicts] == [
        ("data", "the evidence 'The shop opens at nine' is not in the passage")
    ]
    assert made.version is None


def test_a_conversation_is_edited_on_the_review_page(tmp_path: Path, lake: Lake, home: Home) -> None:
    found = brought(tmp_path, "conversation")
    row = held(lake, found, "Bern")
    with TestClient(create_app(home, door=Door()), "http://127.0.0.1", follow_redirects=False) as pages:
        page = pages.get(f"/review?ref={found.ref}&rule=random&row={row.id}").text
        assert "&gt;&gt;&gt; call weather\n" in page and 'name="data.messages"' in page
        form = {"ref": found.ref, "rule": "random", "row": row.id, "token": "t1", "seen": "", "action": "edit",
                "text": row.text}  # fmt: skip
        turns = (
            '>>> user\nis it sunny in Bern?\r\n>>> assistant\n>>> call weather\n{"city": "Bern", "days": %s}\n'
            ">>> tool weather\nrain\n>>> assistant\nNo."
        )
        headers = {"origin": "http://127.0.0.1"}
        bad = pages.post("/review/decide", data={**form, "data.messages": turns % '"two"'}, headers=headers)
        assert bad.status_code >= 400 and "days: &#39;two&#39; is not of type" in bad.text
        bad = pages.post("/review/decide", data={**form, "data.messages": ">>> bot\nhi"}, headers=headers)
        assert bad.status_code >= 400 and "begins no turn" in bad.text
        done = pages.post("/review/decide", data={**form, "data.messages": turns % "2"}, headers=headers)
        assert done.status_code == 303
    changed = held(lake, apply(lake, found), "Bern")
    assert changed.data["messages"][1]["tool_calls"][0]["arguments"] == {"city": "Bern", "days": 2}  # type: ignore[index, call-overload]
    assert changed.data["messages"][2]["content"] == "rain" and changed.data["tools"] == [WEATHER]  # type: ignore[index, call-overload]


def test_columns_of_restricted_rows_stay_hidden(tmp_path: Path, lake: Lake, home: Home) -> None:
    found = brought(tmp_path, "conversation", restricted=True)
    row = held(lake, found, "Bern")
    record(lake, [decide(lake, found, row.id, "edit", data={"messages": [ASKED, ANSWER]}, by="ann")])
    shown = [run(read.show, found.ref), run(read.show, found.ref, "--json"), str(explain(lake, row.id)),
             run(versions.rebase, found.ref, "--dry-run", "--json"), found.card]  # fmt: skip
    second = apply(lake, found)
    shown += [str(diff(lake, found, second)), str(quality(lake, found).shape)]
    with TestClient(create_app(home, door=Door()), "http://127.0.0.1") as pages:
        for path in (f"/rows/{row.id}", f"/rows?ref={found.ref}", f"/review?ref={found.ref}&rule=random&row={row.id}",
                     f"/datasets/{second.ref}", f"/compare?a={found.ref}&b={second.ref}",
                     f"/datasets/{found.ref}/people"):  # fmt: skip
            shown.append(pages.get(path).text)
    assert not [text for text in shown if "Bern" in text or "sunny" in text]


def test_what_no_student_learns_names_the_exports(tmp_path: Path) -> None:
    found = brought(tmp_path, "extraction")
    with pytest.raises(GraftError, match="no kind of student learns extraction yet") as caught:
        training.train_version(found.ref)
    assert "conll or gliner or spacy" in caught.value.fix


def test_a_method_that_writes_no_columns_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ner.yaml"
    file.write_text(
        "name: ner\ntask: {kind: extraction, types: [{name: city}]}\nmethod: {kind: gra, max_cosine: null}\n"
        "seeds: {rows: [{text: Ann flew to Rome., label: any}]}\nmodels: [{name: m, provider: openai, model: x,"
        " base_url: 'http://127.0.0.1:9/v1'}]\n"
    )
    from graft.data.seeds import load_seeds

    recipe = load_recipe(file)
    with pytest.raises(InputInvalid, match="rows for extraction need spans too"):
        load_seeds(recipe, tmp_path)
