"""The command line's face: quick help, exit codes, errors without tracebacks."""

from __future__ import annotations

import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_llm import Serving
from filelock import FileLock
from test_flows_make_dataset import here

from graft.data.lake import Lake
from graft.data.versions import publish
from graft.flows.clean import clean
from graft.schemas.base import utc_now
from graft.schemas.datasets import Row, Run
from graft.schemas.errors import AlreadyRunning
from graft.schemas.home import Home
from graft.schemas.models import ModelSpec, Price

ROOT = Path(__file__).resolve().parent.parent
VERBS = ("init", "prompts", "validate", "schema", "estimate", "run", "status", "datasets", "show", "explain", "export",
         "train", "up", "dashboard", "map", "models", "report", "review", "resume", "students", "compare",
         "down", "schedule", "batches", "doctor", "journal", "export-student", "predict")  # fmt: skip


def graft(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "graft", *words], cwd=ROOT, text=True, capture_output=True, timeout=120, check=False,
        env={**os.environ, "GRAFT_HOME": str(tmp_path / "home"), "NO_COLOR": "1", "COLUMNS": "160"},
    )  # fmt: skip


def test_help_is_there_in_half_a_second(tmp_path: Path) -> None:
    """By the CPU time that it takes, so that a machine with other work does not decide."""
    times = []
    for _ in range(5):
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = graft(tmp_path, "--help")
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime)
        assert done.returncode == 0
    assert all(f" {verb} " in done.stdout for verb in VERBS)
    assert min(times) < 0.5, f"median {statistics.median(times):.2f} s"


IMPORTED = """
import json, sys
from graft.cli.app import main
HEAVY = {"numpy", "pandas", "pyarrow", "prefect", "litellm", "aiohttp", "httpx", "jinja2", "onnxruntime", "torch"}
try:
    main()
finally:
    sys.stderr.write(json.dumps(sorted(HEAVY & sys.modules.keys())))
"""


@pytest.mark.parametrize(
    "words",
    ["status", "datasets", "show d", "show d --rejected", "explain c_row_1", "tag d", "trace", "status --json",
     "datasets --json"],
)  # fmt: skip
def test_a_verb_that_reads_imports_no_heavy_library(tmp_path: Path, words: str) -> None:
    """Numpy, Arrow and pandas take half a second, and two thirds of the memory."""
    home = Home(tmp_path / "home")
    run = Run(id="r", dataset="d", recipe={}, status="finished", started_at=utc_now(), code_version="1", price_usd=None)
    rows = [Row(id=f"c_row_{n}", text=f"text {n}", label="a", split="train") for n in range(5)]
    with Lake.open(home) as lake:
        lake.save_run(run)
        publish(lake, run=run, rows=rows, models={}, seeds=0, card="# card")
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *words.split()], cwd=ROOT, text=True, capture_output=True, timeout=120,
        check=False, env={**os.environ, "GRAFT_HOME": str(home.root), "COLUMNS": "160"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "[]")
    assert "d" in done.stdout


def test_every_verb_has_an_example_in_its_help(tmp_path: Path) -> None:
    for verb in VERBS:
        done = here(tmp_path, verb, "--help")
        assert f"graft {verb}" in done.stdout, verb
        assert "Example" in done.stdout, verb


def test_earlier_names_of_verbs_still_work_and_are_not_shown(tmp_path: Path) -> None:
    shown = here(tmp_path, "--help").stdout
    for old, new in (("gate", "rescreen"), ("go-on", "resume")):
        assert f"│ {new} " in shown and f"│ {old} " not in shown
        assert f"graft {new}" in here(tmp_path, old, "--help").stdout


def test_the_shipped_recipes_are_valid(tmp_path: Path) -> None:
    for recipe in sorted((ROOT / "recipes").glob("*.yaml")):
        done = here(tmp_path, "validate", str(recipe), "--json")
        if recipe.stem == "harmaug_guard":  # ships without texts: the seeds are all that it lacks
            assert [problem["field"] for problem in json.loads(done.stdout)["problems"]] == ["seeds.path"]
            continue
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["valid"] is True


@pytest.mark.parametrize("recipe", ["topics", "promptmix", "harmaug"])
def test_a_shipped_recipe_can_be_estimated(tmp_path: Path, recipe: str) -> None:
    figures = json.loads(here(tmp_path, "estimate", recipe, "--json").stdout)
    assert figures["price_usd"] == 0
    assert figures["calls"] > figures["candidates"] >= figures["rows"] > 0
    assert {step["purpose"] for step in figures["steps"]} >= {"generate", "calibrate"}


def test_a_hosted_model_is_estimated_at_its_listed_price(tmp_path: Path) -> None:
    figures = json.loads(here(tmp_path, "estimate", "hosted", "--json").stdout)
    assert figures["price_usd"] > 0 and all(step["price_usd"] is not None for step in figures["steps"])


def test_a_broken_recipe_shows_every_problem_with_line_field_and_fix(tmp_path: Path) -> None:
    recipe = tmp_path / "broken.yaml"
    recipe.write_text(
        "name: Broken Name\ntask: {kind: classification, labels: [{name: a}, {name: A}]}\n"
        "seeds: {path: none.csv}\nroles: {generator: {temprature: 1}}\n"
    )
    done = graft(tmp_path, "validate", str(recipe))
    assert done.returncode == 2
    for part in ("broken.yaml:1", "name", "broken.yaml:4", "temprature", "did you mean 'temperature'", "fix:"):
        assert part in done.stderr
    problems = json.loads(here(tmp_path, "validate", str(recipe), "--json").stdout)["problems"]
    assert {problem["line"] for problem in problems} >= {1, 4}


