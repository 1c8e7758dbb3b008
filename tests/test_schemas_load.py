"""Recipes from YAML: every problem at once, with line, field and fix; the recipes that ship are valid."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.cli.ops import read_overrides
from graft.schemas.errors import InputInvalid, Problem
from graft.schemas.load import PACKAGE_RECIPES, find_recipe, load_recipe, recipe_json_schema, resolve_path

GOOD = """\
name: shop
task:
  kind: classification
  labels:
    - name: refund
    - name: delivery
seeds:
  rows:
    - {text: where is my money, label: refund}
    - {text: where is my box, label: delivery}
method:
  kind: gra
  tau: 8.0
roles:
  generator:
    temperature: 0.9
limits:
  candidates: 50
"""


def problems_of(folder: Path, text: str, **overrides: object) -> list[Problem]:
    file = folder / "broken.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputInvalid) as caught:
        load_recipe(file, overrides)
    assert all(problem.file == str(file) and problem.what and problem.fix for problem in caught.value.problems)
    return caught.value.problems


BROKEN = [
    # id, text to replace, replacement, line, field, part of what, part of the fix
    ("unknown field", "temperature: 0.9", "temperatur: 0.9", 16, "roles.generator.temperatur", "unknown",
     "did you mean 'temperature'?"),
    ("unknown field lists keys", "temperature: 0.9", "zzz: 0.9", 16, "roles.generator.zzz", "unknown", "max_tokens"),
    ("wrong type", "candidates: 50", "candidates: many", 18, "limits.candidates", "a whole number", "such as 30"),
    ("missing field", "name: shop\n", "description: x\n", 1, "name", "missing", "add name"),
    ("missing in a list", "    - name: delivery", "    - description: a", 6, "task.labels.1.name", "missing", "add"),
    ("out of range", "temperature: 0.9", "temperature: 3.5", 16, "roles.generator.temperature", "out of range (3.5)",
     "at least 0 and at most 2"),
    ("no such kind", "kind: classification", "kind: clasification", 2, "task", "no kind 'clasification'",
     "did you mean 'classification'?"),
    ("kind missing", "  kind: gra\n", "", 11, "method", "method has no kind",
     "gra, harmaug, label, pipeline, promptmix"),
    ("label twice", "- name: delivery", "- name: Refund", 4, "task.labels", "occurs twice", "a unique name"),
    ("unknown model", "    temperature: 0.9", "    models: [gema]", 16, "roles.generator.models", "no model 'gema'",
     "did you mean 'gemma'?"),
    ("unknown seed label", "label: delivery}", "label: delivry}", 10, "seeds.rows.1.label", "no label 'delivry'",
     "did you mean 'delivery'?"),
    ("yaml's no", "- name: delivery", "- name: no", 6, "task.labels.1.name", "must be text", "quote the word"),
    ("duplicate key", "limits:", "method:", 17, "method", "given twice (first in line 11)", "keep one"),
    ("syntax", "  tau: 8.0", "  tau: 8.0: 9", 13, "", "not valid YAML", "colon"),
    ("tab", "  tau: 8.0", "\ttau: 8.0", 13, "", "not valid YAML", "spaces"),
    ("seeds empty", "seeds:\n  rows:\n    - {text: where is my money, label: refund}\n"
     "    - {text: where is my box, label: delivery}", "seeds: {}", 7, "seeds", "empty", "path"),
    ("seed file missing", "seeds:", "seeds:\n  path: nowhere.csv", 8, "seeds.path", "no file 'nowhere.csv'",
     "broken.yaml"),
    ("test file missing", "limits:", "student: {test: t.csv}\nlimits:", 17, "student.test", "no file", "folder has"),
    ("label without seed", "    - name: delivery", "    - name: delivery\n    - name: payment", 7, "task.labels.2",
     "'payment' has no seed", "label: payment"),
    ("list wanted", "  labels:\n    - name: refund\n    - name: delivery", "  labels: refund", 4, "task.labels",
     "must be a list", "dash"),
    ("block wanted", "  generator:\n    temperature: 0.9", "  generator: gemma", 15, "roles.generator", "a block",
     "temperature"),
    ("a range of two", "  tau: 8.0", "  few_shot: [4, 2]", 13, "method.few_shot", "least first", "[2, 4]"),
    ("splits", "limits:", "splits: {train: 0.5}\nlimits:", 17, "splits", "not 1", "add up to 1"),
    ("target label", "limits:", "target: {labels: {refnd: 3}}\nlimits:", 17, "target.labels", "no label", "'refund'"),
    ("choice", "    temperature: 0.9", "    answer: score", 16, "roles.generator.answer", "'score'", "'scores'"),
    ("slug", "name: shop", "name: My Shop", 1, "name", "characters", "lower-case"),
    ("self alias", "  tau: 8.0", "  x: &a [*a]", 13, "", "alias", ""),
]  # fmt: skip


@pytest.mark.parametrize("case", BROKEN, ids=[case[0] for case in BROKEN])
def test_a_broken_recipe_names_line_field_and_fix(
    tmp_path: Path, case: tuple[str, str, str, int, str, str, str]
) -> None:
    _, old, new, line, field, what, fix = case
    assert GOOD.count(old) >= 1
    problems = problems_of(tmp_path, GOOD.replace(old, new, 1))
    hits = [problem for problem in problems if problem.field == field]
    assert hits, problems
    assert hits[0].line == line and what in hits[0].what and fix in hits[0].fix, hits[0]


def test_good_recipe_loads(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text("\ufeff" + GOOD, encoding="utf-8")
    recipe = load_recipe(file)
    assert recipe.name == "shop" and recipe.role("generator").temperature == 0.9


def test_every_problem_is_reported_at_once_in_order_of_lines(tmp_path: Path) -> None:
    text = (
        GOOD.replace("tau: 8.0", "tau: 80")
        .replace("temperature", "temprature")
        .replace("label: refund", "labl: refund")
    )
    text = text.replace("seeds:\n", "seeds:\n  path: gone.jsonl\n") + "student: {test: gone.csv}\nsed: 3\nname: again\n"
    problems = problems_of(tmp_path, text)
    assert [problem.field for problem in problems] == [
        "seeds.path", "seeds.rows.0.labl", "method.tau", "roles.generator.temprature", "student.test", "sed", "name",
    ]  # fmt: skip
    lines = [problem.line or 0 for problem in problems]
    assert lines == sorted(lines) and all(lines)
    assert "did you mean 'seed'" in problems[5].fix


def test_a_key_is_never_repeated(tmp_path: Path) -> None:
    text = GOOD + textwrap.dedent("""\
        models:
          - name: m
            provider: openai
            model: x
            base_url: http://user:hunter2@127.0.0.1/v1
            api_key_env: sk-verysecret123
            extra: {api_key: sk-verysecret456}
        """)
    problems = problems_of(tmp_path, text)
    fields = {problem.field for problem in problems}
    assert fields == {"models.0.api_key_env", "models.0.extra.api_key", "models.0.base_url"}
    assert not any(secret in str(InputInvalid(problems)) for secret in ("verysecret", "hunter2"))


@pytest.mark.parametrize(
    ("raw", "line", "what"),
    [
        (b"", 1, "empty"),
        (b"  \n\n", 1, "empty"),
        (b"# only a comment\n", 1, "no fields"),
        (b"- a\n- b\n", 1, "not a block"),
        (b"name: a\ntask: \xff\xfe\n", 2, "UTF-8"),
        (b"name: a\nx: !!python/object:os.system {}\n", None, ""),
        (b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
            b"%c: &%c [" % (c, c) + b",".join([b"*%c" % (c - 1)] * 9) + b"]\n" for c in b"bcdefghi"), None, "alias"),
        (b"[" * 2000, None, "nested"),
    ],
)  # fmt: skip
def test_files_that_are_no_recipe(tmp_path: Path, raw: bytes, line: int | None, what: str) -> None:
    file = tmp_path / "odd.yaml"
    file.write_bytes(raw)
    with pytest.raises(InputInvalid) as caught:
        load_recipe(file)
    assert any(what in problem.what for problem in caught.value.problems)
    assert line is None or caught.value.problems[0].line == line


def test_overrides_are_laid_over_and_blamed(tmp_path: Path) -> None:
    file = tmp_path / "good.yaml"
    file.write_text(GOOD, encoding="utf-8")
    recipe = load_recipe(file, {"target.rows_per_label": 3, "seed": 7, "task.labels.0.description": "money back"})
    assert recipe.target.rows_per_label == 3 and recipe.seed == 7
    with pytest.raises(InputInvalid) as caught:
        load_recipe(file, {"limits.candidates": 0, "name.deep": 1, "target.rows": 2})
    by_field = {problem.field: problem for problem in caught.value.problems}
    assert set(by_field) == {"limits.candidates", "name.deep", "target.rows"}
    assert "override" in by_field["limits.candidates"].what and by_field["limits.candidates"].line is None


def test_find_recipe_by_path_by_name_and_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe("demo") == PACKAGE_RECIPES / "demo.yaml"
    (tmp_path / "recipes").mkdir()
    own = tmp_path / "recipes" / "demo.yml"
    own.write_text(GOOD, encoding="utf-8")
    assert find_recipe("demo") == own and find_recipe("recipes/demo.yml") == Path("recipes/demo.yml")
    for missing in ("dmeo", "nowhere/demo.yaml", "../demo"):
        with pytest.raises(InputInvalid) as caught:
            find_recipe(missing)
        assert "instructions" in caught.value.problems[0].fix
    with pytest.raises(InputInvalid, match="did you mean 'demo'"):
        load_recipe(tmp_path / "dmeo.yaml")
    assert resolve_path(own, "../x.csv") == tmp_path / "recipes" / ".." / "x.csv"


SHIPPED = sorted(PACKAGE_RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=[file.stem for file in SHIPPED])
def test_shipped_recipes_are_valid_and_fit_the_json_schema(file: Path) -> None:
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    if file.stem == "harmaug_guard":  # ships without texts: its seeds are the user's
        with pytest.raises(InputInvalid, match="guard_seeds"):
            load_recipe(file)
    else:
        assert load_recipe(file).name == file.stem
    schema = recipe_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(data, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, "sed": 1}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, "task": {**data["task"], "kind": "other"}}, schema)
    assert data["name"] == file.stem


CHOICES_WITH_OFF = (
    "gates.personal.action", "gates.secrets", "gates.language.action", "gates.repetition.action",
    "gates.learned.action", "roles.generator.cache", "method.relabel",
)  # fmt: skip


@pytest.mark.parametrize("field", CHOICES_WITH_OFF)
def test_off_needs_no_quotes(tmp_path: Path, field: str) -> None:
    file, steps = tmp_path / "off.yaml", field.split(".")
    kind = "promptmix" if field == "method.relabel" else "gra"
    file.write_text(GOOD.replace("method:\n  kind: gra\n  tau: 8.0", f"method:\n  kind: {kind}"))
    overridden = load_recipe(file, read_overrides([f"{field}=off"]))
    line = "".join(f"{'  ' * depth}{step}:\n" for depth, step in enumerate(steps)).rstrip() + " off\n"
    kept = file.read_text().replace("roles:\n  generator:\n    temperature: 0.9\n", "")
    if field == "method.relabel":
        line = kept.replace("  kind: promptmix\n", "  kind: promptmix\n  relabel: off\n")
        kept = ""
    file.write_text(kept + line)
    written: Any = load_recipe(file).model_dump(mode="json")
    given: Any = overridden.model_dump(mode="json")
    for step in steps:
        written, given = written[step], given[step]
    assert written == given == "off"


def test_the_example_in_the_docs_works(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    example = page.split("```yaml\n")[1].split("```")[0]
    file = tmp_path / "example.yaml"
    file.write_text(example, encoding="utf-8")
    assert load_recipe(file).name == "coffee-bar"


def test_a_recipe_of_each_kind_ships() -> None:
    named = {"demo", "instructions", "hosted", "promptmix", "harmaug", "harmaug_guard"}
    assert {file.stem for file in SHIPPED} >= named


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)


@settings(max_examples=60, deadline=None)
@given(
    field=st.sampled_from(["name", "task", "seeds", "method", "models", "roles", "target", "splits", "student"]),
    tree=trees,
)
def test_whatever_a_field_holds_the_answer_is_a_recipe_or_its_problems(
    tmp_path_factory: pytest.TempPathFactory, field: str, tree: object
) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    file.write_text(
        yaml.safe_dump({**yaml.safe_load(GOOD), field: tree}, allow_unicode=True), encoding="utf-8", errors="replace"
    )
    try:
        load_recipe(file)
    except InputInvalid as invalid:
        assert invalid.problems and all(problem.fix or not problem.field for problem in invalid.problems)
