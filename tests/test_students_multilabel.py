"""Students that give a text several labels, or none: what they learn, how they are judged, and what they say."""

from __future__ import annotations

import ast
import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import tiny_encoder
from hypothesis import given
from hypothesis import strategies as st

from graft.schemas.errors import GraftError
from graft.schemas.home import Home
from graft.schemas.students import StudentSettings
from graft.students.heads import Rule, Several, head_of
from graft.students.heads import multi_label as room
from graft.students.heads.multi_label import MultiLabel
from graft.students.heads.single import Single
from graft.students.predict import Engine, Predictor
from graft.students.rows import Given, TrainRow

LABELS = ("delivery", "billing", "account")
SETS = st.lists(st.sampled_from(LABELS), unique=True).map(lambda some: tuple(x for x in LABELS if x in some))
ROWS = [
    ("where is my parcel", "delivery"), ("the courier never came", "delivery"), ("I was charged twice", "billing"),
    ("please send me an invoice", "billing"), ("I forgot my password", "account"), ("change my address", "account"),
]  # fmt: skip
BOTH = "charged twice for a parcel"
ROWS_OF_BOTH = [(BOTH, "billing"), (BOTH, "delivery"), ("parcel never came and charged", "delivery|billing")]
MANY = StudentSettings(multi_label=0.4, epochs=30, max_length=16, learning_rate=5e-3)


# ---- cells and rows


@given(SETS)
def test_a_cell_is_read_as_it_was_written(some: tuple[str, ...]) -> None:
    assert room.labels_in(room.cell_of(some), LABELS) == some
    assert room.labels_in(" " + " | ".join([*reversed(some), *some]) + " ", LABELS) == some


@pytest.mark.parametrize("cell", ["weather", "billing|weather", "billing|", "|", "billing||account", "billing;account"])
def test_a_cell_with_what_is_no_label(cell: str) -> None:
    with pytest.raises(GraftError, match="holds an unknown label"):
        room.labels_in(cell, LABELS)


def test_rows_of_one_text_are_merged_with_the_labels_that_a_soft_label_reaches() -> None:
    rows: list[Given] = [
        ("x", "account"), TrainRow("y", "billing", (0.4, 0.6, 0.0)), TrainRow("x", "delivery", (0.7, 0.1, 0.2)),
        TrainRow("z", "billing", labels=("billing", "account")),
    ]  # fmt: skip
    assert MultiLabel(LABELS, least=0.4).training_rows(rows) == [
        TrainRow("x", "delivery", labels=("delivery", "account")),
        TrainRow("y", "billing", labels=("delivery", "billing")),
        TrainRow("z", "billing", labels=("billing", "account")),
    ]
    assert set(MultiLabel(LABELS, least=0.4).training_rows(list(reversed(rows)))) == set(
        MultiLabel(LABELS, least=0.4).training_rows(rows)
    )
    assert MultiLabel(LABELS, least=0.41).training_rows(rows[1:2])[0].labels == ("billing",)
    with pytest.raises(GraftError, match="lacks: weather"):
        MultiLabel(LABELS, least=0.4).training_rows([TrainRow("x", "billing", labels=("weather",))])


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(LABELS))))
def test_merging_loses_no_text_and_no_label(rows: list[tuple[str, str]]) -> None:
    found = MultiLabel(LABELS, least=0.5).training_rows(rows)
    assert {(row.text, label) for row in found for label in row.every} == set(rows)
    assert len({row.text for row in found}) == len(found)


@pytest.mark.parametrize(
    ("changes", "labels", "expected"),
    [({"soft_weight": 0.5}, LABELS, "soft labels cannot be learned"), ({}, ("a|b", "c"), "stands between labels")],
)
def test_settings_that_do_not_go_with_several_labels(
    changes: dict[str, Any], labels: Sequence[str], expected: str
) -> None:
    with pytest.raises(GraftError, match=expected):
        head_of(MANY.model_copy(update=changes), labels)
    head_of(StudentSettings(soft_weight=0.5), ("a|b", "c"))


# ---- the loss


