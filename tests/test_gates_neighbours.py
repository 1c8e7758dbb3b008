"""Neighbours by an approximate index and by shingles: against brute force, whatever the order of the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from graft.data.gates.shared.near import jaccard
from graft.data.gates.shared.neighbours import clusters_of, drop, members, near_clusters, near_pairs, nearest
from graft.data.gates.shared.semantic import clusters, drop_semantic_duplicates

INDEXED: dict[str, Any] = {"exact_below": 0, "threads": 2}


def clustered(rows: int = 1_500, dimensions: int = 48, seed: int = 0) -> NDArray[np.float32]:
    """Rows around centres, four to a centre, some of them equal."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((rows // 4, dimensions))
    near = centres[draw.integers(0, len(centres), rows)] + 0.3 * draw.standard_normal((rows, dimensions))
    near[5::50] = near[0]
    return near.astype(np.float32)


VECTORS = clustered()
IDS = [f"r{place:05}" for place in range(len(VECTORS))]


def brute(vectors: NDArray[np.float32], least: float) -> set[tuple[int, int]]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    left, right = np.nonzero(unit @ unit.T >= least)
    return {(int(one), int(two)) for one, two in zip(left, right, strict=True) if one < two}


def test_the_index_finds_nearly_all_pairs_that_brute_force_finds() -> None:
    first = {VECTORS[row].tobytes(): row for row in reversed(range(len(VECTORS)))}
    copies = {row for row in range(len(VECTORS)) if first[VECTORS[row].tobytes()] != row}
    wanted = {pair for pair in brute(VECTORS, 0.9) if not copies & set(pair)}
    found = near_pairs(VECTORS, 0.9, **INDEXED)
    pairs = set(zip(found.left.tolist(), found.right.tolist(), strict=True))
    assert len(wanted) > 500 and len(copies) == 30
    assert len(pairs & wanted) >= 0.99 * len(wanted)
    assert pairs - wanted == {(0, row) for row in copies}, "a copy is a pair with its first only"
    assert float(found.cosine.min()) >= 0.9 - 1e-5 and len(found) == len(pairs)
    exact = near_pairs(VECTORS, 0.9)
    assert set(zip(exact.left.tolist(), exact.right.tolist(), strict=True)) == wanted | {(0, row) for row in copies}


@pytest.mark.parametrize("storage", ["f32", "f16", "i8"])
def test_clusters_by_the_index_are_those_of_all_pairs(storage: Any) -> None:
    wanted = clusters(IDS, VECTORS, 0.92)
    found = clusters_of(IDS, VECTORS, 0.92, storage=storage, **INDEXED)
    assert sum(found[name] == wanted[name] for name in IDS) >= 0.99 * len(IDS)
    assert len(members(found)["r00000"]) >= 30


def test_nothing_depends_on_the_order_of_the_rows() -> None:
    scores = [float(place % 7) for place in range(len(IDS))]
    order = np.random.default_rng(3).permutation(len(IDS))
    shuffled = [IDS[row] for row in order], VECTORS[order]
    assert clusters_of(*shuffled, 0.9, **INDEXED) == clusters_of(IDS, VECTORS, 0.9, **INDEXED)
    again = drop(*shuffled, [scores[row] for row in order], 0.9, **INDEXED)
    assert again == drop(IDS, VECTORS, scores, 0.9, **INDEXED)


def test_drop_keeps_the_best_and_no_two_that_are_near() -> None:
    scores = [float(place % 7) for place in range(len(IDS))]
    exact = drop_semantic_duplicates(IDS, VECTORS, scores, 0.9)
    found = drop(IDS, VECTORS, scores, 0.9, **INDEXED)
    assert drop(IDS, VECTORS, scores, 0.9) == exact
    assert len(found.keys() ^ exact.keys()) <= 0.01 * len(exact)
    place = {name: at for at, name in enumerate(IDS)}
    for name, (keeper, cosine) in found.items():
        assert keeper not in found and cosine >= 0.9 - 1e-5
        assert (-scores[place[keeper]], keeper) < (-scores[place[name]], name)
    kept = VECTORS[[place[name] for name in IDS if name not in found]]
    assert len(brute(kept, 0.9)) <= 2


