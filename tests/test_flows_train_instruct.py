"""From the lake to an instruction student: which rows, rationales and pairs it learns from, what is stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
from tiny_llama import THINGS, settings_for

from graft.data.lake import Lake
from graft.data.versions import publish
from graft.schemas.datasets import DatasetVersion, Row, Run
from graft.schemas.home import Home
from graft.schemas.kinds import STUDENTS
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Decision, Review, Seed, Slot
from graft.students.encoder import quiet_transformers
from graft.students.kinds.base import StudentKind, Training, kind_in

RECIPE = Recipe.model_validate({
    "name": "shop", "task": {"kind": "instruction", "domains": [{"name": "shop", "description": "a shop"}]},
    "method": {"kind": "gra", "responses": 4}, "seeds": {"rows": [{"text": "how do I return a lamp", "label": "shop"}]},
})  # fmt: skip
RUN = Run(
    id="run1", dataset="shop", recipe=RECIPE.model_dump(mode="json"), status="finished",
    started_at=datetime(2026, 11, 25, tzinfo=UTC), code_version="1",
)  # fmt: skip
SEED = Seed.of("how do I return a vase", "shop", "send the lamp back with its receipt")


def candidate(thing: str, part: int, code: str, response: str, correctness: float) -> Candidate:
    slot = Slot(
        id=f"sl_{thing}_{part}", run_id="run1", shard=0, round=0, index=part, label="shop", seed=1,
        group=f"sl_{thing}_0", part=part,
    )  # fmt: skip
    review = Review(
        stage="content", role="reviewer", model="m", scores={"correctness": correctness}, mean=correctness,
        comment="it is short and clear",
    )  # fmt: skip
    status: Any = "accepted" if code.startswith("accepted") else "rejected"
    route: Any = "gate" if code.startswith("gate") else "low_mean" if code.endswith("low_mean") else "agreed"
    return Candidate(
        id=f"c_{thing}_{part}", slot=slot, text=f"how do I return a {thing}", response=response, label="shop",
        intended_label="shop", reviews=(review,),
        decision=Decision(status=status, route=route, code=code, reason="because", mean=correctness),
    )  # fmt: skip


def group(thing: str) -> list[Candidate]:
    return [
        candidate(thing, 0, "accepted.agreed", f"send the {thing} back with its receipt", 10),
        candidate(thing, 1, "rejected.low_mean", f"keep the {thing} it cannot be sent", 2),
        candidate(thing, 2, "rejected.not_best", f"send the {thing} back", 9),
        candidate(thing, 3, "gate.max_chars", f"send the {thing}", 1),
    ]


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with Lake.open(Home(tmp_path / "home")) as opened:
        opened.save_run(RUN)
        yield opened
    torch.set_num_threads(before)


def published(lake: Lake) -> DatasetVersion:
    """Eight instructions: five to learn from, one for validation, two for the test."""
    lake.commit("run1", "b1", [one for thing in THINGS for one in group(thing)], [])
    lake.add_seeds("run1", [SEED, Seed.of("how do I return a lamp", "shop")])
    splits: list[Any] = ["train"] * 5 + ["validation"] + ["test"] * 2
    rows = [
        Row(id=best.id, text=best.text, response=best.response, label="shop", split=split)
        for thing, split in zip(THINGS, splits, strict=True)
        for best in group(thing)[:1]
    ]
    return publish(lake, run=RUN, rows=rows, models={}, seeds=2, card="# card")


def train(lake: Lake, tmp_path: Path, messages: list[str], **instruct: Any) -> dict[str, Any]:
    with quiet_transformers():
        base = tiny_llama.write(tmp_path / "base")
    home = Home(tmp_path / "home")
    requested = Training(
        lake, published(lake), RUN, RECIPE, settings_for(base, **instruct), home, messages.append, None,
        ask_teachers=lambda rows, predict: ((), ""),
    )  # fmt: skip
    kind: StudentKind = STUDENTS.get("instruct")
    report = kind.train(requested).as_dict()
    assert isinstance(kind_in(home.student(report["students"][0]["id"])), type(kind))
    return report


def test_a_version_trains_a_student_on_its_own_split_and_on_wrong_answers_alone(lake: Lake, tmp_path: Path) -> None:
    messages = list[str]()
    report = train(lake, tmp_path, messages, dpo={"learning_rate": 1e-3}, rationale_weight=1.0)
    assert "preferences: 5 pairs of an accepted and a wrong response" in messages, "one pair per instruction"
    assert report["students"][0]["train_rows"] == 5 + 1 + 5, "rows, the seed with a response, rationales of the rows"
    judged = report["evaluations"][0]
    assert (judged["rows"], judged["pairs"]) == (3, 3) and judged["loss"] < judged["base_loss"]
    assert set(report) == {"students", "evaluations", "notes", "text"}
    assert json.loads(json.dumps(report)) == report


def test_student_and_evaluation_are_in_the_lake(lake: Lake, tmp_path: Path) -> None:
    report = train(lake, tmp_path, [], epochs=1, rationale_weight=0.0)
    student = lake.students("shop")[0]
    assert student.model_dump(mode="json") == report["students"][0] and student.train_rows == 6
    assert (student.version, student.trained_on) == (1, "version")
    stored = lake.instruct_evaluations(student.id)
    assert [one.model_dump(mode="json") for one in stored] == report["evaluations"]
    assert (tmp_path / "home" / student.path / "model.safetensors").is_file()
