"""Training: its loss, early stopping, the kept weights, and resuming after a kill with the same result."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_encoder
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_encoder import LABELS, ROWS

from graft.schemas.errors import GraftError
from graft.schemas.home import Home
from graft.schemas.students import StudentSettings
from graft.students import checkpoint, loop
from graft.students.classifier import TextClassifier
from graft.students.fit import fit
from graft.students.heads.single import Single
from graft.students.launch import train_classifier
from graft.students.objectives.cross_entropy import CrossEntropy
from graft.students.objectives.distillation import Distillation
from graft.students.rows import TrainRow, distribution, unique

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def few_steps(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.students.fit.MIN_STEPS", 10)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_encoder.write(tmp_path_factory.mktemp("encoder"), [text for text, _ in ROWS]))


@pytest.fixture
def settings(encoder: str) -> StudentSettings:
    return StudentSettings.model_validate({"encoder": encoder, **tiny_encoder.SETTINGS, "patience": None})


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these trainings."""
    for name in ("train.confusion_png", "heads.single.write_reliability"):
        monkeypatch.setattr(f"graft.students.{name}", lambda *args: None)


def same(one: TextClassifier, other: TextClassifier, within: float = 0.0) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(float((a - b).abs().max()) <= within for a, b in pairs)


# ---- soft labels


@given(st.dictionaries(st.sampled_from("abcd"), st.floats(0, 1e6), min_size=1))
def test_shares_become_probabilities_in_the_labels_order(shares: dict[str, float]) -> None:
    got = distribution(shares, "abcd")
    total = sum(shares.values())
    if total == 0:
        assert got is None
    else:
        assert got is not None and math.isclose(sum(got), 1)
        for label, share in zip("abcd", got, strict=True):
            assert math.isclose(share * total, shares.get(label, 0.0), abs_tol=1e-9 * total)


@pytest.mark.parametrize(
    "shares", [{}, {"x": 1.0}, {"a": -0.1, "b": 1.1}, {"a": math.nan}, {"a": math.inf}, {"a": None}, {"a": "1"}]
)
def test_what_is_no_distribution_is_none(shares: dict[str, object]) -> None:
    assert distribution(shares, "abc") is None


def test_a_guards_score_is_two_classes() -> None:
    assert distribution({"harmful": 0.25}, ["harmful", "safe"]) == (0.25, 0.75)
    assert distribution({"harmful": 1.25}, ["harmful", "safe"]) is None


def test_a_row_given_twice_counts_once_with_its_soft_label() -> None:
    soft = (0.75, 0.25, 0.0, 0.0)
    assert unique([("x", "billing"), TrainRow("x", "billing", soft), ("y", "billing")]) == [
        TrainRow("x", "billing", soft), TrainRow("y", "billing"),
    ]  # fmt: skip


# ---- the loss


def gives(logits: torch.Tensor) -> Any:
    """A model that gives these logits."""
    return lambda texts: logits


def test_the_loss_is_the_papers_mixture_of_hard_and_soft(settings: StudentSettings) -> None:
    """Against numbers worked out by hand with plain Python."""
    w, heat, logits, soft = 0.25, 2.0, [1.0, -1.0], (0.9, 0.1)
    changed = settings.model_copy(update={"soft_weight": w, "temperature": heat})
    batch = [TrainRow("x", "b", soft), TrainRow("y", "a")]
    got = float(Distillation(Single("ab"), changed, batch).loss(gives(torch.tensor([logits, logits])), batch, 0))
    share = 1 / (1 + math.exp(-2))  # of a
    hard = -(math.log(1 - share) + math.log(share)) / 2
    answers = 1 / (1 + math.exp(-1))  # of a at heat 2
    p = math.sqrt(0.9) / (math.sqrt(0.9) + math.sqrt(0.1))
    first = p * math.log(p / answers) + (1 - p) * math.log((1 - p) / (1 - answers))
    assert got == pytest.approx((1 - w) * hard + w * heat**2 * (first - math.log(answers)) / 2, abs=1e-6)


