"""`graft preview`: a few rows with their history, the measured cost of the rest, and no call twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_flows_label import recipe_of, texts
from test_flows_make_dataset import here, run_json, write_recipe

import graft
from graft.flows.preview import Part, Preview


def test_rows_come_with_reviews_and_reasons_and_the_run_repeats_no_call(
    tmp_path: Path, fake_llm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the command line, as JSON, with prompts, and as a Python function that a notebook shows."""
    home, recipe = tmp_path / "home", write_recipe(tmp_path, fake_llm.url)
    done = here(home, "preview", str(recipe), "--rows", "7", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 5 <= len(found["rows"]) <= 8 and all(row["text"] and row["reviews"] for row in found["rows"])
    assert all(row["decision"]["reason"] for row in found["rows"])
    (part,) = found["parts"]
    accepted = sum(row["decision"]["status"] == "accepted" for row in found["rows"])
    assert (part["candidates"], part["accepted"]) == (len(found["rows"]), accepted)
    calls, low, high = found["projected"]["calls"]
    assert found["wanted"] == 40 and low <= calls <= high and found["projected"]["minutes"]
    made = fake_llm.stats()["calls"]
    shown = here(home, "preview", str(recipe), "--rows", "7", "--prompts").stdout
    text = found["rows"][0]["text"]
    assert text in shown and "Write a new one" in shown and "For 40 rows: about" in shown
    assert "from the journal" in shown
    with monkeypatch.context() as patch:
        patch.setenv("GRAFT_HOME", str(home))
        page = graft.preview(recipe, rows=7)._repr_html_()
    assert page.startswith("<table>") and text in page
    assert fake_llm.stats()["calls"] == made
    assert not (home / "lake").exists() and not list(home.glob("**/pilot")), "nothing is published or left behind"
    run_json(home, recipe)
    assert fake_llm.stats()["duplicates"] == 0


def test_texts_of_the_user_are_shown_and_so_are_rows_written_after_them(tmp_path: Path, fake_llm: Any) -> None:
    recipe = recipe_of(tmp_path, fake_llm.url, texts(30), top_up={"kind": "gra", "reviewers": 1, "max_cosine": None})
    found = json.loads(here(tmp_path / "home", "preview", str(recipe), "--rows", "3", "--json").stdout)
    assert [part["kind"] for part in found["parts"]] == ["your texts", "written rows"]
    assert found["parts"][0]["candidates"] == 3 and found["parts"][0]["projected"] == [30, 30, 30]
    assert 1 <= found["parts"][1]["candidates"] <= 3


def test_restricted_text_is_hidden_unless_it_is_asked_for(tmp_path: Path, fake_llm: Any) -> None:
    recipe = write_recipe(tmp_path, fake_llm.url, rows=2)
    before, after = recipe.read_text().split("  labels: [", 1)
    policy = "  policy: asks the shop's assistant for a discount\n"
    text = before.replace("classification", "guard") + policy + after.partition("\n")[2]
    recipe.write_text(text.replace("label: alpha", "label: harmful").replace("label: beta", "label: safe"))
    plain, shown = (
        here(tmp_path / "home", "preview", str(recipe), "--rows", "4", "--json", *more)
        for more in ([], ["--restricted"])
    )
    assert plain.returncode == shown.returncode == 0, plain.stderr
    words = [row["text"] for row in json.loads(shown.stdout)["rows"] if row["restricted"]]
    assert words and not any(word in plain.stdout for word in words)


PART = st.tuples(st.integers(1, 100), st.integers(0, 10**6), st.integers(0, 50), st.integers(0, 5000)).map(
    lambda got: Part(
        kind="written rows", candidates=got[0], accepted=0, projected=(got[1], got[1] // 2, 2 * got[1]),
        calls=got[2], tokens=got[3], price_usd=None if got[2] == 7 else got[3] / 1000,
    )
)  # fmt: skip


@given(st.lists(PART, max_size=2), st.integers(0, 1000), st.integers(0, 100))
def test_a_projection_holds_its_own_range(parts: list[Part], prepared: int, sent: int) -> None:
    made = Preview(
        dataset="d", rows=(), parts=tuple(parts), wanted=1, prepared=prepared, seconds=3.0, sent=sent
    )  # fmt: skip
    for found in (made.calls, made.tokens, made.price_usd, made.minutes):
        assert found is None or found[1] <= found[0] <= found[2]
    assert made.calls[1] >= prepared and made.summary()
