"""An import becomes a version that can be trained on, explained and read, and the same import makes no second one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_encoder
import torch
import typer
from typer.testing import CliRunner

from graft.cli.intake import bring_in as verb
from graft.data.explain import explain
from graft.data.export import export
from graft.data.intake.sources import sha256
from graft.data.lake import Lake
from graft.data.versions import rows as version_rows
from graft.data.versions import version
from graft.flows import import_dataset as flow
from graft.flows import train_student as training
from graft.schemas.errors import GraftError, InputInvalid
from graft.schemas.home import Home
from graft.schemas.recipe import Recipe

EVIL = "b'; DROP TABLE versions; -- 😀|<i>"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def lake() -> Iterator[Lake]:
    with Lake.open(Home.find()) as opened:
        yield opened


def written(folder: Path, rows: list[tuple[Any, ...]], name: str = 'o\'brien "x" 😀.jsonl') -> Path:
    file = folder / name
    fields = ("utterance", "intent", "split")
    file.write_text("".join(json.dumps(dict(zip(fields, row, strict=False))) + "\n" for row in rows))
    return file


ROWS = [(f"text {n} 'of' \"it\" 😀 */ --", ("a", EVIL)[n % 2]) for n in range(20)]


def test_an_import_is_a_version_with_card_run_and_history(tmp_path: Path, lake: Lake) -> None:
    file = written(tmp_path, ROWS)
    made = flow.bring_in(str(file), "desk", flow.Ask(licence="CC0-1.0"))
    found = version(lake, "desk")
    assert made.new and found == made.version and found.origin == "import" and found.rows == 20
    assert found.splits == {"train": 16, "validation": 2, "test": 2} and set(found.labels) == {"a", EVIL}
    assert file.name in found.note and "CC0-1.0" in found.note and sha256([str(file)]) in found.note
    assert "CC0\\-1\\.0" in found.card and sha256([str(file)]) in found.card
    assert "text = utterance" in found.card and "<i>" not in found.card
    rows = version_rows(lake, found).to_pylist()
    assert {(row["text"], row["label"]) for row in rows} == set(ROWS)
    assert {row["source"] for row in rows} == {"imported"}
    history = explain(lake, rows[0]["id"])
    assert history["source"] == "imported" and history["run"]["id"] == found.run_id
    run = lake.run(found.run_id)
    assert run is not None and run.version == 1 and run.counts["read"] == 20
    assert Recipe.model_validate(run.recipe).task.names == ["a", EVIL]


def test_the_same_import_makes_no_version_and_another_the_next(tmp_path: Path, lake: Lake) -> None:
    file = written(tmp_path, ROWS)
    first = flow.bring_in(str(file), "desk").version
    again = flow.bring_in(str(written(tmp_path, ROWS[::-1], "turned.jsonl")), "desk")
    assert not again.new and again.version == first and len(lake.runs("desk")) == 1
    more = flow.bring_in(str(written(tmp_path, [*ROWS, ("one more", "a")])), "desk")
    assert more.new and more.version.ref == "desk@2"
    run = lake.run(first.run_id)
    assert run is not None and run.version == 1


def test_restricted_rows_are_marked_and_hidden(tmp_path: Path, lake: Lake) -> None:
    file = written(tmp_path, ROWS)
    ask = flow.Ask(restricted=True)
    assert all("text" not in str(row) for row in flow.plan(str(file), ask).preview)
    found = flow.bring_in(str(file), "desk", ask).version
    rows = version_rows(lake, found).to_pylist()
    assert all(row["restricted"] for row in rows)
    assert explain(lake, rows[0]["id"])["text"] == "(restricted)"
    files = export(lake, found.ref, format="jsonl", out=tmp_path / "out")
    assert all("text 1" not in written.read_text() for written in files)
    flow.bring_in(str(file), "open")
    with pytest.raises(GraftError, match="not as restricted"):
        flow.bring_in(str(file), "open", ask)


def test_what_cannot_be_imported_writes_nothing(tmp_path: Path, lake: Lake) -> None:
    file = str(written(tmp_path, ROWS))
    for name in ("a/b", "PageContext", "x'; --", "😀", ""):
        with pytest.raises(InputInvalid, match="cannot name a dataset"):
            flow.bring_in(file, name)
    with pytest.raises(InputInvalid, match="every row has the label 'a'"):
        flow.bring_in(str(written(tmp_path, [("one two", "a")], "one.jsonl")), "desk", flow.Ask(map=["label=intent"]))
    with pytest.raises(InputInvalid, match="policy"):
        flow.bring_in(file, "desk", flow.Ask(task="guard"))
    with pytest.raises(InputInvalid, match="the labels are: harmful, safe"):
        flow.bring_in(file, "desk", flow.Ask(task="guard", policy="asks for a discount"))
    with pytest.raises(InputInvalid, match="add up to 1"):
        flow.parse_splits("0.8/0.1")
    with pytest.raises(InputInvalid, match="rows for instruction need a response"):
        flow.bring_in(file, "desk", flow.Ask(task="instruction"))
    assert lake.runs() == []


def test_guards_and_instructions(tmp_path: Path, lake: Lake) -> None:
    guard = [(f"message {n}", ("harmful", "safe")[n % 2]) for n in range(10)]
    ask = flow.Ask(task="guard", policy="asks for a discount that staff alone may give")
    made = flow.bring_in(str(written(tmp_path, guard)), "guard", ask)
    run = lake.run(made.version.run_id)
    assert run is not None and Recipe.model_validate(run.recipe).task.kind == "guard"
    file = tmp_path / "chat.jsonl"
    chats = [[("user", f"Where is {n}?"), ("assistant", f"At {n}.")] for n in range(10)]
    file.write_text("".join(
        json.dumps({"messages": [{"role": who, "content": what} for who, what in chat]}) + "\n" for chat in chats
    ))  # fmt: skip
    chat = flow.bring_in(str(file), "chat")
    run = lake.run(chat.version.run_id)
    assert run is not None and Recipe.model_validate(run.recipe).task.kind == "instruction"
    assert chat.version.labels == {"imported": 10}


def test_graft_train_works_on_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train.confusion_png", "heads.single.write_reliability"):  # drawing takes longer than these trainings
        monkeypatch.setattr(f"graft.students.{name}", lambda *args: None)
    monkeypatch.setattr("graft.students.fit.MIN_STEPS", 4)
    encoder = tiny_encoder.write(tmp_path / "encoder", [text for text, _ in tiny_encoder.ROWS])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them only wait for each other
    splits = ("train", "train", "dev", "test")
    rows = [(f"{text} {n}", label, splits[n]) for n in range(4) for text, label in tiny_encoder.ROWS]
    made = flow.bring_in(str(written(tmp_path, rows)), "shop")
    assert made.version.splits == {"train": 16, "validation": 8, "test": 8}
    overrides = {"encoder": str(encoder), "epochs": 1, "max_length": 16}
    report = training.train_version("shop", overrides=overrides)
    torch.set_num_threads(threads)
    assert {student.dataset for student in report.students} == {"shop"}
    assert report.evaluations[1].rows == 8
    with Lake.open(Home.find()) as lake:
        trained = version_rows(lake, made.version, "train").to_pylist()[0]["id"]
        assert explain(lake, trained)["students"]


def test_a_larger_import_is_quick(tmp_path: Path) -> None:
    file = tmp_path / "many.csv"
    lines = (f"question {n} about parcel {n % 97},label {n % 20}\n" for n in range(20_000))
    file.write_text("text,label\n" + "".join(lines))
    began = time.perf_counter()
    assert flow.bring_in(str(file), "many").version.rows == 20_000
    assert time.perf_counter() - began < 20


APP = typer.Typer()
APP.command(name="import")(verb)
APP.command(name="other")(lambda: None)


def test_the_verb_shows_writes_and_speaks_json(tmp_path: Path, lake: Lake) -> None:
    file = str(written(tmp_path, ROWS))
    runner = CliRunner()
    shown = runner.invoke(APP, ["import", file, "--name", "desk", "--dry-run"])
    assert shown.exit_code == 0 and "utterance" in shown.stdout and "text 0" in shown.stdout
    assert "no licence is stated" in shown.stdout and lake.runs() == []
    done = runner.invoke(APP, ["import", file, "-n", "desk", "--json", "--map", "text=utterance,label=intent"])
    report = json.loads(done.stdout)
    assert (
        report["version"]["rows"] == 20
        and report["new"]
        and report["columns"] == {"text": "utterance", "label": "intent"}
    )
    again = runner.invoke(APP, ["import", file, "-n", "desk"])
    assert "nothing new" in again.stdout and "desk@1" in again.stdout
    bad = runner.invoke(APP, ["import", file, "-n", "desk", "--task", "poem"])
    assert isinstance(bad.exception, InputInvalid)
