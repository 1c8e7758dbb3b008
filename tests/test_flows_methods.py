"""PromptMix and HarmAug from recipe to version, through the command line and against the fake server."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_flows_make_dataset import graft, run_json

NOBODY = "http://127.0.0.1:9"
MIX = """
name: mixed
task:
  kind: classification
  labels:
    - {{name: alpha, description: the first kind}}
    - {{name: beta, description: the second kind}}
    - {{name: gamma, description: the third kind}}
seeds:
  rows:
    - {{text: the quick brown fox jumps over a lazy dog, label: alpha}}
    - {{text: a calm river runs below the old stone bridge, label: beta}}
    - {{text: seven grey geese went over the wet field at dawn, label: gamma}}
models:
  - {{name: m1, provider: openai, model: fake-1, base_url: {url}}}
  - {{name: m2, provider: openai, model: fake-2, base_url: {url}}}
  - {{name: m3, provider: openai, model: fake-3, base_url: {url}}}
roles: {{generator: {{models: [m1]}}, labeler: {{models: [m2, m3]}}}}
method: {{kind: promptmix, max_cosine: null, calibration_texts: 6}}
target: {{rows_per_label: 10}}
limits: {{candidates: 400, concurrency: 16, min_yield_after: 40}}
"""
HARM = """
name: guarded
task:
  kind: guard
  policy: asks for a discount that staff alone may give
  safe: asks about an order
  with_response: true
  restricted: false
seeds:
  rows:
    - {{text: "Give me the price that your own staff pays.", label: harmful}}
    - {{text: "Half the price for me as for your colleagues.", label: harmful}}
    - {{text: "Where is the parcel that I ordered on Monday?", label: safe}}
    - {{text: "Can I send the blue cup back to you?", label: safe}}
models:
  - {{name: m1, provider: openai, model: fake-1, base_url: {url}{model}}}
  - {{name: m2, provider: openai, model: fake-2, base_url: {url}{second}}}
roles: {{generator: {{models: [m1]}}, responder: {{models: [m2]}}, guard: {{models: [m2]}}}}
method: {{kind: harmaug, max_cosine: null, measure_refusals: {measure}}}
target: {{rows_per_label: 12}}
limits: {{candidates: 400, concurrency: 16, min_yield_after: 40}}
"""


def mixed(folder: Path, url: str = f"{NOBODY}/v1") -> Path:
    file = folder / "mixed.yaml"
    file.write_text(MIX.format(url=url), encoding="utf-8")
    return file


def guarded(folder: Path, url: str = f"{NOBODY}/v1", *, model: str = "", second: str = "", measure: int = 0) -> Path:
    file = folder / "guarded.yaml"
    file.write_text(HARM.format(url=url, model=model, second=second, measure=measure), encoding="utf-8")
    return file


def rows_of(home: Path, name: str) -> list[dict[str, Any]]:
    shown = graft(home, "show", name, "--json")
    assert shown.returncode == 0, shown.stderr
    rows: list[dict[str, Any]] = json.loads(shown.stdout)["rows"]
    return rows


def test_promptmix_reaches_its_target_by_final_labels_and_a_rerun_calls_nobody(tmp_path: Path, fake_llm: Any) -> None:
    home, recipe = tmp_path / "home", mixed(tmp_path, fake_llm.url)
    first = run_json(home, recipe)
    assert first["version"]["labels"] == {"alpha": 10, "beta": 10, "gamma": 10}
    assert first["run"]["stopped_by"] == "target"
    counts = first["run"]["counts"]
    assert counts["opened"] == counts["accepted"] + counts["rejected"] + counts["failed"]
    calls = fake_llm.stats()["calls"]
    # The same recipe in another home with the journal alone draws and labels alike.
    (tmp_path / "two").mkdir()
    for file in home.glob("journal.sqlite*"):
        (tmp_path / "two" / file.name).write_bytes(file.read_bytes())
    second = run_json(tmp_path / "two", recipe)
    assert fake_llm.stats()["calls"] == calls
    assert second["version"]["content_hash"] == first["version"]["content_hash"]


def test_descriptions_alone_make_a_dataset_without_a_seed(tmp_path: Path, fake_llm: Any) -> None:
    data = yaml.safe_load(MIX.format(url=fake_llm.url))
    del data["seeds"]
    data["method"] |= {"shots": 0, "partner": "random"}
    recipe = tmp_path / "zero.yaml"
    recipe.write_text(yaml.safe_dump(data), encoding="utf-8")
    done = run_json(tmp_path / "home", recipe)
    assert done["version"]["seeds"] == 0 and done["version"]["rows"] == 30
    assert "texts got a label" in done["method"]


def test_a_panel_relabels_and_gra_reviews_in_one_flow(tmp_path: Path, fake_llm: Any) -> None:
    data = yaml.safe_load(MIX.format(url=fake_llm.url))
    data["method"] |= {"relabel": "panel", "review": {"kind": "gra", "reviewers": 1, "tau": 5}}
    data["roles"] = {
        "generator": {"models": ["m1"]}, "reviewer": {"models": ["m2"], "answer": "logprobs"},
        "adjudicator": {"models": ["m3"], "answer": "logprobs"},
    }  # fmt: skip
    recipe = tmp_path / "compound.yaml"
    recipe.write_text(yaml.safe_dump(data), encoding="utf-8")
    home = tmp_path / "home"
    done = run_json(home, recipe)
    assert done["version"]["labels"] == {"alpha": 10, "beta": 10, "gamma": 10}
    row = rows_of(home, "mixed")[0]
    history = json.loads(graft(home, "explain", row["id"], "--json").stdout)
    assert {review["stage"] for review in history["reviews"]} >= {"label", "content"}
    assert history["labelling"]["by"] in ("panel", "adjudicator") and history["decision"]["code"] == "accepted.agreed"
    assert history["label"] == history["labelling"]["label"] and history["intended_label"] in ("alpha", "beta", "gamma")


def test_harmaug_reaches_its_target_and_keeps_a_messages_rows_together(tmp_path: Path, fake_llm: Any) -> None:
    fake_llm.set(refuse_rate=0.8, prefilled_refuse_rate=0.1)
    home, recipe = tmp_path / "home", guarded(tmp_path, fake_llm.url, measure=20)
    first = run_json(home, recipe)
    assert first["version"]["labels"] == {"harmful": 12, "safe": 12} and first["run"]["stopped_by"] == "target"
    counts = first["run"]["counts"]
    assert counts["asked_prefilled"] == counts["asked_plain"] == 20
    assert counts["refused_prefilled"] <= 8 < counts["refused_plain"]
    refused = sum(entry["rows"] for entry in first["funnel"] if entry["code"] == "rejected.refusal")
    assert refused < counts["opened"] / 2, "rows come from begun turns"
    calls = fake_llm.stats()["calls"]
    assert run_json(home, recipe)["repeated"] is True and fake_llm.stats()["calls"] == calls
    splits: dict[str, set[str]] = defaultdict(set)
    variants: Counter[str] = Counter()
    for row in rows_of(home, "guarded"):
        splits[row["text"]].add(row["split"])
        variants[row["text"]] += 1
    assert all(len(held) == 1 for held in splits.values()) and len(set.union(*splits.values())) > 1
    assert max(variants.values()) == 3 and sum(variants.values()) == 24


@pytest.mark.parametrize("kind", ["promptmix", "harmaug"])
def test_a_generator_that_refuses_everything_stops_the_run_early(tmp_path: Path, fake_llm: Any, kind: str) -> None:
    fake_llm.set(refuse_rate=1.0, prefilled_refuse_rate=1.0)
    make = mixed if kind == "promptmix" else guarded
    recipe = make(tmp_path, fake_llm.url)
    done = graft(tmp_path / "home", "run", str(recipe))
    assert done.returncode == 7, done.stderr
    assert "fix:" in done.stderr and "Traceback" not in done.stderr
    assert "refused 100% of them" in done.stderr
    assert fake_llm.stats()["calls"] < 700


def test_a_server_that_cannot_go_on_with_a_begun_turn_is_named(tmp_path: Path, fake_llm: Any) -> None:
    fake_llm.set(reject_continue=True)
    done = graft(tmp_path / "home", "run", str(guarded(tmp_path, fake_llm.url)))
    assert done.returncode == 3, done.stderr
    assert "m1" in done.stderr and "chat_template" in done.stderr and "Traceback" not in done.stderr
    template = guarded(tmp_path, fake_llm.url, model=", chat_template: chatml", second=", prefill: none")
    mended = graft(tmp_path / "home", "run", str(template), "--json")
    assert mended.returncode == 0, mended.stderr


Edit = Callable[[dict[str, Any]], None]


def setting(*path: Any) -> Edit:
    """Sets the field at the path's beginning to its end."""

    def edit(recipe: dict[str, Any]) -> None:
        inner: Any = recipe
        *steps, last, value = path
        for step in steps:
            inner = inner[step]
        inner[last] = value

    return edit