def test_the_loss_is_binary_cross_entropy_and_balanced_by_label() -> None:
    import torch

    from graft.students.objectives.binary_cross_entropy import BinaryCrossEntropy

    rows = [TrainRow("x", "a", labels=("a", "b")), TrainRow("y", "a"), TrainRow("z", "c"), TrainRow("w", "c")]
    logits = torch.tensor([[1.0, -2.0, 0.5]])
    share = [1 / (1 + math.exp(-x)) for x in (1.0, -2.0, 0.5)]
    parts = [-math.log(share[0]), -math.log(share[1]), -math.log(1 - share[2])]
    head, model = MultiLabel("abc"), cast(Any, lambda texts: logits)
    plain = BinaryCrossEntropy(head, MANY, rows)
    assert float(plain.loss(model, rows[:1], 0)) == pytest.approx(sum(parts) / 3, abs=1e-6)
    assert plain.guessing(rows) == pytest.approx(math.log(2))
    balanced = BinaryCrossEntropy(head, MANY.model_copy(update={"class_weights": "balanced"}), rows)
    assert float(balanced.loss(model, rows[:1], 0)) == pytest.approx((parts[0] + 3 * parts[1] + parts[2]) / 3, abs=1e-6)
    assert balanced.guessing(rows) == pytest.approx(math.log(2) * 14 / 12)


# ---- thresholds and figures


def test_thresholds_have_the_largest_f1_and_a_half_where_nothing_is_known() -> None:
    shares = [[0.9, 0.3, 0.9], [0.4, 0.2, 0.1], [0.3, 0.1, 0.2]]
    truths = [("delivery", "billing"), ("delivery",), ()]
    rows = [TrainRow(str(n), held[0] if held else "", labels=held) for n, held in enumerate(truths)]
    head = MultiLabel(LABELS).tuned(shares, rows)
    assert head.thresholds == pytest.approx((0.35, 0.25, 0.5))
    assert head.many(shares) == [("delivery", "billing", "account"), ("delivery",), ()]
    assert MultiLabel(LABELS, (0.1, 0.2, 0.3)).tuned([], []).thresholds == (0.5, 0.5, 0.5)


