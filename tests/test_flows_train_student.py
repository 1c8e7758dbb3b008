"""The flow passes on the lake's facts about rows, recognises a known test file, and calls teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_encoder
import torch
from fake_llm import Serving

from graft.data.gates.shared.held_out import text_hash
from graft.data.lake import Lake
from graft.data.verdicts import save_verdict
from graft.data.versions import publish
from graft.flows import train_student as flow
from graft.schemas.base import utc_now
from graft.schemas.datasets import Row, Run
from graft.schemas.errors import GraftError, InputInvalid
from graft.schemas.home import Home
from graft.schemas.kinds import STUDENTS
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Decision, Seed, Slot
from graft.schemas.verdict import Verdict
from graft.students.kinds import classifier
from graft.students.kinds.base import Training
from graft.students.report import Report
from graft.students.rows import TrainRow


def test_a_guard_learns_the_soft_labels_that_the_lake_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train.confusion_png", "heads.single.write_reliability"):  # drawing takes longer than these trainings
        monkeypatch.setattr(f"graft.students.{name}", lambda *args: None)
    monkeypatch.setattr("graft.students.fit.MIN_STEPS", 10)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them only wait for each other
    encoder = tiny_encoder.write(tmp_path / "encoder", [text for text, _ in tiny_encoder.ROWS])
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    seeds = [
        Seed.of("I was charged the staff price", "harmful"), Seed.of("I forgot my password", "safe"),
    ]  # fmt: skip
    recipe = Recipe.model_validate({
        "name": "desk", "task": {"kind": "guard", "policy": "asks for a discount that staff alone may give"},
        "seeds": {"rows": [{"text": seed.text, "label": seed.label} for seed in seeds]},
        "student": {
            "encoder": str(encoder), "epochs": 2, "max_length": 16, "soft_weight": 0.5, "class_weights": "balanced",
            "patience": 1,
        },
    })  # fmt: skip
    run = Run(
        id="r", dataset="desk", recipe=recipe.model_dump(mode="json"), status="finished", started_at=utc_now(),
        code_version="1",
    )  # fmt: skip
    done = Decision(status="accepted", route="labelled", code="accepted.labelled", reason="labelled")
    soft = [{"harmful": 0.75, "safe": 0.25}, {"harmful": 0.5}, {"else": 1.0}, {}, {"safe": 3.0, "harmful": 1.0}]
    candidates = [
        Candidate(
            id=f"c{n}", slot=Slot(id=f"s{n}", run_id="r", shard=0, round=0, index=n, label="harmful", seed=1),
            text=f"where is {n}", response="never", label="safe", intended_label="safe", decision=done,
            soft_label=shares,
        )
        for n, shares in enumerate(soft)
    ]  # fmt: skip
    splits = ["train", "train", "train", "train", "validation"]
    rows = [
        Row(id=one.id, text=one.text, response=one.response, label=one.label, split=split)
        for one, split in zip(candidates, splits, strict=True)
    ]
    with Lake.open(Home.find()) as lake:
        lake.save_run(run)
        lake.add_seeds("r", seeds)
        lake.commit("r", "b", candidates, [])
        publish(lake, run=run, rows=rows, models={}, seeds=2, card="card")
    handed: dict[str, Any] = {}
    whole = classifier.train_student
    monkeypatch.setattr(classifier, "train_student", lambda **given: handed.update(given) or whole(**given))
    test = tmp_path / "held.jsonl"
    test.write_text('{"text": "where is my parcel", "label": "safe"}\n{"text": "staff price", "label": "harmful"}\n')
    messages: list[str] = []
    monkeypatch.setattr(flow.artifacts, "say", messages.append)
    report = flow.train_version("desk", test=str(test))
    torch.set_num_threads(threads)
    assert handed["labels"] == ["harmful", "safe"]
    text = "where is {}\n\nnever".format
    assert handed["rows"] == [
        TrainRow(text(0), "safe", (0.75, 0.25)), TrainRow(text(1), "safe", (0.5, 0.5)), TrainRow(text(2), "safe"),
        TrainRow(text(3), "safe"),
    ]  # fmt: skip
    assert handed["validation"] == [TrainRow(text(4), "safe", (0.25, 0.75))]
    assert "1 rows have soft labels that are no distribution over the labels: left out" in messages
    assert "2 of 6 training rows have soft labels; the others have only their label" in messages
    assert report.students[1].settings.soft_weight == 0.5 and report.evaluations[1].positive == "harmful"


def publish_shop(folder: Path, monkeypatch: pytest.MonkeyPatch, url: str, **student: Any) -> str:
    """A published version of tiny rows whose recipe's one teacher lies at `url`. Returns its test file."""
    for name in ("train.confusion_png", "heads.single.write_reliability", "heads.multi_label.write_bins"):
        monkeypatch.setattr(f"graft.students.{name}", lambda *args: None)
    monkeypatch.setattr("graft.students.fit.MIN_STEPS", 4)
    monkeypatch.setenv("GRAFT_HOME", str(folder / "home"))
    encoder = tiny_encoder.write(folder / "encoder", [text for text, _ in tiny_encoder.ROWS])
    recipe = Recipe.model_validate({
        "name": "shop", "task": {"kind": "classification", "labels": [{"name": name} for name in tiny_encoder.LABELS]},
        "seeds": {"rows": [{"text": text, "label": label} for text, label in tiny_encoder.ROWS]},
        "models": [{"name": "chat", "provider": "openai", "model": "m", "base_url": url}],
        "roles": {"labeler": {"answer": "name"}},
        "student": {"encoder": str(encoder), "epochs": 1, "max_length": 16, "test": "held.jsonl", **student},
    })  # fmt: skip
    run = Run(
        id="r", dataset="shop", recipe=recipe.model_dump(mode="json"), recipe_file=str(folder / "shop.yaml"),
        status="finished", started_at=utc_now(), code_version="1",
    )  # fmt: skip
    rows = [
        Row(id=f"c_{n:06}", text=f"{text} today", label=label, split="train")
        for n, (text, label) in enumerate(tiny_encoder.ROWS)
    ]
    with Lake.open(Home.find()) as lake:
        lake.save_run(run)
        lake.add_seeds("r", [Seed.of(text, label) for text, label in tiny_encoder.ROWS])
        publish(lake, run=run, rows=rows, models={}, seeds=8, card="card")
    test = folder / "held.jsonl"
    test.write_text("".join(f'{{"text": "{text} please", "label": "{label}"}}\n' for text, label in tiny_encoder.ROWS))
    return str(test)


