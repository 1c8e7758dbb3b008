"""LLKD's moving thresholds and weights: which rows of a batch count, what is reported, and no change by a kill."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import tiny_encoder
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.schemas.errors import GraftError
from graft.schemas.students import StudentSettings
from graft.students.fit import fit
from graft.students.heads import Single
from graft.students.objectives.base import objective_of
from graft.students.objectives.llkd import Llkd, Moving
from graft.students.rows import TrainRow

LABELS = ("a", "b")
SETTINGS = StudentSettings.model_validate({"objective": {"kind": "llkd", "momentum": 0.5}})
VALUES = st.lists(st.tuples(st.sampled_from(LABELS), st.floats(0, 1)), min_size=1, max_size=8)


def row(text: str, label: str, sure: float | None = None) -> TrainRow:
    return TrainRow(text, label, None if sure is None else (sure, 1 - sure) if label == "a" else (1 - sure, sure))


def llkd(rows: Sequence[TrainRow]) -> Llkd:
    return Llkd(Single(LABELS), SETTINGS, rows)


@given(st.lists(VALUES, min_size=1, max_size=6), st.floats(0, 0.99))
def test_a_threshold_is_a_moving_mean_scaled_by_the_labels_own(batches: list[Any], momentum: float) -> None:
    moving, mean, own = Moving(momentum), None, dict[str, float]()
    for batch in batches:
        moving.move(batch)
        now = sum(value for _, value in batch) / len(batch)
        mean = now if mean is None else momentum * mean + (1 - momentum) * now
        for label in LABELS:
            values = [value for other, value in batch if other == label]
            if values:
                now = sum(values) / len(values)
                own[label] = momentum * own[label] + (1 - momentum) * now if label in own else now
    for label in own:
        scale = own[label] / max(own.values()) if max(own.values()) else 1.0
        assert moving.threshold(label) == pytest.approx(mean * scale, abs=1e-9)
        assert 0 <= moving.threshold(label) <= 1


def test_rows_count_if_the_teacher_is_sure_and_the_student_is_not() -> None:
    rows = [row("1", "a", 0.9), row("2", "a", 0.9), row("3", "a", 0.2), row("4", "a")]
    objective = llkd([*rows, *(row(str(n), "a", 0.5) for n in range(40))])
    weights = objective.weights(rows, [0.8, 0.1, 0.9, 0.9])  # thresholds: teacher 0.667, student 0.675
    assert weights == pytest.approx([0.85, 0, 0, 0.95])
    assert objective.after_pass() == "rows selected in the last pass: 50% (a 2 of 4)"
    assert objective.after_pass() == ""
    again = objective.weights(rows, [0.2, 0.1, 0.05, 0.05])  # the student's has moved to 0.3875: nothing else is chosen
    assert again == pytest.approx([0.55, 0, 0, 0]), "a batch keeps its best row"


def test_a_label_that_gets_nothing_for_as_many_rows_as_it_has_keeps_its_best() -> None:
    known = [row(f"b{n}", "b", 0.9) for n in range(4)]
    objective = llkd([*known, row("x", "a", 0.9), row("y", "a", 0.9)])
    batch = [row("x", "a", 0.9), *known[:2]]
    objective._student.move([("b", 0.9)])
    first = objective.weights(batch, [0.9, 0.1, 0.2])
    assert first[0] > 0 and first[1:] == [0, 0]
    second = objective.weights(batch, [0.9, 0.1, 0.2])
    assert second[1] == 0 and second[2] == pytest.approx((0.9 + 0.2) / 2)
    assert "(b 1 of 4, a 2 of 2)" in objective.after_pass()


def test_the_loss_is_the_weighted_mean_and_plain_on_validation_rows() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.5], [0.0, 0.0]])
    rows = [row("1", "a", 0.9), row("2", "a", 0.8), row("3", "b", 0.9)]

    class Model:
        training = True

        def __call__(self, texts: Sequence[str]) -> torch.Tensor:
            return logits

    model: Any = Model()
    logs = [float(logits[at].log_softmax(-1)[0 if rows[at].label == "a" else 1]) for at in range(3)]
    shares = logits.softmax(-1)
    unsure = [float(-(shares[at] * shares[at].log()).sum()) / math.log(2) for at in range(3)]
    weights = llkd(rows).weights(rows, unsure)
    assert 0 < sum(weight > 0 for weight in weights) < 3
    wanted = -sum(weight * log for weight, log in zip(weights, logs, strict=True)) / sum(weights)
    assert float(llkd(rows).loss(model, rows, 0)) == pytest.approx(wanted, abs=1e-6)
    judging = llkd(rows)
    model.training = False
    assert float(judging.loss(model, rows, 0)) == pytest.approx(-sum(logs) / 3, abs=1e-6)
    assert judging.after_pass() == "", "validation rows move no threshold"


@given(st.lists(VALUES, min_size=1, max_size=4), VALUES)
def test_state_goes_over_a_kill(batches: list[Any], last: list[tuple[str, float]]) -> None:
    def weights(objective: Llkd, batch: Any) -> list[float]:
        return objective.weights([row(str(at), label, value) for at, (label, value) in enumerate(batch)],
                                 [1 - value for _, value in batch])  # fmt: skip

    rows = [row(str(n), LABELS[n % 2], 0.5) for n in range(10)]
    lived, killed = llkd(rows), llkd(rows)
    for batch in batches:
        weights(lived, batch)
    killed.resume(lived.state())
    assert weights(killed, last) == weights(lived, last) and killed.after_pass() == lived.after_pass()


def test_a_student_trains_by_it_and_tells_the_share_of_each_pass(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.students.fit.MIN_STEPS", 4)
    texts = [f"row {n} of {label}" for label in LABELS for n in range(6)]
    rows = [row(text, text[-1], 0.6 + (at % 4) / 10) for at, text in enumerate(texts)]
    encoder, said = str(tiny_encoder.write(tmp_path / "tiny", texts)), list[str]()
    settings = StudentSettings.model_validate(
        {"encoder": encoder, "epochs": 3, "max_length": 16, "objective": {"kind": "llkd"}, "learning_rate": 1e-3}
    )
    fitted = fit(rows, LABELS, settings, say=said.append)
    told = [line for line in said if "rows selected in the last pass: " in line]
    assert len(told) >= 3 and told[-1] in fitted.note
    plain = fit(rows, LABELS, settings.model_copy(update={"objective": None}))
    assert not torch.equal(fitted.model.head.weight, plain.model.head.weight)


def test_soft_labels_are_no_target_of_it() -> None:
    with pytest.raises(GraftError, match="confidence alone"):
        objective_of(Single(LABELS), SETTINGS.model_copy(update={"soft_weight": 0.5}))