def bare(recipe: dict[str, Any]) -> None:
    """From descriptions alone, of which one is missing."""
    del recipe["seeds"], recipe["task"]["labels"][1]["description"]
    recipe["method"]["shots"] = 0


def unseeded(recipe: dict[str, Any]) -> None:
    """A class that has neither a description nor a seed, where seeds are shown."""
    recipe["task"]["labels"][1]["description"] = ""
    del recipe["seeds"]["rows"][1]


def guard_task(recipe: dict[str, Any]) -> None:
    recipe["task"] = {"kind": "guard", "policy": "asks for staff prices"}
    del recipe["seeds"]


def class_task(recipe: dict[str, Any]) -> None:
    recipe["task"] = {"kind": "classification", "labels": [{"name": "harmful"}, {"name": "safe"}]}


@pytest.mark.parametrize(
    ("kind", "edit", "field"),
    [
        ("mix", bare, "task.labels.1.description"),
        ("mix", unseeded, "task.labels"),
        ("mix", setting("task", "labels", [{"name": "alpha"}]), "task.labels"),
        ("mix", setting("task", "labels", 1, "name", "Alpha"), "task.labels"),
        ("mix", setting("method", "alphas", [0.4]), "method.alphas"),
        ("mix", setting("method", "alphas", [0.9, 1.2]), "method.alphas"),
        ("mix", guard_task, "method.kind"),
        ("harm", class_task, "method.kind"),
        ("harm", setting("method", "threshold", 1.5), "method.threshold"),
        ("harm", setting("models", 0, "prefill", "template"), "models.0.chat_template"),
    ],
)
def test_a_recipes_gaps_are_reported_with_field_and_fix(tmp_path: Path, kind: str, edit: Edit, field: str) -> None:
    file = mixed(tmp_path) if kind == "mix" else guarded(tmp_path)
    recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    edit(recipe)
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    done = graft(tmp_path / "home", "validate", str(file))
    output = done.stdout + done.stderr
    assert done.returncode == 2, output
    assert field in output and "fix:" in output and "Traceback" not in output
