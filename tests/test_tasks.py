"""Tasks: their attributes, stored tasks, and a task of a plugin from recipe to student."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_encoder
import torch
import yaml
from test_flows_make_dataset import ROOT, graft, run_json

from graft.data.explain import explain
from graft.data.lake import Lake
from graft.data.versions import rows as version_rows
from graft.data.versions import version
from graft.flows import import_dataset, train_student
from graft.schemas.errors import InputInvalid
from graft.schemas.home import Home
from graft.schemas.kinds import TASKS
from graft.schemas.load import load_recipe, recipe_json_schema
from graft.schemas.recipe import Recipe
from graft.schemas.tasks.base import Task, Unread, stored_task, task_for

MOODS = ["calm", "merry", "angry"]
SAID = {"calm": "the lake was still all day", "merry": "we laughed so much at supper", "angry": "who left that open"}


def moods(folder: Path, url: str = "http://127.0.0.1:9/v1", **task: Any) -> Path:
    file = folder / "moods.yaml"
    data = {
        "name": "moods", "task": {"kind": "mood", "moods": MOODS, "speaker": "a guest of an inn", **task},
        "seeds": {"rows": [{"text": text, "label": mood} for mood, text in SAID.items()]},
        "models": [
            {"name": f"m{n}", "provider": "openai", "model": f"fake-{n}", "base_url": url} for n in range(1, 5)
        ],
        "roles": {
            "generator": {"models": ["m1"]}, "reviewer": {"models": ["m2", "m3"]}, "adjudicator": {"models": ["m4"]},
        },
        "method": {"kind": "gra", "reviewers": 2, "max_cosine": None}, "target": {"rows_per_label": 6},
        "limits": {"candidates": 300, "concurrency": 8}, "splits": {"train": 0.5, "validation": 0.2, "test": 0.3},
    }  # fmt: skip
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return file


def test_what_the_kinds_answer() -> None:
    """Graft's own tasks by their answers, so that a change of one is seen."""
    assert TASKS.own == (
        "classification", "conversation", "extraction", "guard", "instruction", "pairs", "qa", "ranking", "rewrite",
    )  # fmt: skip
    guard = TASKS.get("guard")(policy="asks for a discount", with_response=True)
    assert guard.names == list(guard.sides) == ["harmful", "safe"]
    assert guard.clause("harmful") == "asks for a discount" and guard.needs_response and guard.has_restricted
    assert [label for label in ("harmful", "safe", "") if guard.restricts(label)] == ["harmful", ""]
    assert not guard.model_copy(update={"restricted": False}).restricts("harmful")
    plain = TASKS.get("classification")(labels=[{"name": "a", "description": "rain"}, {"name": "b"}], text="a note")
    assert (plain.noun, plain.clause("a"), plain.clause("b")) == ("a note", "is about rain", "is about b")
    assert not (plain.needs_response or plain.has_restricted or plain.sides)
    instruction = TASKS.get("instruction")()
    assert (instruction.labelled, instruction.needs_response, instruction.student) == (False, True, "instruct")
    assert task_for(["label", "response"]) is TASKS.get("instruction")
    assert task_for(["label"]) is task_for([]) is TASKS.get("classification")


def test_nothing_outside_tests_for_a_tasks_kind() -> None:
    """Neither by its class nor by comparing its name: another kind would have no branch there."""
    rooms = ("agents", "cli", "dashboard", "data", "flows", "schemas", "students")
    files = [file for room in rooms for file in (ROOT / room).rglob("*.py") if file.parent.name != "tasks"]
    classes = "|".join(TASKS.get(name).__name__ for name in TASKS.own)
    asks = re.compile(rf"\b(?:{classes})\b|task\.kind (?:[!=]=|(?:not )?in)|\$\.task\.")
    hits = [f"{file}: {hit[0]}" for file in files for hit in asks.finditer(file.read_text(encoding="utf-8"))]
    assert len(files) > 150 and hits == []


