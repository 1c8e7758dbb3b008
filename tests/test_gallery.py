"""The gallery: every recipe is valid, priced, named with its paper and keys, and runs on the fake server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_llm import Serving
from typer.testing import CliRunner

import graft
from graft.agents.methods import method_of
from graft.cli import recipes as verbs
from graft.flows.pilot import run_pilot
from graft.flows.plan import read_recipe
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home
from graft.schemas.load import PACKAGE_RECIPES, load_recipe

GALLERY = {one["name"]: one for one in verbs.gallery()}
LACKING = "harmaug_guard"
"""Ships without its seeds, which nobody should find in a repository."""
RUN = CliRunner().invoke


def test_the_gallery_names_what_each_recipe_makes_and_needs() -> None:
    alone = [one for one in GALLERY.values() if one["embedded"]]
    assert len(alone) >= 16 and not any(one["keys"] or one["lacks"] for one in alone), "they run as they are"
    assert all(one["makes"] and one["task"] and one["method"] and one["models"] for one in GALLERY.values())
    assert GALLERY["hosted"]["keys"] == ["ANTHROPIC_API_KEY", "MISTRAL_API_KEY", "OPENAI_API_KEY"]
    assert (GALLERY["rationales"]["paper"], GALLERY["demo"]["method"]) == ("2305.02301", "label + gra")
    kinds = {one["task"] for one in alone}
    assert kinds >= {"classification", "guard", "instruction", "extraction", "ranking", "rewrite", "conversation"}
    shown = RUN(verbs.app, [])
    assert all(name in shown.stdout for name in GALLERY) and shown.exit_code == 0
    assert json.loads(RUN(verbs.app, ["--json"]).stdout)[0]["name"] == min(GALLERY)


def test_a_recipe_is_shown_as_it_is_and_copied_with_its_files(tmp_path: Path) -> None:
    assert RUN(verbs.app, ["show", "demo"]).stdout == (PACKAGE_RECIPES / "demo.yaml").read_text(encoding="utf-8")
    wrong = RUN(verbs.app, ["show", "dmeo"]).exception
    assert isinstance(wrong, NotFound) and "did you mean 'demo'?" in wrong.fix
    copied = json.loads(RUN(verbs.app, ["copy", "demo", "--out", str(tmp_path / "mine"), "--json"]).stdout)
    assert {Path(one).name for one in copied} == {
        "demo.yaml",
        "demo_seeds.jsonl",
        "demo_texts.jsonl",
        "demo_test.jsonl",
    }
    read_recipe(str(tmp_path / "mine" / "demo.yaml"))
    again = ["copy", "demo", "--out", str(tmp_path / "mine")]
    assert isinstance(RUN(verbs.app, again).exception, GraftError)
    assert RUN(verbs.app, [*again, "--force"]).exit_code == 0


def tiny(file: Path, url: str) -> graft.Recipe:
    """The recipe on the fake server, for a row or two."""
    plain = load_recipe(file)
    fake = {"provider": "openai", "base_url": url, "price": {"input": 0, "output": 0}}
    fakes = [{**fake, "name": one.name, "model": f"fake-{number}"} for number, one in enumerate(plain.models)]
    settings = type(plain.method).model_fields
    few: dict[str, Any] = {"calibration_texts": 2, "max_cosine": None, "measure_refusals": 0, "most": 4,
                           "partner": "random", "nearest_classes": 2}  # fmt: skip
    given = {f"method.{name}": value for name, value in few.items() if name in settings}
    if "top_up" in settings:
        given["method.top_up"] = None
    return load_recipe(file, {"models": fakes, "student.test": None, **given}).within(file.resolve().parent)


DECIDED = "SELECT status, code, reason FROM lake.candidates WHERE run_id = ?"


@pytest.mark.parametrize("name", [name for name in GALLERY if name != LACKING])
async def test_a_recipe_is_valid_priced_and_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    figures = graft.estimate(name)
    assert figures.calls > 0 and figures.rows > 0
    assert figures.price_usd == 0 or not GALLERY[name]["embedded"]
    with Serving() as serving:
        file, recipe, seeds = read_recipe(graft._named(tiny(PACKAGE_RECIPES / f"{name}.yaml", serving.url)))
        small = method_of(recipe).preview(recipe, 2)
        found, _ = await run_pilot(
            small, file, seeds, Home.find(), name, lambda lake, run: lake.query(DECIDED, [run["id"]])
        )
    assert found and all(one["reason"] for one in found)
    broken = [one["reason"] for one in found if one["status"] == "failed" and "of another shape" not in one["reason"]]
    assert not all("has been used" in one["reason"] for one in found), "its seeds reach its slots"
    assert broken == [], "random words may be longer than a shape allows; nothing else fails"
