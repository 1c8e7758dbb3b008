"""Learned gates: planted label errors, outliers and unsure rows are found from out-of-fold probabilities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from graft.data.gates.learned import label_errors, low_margin, outliers
from graft.students import folds as folds_module
from graft.students.folds import out_of_fold

NAMES = ("card", "loan", "refund")


def planted(rows: int = 240, seed: int = 0) -> tuple[list[str], NDArray[np.float32], list[str], set[str]]:
    """Three distinct classes; the last five rows of each hold the next class's label."""
    draw = np.random.default_rng(seed)
    classes = np.arange(rows) % 3
    vectors = np.eye(3, 12)[classes] + 0.15 * draw.standard_normal((rows, 12))
    labels = [NAMES[one] for one in classes]
    wrong = set(range(rows - 15, rows))
    for row in wrong:
        labels[row] = NAMES[(int(classes[row]) + 1) % 3]
    return [f"r{row:03}" for row in range(rows)], vectors.astype(np.float32), labels, {f"r{row:03}" for row in wrong}


def test_planted_label_errors_are_found_with_the_likelier_label() -> None:
    ids, vectors, labels, wrong = planted()
    judged = out_of_fold(vectors, labels, 5, 1)
    assert judged.notes == () and judged.names == NAMES and len(judged.rows) == len(ids)
    assert judged.probabilities.sum(axis=1) == pytest.approx(np.ones(len(ids)))
    found = label_errors(ids, labels, judged.names, judged.probabilities)
    hits = {error.row_id for error in found}
    assert len(hits & wrong) >= 14 and len(hits - wrong) <= 2
    for error in found:
        assert error.share > error.given_share and error.given == labels[ids.index(error.row_id)]
        assert error.result().rule == "label_error" and not error.result().passed
        if error.row_id in wrong:
            assert NAMES.index(error.likely) == (NAMES.index(error.given) - 1) % 3
    gaps = [error.given_share - error.share for error in found]
    assert gaps == sorted(gaps)


def test_a_row_never_judges_itself() -> None:
    """Labels drawn by lot cannot be foretold: a classifier that had seen the rows would know them by heart."""
    draw = np.random.default_rng(2)
    vectors, labels = draw.standard_normal((90, 120)), list(draw.choice(["a", "b"], 90))
    judged = out_of_fold(vectors, labels, 5, 0)
    right = [
        judged.names[row.argmax()] == labels[at] for at, row in zip(judged.rows, judged.probabilities, strict=True)
    ]
    assert 0.25 < np.mean(right) < 0.75


def test_small_classes_get_a_note_and_no_crash() -> None:
    ids, vectors, labels, _ = planted(60)
    labels[0], labels[1], labels[2] = "alone", "pair", "pair"
    judged = out_of_fold(vectors, labels, 5, 0)
    assert "alone" not in judged.names and 0 not in judged.rows and len(judged.rows) == 59
    assert "'alone'" in judged.notes[0] and "'pair'" in judged.notes[1]
    label_errors(
        [ids[row] for row in judged.rows], [labels[row] for row in judged.rows], judged.names, judged.probabilities
    )
    for few in (["a"] * 6, ["a", "b", "c", "c", "c", "c"], []):
        judged = out_of_fold(vectors[: len(few)], few, 5, 0)
        assert len(judged.rows) == 0 and "not looked for" in judged.notes[-1]
    with pytest.raises(ValueError, match="labels"):
        out_of_fold(vectors, ["a"], 5, 0)


def test_a_large_version_is_learned_from_a_sample_that_has_every_label(monkeypatch: pytest.MonkeyPatch) -> None:
    _, vectors, labels, _ = planted(150)
    labels[0] = labels[1] = "rare"
    monkeypatch.setattr(folds_module, "MAX_TRAINED", 30)
    judged = out_of_fold(vectors, labels, 5, 0)
    rare = judged.names.index("rare")
    assert judged.probabilities[:, rare].min() > 0 and "30 rows" in judged.notes[-1]


@settings(max_examples=30, deadline=None)
@given(labels=st.lists(st.sampled_from("abcd"), min_size=2, max_size=40), folds=st.integers(2, 6))
def test_folds_are_even_and_stratified(labels: list[str], folds: int) -> None:
    given = np.array([ord(label) - 97 for label in labels])
    assigned = folds_module._assigned(given, folds, 0)
    for place in set(given.tolist()):
        counts = np.bincount(assigned[given == place], minlength=folds)
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(assigned, minlength=folds)
    assert sizes.max() - sizes.min() <= 1


def test_unsure_rows_are_those_below_the_margin() -> None:
    shares = np.array([[0.9, 0.1], [0.55, 0.45], [0.3, 0.7]])
    found = low_margin(["c", "b", "a"], ["x", "x", "x"], ["x", "y"], shares, 0.2)
    assert [(name, result.score) for name, result in found] == [("a", -0.4), ("b", 0.1)]
    assert low_margin(["c", "b", "a"], ["x", "x", "x"], ["x", "y"], shares, 0.0) == []
    with pytest.raises(ValueError, match="no probability"):
        low_margin(["a"], ["z"], ["x", "y"], shares[:1], 0.2)


def test_the_farthest_rows_are_out_of_distribution() -> None:
    ids, vectors, _, _ = planted()
    vectors[[7, 11]] = -np.eye(12, dtype=np.float32)[[0, 1]]
    found = outliers(ids, vectors, 2 / len(ids))
    assert {name for name, _ in found} == {"r007", "r011"}
    assert all(result.rule == "out_of_distribution" and (result.score or 0) < 0.5 for _, result in found)
    order = np.random.default_rng(0).permutation(len(ids))
    assert outliers([ids[row] for row in order], vectors[order], 2 / len(ids)) == found
    assert outliers(ids, vectors, 0.0) == [] and outliers(["a"], vectors[:1], 1.0) == []
    assert len(outliers(ids[:4], vectors[:4], 1.0)) == 4
