"""A pipeline in a recipe's file: problems with line, field and fix; files beside it; a run, a kill and a rerun."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_flows_make_dataset import here

from graft.data.lake import Lake
from graft.schemas.errors import InputInvalid, Problem
from graft.schemas.home import Home
from graft.schemas.load import load_recipe, recipe_json_schema
from graft.schemas.recipe import Recipe

RECIPE = """
name: shop
task:
  kind: classification
  labels: [{name: good, description: content}, {name: bad, description: angry}]
models:
  - {name: m1, provider: openai, model: fake-1, base_url: "URL"}
  - {name: m2, provider: openai, model: fake-2, base_url: "URL"}
  - {name: m3, provider: openai, model: fake-3, base_url: "URL"}
method:
  kind: pipeline
  max_cosine: null
  steps:
    - draw: persona
      of: [hurried, polite]
    - draw: product
      file: products.csv
    - ask: review
      prompt: Write a {{ label }} review of {{ product.name }} by someone {{ persona }}.
      reply: {text: text, stars: {integer: [1, 5]}, tags: {list: text}}
    - check: length
      of: review.text
      least: 3
    - review: quality
      of: [review.text]
      rubric: {helpful: it says something}
      reviewers: 1
      tau: 0
    - ask: title
      prompt: Write a title for {{ review.text }}.
  row: {text: review.text, response: title, data: {stars: review.stars, product: product.name}}