def test_balanced_weights_make_every_class_count_alike(settings: StudentSettings) -> None:
    rows = [TrainRow(str(n), "a") for n in range(6)] + [TrainRow("r", "b"), TrainRow("s", "b")]
    weighed = CrossEntropy(Single("abc"), settings.model_copy(update={"class_weights": "balanced"}), rows)
    logits = torch.tensor([[2.0, 0.0, 0.0]])
    plain = [-float(logits.log_softmax(-1)[0, place]) for place in (0, 1)]
    assert float(weighed.loss(gives(logits), rows[:1], 0)) == pytest.approx(8 / (2 * 6) * plain[0])
    assert float(weighed.loss(gives(logits), rows[-1:], 0)) == pytest.approx(8 / (2 * 2) * plain[1])


def test_a_student_learns_what_the_soft_labels_say(settings: StudentSettings) -> None:
    soft = (0.5, 0.5, 0.0, 0.0)
    rows = [TrainRow(text, label, soft if label in LABELS[:2] else None) for text, label in ROWS]
    long = settings.model_copy(update={"epochs": 40})
    hard = fit(rows, LABELS, long).model.predict([ROWS[0][0]])[1][0]
    taught = fit(rows, LABELS, long.model_copy(update={"soft_weight": 1.0})).model.predict([ROWS[0][0]])[1][0]
    assert hard[0] > 0.85 and hard[1] < 0.15
    assert taught[0] == pytest.approx(0.5, abs=0.15) and taught[1] == pytest.approx(0.5, abs=0.15)


def test_soft_labels_change_nothing_where_their_weight_is_none(settings: StudentSettings) -> None:
    rows = [TrainRow(text, label, (0.25, 0.25, 0.25, 0.25)) for text, label in ROWS]
    assert same(fit(ROWS, LABELS, settings).model, fit(rows, LABELS, settings, validation=ROWS).model)
    with pytest.raises(ValueError, match="one number a label"):
        fit([*ROWS, TrainRow("x", "billing", (1.0,))], LABELS, settings)


# ---- patience