def test_figures_against_numbers_worked_out_by_hand() -> None:
    rows = [("1", "billing|delivery"), ("2", ""), ("3", "delivery"), ("4", "billing"), ("5", "")]
    predicted = ["delivery|billing", "account", "billing", "billing", ""]
    shares = [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    judged = MultiLabel(LABELS).evaluate((predicted, shares), rows, student_id="s", test_file="t")
    assert judged.accuracy == 3 / 5 and judged.majority == 2 / 5
    assert judged.micro_f1 == pytest.approx(2 * 3 / (4 + 5))
    delivery, billing, account = judged.classes
    assert (delivery.precision, delivery.recall, delivery.support) == (1.0, 0.5, 2)
    assert billing.precision == pytest.approx(2 / 3) and (billing.recall, billing.support) == (1.0, 2)
    assert (account.precision, account.f1, account.support) == (0.0, 0.0, 0)
    assert judged.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert judged.confusion == ((1, 1, 0), (0, 2, 0), (0, 0, 0))
    assert judged.ece == pytest.approx(3 / 15) and judged.interval[0] <= 0.6 <= judged.interval[1]
    weak = MultiLabel(LABELS).weakest((predicted, []), MultiLabel(LABELS).test_rows(rows, "t", print))
    assert [(one.name, one.rows, one.accuracy) for one in weak.labels] == [("delivery", 2, 0.5), ("billing", 2, 1.0)]


@given(st.lists(st.tuples(SETS, SETS), min_size=1))
def test_figures_are_shares_and_what_is_right_is_right(pairs: list[tuple[tuple[str, ...], tuple[str, ...]]]) -> None:
    rows = [(str(n), room.cell_of(true)) for n, (true, _) in enumerate(pairs)]
    answers = [room.cell_of(guess) for _, guess in pairs]
    if not any(true for true, _ in pairs):
        with pytest.raises(GraftError, match="has a label"):
            MultiLabel(LABELS).evaluate((answers, []), rows, student_id="s", test_file="t")
        return
    judged = MultiLabel(LABELS).evaluate((answers, []), rows, student_id="s", test_file="t")
    assert judged.micro_f1 is not None
    assert all(0 <= share <= 1 for share in (judged.accuracy, judged.macro_f1, judged.micro_f1))
    whole = MultiLabel(LABELS).evaluate(([cell for _, cell in rows], []), rows, student_id="s", test_file="t")
    assert (whole.accuracy, whole.macro_f1, whole.micro_f1) == (1.0, 1.0, 1.0)


def test_test_rows_are_read_with_their_number_and_untested_labels_are_reported() -> None:
    messages: list[str] = []
    read = MultiLabel(LABELS).test_rows([("x", " billing| delivery"), ("y", "")], "held.csv", messages.append)
    assert read == [("x", "delivery|billing"), ("y", "")] and "no rows of account" in messages[0]
    with pytest.raises(GraftError, match=r"held.csv: row 2: .*'weather'"):
        MultiLabel(LABELS).test_rows([("x", "billing"), ("y", "weather")], "held.csv", messages.append)
    with pytest.raises(GraftError, match="no row to evaluate"):
        MultiLabel(LABELS).test_rows([], "held.csv", messages.append)


# ---- answers


def test_a_predictor_gives_each_label_its_own_probability() -> None:
    import numpy

    def logits(texts: Sequence[str]) -> Any:
        return numpy.array([[0.0, 1000.0 if "b" in text else -1000.0] for text in texts])

    student = Predictor(MultiLabel(("x", "y"), (0.4, 0.5)), room_rule(), "fake", logits)
    assert student.predict_many(["b", "c"]) == [Several(("x", "y"), [0.5, 1.0]), Several(("x",), [0.5, 0.0])]
    answers = student.predict(["b", "c"])
    assert [(one.label, one.probability) for one in answers] == [("x|y", 0.5), ("x", 0.5)]
    assert student.predict_many([]) == []
    with pytest.raises(GraftError, match="exactly one label"):
        Predictor(Single(("x", "y")), room_rule(), "fake", logits).predict_many(["b"])


def room_rule() -> Rule:
    return Rule(temperature=5.0)  # that of no student which gives several labels: it must change nothing


# ---- whole


def thresholds(model: Any) -> tuple[float, ...]:
    assert isinstance(model.outputs, MultiLabel)
    return model.outputs.thresholds


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, list[str]]:
    """Home, report and messages of a student trained on texts with two labels."""
    from graft.students.train import train_student

    home, messages = tmp_path_factory.mktemp("home"), list[str]()
    tiny = tiny_encoder.write(home / "tiny", [text for text, _ in [*ROWS, *ROWS_OF_BOTH]])
    rows: list[Given] = [*ROWS_OF_BOTH[:2], TrainRow("parcel never came and charged", "delivery", (0.5, 0.45, 0.05))]
    report = train_student(
        rows=rows, seeds=ROWS, test_rows=[*ROWS, (BOTH, "billing|delivery")], test_name="held", labels=LABELS,
        settings=MANY.model_copy(update={"encoder": str(tiny), "runs": 2}), home=Home(home), dataset="desk", version=1,
        say=messages.append, validation=[*ROWS, *ROWS_OF_BOTH[:2]],
    )  # fmt: skip
    return home, report, messages


def test_a_student_learns_that_a_text_has_two_labels(trained: tuple[Path, Any, list[str]]) -> None:
    from graft.students.classifier import TextClassifier

    home, report, answers = trained
    base, ours = report.students
    assert (base.train_rows, ours.train_rows) == (6, 8)
    assert "training on 8 rows (version and seeds)" in answers
    model = TextClassifier.load(home / ours.path)
    found, shares = model.predict_many([BOTH, *(text for text, _ in ROWS)])
    assert found == [("delivery", "billing"), *((label,) for _, label in ROWS)]
    assert all(0 <= share <= 1 for row in shares for share in row) and sum(shares[0]) > 1.2
    facts = json.loads((home / ours.path / "classifier.json").read_text())
    assert list(facts["multi_label"]) == list(LABELS) and thresholds(model) == tuple(facts["multi_label"].values())
    judged = report.evaluations[1]
    assert judged.accuracy == judged.micro_f1 == 1.0 and len(judged.accuracies) == 2
    assert report.validation.micro_f1 == 1.0 and report.validation.rows == 7
    for word in ("all labels of a text right", "micro-F1", "commonest labels guessed"):
        assert word in report.text
    assert "no temperature" not in report.text
    assert all(path.is_file() and (path.parent / "reliability.json").is_file() for path in report.confusion)


