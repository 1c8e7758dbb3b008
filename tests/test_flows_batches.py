"""Batches of texts: which come next, and when enough are labelled; vectors are made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_methods_label import SEEDS, recipe_of

from graft.agents.local import encoder
from graft.flows.batches import Selection, most_labelled, of_run
from graft.schemas.intervals import margin_of_error
from graft.schemas.rows import GivenText

ROWS = [GivenText.of(f"text at {place}", "mine.csv", place + 1) for place in range(60)]


def angle(text: str) -> float:
    """Texts lie on a quarter of a circle, apples at its beginning and bricks at its end."""
    if text.startswith("text at "):
        return np.pi / 2 * int(text.removeprefix("text at ")) / (len(ROWS) - 1)
    return np.pi / 2 if text in (SEEDS[1].text, "brick") else 0.0


def truth(texts: Sequence[GivenText]) -> list[str]:
    return ["apple" if angle(one.text) < np.pi / 4 else "brick" for one in texts]


@pytest.fixture(autouse=True)
def _circle(monkeypatch: pytest.MonkeyPatch) -> None:
    def features(texts: Sequence[str]) -> Any:
        angles = np.array([angle(text) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    monkeypatch.setattr(encoder, "features", features)


def selection_of(folder: Path, said: list[str] | None = None, **method: Any) -> Selection:
    found = of_run(recipe_of(**{"batch": 8, **method}), SEEDS, ROWS, folder, (said if said is not None else []).append)
    assert found is not None
    return found


def test_half_of_a_later_batch_is_what_the_student_is_least_sure_of(tmp_path: Path) -> None:
    chosen = selection_of(tmp_path, order="uncertain")
    first = chosen.next([])
    second = chosen.next(truth(first))
    places = [ROWS.index(one) for one in second]
    assert len(first) == len(second) == 8 and not set(first) & set(second)
    assert all(20 <= place < 40 for place in places[:4]), "the classes meet at 30"
    assert max(places[4:]) - min(places[4:]) > 20, "the others represent all texts"
    assert chosen.figures["held_out"] == 8
    chosen.next(truth([*first, *second]))
    assert chosen.figures["held_out"] == 12, "doubtful texts are not held out"


def test_a_second_start_takes_the_texts_of_the_first_whatever_their_labels_are(tmp_path: Path) -> None:
    first = selection_of(tmp_path, order="uncertain")
    begun = first.next([])
    then = first.next(truth(begun))
    again = selection_of(tmp_path, order="uncertain")
    assert again.next([]) == begun and again.next(["apple"] * 8) == then
    elsewhere = selection_of(tmp_path / "elsewhere", order="uncertain")
    assert elsewhere.next([]) == begun and elsewhere.next(truth(begun)) == then
    (tmp_path / "texts.json").write_text("{", encoding="utf-8")
    assert selection_of(tmp_path, order="uncertain").next([]) == begun


def test_labelling_ends_at_the_margin_of_error_or_with_the_texts(tmp_path: Path) -> None:
    said: list[str] = []
    chosen, done = selection_of(tmp_path / "a", said, margin_of_error=0.15, order="given"), list[GivenText]()
    while batch := chosen.next(truth(done)):
        done += batch
    assert done == ROWS[: len(done)] and chosen.enough and len(done) == 16
    assert chosen.figures["texts_left"] == 44 and "±15 are enough" in said[-1]
    assert chosen.outlook.startswith(" (±") and chosen.outlook.endswith(" points, ±15 are enough)")
    assert margin_of_error(chosen.figures["held_out_right"], chosen.figures["held_out"]) <= 0.15
    whole, done = selection_of(tmp_path / "b", margin_of_error=0.01, most=20), list[GivenText]()
    while batch := whole.next(truth(done)):
        done += batch
    assert len(done) == 20 and not whole.enough and "texts_left" not in whole.figures
    none = selection_of(tmp_path / "c", margin_of_error=0.15)
    none.next([])
    assert none.next([""] * 8) and not none.figures, "texts without a label measure nothing"


def test_batches_grow_and_their_number_is_known_before(tmp_path: Path) -> None:
    chosen, sizes, done = selection_of(tmp_path, margin_of_error=0.001, batch=2), list[int](), list[GivenText]()
    while batch := chosen.next(truth(done)):
        sizes.append(len(batch))
        done += batch
    assert sizes[:6] == [2] * 6 and sizes[-2] > 4 and sum(sizes) == 60
    source = selection_of(tmp_path / "b", margin_of_error=0.2).source
    assert most_labelled(source, 1000, 1.0) == 24 and most_labelled(source, 20, 1.0) == 20
    assert most_labelled(source, 1000, labelled=0.5) == 48
    assert most_labelled(source.model_copy(update={"uncertain": True}), 1000, 1.0) == 40
    plain = recipe_of().model_dump(mode="json")["method"]
    assert "margin_of_error" not in plain and "batch" not in plain, "recipes without them keep their run ids"
