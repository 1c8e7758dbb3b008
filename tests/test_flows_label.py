"""A person's own texts become a dataset: through the command line, against the fake server."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_llm import sentence
from test_flows_make_dataset import graft, run_json
from test_flows_methods import rows_of

RECIPE = """
name: own
task:
  kind: classification
  labels:
    - {name: alpha, description: the first kind}
    - {name: beta, description: the second kind}
    - {name: gamma, description: the third kind}
seeds:
  rows:
    - {text: the quick brown fox jumps over a lazy dog, label: alpha}
    - {text: a calm river runs below the old stone bridge, label: beta}
    - {text: seven grey geese went over the wet field at dawn, label: gamma}
models:
  - {name: m1, provider: openai, model: fake-1, base_url: URL}
  - {name: m2, provider: openai, model: fake-2, base_url: URL}
  - {name: m3, provider: openai, model: fake-3, base_url: URL}
roles: {labeler: {models: [m1, m2]}, adjudicator: {models: [m3]}}
method: {kind: label, texts: texts.jsonl, calibration_texts: 6}
target: {rows_per_label: 15}
limits: {candidates: 400, concurrency: 8, min_yield_after: 60, shard_rows: 25}
"""
GRA = {"kind": "gra", "reviewers": 1, "tau": 5, "max_cosine": None, "calibration_texts": 0, "few_shot": [4, 4]}
ITALIAN = "Buongiorno, vorrei sapere quando arriva il pacco che ho ordinato la settimana scorsa, grazie mille"


def texts(count: int, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    return [sentence(rng) for _ in range(count)]


def recipe_of(folder: Path, url: str, given: list[str], **method: Any) -> Path:
    lines = [json.dumps({"text": text}) for text in given]
    (folder / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    data = yaml.safe_load(RECIPE.replace("URL", url))
    data["method"] |= method
    if "top_up" in method:
        data["roles"] |= {"generator": {"models": ["m1"]}, "reviewer": {"models": ["m2"]}}
    file = folder / "own.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return file


def explain(home: Path, row: str) -> dict[str, Any]:
    return dict(json.loads(graft(home, "explain", row, "--json").stdout))


def test_texts_become_rows_with_soft_labels_and_a_rerun_calls_nobody(tmp_path: Path, fake_llm: Any) -> None:
    home, given = tmp_path / "home", texts(60)
    recipe = recipe_of(tmp_path, fake_llm.url, given, min_probability=0.3, min_margin=0.05)
    done = run_json(home, recipe)
    assert done["run"]["stopped_by"] == "texts" and done["run"]["status"] == "finished"
    counts = done["run"]["counts"]
    assert counts["opened"] == 60 == counts["accepted"] + counts["rejected"] and not counts["failed"]
    rows = rows_of(home, "own")
    assert {row["text"] for row in rows} <= set(given) and len(rows) == counts["accepted"] > 20
    history = explain(home, rows[0]["id"])
    soft = history["soft_label"]
    assert max(soft, key=lambda name: soft[name]) == rows[0]["label"] and sum(soft.values()) == pytest.approx(1)
    assert soft[rows[0]["label"]] >= 0.3 and history["decision"]["code"] == "accepted.labelled"
    place = given.index(rows[0]["text"]) + 1
    assert history["meant"] == [["text", f"row {place} of texts.jsonl"]] and history["intended_label"] == ""
    assert {review["stage"] for review in history["reviews"]} == {"label"}
    calls = fake_llm.stats()["calls"]
    assert run_json(home, recipe)["repeated"] is True and fake_llm.stats()["calls"] == calls


def test_labels_short_of_texts_are_written_with_the_texts_as_exemplars(tmp_path: Path, fake_llm: Any) -> None:
    home, given = tmp_path / "home", texts(24)
    recipe = recipe_of(tmp_path, fake_llm.url, given, min_probability=0.3, top_up=GRA)
    done = run_json(home, recipe)
    assert done["run"]["stopped_by"] == "target" and done["version"]["labels"] == dict.fromkeys(
        ("alpha", "beta", "gamma"), 15
    )
    own, written = [], []
    for row in rows_of(home, "own"):
        (own if row["text"] in given else written).append(row)
    assert len(own) > 6 and len(own) + len(written) == 45
    history = explain(home, written[0]["id"])
    assert history["intended_label"] == written[0]["label"] and history["decision"]["code"].startswith("accepted.")
    shown = {seed["text"] for seed in history["exemplars"]}
    assert shown & set(given) and all(seed["label"] == written[0]["label"] for seed in history["exemplars"])
    calls = fake_llm.stats()["calls"]
    assert run_json(home, recipe)["repeated"] is True and fake_llm.stats()["calls"] == calls