def test_a_stored_task_restricts_its_rows_even_if_partly_readable() -> None:
    """A kind that is gone restricts all: nobody can tell any more."""
    assert stored_task({}) == stored_task({"task": None}) == Task()
    older = stored_task({"task": {"kind": "guard", "labels": [{"name": "safe"}, {"name": "unsafe"}]}})
    assert isinstance(older, Unread) and older.names == ["safe", "unsafe"]
    assert older.has_restricted and older.restricts("unsafe") and not older.restricts("safe")
    open_one = stored_task({"task": {"kind": "guard", "restricted": False, "gone": 1}})
    assert not open_one.has_restricted and not open_one.restricts("unsafe")
    gone = stored_task({"task": {"kind": "mood", "moods": MOODS}})
    assert gone.kind == "mood" and gone.has_restricted and gone.restricts("calm")


def test_a_plugins_task_is_read_explained_and_described(plugin: Path, tmp_path: Path) -> None:
    """Its fields bind, its errors name them, its schema is among the others, and it is kept whole."""
    recipe = load_recipe(moods(tmp_path))
    assert recipe.wanted() == dict.fromkeys(MOODS, 6)
    assert recipe.model_dump()["task"]["speaker"] == "a guest of an inn"
    assert Recipe.stored(recipe.model_dump(mode="json")) == recipe
    assert recipe_json_schema()["properties"]["task"]["discriminator"]["mapping"]["mood"] == "#/$defs/MoodTask"
    with pytest.raises(InputInvalid) as caught:
        load_recipe(moods(tmp_path, moods=["calm"], speeker="x"))
    told = {(one.field, one.what) for one in caught.value.problems}
    assert {("task.moods", "moods has 1 entries"), ("task.speeker", "unknown field 'speeker'")} <= told
    assert TASKS.plugins["mood"].distribution == "graft-example"


def test_a_plugins_task_from_recipe_to_student(
    plugin: Path, tmp_path: Path, fake_llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GRA makes its rows; lake, card, terminal, export and training know its labels and what it restricts."""
    home = tmp_path / "home"
    done = run_json(home, moods(tmp_path, fake_llm.url))
    assert done["version"]["labels"] == dict.fromkeys(MOODS, 6)
    card = done["version"]["card"]
    assert "rows for mood over 3 labels" in card and "6 rows are restricted" in card
    requested = [json.dumps(body) for _, body in fake_llm.fake.seen]
    assert any("sincerity" in body and "a remark of a guest of an inn" in body for body in requested)
    monkeypatch.setenv("GRAFT_HOME", str(home))
    with Lake.open(Home.find()) as lake:
        found = version(lake, "moods")
        rows = version_rows(lake, found).to_pylist()
        assert {row["label"] for row in rows if row["restricted"]} == {"angry"}
        secret = next(row for row in rows if row["restricted"])
        assert explain(lake, secret["id"])["text"] == "(restricted)"
        run = lake.run(found.run_id)
        assert run is not None and run.task.label_noun == "mood"
    shown = graft(home, "show", "moods", "--json")
    report = {row["text"] for row in json.loads(shown.stdout)["rows"] if row["label"] == "angry"}
    assert report == {"(restricted)"}
    written = graft(home, "export", "moods", "--format", "messages", "--out", str(tmp_path / "out"))
    assert written.returncode == 0 and "angry" not in (tmp_path / "out" / "train.jsonl").read_text(encoding="utf-8")
    for name in ("train.confusion_png", "heads.single.write_reliability"):  # drawing takes longer than these trainings
        monkeypatch.setattr(f"graft.students.{name}", lambda *args: None)
    monkeypatch.setattr("graft.students.fit.MIN_STEPS", 4)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them only wait for each other
    encoder = tiny_encoder.write(tmp_path / "encoder", [row["text"] for row in rows])
    overrides = {"encoder": str(encoder), "epochs": 1, "max_length": 16}
    trained = train_student.train_version("moods", overrides=overrides)
    torch.set_num_threads(threads)
    assert trained.evaluations[-1].labels == tuple(MOODS)


def test_a_plugins_task_is_imported(plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name; it is never guessed."""
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    file = tmp_path / "said.jsonl"
    rows = [{"text": f"{text} {n}", "label": mood} for n in range(6) for mood, text in SAID.items()]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    made = import_dataset.bring_in(str(file), "said", import_dataset.Ask(task="mood"))
    with Lake.open(Home.find()) as lake:
        run = lake.run(made.version.run_id)
    assert run is not None and run.task.names == sorted(MOODS)
