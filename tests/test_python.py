"""The package's functions: recipes in Python, the command line's messages, a running loop, short reprs, notebooks."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_llm import Serving
from test_flows_make_dataset import write_recipe
from test_schemas_load import SHIPPED

import graft
from graft.data.lake import Lake
from graft.flows.plan import read_recipe, run_id_of
from graft.schemas.errors import GraftError, InputInvalid, NotFound
from graft.schemas.home import Home
from graft.schemas.load import load_recipe
from graft.schemas.shown import Shown

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
BAD = {"name": "Bad Name", "task": {"kind": "classification", "labels": [{"name": "a"}, {"name": "A"}]},
       "roles": {"generater": {}}, "limits": {"candidates": "many"}}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    yield Home(tmp_path / "home")


def test_importing_graft_imports_nothing_heavy_and_knows_its_version() -> None:
    code = "import sys, graft; assert graft.__version__; print({'pydantic', 'numpy', 'yaml'} & set(sys.modules))"
    light = code.replace("assert graft.__version__; ", "")
    done = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()" and graft.__version__
    assert all(getattr(graft, name) for name in graft.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'rum'"):
        _ = graft.rum


@pytest.mark.parametrize("file", [one for one in SHIPPED if one.stem != "harmaug_guard"], ids=lambda file: file.stem)
def test_a_recipe_in_python_is_the_same_run_as_its_file(file: Path, home: Home) -> None:
    _, recipe, seeds = read_recipe(str(file))
    built = graft.validate(file)
    assert built.folder == file.resolve().parent and built.model_dump() == recipe.model_dump()
    _, again, same = read_recipe(graft._named(built))
    assert run_id_of(again, same) == run_id_of(recipe, seeds)


def test_problems_read_as_on_the_command_line(home: Home, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(BAD, sort_keys=False), encoding="utf-8")
    with pytest.raises(InputInvalid) as of_file:
        load_recipe("bad.yaml")
    with pytest.raises(InputInvalid) as of_dict:
        graft.validate(BAD)
    said = [{(one.field, one.what, one.fix) for one in found.value.problems} for found in (of_file, of_dict)]
    assert said[0] == said[1] and len(said[0]) >= 4
    assert all(one.line is None and one.file.startswith("(recipe ") for one in of_dict.value.problems)


@pytest.mark.parametrize("wrong", [{"name": object()}, {"name": {1, 2}}, 5, [1], None, {1: 2}])
def test_what_is_no_recipe_is_refused(wrong: Any, home: Home) -> None:
    with pytest.raises(InputInvalid):
        graft.validate(wrong)


def test_a_recipe_of_pydantic_values_is_one_too(home: Home, fake_llm: Serving) -> None:
    data = yaml.safe_load(write_recipe(Path(), fake_llm.url, rows=3).read_text(encoding="utf-8"))
    parts = {**data, "target": graft.Target(rows_per_label=3), "limits": graft.Limits(candidates=90)}
    recipe = graft.Recipe(**parts)
    found = [graft.estimate(one) for one in (parts, recipe, graft.validate(parts))]
    assert found[0] == found[1] == found[2]
    assert repr(graft.estimate(recipe)).startswith("Estimate(dataset='shop', rows=6, candidates=")


async def test_the_whole_way_in_a_running_loop(home: Home, fake_llm: Serving) -> None:
    recipe = yaml.safe_load(write_recipe(Path(), fake_llm.url, rows=4).read_text(encoding="utf-8"))
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    seen = await graft.apreview(recipe, rows=2)
    made = await graft.arun(recipe)
    ticking.cancel()
    assert ticks > 3, "the loop is free meanwhile"
    run, version = made
    assert version is not None and version.rows >= 8 and run.status == "finished"
    calls = fake_llm.stats()["calls"]
    assert graft.run(graft.Recipe(**recipe)).version == version and fake_llm.stats()["calls"] == calls
    frame = graft.load("shop")
    history = graft.explain(next(one for one in frame.id if one.startswith("c_")))
    values: list[Any] = [seen, run, version, history, graft.review("shop", rule="random"),
                         graft.estimate(recipe)]  # fmt: skip
    for value in values:
        page = value._repr_html_()
        assert (
            len(repr(value)) < 700 and "\n" not in repr(value) and page.count("<table>") == page.count("</table>") > 0
        )
    assert isinstance(version, Shown) and "ref" in version._repr_html_()
    assert repr(version).startswith("DatasetVersion(ref='shop@1', rows=") and made._repr_html_().count("<table>") == 2
    assert history["decision"]["status"] == "accepted" and json.loads(json.dumps(history))["id"] == history["id"]


async def test_a_cancelled_run_keeps_its_work_and_the_next_continues(home: Home) -> None:
    with Serving(median_ms=60) as slow:
        recipe = yaml.safe_load(write_recipe(Path(), slow.url, rows=60).read_text(encoding="utf-8"))
        work = asyncio.create_task(graft.arun(recipe))
        while slow.stats()["calls"] < 60:  # noqa: ASYNC110 - the server is no part of this loop
            await asyncio.sleep(0.05)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        with Lake.open(home, read_only=True) as lake:
            assert lake.runs()[0].status == "interrupted"
        _, version = await graft.arun(recipe, rows_per_label=20)
        assert version is not None and slow.stats()["duplicates"] == 0


@pytest.mark.parametrize(
    "call",
    [lambda: graft.predict("nobody", ["a"]), lambda: graft.compare("st_a", "st_b"), lambda: graft.load("nothing"),
     lambda: graft.review("nothing"), lambda: graft.run("no-such-recipe"), lambda: graft.explain("c_none"),
     lambda: graft.label("none.csv", ["a", "b"]), lambda: graft.label("none.csv")],
)  # fmt: skip
def test_errors_are_those_of_the_command_line(home: Home, call: Any) -> None:
    with Lake.open(home):
        pass
    with pytest.raises(GraftError) as caught:
        call()
    assert isinstance(caught.value, InputInvalid | NotFound) and caught.value._render_traceback_()[0].startswith(
        "error"
    )


def test_the_awaitable_functions_have_the_signatures_of_the_others() -> None:
    for name in ("run", "preview", "label", "teacher", "improve", "train"):
        plain, awaitable = getattr(graft, name), getattr(graft, f"a{name}")
        assert inspect.signature(plain) == inspect.signature(awaitable) and asyncio.iscoroutinefunction(awaitable)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
async def test_the_notebooks_run_as_they_are(file: Path, home: Home, fake_llm: Serving) -> None:
    """Their cells in order inside a running loop, as a kernel runs them; only their parameters are others."""
    names: dict[str, Any] = {}
    for cell in _cells(file):
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == [], "notebooks are committed without outputs"
        shown = await _cell("".join(cell["source"]), names)
        assert shown is None or repr(shown)
        if "parameters" in cell["metadata"].get("tags", ()):
            fake = {"name": "m", "provider": "openai", "model": "fake-1", "base_url": fake_llm.url}
            names |= {"models": [fake], "model": f"fake-1@{fake_llm.url}", "rows": 3}
            names |= {"settings": {"calibration_texts": 4, "adjudicate": False}} if "settings" in names else {}
    assert fake_llm.stats()["duplicates"] == 0 and len(graft.datasets()) == 1


def _cells(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["cells"]
    return found


async def _cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; returns the value of its last line, if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    if last is not None:
        tree.body.append(ast.Assign([ast.Name("_shown", ast.Store())], last.value))
    code = compile(ast.fix_missing_locations(tree), "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names["_shown"] = None
    made = eval(code, names)
    if inspect.iscoroutine(made):
        await made
    return names["_shown"]
