"""The demo at a small size, for real: the real teacher on its server, a real student, real files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_flows_make_dataset import graft, process
from test_methods_models import small


@pytest.mark.models
def test_the_demo_labels_texts_writes_the_rest_trains_exports_and_ends_on_one_screen(tmp_path: Path) -> None:
    home, recipe = tmp_path / "home", small(tmp_path, "demo")
    text = recipe.read_text(encoding="utf-8").replace("\nmethod:\n", "\nmethod:\n  most: 4\n", 1)
    text = text.replace("calibration_texts: 24", "calibration_texts: 4").replace(
        "\nstudent:", "\nstudent:\n  epochs: 8"
    )
    recipe.write_text(text, encoding="utf-8")
    words = ("run", str(recipe), "--rows-per-label", "4", "--train", "--export", "jsonl")
    done = process(home, *words, "--json", seconds=500)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    version = result["version"]
    assert version["labels"] == {"complaint": 4, "praise": 4}
    assert {name.split()[0] for name in version["models"]} == {"qwen"}
    assert "Apache" in version["card"]
    rows = [
        json.loads(line)
        for file in result["exported"]
        if file.endswith(".jsonl")
        for line in Path(file).read_text(encoding="utf-8").splitlines()
    ]
    given = {json.loads(line)["text"] for line in (Path("recipes/data/demo_texts.jsonl")).read_text().splitlines()}
    assert len(rows) == 8 and 1 <= sum(row["text"] in given for row in rows) <= 4
    baseline, student = result["student"]["evaluations"]
    assert baseline["rows"] == student["rows"] == 221
    assert student["accuracy"] > 0.5, "two classes of equal size"
    assert all(Path(picture).stat().st_size > 10_000 for picture in result["student"]["confusion"])
    history = json.loads(graft(home, "explain", rows[0]["id"], "--json").stdout)
    assert history["calls"][0]["model"] == "qwen"

    weights = {file: file.stat().st_mtime_ns for file in (home / "students").rglob("*.safetensors")}
    again = process(home, *words, seconds=200)
    assert again.returncode == 0, again.stderr
    assert weights == {file: file.stat().st_mtime_ns for file in weights}, "no student is trained again"
    screen = again.stdout[again.stdout.index("demo@1:") :]
    assert len(screen.splitlines()) <= 30 and "no call was made" in screen
    assert all(
        part in screen for part in ("seeds only", "95% interval", "p = ", "221 test rows", "report.md", "graft show")
    )