def verdict_that_used(text: str) -> Verdict:
    return Verdict(
        dataset="shop", key="k", method="gra", known=1, source="other.csv", base=0.5, base_interval=(0.4, 0.6),
        teachers=(), candidates=0, texts=0, gains=(), calls=0, price_usd=0.0, seconds=1.0, advice="rethink",
        reasons=("Nothing helps.",), used=(text_hash(text),), at=utc_now(),
    )  # fmt: skip


def test_the_test_file_is_registered_and_teachers_are_called(
    fake_llm: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_llm.set(reply_text="delivery")
    test = publish_shop(tmp_path, monkeypatch, fake_llm.url)
    report = flow.train_version("shop", overrides={"teacher_rows": 5})
    assert [(one.shots, one.rows, one.answered) for one in report.evaluations[1].teachers] == [(0, 5, 5), (2, 5, 5)]
    assert report.evaluations[0].teachers == () and "teachers on 5 of the test rows" in report.text
    with Lake.open(Home.find()) as lake:
        assert lake.evaluations(report.students[1].id) == [report.evaluations[1]]
        assert [one.place for one in lake.test_texts("shop")] == [f"held.jsonl:{n}" for n in range(1, 9)]
    other = tmp_path / "other.csv"
    other.write_text("text,label\nwhere is it,delivery\nwhy so much,billing\nis it lost,delivery\n")
    save_verdict(Home.find(), verdict_that_used("Is it lost?"))
    again = flow.train_version("shop@1", test=str(other))
    assert again.evaluations[1].teachers == () and "teachers on" not in again.text
    assert [one.rows for one in again.evaluations] == [2, 2]
    assert "1 of 3 test rows are left out: graft teacher has used them for its verdict" in again.text
    with Lake.open(Home.find()) as lake:
        assert {one.file for one in lake.test_texts("shop")} == {Path(test).name, "other.csv"}


def test_a_teacher_that_cannot_be_called_costs_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_shop(tmp_path, monkeypatch, "http://127.0.0.1:9/v1", teacher_rows=3)
    report = flow.train_version("shop")
    assert any("no teacher was called" in note for note in report.notes) and report.notes[-1] in report.text
    with Lake.open(Home.find()) as lake:
        assert lake.evaluations(report.students[1].id) == [report.evaluations[1]]


def test_several_labels_of_a_test_row_are_looked_at_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = Path(publish_shop(tmp_path, monkeypatch, "http://127.0.0.1:9/v1", teacher_rows=3))
    handed: dict[str, Any] = {}

    def stop(**given: Any) -> None:
        handed.update(given)
        raise GraftError("enough")

    monkeypatch.setattr(classifier, "train_student", stop)
    test.write_text('{"text": "a", "label": "billing|account"}\n{"text": "b", "label": ""}\n')
    with pytest.raises(GraftError, match="enough"):
        flow.train_version("shop", overrides={"multi_label": 0.3})
    assert handed["test_rows"] == [("a", "billing|account"), ("b", "")]
    assert handed["settings"].multi_label == 0.3
    with pytest.raises(InputInvalid, match=r"unknown label 'billing\|account'"):
        flow.train_version("shop")
    test.write_text('{"text": "a", "label": "billing|acount"}\n{"text": "b"}\n')
    with pytest.raises(InputInvalid) as caught:
        flow.train_version("shop", overrides={"multi_label": 0.3})
    assert [problem.what for problem in caught.value.problems] == ["unknown label 'acount'", "field 'label' is missing"]
    with Lake.open(Home.find()) as lake:
        assert [one.row for one in lake.test_texts("shop")] == [1, 2]


def test_instructions_train_an_instruction_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    recipe = Recipe.model_validate({
        "name": "tutor", "task": {"kind": "instruction", "domains": [{"name": "coding"}]},
        "seeds": {"rows": [{"text": "Sort a list.", "label": "coding"}]},
    })  # fmt: skip
    run = Run(
        id="r", dataset="tutor", recipe=recipe.model_dump(mode="json"), status="finished", started_at=utc_now(),
        code_version="1",
    )  # fmt: skip
    row = Row(id="c_000001", text="Reverse a list.", response="Use reversed.", label="coding", split="train")
    with Lake.open(Home.find()) as lake:
        lake.save_run(run)
        publish(lake, run=run, rows=[row], models={}, seeds=1, card="card")
    handed: list[Training] = []

    def train(requested: Training) -> Report:
        handed.append(requested)
        return Report((), (), "trained")

    with monkeypatch.context() as patched:
        patched.setattr(STUDENTS.get("instruct"), "train", train)
        result = flow.train_student.fn("tutor", overrides={"epochs": 2})
    assert result == {"students": [], "evaluations": [], "notes": [], "text": "trained"}
    (requested,) = handed
    assert (requested.version.ref, requested.run.id, requested.recipe, requested.settings.epochs) == (
        "tutor@1",
        "r",
        recipe,
        2,
    )
    assert requested.home == Home.find()
    for call in (flow.train_student.fn, flow.train_version):
        with pytest.raises(GraftError, match="takes no test file"):
            call("tutor", test="held.jsonl")