def test_a_missing_name_is_reported_with_the_available_ones(tmp_path: Path) -> None:
    done = graft(tmp_path, "show", "nothing-of-the-kind")
    assert done.returncode == 8
    assert "nothing-of-the-kind" in done.stderr
    assert "Traceback" not in done.stderr
    assert graft(tmp_path, "datasets").returncode == 0


def test_the_doctor_names_packages_device_and_disk(tmp_path: Path) -> None:
    found = {row["what"]: row for row in json.loads(graft(tmp_path, "doctor", "--json").stdout)}
    assert found["duckdb"]["state"] == "ok"
    assert {"disk", "device", "lake", "prefect"} <= found.keys()


def test_a_model_that_its_server_does_not_have_is_found_before_a_run(tmp_path: Path, fake_llm: Serving) -> None:
    labels, seeds = [{"name": "a"}, {"name": "b"}], [{"text": "one", "label": "a"}, {"text": "two", "label": "b"}]
    file = tmp_path / "t.json"

    def write(hosted: str, embedded: str) -> None:
        models = [
            {"name": "m", "provider": "openai", "model": hosted, "base_url": fake_llm.url},
            {"name": "n", "provider": "embedded", "model": embedded},
        ]
        task = {"kind": "classification", "labels": labels}
        file.write_text(json.dumps({"name": "t", "task": task, "seeds": {"rows": seeds}, "models": models}))

    write("fake", "gemma-3-270m")
    assert graft(tmp_path, "validate", str(file), "--online").returncode == 0
    write("gpt-none", "gemma-4")
    assert graft(tmp_path, "validate", str(file)).returncode == 0
    checked = graft(tmp_path, "validate", str(file), "--online")
    text = " ".join(checked.stderr.split())
    assert checked.returncode == 3 and f"{fake_llm.url} has no model 'gpt-none'; it has: fake" in text
    assert "'gemma-4' is neither a built-in model nor a file" in text
    found = {row["what"]: row for row in json.loads(graft(tmp_path, "doctor", str(file), "--json").stdout)}
    assert found["model m"]["state"] == found["model n"]["state"] == "problem"


def test_the_doctor_offers_the_servers_of_other_programs_on_this_machine(
    tmp_path: Path, fake_llm: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", fake_llm.url.removeprefix("http://").removesuffix("/v1"))
    found = {row["what"]: row for row in json.loads(graft(tmp_path, "doctor", "--json").stdout)}
    (line,) = yaml.safe_load(found[f"Ollama at {fake_llm.url}"]["detail"].partition(": ")[2])
    model = ModelSpec.model_validate(line)
    assert (model.model, model.base_url, model.price) == ("fake", fake_llm.url, Price(input=0, output=0))


SUGGESTION = re.compile(r"graft ((?:journal |recipes |prompts )?[a-z][a-z-]*)((?: (?!graft)[^\n\"`'<>]*)?)")


def test_every_command_that_a_message_or_page_suggests_exists_with_its_options() -> None:
    import typer

    from graft.cli.app import app

    group = typer.main.get_command(app)
    wrong, checked = [], 0
    for room in ("cli", "data", "flows", "students", "schemas", "agents", "dashboard"):
        for file in (*(ROOT / room).rglob("*.py"), *(ROOT / room).rglob("*.jinja")):
            for verb, rest in SUGGESTION.findall(file.read_text(encoding="utf-8")):
                command: Any = group
                for word in verb.split():
                    command = command.commands.get(word) if hasattr(command, "commands") else None
                options = re.findall(r"(?<=\s)--[a-z-]+", re.split(r"[(;]|, or |: ", rest)[0])
                if command is None or not options:
                    wrong += [f"{file.name}: graft {verb}{rest}"] if command is None and options else []
                    continue
                checked += 1
                known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
                if not known.issuperset(options) and not command.context_settings.get("ignore_unknown_options"):
                    wrong.append(f"{file.name}: graft {verb}{rest}")
    assert wrong == [] and checked > 40


def test_the_home_in_use_is_named_with_the_reason(tmp_path: Path) -> None:
    assert f"home: {tmp_path / 'home'} (GRAFT_HOME names it)" in graft(tmp_path, "status").stdout


def test_clean_lists_without_touching_and_waits_for_a_run(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    left, kept = home.students / "st_1.partial" / "checkpoint.pt", home.students / "st_1" / "head.safetensors"
    for file, age in ((left, 2), (kept, 90), (home.root / "journal.sqlite", 90), (home.run("r1") / "lock", 0)):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"0" * 3000)
        for path in (file, file.parent):
            os.utime(path, (time.time() - age * 86_400,) * 2)
    listed = graft(tmp_path, "clean")
    assert "st_1.partial" in listed.stdout and "checkpoint of a training" in listed.stdout and left.is_file()
    with FileLock(home.run("r1") / "lock"):
        with pytest.raises(AlreadyRunning, match="run r1 is running"):
            clean(home, yes=True)
        assert left.is_file()
    assert (
        clean(home, yes=True).freed == 3000
        and not left.exists()
        and kept.is_file()
        and (home.root / "journal.sqlite").is_file()
    )
