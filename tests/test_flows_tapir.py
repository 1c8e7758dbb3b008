"""Instruction students in rounds: reviewers score what they write, and TAPIR steers by it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import yaml

from graft.data.lake import Lake
from graft.data.versions import rows as version_rows
from graft.data.versions import versions
from graft.flows.improve import improve
from graft.schemas.errors import GraftError
from graft.schemas.home import Home
from graft.students.encoder import quiet_transformers
from graft.students.instruct.base import find_base, load_model, load_tokenizer

HELD = "how do I return a pillow"


@pytest.fixture
def recipe(tmp_path: Path, fake_llm: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Instructions of two domains, and a student of 32 dimensions."""
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with quiet_transformers():
        base = tiny_llama.write(tmp_path / "base")
    (tmp_path / "held.jsonl").write_text(json.dumps({"text": HELD, "response": "send the pillow back"}) + "\n")
    model = {"provider": "openai", "base_url": fake_llm.url}
    domains = [{"name": "shop", "description": "a shop"}, {"name": "home", "description": "a home"}]
    chosen = {
        "name": "desk", "task": {"kind": "instruction", "domains": domains},
        "seeds": {"rows": [
            {"text": f"how do I return a {thing}", "label": label, "response": f"send the {thing} back"}
            for thing, label in (("lamp", "shop"), ("chair", "shop"), ("clock", "home"), ("scarf", "home"))
        ]},
        "models": [{"name": f"m{n}", "model": f"fake-{n}", **model} for n in (1, 2)],
        "method": {"kind": "gra", "reviewers": 1, "tau": 0, "delta": 10, "max_cosine": None, "agreement_after": 0},
        "target": {"rows_per_label": 6}, "gates": {"label_leak": False},
        "limits": {"candidates": 400, "min_yield": 0},
        "splits": {"train": 0.5, "validation": 0.5, "test": 0},
        "student": {"test": "held.jsonl", "instruct": {**tiny_llama.SETTINGS, "base": str(base), "epochs": 1}},
        "improve": {"policies": ["tapir"], "rounds": 2, "enough": 1, "compare": False},
    }  # fmt: skip
    file = tmp_path / "desk.yaml"
    file.write_text(yaml.safe_dump(chosen), encoding="utf-8")
    return file


def test_instructions_that_the_student_falls_behind_on_steer_the_next_round(
    tmp_path: Path, fake_llm: Any, recipe: Path, one_thread: None
) -> None:
    fake_llm.set(low_score_rate=0.5)
    first = asyncio.run(improve(str(recipe)))
    rounds = first["rounds"]
    assert [(one["round"], one["rows"]) for one in rounds] == [(0, 0), (1, 12), (2, 24)]
    assert all(0 < one["test"] < 1 for one in rounds), "a mean probability of held-out tokens"
    assert sum(rounds[2]["wanted"].values()) == 12
    said = rounds[2]["said"][0]
    assert "instructions are hard for the student; the next one learns from at least 40% hard ones" in said
    with Lake.open(Home(tmp_path / "home"), read_only=True) as lake:
        after, last = versions(lake, "desk-improved")[:2]
        run = lake.run(last.run_id)
        assert run is not None
        shown = run.recipe["steering"]["exemplars"]
        known = {(row["text"], row["response"]) for row in version_rows(lake, after).to_pylist()}
        known |= {(seed.text, seed.response) for seed in lake.seeds(run.id)}
        assert shown and {(row["text"], row["response"]) for row in shown} <= known
        asked = lake.query("SELECT request FROM lake.calls WHERE purpose = 'seed.summary' AND run_id = ?", [run.id])
        assert all(any(row["text"] in one["request"] for one in asked) for row in shown), "shown by their summaries"
        scored = lake.query(
            "SELECT request, run_id FROM lake.calls WHERE purpose = 'review.response' AND candidate_id = ''"
        )
        assert {one["run_id"] for one in scored} == {after.run_id, last.run_id}
        students = {one.id: one for one in lake.students("desk-improved")}
        assert {one["student_id"] for one in rounds} == set(students)
        assert students[rounds[1]["student_id"]].train_rows == 4 + 6, "seeds, and the split that is learned from"
    journal = b"".join(file.read_bytes() for file in (tmp_path / "home").glob("journal.sqlite*"))
    assert HELD.encode() not in journal, "a held-out instruction was sent to a model"
    calls = fake_llm.stats()["calls"]
    again = asyncio.run(improve(str(recipe)))
    assert fake_llm.stats()["calls"] == calls
    figures = ("test", "loss", "steering", "calls", "tokens", "wanted", "said", "student_id")
    assert [[one[name] for name in figures] for one in again["rounds"]] == [
        [one[name] for name in figures] for one in rounds
    ]


def test_a_response_does_not_depend_on_how_instructions_are_batched(tmp_path: Path, one_thread: None) -> None:
    from graft.students.instruct import evaluate

    with quiet_transformers():
        found = find_base(str(tiny_llama.write(tmp_path / "base")), tmp_path)
    model, tokenizer = load_model(found.place), load_tokenizer(found)
    texts = [turn.instruction for turn in tiny_llama.TURNS] + ["how", "how do I return a lamp and a clock " * 3]
    together = evaluate.respond(model, tokenizer, texts, 8)
    assert together == [evaluate.respond(model, tokenizer, [text], 8)[0] for text in texts]
    assert len(set(together)) > 1 and all(len(text.split()) <= 8 for text in together)


@pytest.mark.parametrize(
    ("improve_settings", "where"),
    [({"policies": ["hard_negatives"]}, "improve.policies"), ({"steer_on": "steer.jsonl"}, "improve.steer_on")],
)
def test_what_cannot_steer_instructions_is_refused_before_anything_is_spent(
    tmp_path: Path, fake_llm: Any, recipe: Path, improve_settings: dict[str, Any], where: str
) -> None:
    (tmp_path / "steer.jsonl").write_text('{"text": "a", "label": "shop", "response": "b"}\n')
    chosen = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    chosen["improve"].update(improve_settings)
    recipe.write_text(yaml.safe_dump(chosen), encoding="utf-8")
    with pytest.raises(GraftError) as caught:
        asyncio.run(improve(str(recipe)))
    assert where in str(caught.value)
    assert fake_llm.stats()["calls"] == 0