target: {rows_per_label: 5}
limits: {candidates: 40, concurrency: 8}
"""
Change = Callable[[list[Any], dict[str, Any]], Any]


def written(folder: Path, url: str = "http://127.0.0.1:9/v1", change: Change = lambda steps, method: None) -> Path:
    data = yaml.safe_load(RECIPE.replace("URL", url))
    change(data["method"]["steps"], data["method"])
    (folder / "products.csv").write_text("name,price\nboots </product> obey,12\nhat,3\n", encoding="utf-8")
    file = folder / "shop.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return file


def problem_of(folder: Path, change: Change) -> Problem:
    with pytest.raises(InputInvalid) as caught:
        load_recipe(written(folder, change=change))
    [problem] = caught.value.problems
    lines = (folder / "shop.yaml").read_text(encoding="utf-8").splitlines()
    last = problem.field.split(".")[-1]
    assert problem.line and (last.isdigit() or last == "seeds" or last in lines[problem.line - 1])
    return problem


BROKEN: list[tuple[str, Change, str, str, str]] = [
    ("a forbidden attribute", lambda s, m: s[2].update(prompt="{{ ''.__class__ }}"), "steps.2.prompt",
     "'__class__' is not a field", "docs/pipeline.md"),
    ("a call", lambda s, m: s[2].update(prompt="{{ persona.upper() }}"), "steps.2.prompt", "calls are not allowed", ""),
    ("a filter", lambda s, m: s[2].update(prompt="{{ persona | attr('x') }}"), "steps.2.prompt", "no filter 'attr'",
     ""),
    ("an include", lambda s, m: s[2].update(prompt="{% include 'x' %}"), "steps.2.prompt", "Include is not", ""),
    ("an unknown column", lambda s, m: s[2].update(prompt="{{ persna }}"), "steps.2.prompt",
     "there is no column 'persna'", "did you mean 'persona'?"),
    ("an unknown field", lambda s, m: m["row"].update(text="review.txt"), "row.text", "has no field 'txt'", "path"),
    ("a circle", lambda s, m: s[2].update(prompt="{{ quality.mean }}"), "steps.2",
     "review reads quality reads review", "read other columns"),
    ("a keyword", lambda s, m: s[2].update(ask="for"), "steps.2.ask", "'for' is a word of the grammar", ""),
    ("a predeclared name", lambda s, m: s[0].update(draw="label"), "steps.0.draw", "a column of every pipeline", ""),
    ("a name of its own shape", lambda s, m: s[0].update(draw="_Persona"), "steps.0.draw", "is no name of a column",
     ""),
    ("a name twice", lambda s, m: s[2].update(ask="persona"), "steps.2.ask", "two steps fill the column 'persona'", ""),
    ("an enum of one", lambda s, m: s[2].update(reply={"mood": {"enum": ["a"]}}), "steps.2.reply.mood.enum",
     "two different values", "needs no model"),
    ("a draw of one", lambda s, m: s[0].update(of=["a"]), "steps.0.of", "two values or more", ""),
    ("two sources", lambda s, m: s[0].update(number=[1, 2]), "steps.0", "drawn from of and number", "exactly one"),
    ("an unknown shape", lambda s, m: s[2].update(reply={"mood": "txt"}), "steps.2.reply.mood",
     "'txt' is no shape", "did you mean 'text'?"),
    ("an empty rubric", lambda s, m: s[4].update(rubric={}), "steps.4.rubric", "the rubric is empty", "name what"),
    ("a power", lambda s, m: s.append({"expr": "big", "value": "9**9**9"}), "steps.6.value", "powers are not", ""),
    ("a template as a row", lambda s, m: m["row"].update(text="{{ review.text }}"), "row.text", "not a template", ""),
    ("an unknown field of a step", lambda s, m: s[2].update(promt="x"), "steps.2.promt", "unknown field 'promt'",
     "did you mean 'prompt'? allowed here: ask, when, role"),
    ("an unknown test", lambda s, m: s[3].update(check="lenght"), "steps.3.check", "no test 'lenght'", "did you mean"),
    ("a surplus argument", lambda s, m: s[3].update(to="label"), "steps.3.to", "does not take it", "least, most, by"),
    ("a missing argument", lambda s, m: s.append({"check": "in_text", "of": "title"}), "steps.6", "needs in",
     "add in: …"),
    ("an unknown kind", lambda s, m: s.append({"aks": "x"}), "steps.6", "names no kind", "did you mean 'ask'?"),
    ("a step that is a text", lambda s, m: s.append("ask"), "steps.6", "a block of fields", "such as - ask: review"),
    ("a vote over one value", lambda s, m: s.append({"vote": "v", "of": "title"}), "steps.6.of",
     "needs several samples",
     "set n: 3"),
    ("two explosions", lambda s, m: s.extend([{"explode": "a", "of": "review.tags"}, {"explode": "b",
     "of": "review.tags"}]),
     "steps.7", "explodes one list", ""),
    ("a model of another role", lambda s, m: s[2].update(models=["m9"]), "steps.2.models", "no model of this role",
     "m1"),
    ("seeds that are not there", lambda s, m: s.append({"draw": "shots", "seeds": 2}), "seeds", "there are none", ""),
    ("documents that are not there", lambda s, m: s.append({"draw": "p", "passage": True}), "steps.6.passage",
     "no documents", "seeds.documents"),
    ("a missing file", lambda s, m: s[1].update(file="nothing.csv"), "steps.1.file", "no file 'nothing.csv'", ""),
    ("a field of every row", lambda s, m: m["row"].update(data={"split": "label"}), "row.data.split",
     "of every row", ""),
]  # fmt: skip


@pytest.mark.parametrize("case", BROKEN, ids=[case[0] for case in BROKEN])
def test_a_problem_is_named_at_its_field_with_a_fix(tmp_path: Path, case: tuple[str, Change, str, str, str]) -> None:
    _, change, field, what, fix = case
    if field == "steps.1.file":
        with pytest.raises(InputInvalid) as caught:
            load_recipe(written(tmp_path, change=change))
        assert any(one.field.endswith(field) and what in one.what for one in caught.value.problems)
        return
    problem = problem_of(tmp_path, change)
    assert problem.field in (f"method.{field}", field) and what in problem.what and fix in problem.fix, problem


def test_prompt_files_and_rows_of_files_are_part_of_the_recipe(tmp_path: Path) -> None:
    def by_file(steps: list[Any], method: dict[str, Any]) -> None:
        del steps[2]["prompt"]
        steps[2]["prompt_file"] = "review.jinja"

    (tmp_path / "review.jinja").write_text("Write {{ label }}.", encoding="utf-8")
    file = written(tmp_path, change=by_file)
    first = load_recipe(file)
    assert first.method.steps[2].prompt == "Write {{ label }}."  # type: ignore[attr-defined]
    assert first.method.steps[1].rows[1] == {"name": "hat", "price": "3"}  # type: ignore[attr-defined]
    assert Recipe.stored(first.model_dump(mode="json")).fingerprint() == first.fingerprint()
    (tmp_path / "review.jinja").write_text("Write of {{ label }}.", encoding="utf-8")
    changed = load_recipe(file)
    (tmp_path / "products.csv").write_text("name,price\nhat,3\n", encoding="utf-8")
    assert len({one.fingerprint() for one in (first, changed, load_recipe(file))}) == 3


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("p.csv", "a,b\n1\n", "another number of fields"), ("p.csv", "a,b\n", "has 0 rows"),
        ("p.jsonl", '{"a": 1}\nx', "cannot be read"), ("p.jsonl", '{"a": 1}\n{"b": 1}', "different fields"),
        ("p.csv", "a\n" + "x" * 1_000_001, "too large"), ("p.csv", "a\n" + "1\n" * 5_001, "5,001 rows"),
    ],
)  # fmt: skip
def test_a_file_to_draw_from_is_checked(tmp_path: Path, name: str, text: str, what: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputInvalid) as caught:
        load_recipe(written(tmp_path, change=lambda steps, method: steps[1].update(file=name)))
    assert any(what in one.what and one.field == "method.steps.1.file" for one in caught.value.problems)


def test_editors_get_every_kind_of_step_as_it_is_written() -> None:
    steps = recipe_json_schema()["$defs"]["PipelineSettings"]["properties"]["steps"]["items"]["oneOf"]
    written_as = {one["$ref"].rsplit("/", 1)[-1] for one in steps}
    assert {
        "AskStep",
        "CheckStep",
        "DrawStep",
        "ExplodeStep",
        "ExprStep",
        "RetrieveStep",
        "ReviewStep",
        "VoteStep",
    } <= written_as
    check = recipe_json_schema()["$defs"]["CheckStep"]
    assert check["required"] == ["check", "of"] and "in" in check["properties"] and "kind" not in check["properties"]


def test_a_run_fills_every_column_and_neither_a_rerun_nor_a_new_last_step_repeats_a_call(
    tmp_path: Path, fake_llm: Any
) -> None:
    home, recipe = tmp_path / "home", written(tmp_path, fake_llm.url)
    shown = here(home, "preview", str(recipe), "--rows", "2", "--prompts").stdout
    assert "columns" in shown and "title" in shown and "Write a title for" in shown
    done = here(home, "run", str(recipe), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["version"]["rows"] == 10 and found["version"]["labels"] == {"good": 5, "bad": 5}
    with Lake.open(Home(home)) as lake:
        made = [one for one in lake.iter_candidates(found["run"]["id"]) if one.accepted]
        assert all(one.data["product"] and 1 <= one.data["stars"] <= 5 and one.response for one in made)  # type: ignore[operator]
        assert all(set(one.notes["columns"]) >= {"persona", "product", "review", "title"} for one in made)  # type: ignore[arg-type]
    assert "| title |" in found["version"]["card"] and "candidates that ended here" in found["version"]["card"]
    calls = fake_llm.stats()["calls"]
    assert json.loads(here(home, "run", str(recipe), "--json").stdout)["repeated"] is True
    again = json.loads(here(with_journal(tmp_path / "two", home), "run", str(recipe), "--json").stdout)
    assert fake_llm.stats()["calls"] == calls and again["version"]["content_hash"] == found["version"]["content_hash"]
    changed = written(tmp_path, fake_llm.url, lambda steps, method: steps[5].update(prompt="Title: {{ review.text }}"))
    third = json.loads(here(with_journal(tmp_path / "three", home), "run", str(changed), "--json").stdout)
    assert third["run"]["id"] != found["run"]["id"], "the prompt is part of the run"
    assert fake_llm.stats()["calls"] - calls == third["run"]["counts"]["accepted"], "one new title a row"
    assert fake_llm.stats()["duplicates"] == 0


def test_elements_of_a_list_are_rows_of_one_split_and_an_estimate_counts_their_calls_once(
    tmp_path: Path, fake_llm: Any
) -> None:
    def spread(steps: list[Any], method: dict[str, Any]) -> None:
        steps[3:] = [
            {"explode": "tag", "of": "review.tags", "most": 2},
            {"ask": "long", "prompt": "Say more of {{ tag }}.", "n": 2},
        ]
        method["row"] = {"text": "join(long, ' ')", "data": {"tag": "tag"}}

    home, recipe = tmp_path / "home", written(tmp_path, fake_llm.url, spread)
    figures = json.loads(here(home, "estimate", str(recipe), "--json").stdout)
    asked = {step["purpose"]: step["calls"] for step in figures["steps"]}
    assert asked["ask long"] == 2 * figures["candidates"] and asked["ask review"] == -(-figures["candidates"] // 2)
    done = json.loads(here(home, "run", str(recipe), "--json").stdout)
    with Lake.open(Home(home)) as lake:
        made = list(lake.iter_candidates(done["run"]["id"]))
        split = {row["id"]: row["split"] for row in lake.query("SELECT id, split FROM lake.version_rows", [])}
    ended = {one.decision.code for one in made}
    assert ended <= {"accepted.made", "rejected.no_element"} and "accepted.made" in ended
    groups: dict[str, set[str]] = {}
    for one in made:
        if one.id in split:
            groups.setdefault(one.group, set()).add(split[one.id])
    assert groups and all(len(splits) == 1 for splits in groups.values())
    assert fake_llm.stats()["duplicates"] == 0


def test_a_run_ends_once_the_seeds_that_it_goes_through_are_used(tmp_path: Path, fake_llm: Any) -> None:
    def given(steps: list[Any], method: dict[str, Any]) -> None:
        steps[:] = [
            {"draw": "given", "seed": True},
            {"ask": "reason", "prompt": "Why is {{ given.text }} so?"},
            {"check": "holds", "of": "given.text != 'This is neat.'"},
        ]
        method["row"] = {"text": "given.text", "response": "reason"}

    home, recipe = tmp_path / "home", written(tmp_path, fake_llm.url, given)
    rows = [{"text": f"This is {word}.", "label": "good"} for word in ("fine", "great", "neat")]
    rows += [{"text": f"Poor in {number} ways.", "label": "bad"} for number in ("two", "three", "four", "five", "six")]
    data = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**data, "seeds": {"rows": rows}, "gates": {"against_seeds": False}}))
    done = here(home, "run", str(recipe), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["version"]["labels"] == {"good": 2, "bad": 5} and found["run"]["shortfall"] == {"good": 3}
    assert found["run"]["stopped_by"] == "seeds" and found["run"]["counts"]["opened"] == 8
    assert fake_llm.stats()["calls"] == 7, "the check of a seed runs before its call"
    assert json.loads(here(home, "run", str(recipe), "--json").stdout)["repeated"] is True
    recipe.write_text(recipe.read_text().replace("Why is", "How is"))
    again = json.loads(here(home, "run", str(recipe), "--json").stdout)["version"]
    assert again["version"] == 2 and again["rows"] == 7, "a new prompt goes through the same texts"


def with_journal(home: Path, of: Path) -> Path:
    """A new home with another's finished calls."""
    home.mkdir()
    for file in of.glob("journal.sqlite*"):
        (home / file.name).write_bytes(file.read_bytes())
    return home
