"""Passages are drawn equally often, whatever the labels' targets, shards and rounds are; quotes are found as read."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.agents.methods import Drawn, Place
from graft.agents.methods.steps.passages import passage_for
from graft.schemas.documents import Document, find_quote
from graft.schemas.recipe import Recipe
from graft.schemas.tasks.classification import ClassificationTask

DOCUMENT = Document.of("a.txt", "papers/a.txt", "".join(f"Sentence {n:03}. " for n in range(100)))


def _passages(count: int):
    return [DOCUMENT.passage(14 * n, 14 * n + 13) for n in range(count)]


def _recipe(targets: dict[str, int], shard_rows: int = 500, seed: int = 1, rounds: int = 1) -> Recipe:
    task = ClassificationTask(labels=[{"name": name, "description": name} for name in targets])
    rows = [{"text": f"a seed of {name}", "label": name} for name in targets]
    return Recipe(
        name="drawn", task=task, seeds={"rows": rows}, target={"labels": targets}, seed=seed,
        limits={"shard_rows": shard_rows}, method={"kind": "gra", "rounds": rounds},
    )  # fmt: skip


@pytest.mark.parametrize("targets", [{"a": 1, "b": 1}, {"a": 30, "b": 10}, {"a": 7, "b": 0, "c": 13}])
@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_each_passage_is_used_equally_often(targets: dict[str, int], size: int) -> None:
    times = 280 // sum(targets.values())
    drawn = Drawn(_recipe(targets), {}, passages=_passages(size))
    used = Counter(
        found.id
        for label, count in targets.items()
        for index in range(count * times)
        if (found := passage_for(Place("run", 0, 0, index, label), drawn))
    )
    assert len(used) == size and max(used.values()) - min(used.values()) <= 1


@pytest.mark.parametrize("rounds", [1, 2])
def test_shards_and_rounds_share_one_order_and_labels_get_different_passages(rounds: int) -> None:
    recipe = _recipe({"a": 40, "b": 40}, shard_rows=20, rounds=rounds)
    drawn = Drawn(recipe, {}, passages=_passages(80))
    places = [
        Place("run", shard, turn, index, label)
        for turn in range(rounds) for shard in range(4 // rounds) for label in "ab" for index in range(10)
    ]  # fmt: skip
    used = Counter(passage_for(place, drawn).id for place in places)
    assert len(used) == 80 and set(used.values()) == {1}
    few = Drawn(recipe, {}, passages=_passages(2))
    by_label = {label: {passage_for(place, few).id for place in places if place.label == label} for label in "ab"}
    assert all(len(seen) == 2 for seen in by_label.values())


def test_the_order_follows_from_the_recipes_seed_alone() -> None:
    def order(seed: int, run: str, shard: int = 0) -> list[str]:
        drawn = Drawn(_recipe({"a": 40, "b": 1}, seed=seed), {}, passages=_passages(30))
        return [passage_for(Place(run, shard, 0, index, "a"), drawn).id for index in range(30)]

    assert order(1, "one") == order(1, "two") != order(2, "one")
    assert order(1, "one") != order(1, "one", shard=10_000), "a top-up begins an order of its own"
    assert passage_for(Place("one", 0, 0, 0, "a"), Drawn(_recipe({"a": 1, "b": 1}), {})) is None


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ("an  Elastic\nmodulus", "an elastic modulus"),
        ("“the ﬁbre’s strength”", "the fibre's strength"),
        ("strength — 3 GPa...", "strength - 3 GPa"),
        ("GPa.", "GPa."),
        ("gpa...", "GPa"),
        ("STRASSE", "Straße"),
        ("the elastic modulus", None),
        ("elastic mod", None),
        ("rength - 3 GPa", None),
        ("café", "café"),
        ("弹性", "弹性"),
        ("", None),
        ("…", None),
    ],
)
def test_a_quote_is_found_whatever_its_case_whitespace_and_marks(quote: str, found: str | None) -> None:
    text = "It has an elastic modulus and the fibre's strength - 3 GPa. Straße café 材料的弹性模量."
    span = find_quote(quote, text)
    assert (None if span is None else text[span.start : span.end]) == found


@given(
    st.lists(st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=8), max_size=12),
    st.integers(0, 12),
    st.integers(0, 12),
)
def test_words_of_a_text_are_found_in_it(words: list[str], start: int, end: int) -> None:
    text, piece = " ".join(words), "  ".join(words[start:end])
    span = find_quote(piece, text)
    if any(char.isalnum() for char in piece):
        assert span is not None and find_quote(text[span.start : span.end], piece) is not None
