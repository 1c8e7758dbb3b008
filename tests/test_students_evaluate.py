"""Evaluation's figures, its errors, its picture and its table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.data.scores.maths import paired
from graft.schemas.base import utc_now
from graft.schemas.errors import GraftError
from graft.schemas.students import Student, StudentSettings
from graft.students.evaluate import (
    average_precision,
    check_test_rows,
    confused,
    confusion_png,
    evaluate,
    worst_slices,
    write_reliability,
)  # fmt: skip
from graft.students.report import comparison

ROWS = [("a", "x"), ("b", "x"), ("c", "y"), ("d", "y")]


def a_student() -> Student:
    return Student(
        id="a", dataset="d", version=1, trained_on="version", settings=StudentSettings(), encoder_revision="r",
        train_rows=9, device="cpu", seconds=1, path="p", created_at=utc_now(),
    )  # fmt: skip


def test_figures_by_hand() -> None:
    judged = evaluate(["x", "y", "y", "y"], ROWS, ["x", "y", "z"], student_id="st_1", test_file="t")
    assert judged.accuracy == 0.75
    assert judged.confusion == ((1, 1, 0), (0, 2, 0), (0, 0, 0))
    x, y, z = judged.classes
    assert (x.precision, x.recall, x.f1, x.support) == (1.0, 0.5, pytest.approx(2 / 3), 2)
    assert (y.precision, y.recall, y.f1, y.support) == (pytest.approx(2 / 3), 1.0, pytest.approx(0.8), 2)
    assert z.support == 0
    assert judged.macro_f1 == pytest.approx((2 / 3 + 0.8) / 2)  # z has no rows and counts in no mean


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30))
def test_matrix_accuracy_and_supports_agree(pairs: list[tuple[str, str]]) -> None:
    rows = [(str(n), true) for n, (true, _) in enumerate(pairs)]
    judged = evaluate([guess for _, guess in pairs], rows, ["a", "b", "c"], student_id="s", test_file="t")
    assert sum(map(sum, judged.confusion)) == judged.rows == len(pairs)
    assert [sum(line) for line in judged.confusion] == [score.support for score in judged.classes]
    assert judged.accuracy == pytest.approx(sum(judged.confusion[n][n] for n in range(3)) / len(pairs))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from((0.0, 0.25, 0.3, 0.7, 1.0))), min_size=2, max_size=30))
def test_figures_are_those_of_scikit_learn(pairs: list[tuple[str, float]]) -> None:
    from sklearn import metrics

    true, names = [label for label, _ in pairs], ["a", "b", "c"]
    guesses = [names[int(share * 2.9)] for _, share in pairs]
    judged = evaluate(guesses, [(str(n), label) for n, label in enumerate(true)], names, student_id="s", test_file="t")
    known = metrics.precision_recall_fscore_support(true, guesses, labels=names, zero_division=0.0)
    found = [[getattr(one, figure) for one in judged.classes] for figure in ("precision", "recall", "f1", "support")]
    assert found == [list(figures) for figures in known]
    assert judged.accuracy == metrics.accuracy_score(true, guesses)
    assert judged.confusion == tuple(map(tuple, metrics.confusion_matrix(true, guesses, labels=names).tolist()))
    held, scores = np.array([label == "a" for label in true]), np.array([share for _, share in pairs])
    if held.any():
        assert average_precision(held, scores) == pytest.approx(
            metrics.average_precision_score(held, scores), abs=1e-12
        )


def test_labels_that_do_not_match() -> None:
    with pytest.raises(GraftError, match="labels that the dataset lacks: y") as caught:
        evaluate(["x"] * 4, ROWS, ["x", "q"], student_id="s", test_file="held.csv")
    assert caught.value.where == "held.csv"
    with pytest.raises(GraftError, match="no row to evaluate on"):
        evaluate([], [], ["x", "q"], student_id="s", test_file="t")
    messages: list[str] = []
    check_test_rows(ROWS, ["x", "y", "z"], "held.csv", messages.append)
    assert messages == ["held.csv has no rows of z: macro-F1 is over the other 2 labels"]


@pytest.mark.parametrize(("count", "pixels"), [(2, 500), (77, 2500)])
def test_picture_is_large_enough_for_its_labels_and_takes_any_name(tmp_path: Path, count: int, pixels: int) -> None:
    from matplotlib.image import imread

    labels = ["$x_{$ <b>\n密 " + "long " * 10 + str(n) for n in range(count)]
    rows = [(str(n), label) for n, label in enumerate(labels)]
    judged = evaluate(labels, rows, labels, student_id="s", test_file="t")
    confusion_png(judged, tmp_path / "new" / "c.png", "$\\frac{$ title")
    image = imread(tmp_path / "new" / "c.png")
    assert min(image.shape[:2]) >= pixels
    assert image.std() > 0.05


def test_table_shows_both_and_marks_what_was_not_tested() -> None:
    before = evaluate(["y", "y", "y", "y"], ROWS, ["x", "y", "z"], student_id="b", test_file="t")
    after = evaluate(["x", "x", "y", "y"], ROWS, ["x", "y", "z"], student_id="a", test_file="t")
    student = a_student()
    lines = comparison(student, before, after, Path("c.png")).splitlines()
    assert next(line for line in lines if line.startswith("accuracy")).split()[1:] == ["50.0%", "100.0%", "+50.0"]
    assert next(line for line in lines if line.startswith("  x")).split() == (
        ["x", "0.0%", "100.0%", "+100.0", "100.0%", "100.0%", "2"]
    )
    assert next(line for line in lines if line.startswith("  z")).endswith("not in the test file")


def test_without_probabilities_only_counts_are_filled() -> None:
    judged = evaluate(["x", "y", "y", "y"], ROWS, ["x", "y"], student_id="s", test_file="t")
    assert judged.majority == 0.5
    assert judged.interval[0] <= 0.75 <= judged.interval[1]
    assert (judged.ece, judged.temperature, judged.auprc, judged.threshold, judged.positive) == (None,) * 4 + ("",)


GUARD = ["harmful", "safe"]
PROBABILITIES = [[0.9, 0.1], [0.35, 0.65], [0.6, 0.4], [0.1, 0.9]]
HELD = [("a", "harmful"), ("b", "harmful"), ("c", "safe"), ("d", "safe")]


def test_guard_figures_by_hand() -> None:
    predicted = ["harmful", "safe", "harmful", "safe"]
    judged = evaluate(predicted, HELD, GUARD, student_id="s", test_file="t", probabilities=PROBABILITIES)
    assert (judged.positive, judged.threshold, judged.temperature, judged.ece_scaled) == ("harmful", 0.5, None, None)
    assert judged.false_refusals == 0.5
    assert judged.auprc == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)  # precision 1 up to recall 0.5, then 2 of 3
    assert judged.ece == pytest.approx((abs(1.8 - 2) + 0.65 + 0.6) / 4)  # two rows at 0.9 share a bin
    known = ([[0.8, 0.2], [0.7, 0.3], [0.1, 0.9], [0.4, 0.6]], ["harmful", "harmful", "safe", "harmful"])
    judged = evaluate(
        predicted, HELD, GUARD, student_id="s", test_file="t", probabilities=PROBABILITIES, validation=known
    )  # fmt: skip
    assert judged.threshold == pytest.approx(0.25)
    assert judged.false_refusals == 0.5
    assert judged.temperature is not None and judged.ece_scaled is not None


def test_what_a_file_of_one_class_cannot_tell() -> None:
    judged = evaluate(
        ["harmful"] * 2, [("a", "harmful"), ("b", "harmful")], GUARD, student_id="s", test_file="t",
        probabilities=PROBABILITIES[:2], validation=([], []),
    )  # fmt: skip
    assert (judged.auprc, judged.false_refusals, judged.threshold, judged.temperature) == (None, None, 0.5, None)
    third = [[0.5, 0.3, 0.2]] * 2
    three = evaluate(["x", "x"], ROWS[:2], ["x", "y", "z"], student_id="s", test_file="t", probabilities=third)
    assert (three.positive, three.threshold, three.auprc) == ("", None, None) and three.ece == pytest.approx(0.5)


def test_validation_labels_that_the_student_lacks() -> None:
    with pytest.raises(ValueError, match="lacks: other"):
        evaluate(
            ["harmful"] * 4, HELD, GUARD, student_id="s", test_file="t", probabilities=PROBABILITIES,
            validation=([[0.5, 0.5]], ["other"]),
        )  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)))
def test_order_of_rows_changes_no_figure(order: list[int]) -> None:
    predicted = ["harmful", "safe", "harmful", "safe"]

    def judge(order: Sequence[int]) -> dict[str, Any]:
        judged = evaluate(
            [predicted[n] for n in order], [HELD[n] for n in order], GUARD, student_id="s", test_file="t",
            probabilities=[PROBABILITIES[n] for n in order],
        )  # fmt: skip
        assert worst_slices(predicted, HELD, PROBABILITIES) == worst_slices(
            [predicted[n] for n in order], [HELD[n] for n in order], [PROBABILITIES[n] for n in order]
        )
        return judged.model_dump()

    there, here = judge(range(4)), judge(order)
    assert here.pop("ece") == pytest.approx(there.pop("ece"))
    assert here == there


def test_confused_pairs_are_sorted_by_their_number() -> None:
    rows = [("t", label) for label in "xxxxyyz"]
    judged = evaluate(list("xyyzzxz"), rows, ["x", "y", "z"], student_id="s", test_file="t")
    pairs = [(pair.true, pair.predicted, pair.rows, pair.share) for pair in confused(judged, 3)]
    assert pairs == [("x", "y", 2, 0.5), ("y", "x", 1, 0.5), ("y", "z", 1, 0.5)]


def test_slices_find_the_weak_label_the_weak_length_and_sure_mistakes() -> None:
    rows = [("s" * (n + 1), "x" if n < 10 else "y") for n in range(20)]
    predicted = ["x"] * 10 + ["y"] * 5 + ["x"] * 5
    sure = [[0.6, 0.4]] * 18 + [[0.95, 0.05], [0.9, 0.1]]
    got = worst_slices(predicted, rows, sure)
    assert [(one.name, one.rows, one.accuracy) for one in got.labels] == [("y", 10, 0.5), ("x", 10, 1.0)]
    assert [one.rows for one in got.lengths] == [5] * 4
    assert min(got.lengths, key=lambda one: one.accuracy).name == "16 to 20 characters"
    assert (got.sure, got.sure_wrong, got.sure_mean) == (2, 2, pytest.approx(0.925))
    assert worst_slices(predicted, rows).sure == 0


def test_reliability_is_written_as_table_and_picture(tmp_path: Path) -> None:
    from matplotlib.image import imread

    predicted = ["harmful", "safe", "harmful", "safe"]
    bins = write_reliability(predicted, HELD, PROBABILITIES, tmp_path / "st", "$\\frac{$ title")
    table = json.loads((tmp_path / "st" / "reliability.json").read_text())
    assert len(table) == len(bins) == 15
    assert set(table[0]) == {"low", "high", "rows", "confidence", "accuracy"}
    assert table[0]["accuracy"] is None and table[13] == {
        "low": 13 / 15, "high": 14 / 15, "rows": 2, "confidence": pytest.approx(0.9), "accuracy": 1.0
    }  # fmt: skip
    assert imread(tmp_path / "st" / "reliability.png").std() > 0.05


def test_the_report_shows_what_is_new() -> None:
    answers = ["safe", "safe", "harmful", "safe"], ["harmful", "safe", "harmful", "safe"]
    before, after = (
        evaluate(one, HELD, GUARD, student_id="s", test_file="t", probabilities=PROBABILITIES) for one in answers
    )
    after = after.model_copy(update={"accuracies": (0.75, 0.5)})
    text = comparison(
        a_student(), before, after, Path("c.png"), paired=paired(*answers, HELD),
        slices=worst_slices(answers[1], HELD, PROBABILITIES),
    )  # fmt: skip
    assert "version right where seeds were wrong: 1, the reverse: 0; p = 1.0000; difference +25.0 points" in text
    assert "every one of them is right" in text  # no validation rows were given
    assert "  of 2 trainings" in text and "50.0–75.0%" in text
    assert "AUPRC of harmful" in text and "false refusals there" in text
    assert "  safe predicted as harmful: 1 (50% of its rows)" in text
    assert "the surest tenth: 0 of 2 rows wrong\n" in text
    assert text.endswith("confusion matrix: c.png")
    scaled = after.model_copy(update={"temperature": 1.5, "ece_scaled": 0.1})
    lines = comparison(a_student(), before, scaled, Path("c.png")).splitlines()
    assert next(line for line in lines if line.startswith("  temperature")).split()[1:] == ["–", "1.50"]
    assert not any(line.startswith("weakest") for line in lines)
