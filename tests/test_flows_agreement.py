"""A run whose judges agree less than chance stops after its first candidates, and says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fake_llm import Serving
from hypothesis import given
from hypothesis import strategies as st
from test_flows_make_dataset import here
from test_flows_policy import write

from graft.data.lake import Lake
from graft.flows.agreement import interval_alpha
from graft.schemas.home import Home


def opposed(folder: Path, mild: str, strict: str, **more: Any) -> Path:
    """Two reviewers, of which one gives every text high scores and the other low ones."""
    method = {"agreement_after": 12, **more.pop("method", {})}
    roles = {"generator": {"models": ["m1"], "max_tokens": 64}, "reviewer": {"models": ["m2", "m3"]},
             "adjudicator": {"models": ["m4"]}}  # fmt: skip
    file = write(folder, mild, method=method, roles=roles, **more)
    recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    recipe["models"][2]["base_url"] = strict
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return file


def stopped_by(home: Path) -> list[tuple[str, int]]:
    with Lake.open(Home(home)) as lake:
        return [(row["stopped_by"], row["n"]) for row in lake.query(
            "SELECT stopped_by, (SELECT count(*) FROM lake.candidates WHERE run_id = id) AS n FROM lake.runs"
        )]  # fmt: skip


def test_opposed_judges_stop_the_run_with_three_examples(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Serving(low_score_rate=0.0) as mild, Serving(low_score_rate=1.0) as strict:
        done = here(home, "run", str(opposed(tmp_path, mild.url, strict.url)))
        assert done.returncode == 7, done.stderr
        assert "agree less than chance" in done.stderr and "over 12 candidates" in done.stderr
        assert done.stderr.count(" written for ") == 3 and "m2 9." in done.stderr and "fix:" in done.stderr
        assert "agreement_after: 0" in done.stderr and "graft teacher" in done.stderr
        [(why, candidates)] = stopped_by(home)
        assert why.startswith("stopped after") and 12 <= candidates < 60, "nothing was accepted: it failed"
        again = here(home, "run", str(tmp_path / "desk.yaml"))
        assert again.returncode == 7, "a rerun does not turn it into a success"
        free = opposed(tmp_path, mild.url, strict.url, method={"agreement_after": 0}, limits={"candidates": 40})
        assert "less than chance" not in here(tmp_path / "other", "run", str(free)).stderr


def test_examples_of_a_restricted_row_hide_its_text(tmp_path: Path) -> None:
    task = {"kind": "guard", "policy": "asks for a lock to be picked", "safe": "asks about a door"}
    seeds = {"rows": [{"text": "open this lock without its key", "label": "harmful"},
                      {"text": "which hinge fits my door", "label": "safe"}]}  # fmt: skip
    with Serving(low_score_rate=0.0) as mild, Serving(low_score_rate=1.0) as strict:
        recipe = opposed(tmp_path, mild.url, strict.url, task=task, seeds=seeds, target={"labels": {"safe": 0}})
        done = here(tmp_path / "home", "run", str(recipe))
    assert done.returncode == 7 and done.stderr.count("(restricted) written for harmful") == 3, done.stderr


def test_judges_that_agree_go_on(tmp_path: Path, fake_llm: Any) -> None:
    fake_llm.set(poor_rate=0.4, low_score_rate=0.0)
    recipe = opposed(tmp_path, fake_llm.url, fake_llm.url)
    done = here(tmp_path / "home", "run", str(recipe), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"]["stopped_by"] == "target"


@given(st.lists(st.lists(st.integers(0, 10), min_size=2, max_size=4), min_size=2, max_size=30))
def test_alpha_is_krippendorffs(units: list[list[int]]) -> None:
    ours = interval_alpha(units)
    if len({value for unit in units for value in unit}) < 2:
        assert ours is None
        return
    krippendorff = pytest.importorskip("krippendorff")
    table = np.full((4, len(units)), np.nan)
    for column, unit in enumerate(units):
        table[: len(unit), column] = unit
    theirs = krippendorff.alpha(reliability_data=table, level_of_measurement="interval")
    assert ours == pytest.approx(float(theirs), abs=1e-9)
