"""Labels with a meaning: GRA's label policies and the least probability of a label, through the command line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from test_flows_make_dataset import graft, here

from graft.agents.methods.gra import KIND
from graft.data.lake import Lake
from graft.flows.progress import Progress
from graft.flows.run_context import RunContext
from graft.flows.selecting import selected
from graft.schemas.errors import GraftError
from graft.schemas.home import Home
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Accepted

ROLES = {
    "generator": {"models": ["m1"], "max_tokens": 64},
    "reviewer": {"models": ["m2", "m3"], "answer": "logprobs"},
    "adjudicator": {"models": ["m4"], "answer": "logprobs"},
}
SURE = {"min_probability": 0.0, "min_margin": 0.0}


def write(folder: Path, url: str, *, method: dict[str, Any], **more: Any) -> Path:
    recipe = {
        "name": "desk",
        "task": {"kind": "classification", "labels": [
            {"name": "alpha", "description": "the first kind"}, {"name": "beta", "description": "the second kind"},
        ]},
        "seeds": {"rows": [
            {"text": "the quick brown fox jumps over a lazy dog", "label": "alpha"},
            {"text": "a calm river runs below the old stone bridge", "label": "beta"},
        ]},
        "models": [
            {"name": f"m{n}", "provider": "openai", "model": f"fake-{n}", "base_url": url} for n in range(1, 5)
        ],
        "roles": ROLES,
        "method": {"kind": "gra", "reviewers": 2, "max_cosine": None, "calibration_texts": 6, **method},
        "target": {"rows_per_label": 6}, "limits": {"candidates": 400, "concurrency": 16, "min_yield": 0}, **more,
    }  # fmt: skip
    file = folder / "desk.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return file


def ran(home: Path, recipe: Path) -> dict[str, Any]:
    done = here(home, "run", str(recipe), "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def history_of(home: Path, row_id: str) -> dict[str, Any]:
    return dict(json.loads(graft(home, "explain", row_id, "--json").stdout))


def shown(home: Path) -> dict[str, Any]:
    done = graft(home, "show", "desk", "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_intended_labels_stand_and_no_judge_is_called(
    tmp_path: Path, fake_llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that was cut off or that surprises the model of the fluency gate is rejected, and its row says why."""
    read = lambda text: 900.0 if len(text) % 3 == 0 else 10.0 + len(text) % 5 / 10  # noqa: E731
    monkeypatch.setattr("graft.flows.make_dataset.perplexities", lambda home, say: lambda name: read)
    fake_llm.set(cut_rate=0.3)
    home, fluent = tmp_path / "home", {"fluency": {"model": "tiny"}}
    recipe = write(tmp_path, fake_llm.url, method={"label_policy": "intended"}, gates=fluent)
    done = ran(home, recipe)
    ends = {entry["code"]: entry["rows"] for entry in done["funnel"]}
    assert set(ends) == {"accepted.intended", "rejected.cut", "gate.not_fluent"}
    assert sum(ends.values()) == done["run"]["counts"]["opened"]
    assert fake_llm.stats()["calls"] == done["run"]["calls"] == done["run"]["counts"]["opened"]
    assert "Label policy: intended." in done["method"] and "intended is likeliest" in done["version"]["card"]
    history = history_of(home, shown(home)["rows"][0]["id"])
    assert history["label"] == history["intended_label"] and history["reviews"] == []
    assert history["models"] == {"generator": "m1"}
    with Lake.open(Home(home)) as lake:
        rejected = {one.decision.code: one for one in lake.iter_candidates(done["run"]["id"], "rejected")}
        kept = next(iter(lake.iter_candidates(done["run"]["id"], "accepted")))
    assert [gate.score for gate in kept.gates if gate.gate == "fluency"] == [read(kept.text)]
    assert "perplexity 900 under tiny" in rejected["gate.not_fluent"].decision.reason
    cut = rejected["rejected.cut"]
    assert cut.text and cut.decision.route == "cut" and "cut off at roles.generator.max_tokens" in cut.decision.reason


def test_reviewers_relabel_by_their_mean_probability(tmp_path: Path, fake_llm: Any) -> None:
    home = tmp_path / "home"
    done = ran(home, write(tmp_path, fake_llm.url, method={"label_policy": "relabelled", **SURE}))
    assert {entry["code"] for entry in done["funnel"] if entry["status"] == "accepted"} == {"accepted.labelled"}
    assert done["version"]["labels"] == {"alpha": 6, "beta": 6}
    for row in shown(home)["rows"][:4]:
        history = history_of(home, row["id"])
        soft = history["soft_label"]
        assert history["label"] == max(soft, key=soft.get) and history["labelling"]["by"] == "panel"
        assert {review["role"] for review in history["reviews"]} == {"reviewer"}, "no adjudicator is needed"
    assert "accepted rows have another label" in done["method"]