def test_patience_stops_early_and_keeps_the_best_pass(
    settings: StudentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = [(text, LABELS[(LABELS.index(label) + 1) % 4]) for text, label in ROWS]
    judged: list[float] = []
    whole = loop.Loop._judged
    monkeypatch.setattr(loop.Loop, "_judged", lambda self: judged.append(whole(self)) or judged[-1])
    messages: list[str] = []
    patient = settings.model_copy(update={"patience": 2, "epochs": 30})
    fitted = fit(ROWS, LABELS, patient, messages.append, validation=wrong)
    best = judged.index(min(judged)) + 1
    assert (fitted.best, fitted.epochs) == (best, best + 2) and fitted.epochs < 30
    assert f"weights of pass {best}, stopped after {best + 2}: the lowest loss on the validation rows" in fitted.note
    assert fitted.note in messages
    probabilities = fitted.model.predict([text for text, _ in wrong])[1]
    losses = [-math.log(p[LABELS.index(label)]) for p, (_, label) in zip(probabilities, wrong, strict=True)]
    assert sum(losses) / len(losses) == pytest.approx(min(judged), abs=1e-4)


def test_patience_without_validation_rows_is_noted_and_training_is_complete(settings: StudentSettings) -> None:
    messages: list[str] = []
    fitted = fit(ROWS, LABELS, settings.model_copy(update={"patience": 1}), messages.append)
    assert any("no validation rows" in text for text in messages)
    assert (fitted.best, fitted.note, fitted.epochs) == (None, "", 12)
    assert same(fitted.model, fit(ROWS, LABELS, settings).model)


# ---- a loss that is not finite


def test_a_loss_that_is_no_number_keeps_the_last_good_pass(
    tmp_path: Path, settings: StudentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = CrossEntropy._of, [0]

    def breaks(self: CrossEntropy, logits: torch.Tensor, batch: list[TrainRow]) -> torch.Tensor:
        calls[0] += 1
        return whole(self, logits, batch) * (math.inf if calls[0] == 11 else 1)

    good: list[dict[str, torch.Tensor]] = []
    copied = loop._copied
    monkeypatch.setattr(loop, "_copied", lambda model: good.append(copied(model)) or good[-1])
    monkeypatch.setattr(loop, "KEEP_EVERY", 1)
    monkeypatch.setattr(CrossEntropy, "_of", breaks)
    messages: list[str] = []
    result = train_classifier(ROWS, LABELS, settings, tmp_path / "st", say=messages.append)
    assert result.best == 3 and len(good) == 3  # 12 rows in batches of 5: three steps a pass, the 11th is in the fourth
    assert "the loss is not finite at step 11 of 36; the weights of pass 3" in result.note and result.note in messages
    kept = TextClassifier.load(tmp_path / "st").state_dict()
    assert all(torch.equal(kept[name], weights) for name, weights in good[-1].items())


def test_weights_that_break_in_the_last_step_are_not_kept(
    settings: StudentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = loop.Loop._one

    def spoils(self: loop.Loop, batch: list[TrainRow]) -> bool:
        good = whole(self, batch)
        if self._step == self._plan.steps:
            torch.nn.init.constant_(self._model.head.bias, math.nan)
        return good

    monkeypatch.setattr(loop.Loop, "_one", spoils)
    fitted = fit(ROWS, LABELS, settings)
    assert fitted.best == 1 and "diverged" in fitted.note
    assert all(bool(torch.isfinite(weights).all()) for weights in fitted.model.parameters())


# ---- killed and taken up


def test_a_killed_training_ends_as_if_it_had_lived(
    tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.students.fit.MIN_STEPS", 60)  # as the program has it
    settings = StudentSettings.model_validate({"encoder": encoder, **tiny_encoder.SETTINGS})
    command = [sys.executable, str(HERE / "tiny_encoder.py"), encoder, str(tmp_path / "st"), "26"]
    killed = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert killed.returncode == -9, killed.stderr.decode()
    assert [p.name for p in tmp_path.iterdir()] == ["st.partial"]
    assert [p.name for p in (tmp_path / "st.partial").iterdir()] == [checkpoint.NAME]
    messages: list[str] = []
    steps: list[int] = []
    result = train_classifier(
        ROWS, LABELS, settings, tmp_path / "st", say=messages.append, progress=lambda done, of: steps.append(done),
        validation=ROWS[:3],
    )  # fmt: skip
    assert "resumed from checkpoint 24 of 60" in messages and steps[0] == 25
    alone = fit(ROWS, LABELS, settings, validation=ROWS[:3])
    assert same(TextClassifier.load(tmp_path / "st"), alone.model, within=1e-5)
    assert (result.loss, result.best, result.note) == (pytest.approx(alone.loss, abs=1e-5), alone.best, alone.note)
    assert [p.name for p in tmp_path.iterdir()] == ["st"]
    assert not (tmp_path / "st" / checkpoint.NAME).exists()


def stopped(out: Path, settings: StudentSettings, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that a person ends, with a checkpoint after every pass."""
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)

    def progress(step: int, steps: int) -> None:
        if step == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_classifier(ROWS, LABELS, settings, out, progress=progress)
    assert (out.with_name("st.partial") / checkpoint.NAME).is_file()


@pytest.mark.parametrize("other", ["settings", "data", "torch version", "cannot be read"])
def test_a_foreign_checkpoint_is_ignored_with_a_note(
    tmp_path: Path, settings: StudentSettings, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    stopped(tmp_path / "st", settings, 8, monkeypatch)
    rows, messages, file = ROWS, list[str](), tmp_path / "st.partial" / checkpoint.NAME
    if other == "settings":
        settings = settings.model_copy(update={"weight_decay": 0.5})
    elif other == "data":
        rows = ROWS[:-1]
    elif other == "torch version":
        held = torch.load(file, weights_only=True)
        torch.save({**held, "facts": {**held["facts"], other: "0.1"}}, file)
    else:
        file.write_bytes(file.read_bytes()[:1000])
    train_classifier(rows, LABELS, settings, tmp_path / "st", say=messages.append)
    assert any(other in text and "starting again" in text for text in messages), messages
    assert same(TextClassifier.load(tmp_path / "st"), fit(rows, LABELS, settings).model)
    assert [p.name for p in tmp_path.iterdir()] == ["st"]


def test_a_disk_that_is_full_costs_the_checkpoint_and_not_the_training(
    tmp_path: Path, settings: StudentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(state: object, file: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(torch, "save", full)
    messages: list[str] = []
    train_classifier(ROWS, LABELS, settings, tmp_path / "st", say=messages.append)
    assert sum("no checkpoint could be written" in text for text in messages) == 1
    assert TextClassifier.load(tmp_path / "st").predict(["where is my parcel"])[0] == ["delivery"]


def test_short_trainings_write_no_checkpoint_and_slow_disks_few(
    tmp_path: Path, settings: StudentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[float] = []
    now = [0.0]

    def slow(state: object, file: Path) -> None:
        written.append(now[0])
        file.write_bytes(b"")
        now[0] += 2.0

    monkeypatch.setattr(torch, "save", slow)
    train_classifier(ROWS, LABELS, settings, tmp_path / "st")
    assert not written
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    held = checkpoint.Checkpoint(tmp_path, {}, print)
    for _ in range(1000):
        now[0] += 1
        if held.due:
            held.save({})
    assert len(written) * 2.0 <= 0.1 * now[0] and len(written) > 10


# ---- several trainings


@pytest.mark.usefixtures("no_pictures")
def test_further_trainings_add_accuracies_and_change_no_weights(tmp_path: Path, settings: StudentSettings) -> None:
    from graft.students.train import StudentReport, train_student

    def trained(home: Path, runs: int) -> tuple[StudentReport, TextClassifier]:
        report = train_student(
            rows=[TrainRow("my parcel is late", "delivery")], seeds=ROWS, test_rows=ROWS, test_name="held",
            labels=LABELS, settings=settings.model_copy(update={"runs": runs, "epochs": 3}), home=Home(home),
            dataset="desk", version=1, say=lambda text: None,
        )  # fmt: skip
        return report, TextClassifier.load(home / report.students[1].path)

    several, kept = trained(tmp_path / "several", 3)
    one, alone = trained(tmp_path / "one", 1)
    assert same(kept, alone)
    assert [student.id for student in several.students] == [student.id for student in one.students]
    for evaluation in several.evaluations:
        assert len(evaluation.accuracies) == 3 and evaluation.accuracies[0] == evaluation.accuracy
    other = fit(ROWS, LABELS, settings.model_copy(update={"seed": 43, "epochs": 3})).model
    right = sum(p == label for p, (_, label) in zip(other.predict([t for t, _ in ROWS])[0], ROWS, strict=True))
    assert several.evaluations[0].accuracies[1] == right / len(ROWS)
    assert several.text.count("accuracy over 3 trainings") == 2 and "±" in several.text
    assert one.evaluations[0].accuracies == () and "±" not in one.text


@pytest.mark.usefixtures("no_pictures")
def test_a_further_training_that_comes_apart_is_named_and_left_out(
    tmp_path: Path, settings: StudentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graft.students import fit as room
    from graft.students.train import train_student

    whole = room.fit

    def only_the_first(*args: Any, checkpoints: Path | None = None, **more: Any) -> Any:
        if checkpoints is None:
            raise GraftError("training diverged: so it is")
        return whole(*args, checkpoints=checkpoints, **more)

    monkeypatch.setattr(room, "fit", only_the_first)
    report = train_student(
        rows=[], seeds=ROWS, test_rows=ROWS, test_name="held", labels=LABELS, home=Home(tmp_path), dataset="desk",
        settings=settings.model_copy(update={"runs": 2, "epochs": 3}), version=1, say=lambda text: None,
    )  # fmt: skip
    assert [len(one.accuracies) for one in report.evaluations] == [1, 1]
    assert "the training with seed 43 is left out of all figures: training diverged" in report.text
