"""A method of another distribution, one file and one prompt: from recipe to card, terminal and page, without a change
in Graft. It has settings, a slot payload, a role and a prompt of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError
from test_flows_make_dataset import run_json
from typer.testing import CliRunner

from graft.agents.methods import method_of, report_of
from graft.agents.roles.prompting import prompts_version
from graft.data.lake import Lake
from graft.flows.plan import run_id_of
from graft.schemas.base import utc_now
from graft.schemas.datasets import Run
from graft.schemas.errors import InputInvalid
from graft.schemas.home import Home
from graft.schemas.kinds import METHODS
from graft.schemas.load import load_recipe, recipe_json_schema
from graft.schemas.recipe import Recipe

RECIPE: dict[str, Any] = {
    "name": "poems",
    "task": {"kind": "classification", "labels": [{"name": "basho"}, {"name": "issa"}]},
    "method": {"kind": "haiku", "seasons": ["autumn", "winter"]},
    "models": [
        {
            "name": "m", "provider": "openai", "model": "fake", "base_url": "http://127.0.0.1:9/v1",
            "price": {"input": 0.1, "output": 0.2},
        }
    ],
    "roles": {"poet": {"temperature": 1.5, "money_usd": 2.0, "max_tokens": 64}},
    "target": {"rows_per_label": 4},
    "limits": {"concurrency": 8},
}  # fmt: skip


def written(folder: Path, **more: Any) -> Path:
    file = folder / "poems.yaml"
    file.write_text(yaml.safe_dump({**RECIPE, **more}), encoding="utf-8")
    return file


def test_a_run_of_a_plugins_method_is_shown_everywhere(
    tmp_path: Path, plugin: Path, fake_llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [{**RECIPE["models"][0], "base_url": fake_llm.url}]
    file, home = written(tmp_path, models=models), tmp_path / "home"
    result = run_json(home, file)
    assert result["version"]["labels"] == {"basho": 4, "issa": 4} and result["method"] == "2 seasons."
    monkeypatch.setenv("GRAFT_HOME", str(home))
    with Lake.open(Home.find(), read_only=True) as lake:
        candidates = list(lake.iter_candidates(result["run"]["id"]))
        roles = {row["role"] for row in lake.query("SELECT DISTINCT role FROM lake.calls")}
    assert {one.slot.payload["season"] for one in candidates} == {"autumn", "winter"} and roles == {"poet"}
    assert all(one.models == {"poet": "m"} and one.notes["words"] for one in candidates)
    card = result["version"]["card"]
    assert "by the method haiku" in card and "## Poems by season" in card and "| poet |" in card
    from graft.cli.app import app

    def said(*words: str) -> str:
        shown = CliRunner().invoke(app, list(words), env={"NO_COLOR": "1", "COLUMNS": "160"})
        assert shown.exit_code == 0, shown.output
        return str(shown.output)

    own = json.loads(said("show", "poems", "--json"))["haiku"]
    assert {row["season"] for row in own["tables"]["seasons"]} == {"autumn", "winter"}
    assert "Poems by season" in said("show", "poems")
    row = candidates[0]
    assert f"season  {row.slot.payload['season']}, {row.notes['words']} words" in said("explain", row.id)
    assert "poets rhyme by chance" in said("estimate", str(file))
    assert "haiku over 2 labels" in said("validate", str(file))


def test_a_recipe_binds_to_the_plugins_settings_and_roles(tmp_path: Path, plugin: Path) -> None:
    recipe = Recipe.model_validate(RECIPE)
    assert recipe.model_dump(mode="json")["method"] == {"kind": "haiku", "seasons": ["autumn", "winter"], "lines": 3}
    assert recipe.role("poet").temperature == 1.5 and list(recipe.roles) == ["labeler", "poet"]
    assert Recipe.stored(recipe.model_dump(mode="json")) == recipe
    assert Recipe.model_validate({**RECIPE, "roles": {}}).role("poet").temperature == 1.2, "its own default"
    jsonschema.validate(RECIPE, recipe_json_schema())
    for more, field, what, fix in (
        ({"method": {"kind": "haiku", "lines": 9}}, "method.lines", "out of range", "at least 1"),
        ({"method": {"kind": "haiku", "mood": 1}}, "method.mood", "unknown field", "seasons"),
        ({"method": {"kind": "haiku", "seasons": []}}, "method.seasons", "a haiku needs a season", "[winter]"),
        ({"method": {"kind": "haikku"}}, "method", "no kind 'haikku'", "did you mean 'haiku'?"),
        ({"roles": {"poett": {}}}, "roles.poett", "unknown field", "did you mean 'poet'? allowed here: labeler, poet"),
        ({"roles": {"reviewer": {}}}, "roles.reviewer", "unknown field", "allowed here: labeler, poet"),
        ({"roles": {"poet": {"rime": True}}}, "roles.poet.rime", "unknown field", "rhyme"),
        ({"roles": {"poet": {"models": ["n"]}}}, "roles.poet.models", "no model 'n'", "the pool has m"),
    ):
        with pytest.raises(InputInvalid) as caught:
            load_recipe(written(tmp_path, **more))
        [problem] = caught.value.problems
        assert problem.field == field and what in problem.what and fix in problem.fix, problem


def test_a_run_id_follows_its_own_methods_rules_alone(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.model_validate(RECIPE)
    labels = [{"name": "a", "description": "one"}, {"name": "b", "description": "two"}]
    task = {"kind": "classification", "labels": labels}
    changed = {"method": {"kind": "promptmix", "shots": 0}, "roles": {}, "task": task}
    other = Recipe.model_validate({**RECIPE, **changed})
    before = run_id_of(recipe, []), run_id_of(other, [])
    monkeypatch.setattr(method_of(recipe), "version", 2)
    raised = run_id_of(recipe, []), run_id_of(other, [])
    assert raised[0] != before[0] and raised[1] == before[1]
    own = method_of(other).prompts
    monkeypatch.setattr(method_of(recipe), "prompts", (*method_of(recipe).prompts, "mix"))
    assert run_id_of(recipe, []) not in (before[0], raised[0]) and run_id_of(other, []) == before[1]
    assert prompts_version(own) != prompts_version(own[1:])


def test_without_the_plugin_its_recipes_say_so_and_its_runs_have_no_report(plugin: Path) -> None:
    stored = Recipe.model_validate(RECIPE).model_dump(mode="json")
    run = Run(id="r", dataset="d", recipe=stored, status="finished", started_at=utc_now(), code_version="1")
    assert report_of(run, lambda query, values: [{"season": "autumn", "poems": 1}]) is not None
    sys.path.remove(str(plugin))
    METHODS._plugins, METHODS._loaded = None, {}
    with pytest.raises(ValidationError, match="haiku"):
        Recipe.stored(stored)
    assert report_of(run, lambda query, values: []) is None