def test_without_validation_rows_every_threshold_is_a_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graft.students.classifier import TextClassifier
    from graft.students.train import train_student

    for name in ("train.confusion_png", "heads.multi_label.write_bins"):
        monkeypatch.setattr(f"graft.students.{name}", lambda *args: None)
    tiny = tiny_encoder.write(tmp_path / "tiny", [text for text, _ in ROWS])
    report = train_student(
        rows=[], seeds=ROWS, test_rows=ROWS, test_name="held", labels=LABELS, home=Home(tmp_path), dataset="desk",
        settings=MANY.model_copy(update={"encoder": str(tiny)}), version=1, say=lambda text: None,
    )  # fmt: skip
    model = TextClassifier.load(tmp_path / report.students[1].path)
    assert thresholds(model) == (0.5,) * 3 and report.validation is None
    assert report.evaluations[1].accuracy >= 5 / 6  # it saw them


def test_one_label_a_text_is_all_that_other_students_give(tmp_path: Path) -> None:
    from graft.students.classifier import TextClassifier
    from graft.students.encoder import Encoder

    tiny = tiny_encoder.write(tmp_path, [text for text, _ in ROWS])
    model = TextClassifier.start(Encoder(str(tiny), "", ""), Single(LABELS), 16)
    with pytest.raises(GraftError, match="exactly one label"):
        model.predict_many(["x"])
    model.imprint(ROWS)
    shares = model.predict(["where is my parcel"])[1][0]
    bias, model.head.bias.data = model.head.bias.data, model.head.bias.data * 0
    assert len(set(bias.tolist())) == 1 and bias[0] < 0
    assert model.predict(["where is my parcel"])[1][0] == pytest.approx(shares, abs=1e-5)  # a softmax does not see it


def test_an_export_predicts_the_same_and_its_cards_snippets_run(
    trained: tuple[Path, Any, list[str]], tmp_path: Path
) -> None:
    from graft.students.card import Judgements, Origin, render_model_card
    from graft.students.classifier import TextClassifier
    from graft.students.onnx import export_folder
    from graft.students.predict import load_classifier

    home, report, _ = trained
    student, judged = report.students[1], report.evaluations[1]
    model = TextClassifier.load(home / student.path)
    origin = Origin(task="classification", language="en", seeds=6, labels=LABELS, max_length=16)
    folder = tmp_path / "out"
    export_folder(
        model, folder, student=student.id, rule=Rule(),
        card=lambda worst: render_model_card(student, origin, Judgements([judged]), Rule(), worst),
    )  # fmt: skip
    texts = [BOTH, "where is my parcel", "I forgot my password"]
    sets, shares = model.predict_many(texts)
    engines: tuple[Engine, ...] = ("onnx", "pytorch")
    for engine in engines:
        answers = Predictor.open(folder, engine=engine).predict_many(texts)
        assert [one.labels for one in answers] == sets
        for one, row in zip(answers, shares, strict=True):
            assert one.probabilities == pytest.approx(row, abs=1e-3)
    assert thresholds(load_classifier(folder)) == thresholds(model)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "each on its own" in card and "Micro\\-F1" not in card and "Micro-F1 over all rows" in card
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == 2 and all("multi_label" in code and "softmax" not in code for code in snippets)
    wanted = [
        {name: round(p, 3) for name, p in zip(LABELS, one.probabilities, strict=True) if name in one.labels}
        for one in Predictor.open(folder).predict_many(["where is my parcel?", "I was charged twice"])
    ]
    done = subprocess.run([sys.executable, "-c", snippets[0]], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    got = [{name: round(p, 3) for name, p in row.items()} for row in ast.literal_eval(done.stdout)]
    assert [list(row) for row in got] == [list(row) for row in wanted]
