"""PromptMix, HarmAug and a pipeline at a small size, for real: their shipped recipes on the real small models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_encoder
from test_flows_make_dataset import ROOT, graft, process


def small(tmp_path: Path, name: str) -> Path:
    """A shipped recipe with fewer texts to calibrate by."""
    text = (ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    text = text.replace("\nmethod:\n", "\nmethod:\n  calibration_texts: 4\n", 1)
    assert "calibration_texts: 4" in text
    for field in ("path", "test", "texts"):
        text = text.replace(f"{field}: data/", f"{field}: {ROOT}/recipes/data/")
    file = tmp_path / f"{name}.yaml"
    file.write_text(text.replace("measure_refusals: 10", "measure_refusals: 2"), encoding="utf-8")
    return file


def run(tmp_path: Path, name: str, rows: int) -> dict[str, Any]:
    recipe = small(tmp_path, name)
    words = ("run", str(recipe), "--rows-per-label", str(rows), "--json")
    done = process(tmp_path / "home", *words, seconds=500)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.models
def test_the_promptmix_recipe_mixes_and_relabels(tmp_path: Path) -> None:
    result = run(tmp_path, "promptmix", 1)
    assert result["version"]["rows"] == 6 and result["version"]["labels"]["refund"] == 1
    shown = json.loads(graft(tmp_path / "home", "show", "promptmix", "--json").stdout)
    histories = [
        json.loads(graft(tmp_path / "home", "explain", row["id"], "--json").stdout) for row in shown["rows"][:2]
    ]
    for history in histories:
        reviews = [review for review in history["reviews"] if review["stage"] == "label"]
        assert {review["model"] for review in reviews} == {"gemma", "smollm2", "minilm"}
        assert all(len(review["distribution"]) == 5 for review in reviews), "the five nearest of six classes"
    assert shown["mixing"]["tables"]["by_alpha"][-1]["labelled"] >= 6


@pytest.mark.models
def test_the_harmaug_recipe_makes_pairs_that_a_teacher_labels(tmp_path: Path) -> None:
    result = run(tmp_path, "harmaug", 4)
    assert result["version"]["labels"] == {"harmful": 4, "safe": 4}
    assert result["run"]["counts"]["asked_prefilled"] == result["run"]["counts"]["asked_plain"] == 2
    shown = json.loads(graft(tmp_path / "home", "show", "harmaug", "--json").stdout)
    assert any(row["response"] for row in shown["rows"]) and any(not row["response"] for row in shown["rows"])


@pytest.mark.models
def test_the_pipeline_of_reviews_makes_rows_that_explain_themselves_and_train_a_student(tmp_path: Path) -> None:
    home, words = tmp_path / "home", ("run", "product_reviews", "--rows-per-label", "1", "--json")
    done = process(home, *words, seconds=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["version"]["labels"] == {"content": 1, "disappointed": 1}
    rows = json.loads(graft(home, "show", "product_reviews", "--json").stdout)["rows"]
    for row in rows:
        stars, length = row["data"]["stars"], row["data"]["length"]
        assert (stars >= 3) == (row["label"] == "content") and length == len(row["text"].split())
    calls = json.loads(graft(home, "explain", rows[0]["id"], "--json").stdout)["calls"]
    assert {call["model"] for call in calls} == {"qwen"} and len(calls) == 2, "a review, and the judge of it"

    held = tmp_path / "held.csv"
    held.write_text("text,label\nIt broke on the first day.,disappointed\nI love it and use it daily.,content\n")
    encoder = tiny_encoder.write(tmp_path / "encoder", [row["text"] for row in rows])
    options = ("--test", str(held), "--encoder", str(encoder), "--epochs", "1", "--json")
    trained = process(home, "train", "product_reviews", *options, seconds=200)
    assert trained.returncode == 0, trained.stderr
    report = json.loads(trained.stdout)
    assert [one["trained_on"] for one in report["students"]] == ["seeds", "version"]
    assert report["students"][0]["train_rows"] == 2, "the baseline knows the labels' names alone"
    assert any("has no seeds" in note for note in report["notes"])