def test_many_copies_and_many_near_ones_are_one_cluster_and_leave_one_row() -> None:
    draw = np.random.default_rng(1)
    centre = draw.standard_normal(16)
    vectors = np.vstack([np.tile(centre, (300, 1)), centre + 0.01 * draw.standard_normal((300, 16))]).astype(np.float32)
    ids = [f"r{place:03}" for place in range(600)]
    assert set(clusters_of(ids, vectors, 0.9, **INDEXED).values()) == {"r000"}
    found = drop(ids, vectors, [0.0] * 599 + [1.0], 0.9, **INDEXED)
    assert len(found) == 599 and "r599" not in found
    assert {keeper for keeper, _ in found.values()} == {"r599"}


def test_rows_of_zeros_are_like_no_other() -> None:
    vectors = np.zeros((4, 8), dtype=np.float32)
    vectors[3, 0] = 1
    for more in ({}, INDEXED):
        assert len(near_pairs(vectors, 0.5, **more)) == 0
        assert drop(list("abcd"), vectors, [0.0] * 4, 0.5, **more) == {}
    assert clusters_of(list("abcd"), vectors, 0.5, **INDEXED) == dict(zip("abcd", "abcd", strict=True))


def test_bad_input_is_refused() -> None:
    bad = np.full((2, 3), np.nan, dtype=np.float32)
    for more in ({}, INDEXED):
        with pytest.raises(ValueError, match="finite"):
            clusters_of(["a", "b"], bad, 0.9, **more)
        with pytest.raises(ValueError, match="finite"):
            drop(["a", "b"], bad, [0.0, 0.0], 0.9, **more)
        with pytest.raises(ValueError, match="repeat"):
            clusters_of(["a", "a"], VECTORS[:2], 0.9, **more)
        with pytest.raises(ValueError, match="shape"):
            drop(["a"], VECTORS[:2], [0.0], 0.9, **more)
        with pytest.raises(ValueError, match="scores"):
            drop(["a", "b"], VECTORS[:2], [0.0], 0.9, **more)
    assert clusters_of([], np.empty((0, 3), dtype=np.float32), 0.9) == {}


def test_nearest_gives_the_cosines_of_the_next_rows() -> None:
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    wanted = -np.sort(-cosines, axis=1)[:, :5]
    assert nearest(VECTORS, 5) == pytest.approx(wanted, abs=1e-5)
    close = nearest(VECTORS, 5, **INDEXED)
    assert (np.abs(close - wanted) < 0.01).mean() > 0.98
    assert nearest(VECTORS[:1], 5).shape == (1, 0) and nearest(VECTORS[:3], 5).shape == (3, 2)


def test_texts_that_are_near_a_third_are_one_cluster() -> None:
    words = [f"word{n}" for n in range(40)]
    texts = [" ".join(words[:30]), " ".join(words[:33]), " ".join(words[:36]), "something else entirely here",
             "Something ELSE, entirely here!", "", " "]  # fmt: skip
    assert jaccard(texts[0], texts[2]) < 0.85 < jaccard(texts[0], texts[1])
    found = near_clusters(list("gfedcba"), texts, 0.85)
    assert members(found) == {"e": ["e", "f", "g"], "c": ["c", "d"], "a": ["a", "b"]}


TEXTS = ["a b c d e f", "a b c d e f g", "x", "X.", "h i j k l m", "\x00", ""]


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.sampled_from(TEXTS), max_size=12),
       draw=st.randoms(use_true_random=False))  # fmt: skip
def test_text_clusters_do_not_depend_on_the_order(texts: list[str], draw: Any) -> None:
    rows = [(f"r{place:02}", text) for place, text in enumerate(texts)]
    mixed = draw.sample(rows, len(rows))
    found = near_clusters([name for name, _ in rows], texts, 0.8)
    assert near_clusters([name for name, _ in mixed], [text for _, text in mixed], 0.8) == found
    for name, text in rows:
        assert found[name] <= name and found[found[name]] == found[name]
        assert all(found[other] == found[name] for other, same in rows if same == text)
