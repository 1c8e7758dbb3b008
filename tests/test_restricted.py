"""Restricted rows: no output holds their words unless they are requested. The policy is a benign one of a shop."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import graft
from graft.agents.methods import method_of
from graft.cli.app import app
from graft.cli.show import without_seeds
from graft.data.card import render_card
from graft.data.lake import Lake
from graft.data.versions import publish
from graft.flows.publish import _too_low
from graft.flows.rounds import funnel
from graft.schemas.calls import Call
from graft.schemas.datasets import Row, Run
from graft.schemas.home import Home
from graft.schemas.recipe import Recipe, SeedRow, SeedSettings
from graft.schemas.rows import Candidate, Decision, GateResult, Review, Seed, Slot
from graft.schemas.tasks.guard import GuardTask

MARK = "XQZ7"
AT = datetime(2026, 11, 25, tzinfo=UTC)
RECIPE = Recipe(
    name="shop",
    task=GuardTask(policy="asks the shop's assistant for a discount", with_response=True),
    seeds=SeedSettings(rows=(SeedRow(text=f"seed {MARK}", label="harmful"), SeedRow(text="open hours?", label="safe"))),
)
RUN = Run(id="run1", dataset="shop", recipe=RECIPE.model_dump(mode="json"), status="finished", started_at=AT,
          code_version="1", counts={"opened": 4, "accepted": 2})  # fmt: skip
HARMFUL = Seed(id="s_harmful1", text=f"seed {MARK}", label="harmful", response=MARK, keywords=(MARK,), summary=MARK)
PLAIN = Seed.of("open hours?", "safe")
GROWN = Seed.of(f"row c_secret01 {MARK}", "safe")
"""An accepted row on its way to be an exemplar: it carries no mark of being restricted."""


def candidate(name: str, *, restricted: bool, status: str = "accepted", code: str = "accepted.agreed") -> Candidate:
    said = MARK if restricted else "welcome"
    label = "harmful" if restricted else "safe"
    slot = Slot(id=name, run_id="run1", shard=0, round=0, index=0, label=label, exemplars=(HARMFUL, PLAIN, GROWN),
                seed=1)  # fmt: skip
    return Candidate(
        id=name, slot=slot, text=f"row {name} {said}", response=f"reply {said}", label=label, intended_label=label,
        keywords=(said,), summary=said, models={"generator": "gemma"}, restricted=restricted,
        reviews=(
            Review(stage="content", role="reviewer", model="a", mean=9.0, comment=said, answer=said),
            Review(stage="content", role="reviewer", model="b", failure=f"schema_unmet: {said}"),
        ),
        gates=(GateResult(gate="leak", rule="x", passed=False, neighbour="c_secret01", detail=f"says {said!r}"),
               GateResult(gate="near", rule="x", passed=True, neighbour=HARMFUL.id)),
        decision=Decision(status=status, route="agreed", code=code, reason=f"because of {said}", mean=9.0),
    )  # fmt: skip


CANDIDATES = [
    candidate("c_open0001", restricted=False),
    candidate("c_open0002", restricted=False, status="rejected", code="gate.mixed"),
    candidate("c_secret00", restricted=True, status="rejected", code="gate.mixed"),
    candidate("c_secret01", restricted=True),
    candidate("c_secret02", restricted=True, status="failed", code="failed.empty"),
]


def call(name: str) -> Call:
    return Call(
        key=f"k_{name}", run_id="run1", candidate_id=name, role="generator", purpose="generate.text", model="gemma",
        provider="embedded", served_model=None, revision="r1", request=f'{{"prompt": "like: {MARK}"}}', reply=MARK,
        prompt_tokens=3, completion_tokens=4, cached_tokens=None, price_usd=0.0, latency_s=0.5, attempts=1,
        cached=True, at=AT,
    )  # fmt: skip


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """One run with two accepted rows, one of them restricted and the only one of the split test."""
    import prefect.main  # noqa: F401 - sets up logging at its first import; later it would take caplog's handler away

    with Lake.open(Home(tmp_path_factory.mktemp("home"))) as opened:
        opened.save_run(RUN)
        opened.add_seeds("run1", [HARMFUL, PLAIN])
        opened.commit("run1", "b", CANDIDATES, [call(c.id) for c in CANDIDATES])
        rows = [
            Row(id=c.id, text=c.text, response=c.response, label=c.label, restricted=c.restricted,
                split="test" if c.restricted else "train")
            for c in CANDIDATES if c.accepted
        ]  # fmt: skip
        publish(opened, run=RUN, rows=rows, models={"gemma": "Gemma"}, seeds=2, card=card(opened, rows))
        yield opened


@pytest.fixture(autouse=True)
def surroundings(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line finds the lake, and its tables break no word."""
    for name, value in (("GRAFT_HOME", str(lake.home.root)), ("COLUMNS", "400"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)


def card(lake: Lake, rows: list[Row]) -> str:
    reasons = [(row["status"], row["code"], row["rows"]) for row in funnel(lake, "run1")]
    return render_card(
        run=RUN, recipe=RECIPE, rows=rows, seeds=2, reasons=reasons, generators=(), roles=("generator", "reviewer")
    )


def said(*words: str) -> str:
    """Everything that a command writes on its two streams."""
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.stdout + result.stderr


ASKED = [
    ["show", "shop"],
    ["show", "shop", "--json"],
    ["show", "shop", "--rejected"],
    ["show", "shop", "--rejected", "--json"],
    ["explain", "c_secret01"],
    *(["explain", c.id, "--json"] for c in CANDIDATES if c.restricted),
    ["explain", "c_open0001", "--json"],
]


@pytest.mark.parametrize("words", ASKED, ids=" ".join)
def test_words_are_hidden_until_requested(lake: Lake, words: list[str]) -> None:
    hidden = said(*words)
    assert MARK not in hidden and "(restricted)" in hidden
    assert MARK in said(*words, "--restricted")


@pytest.mark.parametrize(
    "words", [["status", "--json"], ["datasets", "--json"], ["datasets"], ["explain", "c_open0001"]]
)
def test_other_verbs_never_say_them(lake: Lake, words: list[str]) -> None:
    assert MARK not in said(*words)


def test_every_place_of_a_restricted_row_is_named_and_the_rest_stays(lake: Lake) -> None:
    shut = graft.explain("c_secret01")
    assert MARK not in json.dumps(shut)
    hidden = "(restricted)"
    assert (shut["text"], shut["response"], shut["keywords"], shut["summary"]) == (hidden, hidden, [hidden], hidden)
    assert shut["decision"]["reason"] == hidden and shut["decision"]["code"] == "accepted.agreed"
    assert {seed["text"] for seed in shut["exemplars"]} == {hidden} and len(shut["exemplars"]) == 3
    first, second = shut["reviews"]
    assert (first["comment"], first["answer"], first["failure"], first["mean"]) == (hidden, hidden, "", 9.0)
    assert second["failure"] == hidden and shut["gates"][0]["detail"] == hidden
    assert shut["calls"][0]["request"] == shut["calls"][0]["reply"] == hidden
    assert shut["label"] == "harmful" and shut["calls"][0]["prompt_tokens"] == 3
    whole = graft.explain("c_secret01", restricted=True)
    assert whole["text"] == f"row c_secret01 {MARK}" and whole["calls"][0]["reply"] == MARK
    assert json.dumps(whole).count(MARK) >= 18 and hidden not in json.dumps(whole)


def test_an_open_row_keeps_its_words_but_not_those_of_restricted_rows(lake: Lake) -> None:
    history = graft.explain("c_open0001")
    assert history["text"] == "row c_open0001 welcome" and history["decision"]["reason"] == "because of welcome"
    assert [seed["text"] for seed in history["exemplars"]] == ["(restricted)", "open hours?", "(restricted)"]
    assert [gate["neighbour_text"] for gate in history["gates"]] == ["(restricted)", "(restricted)"]
    assert history["gates"][0]["detail"] == "says 'welcome'" and history["calls"][0]["request"] == "(restricted)"


def test_a_published_row_without_its_candidate_is_hidden_too(lake: Lake) -> None:
    row = Row(id="s_published", text=MARK, label="harmful", split="train", source="seed", restricted=True)
    publish(lake, run=RUN.model_copy(update={"dataset": "other"}), rows=[row], models={}, seeds=1, card="# card")
    assert graft.explain("s_published")["text"] == "(restricted)"
    assert graft.explain("s_published", restricted=True)["text"] == MARK


def test_an_open_example_is_shown_where_there_is_one(lake: Lake) -> None:
    rows = json.loads(said("show", "shop", "--rejected", "--json"))["rows"]
    found = {row["code"]: (row["rows"], row["example"]) for row in rows}
    assert found == {"gate.mixed": (2, "row c_open0002 welcome"), "failed.empty": (1, "(restricted)")}


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_export_leaves_them_out_with_a_note(
    lake: Lake, tmp_path: Path, format: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        result = said("export", "shop", "--format", format, "--out", str(tmp_path / "out"))
    out = tmp_path / "out"
    names = [f"train.{format}", f"test.{format}", "README.md", "manifest.json"]
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    assert MARK not in result + caplog.text and all(MARK.encode() not in path.read_bytes() for path in out.iterdir())
    assert rows_of(out / f"test.{format}") == [] and len(rows_of(out / f"train.{format}")) == 1
    readme = (out / "README.md").read_text()
    assert "1 restricted rows were left out" in readme and "1 rows are restricted" in readme
    note = f"test.{format} is empty: all 1 rows of the split test are restricted"
    assert note in readme and note in caplog.text


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    import pyarrow.parquet as pq

    table: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return table


def test_export_with_the_flag_includes_them_with_a_note(lake: Lake) -> None:
    files = json.loads(CliRunner().invoke(app, ["export", "shop", "--restricted", "--json"]).stdout)
    folder = Path(files[-1]).parent
    assert folder.name == "shop-1-jsonl-restricted"
    assert rows_of(folder / "test.jsonl")[0]["text"] == f"row c_secret01 {MARK}"
    readme = (folder / "README.md").read_text()
    assert "1 restricted rows are included, because --restricted was given" in readme
    assert MARK not in readme and "none was left out" in readme
    assert graft.export("shop")[-1].parent.name == "shop-1-jsonl"
    assert MARK not in (lake.home.exports / "shop-1-jsonl/test.jsonl").read_text()


def test_load_leaves_them_out_and_reports_the_number(lake: Lake, caplog: pytest.LogCaptureFixture) -> None:
    frame = graft.load("shop")
    assert list(frame["id"]) == ["c_open0001"] and "1 restricted rows left out" in caplog.text
    assert MARK not in caplog.text + frame.to_csv()
    assert len(graft.load("shop", split="test")) == 0
    caplog.clear()
    assert MARK in graft.load("shop", restricted=True).to_csv() and caplog.text == ""


def test_files_and_errors_of_a_run_never_contain_them(lake: Lake) -> None:
    rows = [Row(id=c.id, text=c.text, label=c.label, split="train", restricted=c.restricted) for c in CANDIDATES]
    assert MARK not in card(lake, rows) + json.dumps(funnel(lake, "run1"))
    shop: Any = SimpleNamespace(lake=lake, recipe=RECIPE, method=method_of(RECIPE))
    error = str(_too_low(shop, RUN))
    assert MARK not in error and "row c_open0002 welcome" in error and "because of welcome" in error
    assert "c_open0001" not in error, "only what was not accepted is an example"
    assert "(restricted): gate.mixed" in error


def test_the_rows_in_a_restricted_recipe_are_hidden_and_those_of_another_kept() -> None:
    shown = without_seeds(RUN.recipe)
    assert [row["text"] for row in shown["seeds"]["rows"]] == ["(restricted)", "open hours?"]
    benign = {**RUN.recipe, "task": {**RUN.recipe["task"], "restricted": False}}
    assert without_seeds(benign) == benign and MARK in json.dumps(RUN.recipe)
