"""The demo at a small size, for real: real small models on their servers, a real student, real files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_flows_make_dataset import graft
from test_methods_models import small


@pytest.mark.models
def test_the_demo_recipe_makes_a_dataset_a_student_and_an_export(tmp_path: Path) -> None:
    home = tmp_path / "home"
    words = ("run", str(small(tmp_path, "demo")), "--rows-per-label", "1", "--train", "--export", "jsonl", "--json")
    done = graft(home, *words, seconds=500)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    version = result["version"]
    assert set(version["labels"]) == {"delivery", "refund", "account", "payment", "product", "complaint"}
    assert version["rows"] == 6
    assert {name.split()[0] for name in version["models"]} == {"gemma", "smollm2", "minilm"}
    assert "Gemma Terms of Use" in version["card"]
    rows = [
        json.loads(line)
        for file in result["exported"]
        if file.endswith(".jsonl")
        for line in Path(file).read_text(encoding="utf-8").splitlines()
    ]
    assert len(rows) == 6
    assert all(len(row["text"]) >= 15 for row in rows)
    baseline, student = result["student"]["evaluations"]
    assert baseline["rows"] == student["rows"] >= 120
    assert student["accuracy"] > 0.4, "six classes: chance is 0.17"
    assert all(Path(picture).stat().st_size > 10_000 for picture in result["student"]["confusion"])
    history = json.loads(graft(home, "explain", rows[0]["id"], "--json").stdout)
    assert history["calls"][0]["model"] == "gemma"
    assert all(review["distribution"] for review in history["reviews"])