def test_a_policy_for_each_label(tmp_path: Path, fake_llm: Any) -> None:
    home = tmp_path / "home"
    recipe = write(tmp_path, fake_llm.url, method={"label_policy": {"alpha": "intended"}, **SURE})
    done = ran(home, recipe)
    codes = {row["label"]: history_of(home, row["id"])["decision"]["code"] for row in shown(home)["rows"]}
    assert codes["alpha"] == "accepted.intended" and codes["beta"].startswith("accepted.a")
    assert "Label policy: agreeing, intended." in done["method"]
    assert "Judges found the intended label likeliest" in done["method"]


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("confirmed", "'confirmed' is no label policy"),
        ({"gamma": "intended"}, "'gamma' is no label of the task"),
        ({"alpha": "yes"}, "'yes' is no label policy"),
    ],
)
def test_a_wrong_policy_is_named_with_the_right_ones(tmp_path: Path, policy: Any, words: str) -> None:
    recipe = write(tmp_path, "http://127.0.0.1:9/v1", method={"label_policy": policy})
    done = here(tmp_path / "home", "validate", str(recipe))
    assert done.returncode == 2 and words in done.stderr and "label_policy" in done.stderr


def test_a_label_that_is_too_improbable_is_rejected_as_unsure(tmp_path: Path, fake_llm: Any) -> None:
    home = tmp_path / "home"
    done = ran(home, write(tmp_path, fake_llm.url, method={"tau": 2, "delta": 9, "min_probability": 0.7}))
    assert "rejected.unsure" in {entry["code"] for entry in done["funnel"]}
    for row in shown(home)["rows"][:4]:
        history = history_of(home, row["id"])
        assert history["soft_label"][history["label"]] >= 0.7
        assert "mean probability of" in history["decision"]["reason"]
    mean = sum(one["probability"] for one in history["reviews"]) / len(history["reviews"])
    assert history["probability"] == pytest.approx(mean)
    assert f"probability of its label {mean:.0%}" in here(home, "explain", history["id"]).stdout


@pytest.mark.parametrize("by", ["facility_location", "k_center"])
def test_of_more_rows_those_are_published_that_add_something(
    tmp_path: Path, fake_llm: Any, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    home, chosen = tmp_path / "home", {"by": by, "oversample": 2}
    recipe = write(tmp_path, fake_llm.url, method={"label_policy": "intended"}, select=chosen)

    def killed(*_: Any) -> None:
        raise GraftError("stopped before it is published")

    with monkeypatch.context() as broken:
        broken.setattr("graft.flows.make_dataset.finish", killed)
        assert "stopped before it is published" in here(home, "run", str(recipe)).stderr
    calls = fake_llm.stats()["calls"]
    done = ran(home, recipe)
    counts, run_id = done["run"]["counts"], done["run"]["id"]
    assert done["version"]["labels"] == {"alpha": 6, "beta": 6} and fake_llm.stats()["calls"] == calls
    assert (done["run"]["status"], done["run"]["stopped_by"]) == ("finished", "target")
    assert counts["opened"] == counts["accepted"] + counts["rejected"] + counts["failed"]
    assert counts["accepted"] == counts["published"] + counts["surplus"] and counts["not_chosen"] == 12
    assert {"rejected.not_chosen": 12}.items() <= {one["code"]: one["rows"] for one in done["funnel"]}.items()
    assert f"chosen by {by.replace('_', ' ')}: 12 further rows were made" in done["version"]["card"]
    with Lake.open(Home(home)) as lake:
        left = [one for one in lake.iter_candidates(run_id, "rejected") if one.decision.code == "rejected.not_chosen"]
    assert {one.decision.route for one in left} == {"not_chosen"} and len(left) == 12
    assert f"Not chosen: by {by.replace('_', ' ')}, 6 other rows of {left[0].label} add" in left[0].decision.reason
    assert left[0].decision.reason.count("Not chosen") == 1, "a run that was stopped chooses the same again"
    assert ran(home, recipe)["repeated"] is True and fake_llm.stats()["calls"] == calls
    fresh = ran(tmp_path / "other", recipe)
    assert fresh["version"]["content_hash"] == done["version"]["content_hash"]


@pytest.mark.parametrize(("beta", "left"), [(3, 0), (1, 2)])
def test_a_run_that_is_short_of_a_label_rejects_none_of_its_other_rows(beta: int, left: int) -> None:
    """Its next start may choose otherwise."""
    recipe = yaml.safe_load(Path("recipes/topics.yaml").read_text(encoding="utf-8"))
    labels = {"kind": "classification", "labels": [{"name": "alpha"}, {"name": "beta"}]}
    recipe |= {"task": labels, "target": {"rows_per_label": 2}, "select": {}, "seeds": {"rows": [{"text": "a"}]}}
    redecided = list[str]()
    lake = SimpleNamespace(named=lambda _, ids: redecided.extend(ids) or [], redecide=lambda *_: None)
    rows = [
        Accepted(f"c{n}", f"text {n}", None, "alpha" if n < 4 else "beta", 9, False, "", 0) for n in range(4 + beta)
    ]
    context = RunContext(
        Recipe.model_validate(recipe), "r", Home.find(), cast("Any", lake), cast("Any", None), KIND, (),
        cast("Any", None), Progress("t", "r", {}), kept=rows,
    )  # fmt: skip
    context.vectors.find = lambda: (None, "no encoder")  # type: ignore[method-assign]
    kept, surplus = asyncio.run(selected(context, lambda _: None))
    assert [row.label for row in kept] == ["alpha"] * 2 + ["beta"] * min(2, beta)
    assert surplus == left and len(redecided) == (3 if beta == 3 else 0)
