"""Recalled rows stay out of the version that the recall makes and of those that later runs publish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from test_flows_make_dataset import graft, run_json, write_recipe


def test_a_later_run_leaves_out_what_a_recalled_model_wrote(tmp_path: Path, fake_llm: Any) -> None:
    home = tmp_path / "home"
    file = write_recipe(tmp_path, fake_llm.url, rows=6)
    text = file.read_text(encoding="utf-8").replace("generator: {models: [m1]", "generator: {models: [m1, m5]")
    file.write_text(text.replace("adjudicator: {models: [m5]", "adjudicator: {models: [m2]"), encoding="utf-8")
    first = run_json(home, file)
    assert first["version"]["rows"] == 12
    shown = graft(home, "recall", "--model", "m1", "--reason", "its licence changed")
    assert shown.returncode == 0 and "shop@1" in shown.stdout, shown.stderr
    assert len(json.loads(graft(home, "datasets", "--json").stdout)) == 1  # without --yes nothing is done
    done = graft(home, "recall", "--model", "m1", "--reason", "its licence changed", "--yes")
    assert done.returncode == 0, done.stderr
    versions = json.loads(graft(home, "datasets", "--json").stdout)
    assert [one["origin"] for one in versions] == ["run", "recall"] and 0 < versions[1]["rows"] < 12
    whole = graft(home, "gate", "shop@1", "--set", "gates.min_chars=1", "--json")
    assert whole.returncode == 0 and json.loads(graft(home, "datasets", "--json").stdout) == versions
    later = run_json(home, write_again(file))
    assert later["version"]["version"] == 3 and later["run"]["status"] == "partial"
    touched = json.loads(graft(home, "trace", "--model", "m1", "shop@3", "--json").stdout)
    assert "c_" not in json.dumps(touched)
    rows = json.loads(graft(home, "show", "shop@3", "--json").stdout)["rows"]
    for row in rows[:2]:
        history = json.loads(graft(home, "explain", row["id"], "--json").stdout)
        assert history["models"]["generator"] == "m5"


def write_again(file: Path) -> Path:
    """The same recipe with one row more a label: another run."""
    file.write_text(
        file.read_text(encoding="utf-8").replace("rows_per_label: 6", "rows_per_label: 7"), encoding="utf-8"
    )
    return file
