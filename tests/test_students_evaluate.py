"""Evaluation's figures, its errors, its picture and its table."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base import utc_now
from schemas.errors import GraftError
from schemas.students import Student, StudentSettings
from students.evaluate import check_test_rows, confusion_png, evaluate
from students.report import comparison

ROWS = [("a", "x"), ("b", "x"), ("c", "y"), ("d", "y")]


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


def test_labels_that_do_not_match() -> None:
    with pytest.raises(GraftError, match="labels that the dataset lacks: y") as caught:
        evaluate(["x"] * 4, ROWS, ["x", "q"], student_id="s", test_file="held.csv")
    assert caught.value.where == "held.csv"
    with pytest.raises(GraftError, match="no row to evaluate on"):
        evaluate([], [], ["x", "q"], student_id="s", test_file="t")
    said: list[str] = []
    check_test_rows(ROWS, ["x", "y", "z"], "held.csv", said.append)
    assert said == ["held.csv has no rows of z: macro-F1 is over the other 2 labels"]


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
    student = Student(
        id="a", dataset="d", version=1, trained_on="version", settings=StudentSettings(), encoder_revision="r",
        train_rows=9, device="cpu", seconds=1, path="p", created_at=utc_now(),
    )  # fmt: skip
    lines = comparison(student, before, after, Path("c.png")).splitlines()
    assert next(line for line in lines if line.startswith("accuracy")).split()[1:] == ["50.0%", "100.0%", "+50.0"]
    assert next(line for line in lines if line.startswith("  x")).split() == (
        ["x", "0.0%", "100.0%", "+100.0", "100.0%", "100.0%", "2"]
    )
    assert next(line for line in lines if line.startswith("  z")).endswith("not in the test file")
