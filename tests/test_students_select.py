"""Which of a version's rows a student learns from: the teacher is sure, the student is not."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import tiny_encoder
from hypothesis import given
from hypothesis import strategies as st
from tiny_encoder import LABELS, ROWS

from graft.schemas.errors import GraftError
from graft.schemas.home import Home
from graft.schemas.students import Selection, StudentSettings
from graft.students.rows import TrainRow
from graft.students.select import select_rows

SHARES = st.integers(0, 20).map(lambda n: n / 20)
SELECTIONS = st.builds(
    Selection, teacher_quantile=st.floats(0, 0.95), student_quantile=st.floats(0, 0.95), least_share=st.floats(0.05, 1)
)


@st.composite
def judged(draw: st.DrawFn) -> list[tuple[TrainRow, list[float]]]:
    """Rows of two labels with a teacher's and a student's probabilities; ties are usual, some have no teacher."""
    pairs = []
    for number in range(draw(st.integers(0, 30))):
        teacher, student = draw(st.none() | SHARES), draw(SHARES)
        soft = None if teacher is None else (teacher, 1 - teacher)
        pairs.append((TrainRow(f"t{number}", draw(st.sampled_from("ab")), soft), [student, 1 - student]))
    return pairs


def chosen(pairs: list[tuple[TrainRow, list[float]]], settings: Selection) -> list[TrainRow]:
    return select_rows([row for row, _ in pairs], [shares for _, shares in pairs], settings, "ab")[0]


@given(judged(), SELECTIONS)
def test_the_least_share_of_each_label_stays_and_rows_keep_their_order(
    pairs: list[tuple[TrainRow, list[float]]], settings: Selection
) -> None:
    rows, kept = [row for row, _ in pairs], chosen(pairs, settings)
    assert kept == [row for row in rows if row in kept]
    held, left = Counter(row.label for row in rows), Counter(row.label for row in kept)
    for label, count in held.items():
        assert left[label] >= math.ceil(settings.least_share * count)


@given(judged(), SELECTIONS, st.randoms())
def test_which_rows_stay_does_not_depend_on_their_order(
    pairs: list[tuple[TrainRow, list[float]]], settings: Selection, random: Random
) -> None:
    mixed = list(pairs)
    random.shuffle(mixed)
    assert set(chosen(mixed, settings)) == set(chosen(pairs, settings))


@given(judged(), SELECTIONS)
def test_one_label_is_cut_without_a_look_at_the_other(
    pairs: list[tuple[TrainRow, list[float]]], settings: Selection
) -> None:
    alone = [pair for pair in pairs if pair[0].label == "a"]
    assert chosen(alone, settings) == [row for row in chosen(pairs, settings) if row.label == "a"]


@given(judged(), SELECTIONS)
def test_quantiles_of_none_keep_all_and_no_teacher_means_no_teacher_cut(
    pairs: list[tuple[TrainRow, list[float]]], settings: Selection
) -> None:
    rows = [row for row, _ in pairs]
    assert chosen(pairs, settings.model_copy(update={"teacher_quantile": 0.0, "student_quantile": 0.0})) == rows
    kept = chosen(pairs, settings.model_copy(update={"student_quantile": 0.0}))
    assert all(row in kept for row in rows if row.soft is None)


@given(judged(), SELECTIONS)
def test_a_surer_teacher_or_a_less_knowing_student_never_loses_a_row_its_place(
    pairs: list[tuple[TrainRow, list[float]]], settings: Selection
) -> None:
    """Of two rows of one label, the one that is better in both respects stays if the other does."""
    kept = set(chosen(pairs, settings))
    for first, knows in pairs:
        for other, other_knows in pairs:
            if first.label != other.label or first.soft is None or other.soft is None:
                continue
            place = "ab".index(first.label)
            if first.soft[place] > other.soft[place] and knows[place] < other_knows[place] and other in kept:
                assert first in kept


def test_the_note_gives_the_number_of_dropped_rows_and_why() -> None:
    rows = [TrainRow(str(n), "a", (n / 10, 1 - n / 10)) for n in range(10)] + [TrainRow("x", "a")]
    known = [[0.9, 0.1] if n >= 8 else [0.1 + n / 100, 0.0] for n in range(10)] + [[0.0, 1.0]]
    kept, note = select_rows(rows, known, Selection(teacher_quantile=0.25, student_quantile=0.2), "ab")
    assert [row.text for row in kept] == ["3", "4", "5", "6", "7", "x"]
    assert note == (
        "selection: 6 of the version's 11 rows are used; 3 removed as their teacher was unsure, 2 as the"
        " seeds-only student knew them, 0 for both; 1 have no soft label, so that no teacher cut applied to them"
    )
    few = Selection(teacher_quantile=0.25, student_quantile=0.2, least_share=0.8)
    back, answers = select_rows(rows, known, few, "ab")
    assert [row.text for row in back] == ["2", *"3456789", "x"] and "3 kept only for the least share" in answers
    assert select_rows([], [], few, "ab") == ([], "selection: 0 of the version's 0 rows are used")
    with pytest.raises(GraftError, match="lacks: weather"):
        select_rows([TrainRow("rain", "weather")], [[0.5, 0.5]], few, "ab")


@pytest.fixture
def quick(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.students.fit.MIN_STEPS", 5)
    for name in ("train.confusion_png", "heads.single.write_reliability"):
        monkeypatch.setattr(f"graft.students.{name}", lambda *args: None)


@pytest.mark.usefixtures("quick")
def test_only_the_versions_rows_are_selected_and_it_is_another_student(tmp_path: Path) -> None:
    from graft.students.train import StudentReport, train_student

    rows = [
        TrainRow(f"{text} please", label, tuple(0.4 + n / 20 if name == label else 0.05 for name in LABELS))
        for n, (text, label) in enumerate(ROWS)
    ]
    tiny = tiny_encoder.write(tmp_path / "tiny", [text for text, _ in ROWS])
    plain = StudentSettings(encoder=str(tiny), epochs=1, max_length=16)
    messages: list[str] = []

    def trained(selection: Selection | None) -> StudentReport:
        return train_student(
            rows=rows, seeds=ROWS, test_rows=ROWS, test_name="held", labels=LABELS, dataset="desk", version=1,
            settings=plain.model_copy(update={"select": selection}), home=Home(tmp_path), say=messages.append,
        )  # fmt: skip

    whole, half = trained(None), trained(Selection(teacher_quantile=0.5, student_quantile=0.0))
    assert [student.train_rows for student in whole.students] == [8, 16]
    assert [student.train_rows for student in half.students] == [8, 12]  # of two rows a label the surer stays
    assert whole.students[0].id == half.students[0].id and whole.students[1].id != half.students[1].id
    note = next(text for text in messages if text.startswith("selection: 4 of the version's 8 rows"))
    assert note in half.text and note in half.notes and not whole.notes
