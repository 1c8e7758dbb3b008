"""The flow hands over what the lake knows of a version's rows: text and response, label, soft label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_encoder
import torch

from data.lake import Lake
from data.versions import publish
from flows import train_student as flow
from schemas.base import utc_now
from schemas.datasets import Row, Run
from schemas.home import Home
from schemas.recipe import Recipe
from schemas.rows import Candidate, Decision, Seed, Slot
from students.rows import TrainRow


def test_a_guard_learns_the_soft_labels_that_the_lake_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("confusion_png", "write_reliability"):  # drawing takes longer than these trainings
        monkeypatch.setattr(f"students.train.{name}", lambda *args: None)
    monkeypatch.setattr("students.fit.MIN_STEPS", 10)
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
    whole = flow.train_both
    monkeypatch.setattr(flow, "train_both", lambda **given: handed.update(given) or whole(**given))
    test = tmp_path / "held.jsonl"
    test.write_text('{"text": "where is my parcel", "label": "safe"}\n{"text": "staff price", "label": "harmful"}\n')
    said: list[str] = []
    monkeypatch.setattr(flow.artifacts, "say", said.append)
    report = flow.train_version("desk", test=str(test))
    torch.set_num_threads(threads)
    assert handed["labels"] == ["harmful", "safe"]
    text = "where is {}\n\nnever".format
    assert handed["rows"] == [
        TrainRow(text(0), "safe", (0.75, 0.25)), TrainRow(text(1), "safe", (0.5, 0.5)), TrainRow(text(2), "safe"),
        TrainRow(text(3), "safe"),
    ]  # fmt: skip
    assert handed["validation"] == [TrainRow(text(4), "safe", (0.25, 0.75))]
    assert "1 rows' soft labels are no distributions over the labels: left out" in said
    assert "2 of 6 training rows have soft labels; the others learn their label alone" in said
    assert report.students[1].settings.soft_weight == 0.5 and report.evaluations[1].positive == "harmful"
