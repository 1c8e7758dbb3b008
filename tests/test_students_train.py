"""Students learn, are saved and loaded, repeat themselves, and say what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_encoder

from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home
from graft.schemas.students import StudentSettings
from graft.students.encoder import find_encoder

SEEDS = [
    ("where is my parcel", "delivery"), ("the courier never came", "delivery"),
    ("I was charged twice", "billing"), ("please send me an invoice", "billing"),
    ("I forgot my password", "account"), ("how do I change my e-mail address", "account"),
    ("the screen stays black", "technical"), ("the app crashes when it starts", "technical"),
]  # fmt: skip
TEST = [
    ("my package has not arrived", "delivery"), ("when will the shipment get here", "delivery"),
    ("there is a wrong amount on my bill", "billing"), ("can I get a receipt for the payment", "billing"),
    ("I cannot log in to my profile", "account"), ("reset my login please", "account"),
    ("the program freezes all the time", "technical"), ("my device does not turn on", "technical"),
]  # fmt: skip
LABELS = ["delivery", "billing", "account", "technical"]
QUICK = StudentSettings(epochs=2, max_length=16)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Few steps, and one thread: for so small a model more of them only wait for each other."""
    import torch

    monkeypatch.setattr("graft.students.fit.MIN_STEPS", 10)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised BERT of 16 dimensions, as a folder."""
    texts = [text.replace("-", " - ") for text, _ in SEEDS + TEST]
    return tiny_encoder.write(tmp_path_factory.mktemp("tiny"), texts)


@pytest.fixture
def quick(tiny: Path) -> StudentSettings:
    return StudentSettings(encoder=str(tiny), epochs=20, learning_rate=5e-3, max_length=4096)


def test_a_student_learns_from_two_rows_a_class_and_is_the_same_when_loaded(tmp_path: Path) -> None:
    from graft.students.classifier import TextClassifier
    from graft.students.fit import fit, save

    fitted = fit(SEEDS, LABELS, QUICK)
    texts = [text for text, _ in TEST]
    predicted, probabilities = fitted.model.predict(texts)
    assert sum(p == label for p, (_, label) in zip(predicted, TEST, strict=True)) >= 6  # the majority class has 2
    assert all(abs(sum(row) - 1) < 1e-5 for row in probabilities)
    save(fitted.model, tmp_path / "st")
    assert TextClassifier.load(tmp_path / "st").predict(texts) == (predicted, probabilities)
    assert [p.name for p in tmp_path.iterdir()] == ["st"]
    assert {p.name for p in (tmp_path / "st").iterdir()} == {"encoder", "head.safetensors", "classifier.json"}
    written = {p.name for p in (tmp_path / "st" / "encoder").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= written
    weights = tmp_path / "st" / "encoder" / "model.safetensors"
    before = weights.stat().st_size
    fitted.model.share_words(tmp_path / "st", find_encoder(QUICK.encoder))  # as other students of the same encoder do
    (shared,) = (tmp_path / "shared").iterdir()
    assert weights.stat().st_size < before / 2 and shared.stat().st_nlink == 2
    shutil.copytree(tmp_path / "st", tmp_path / "taken away" / "st")
    shutil.rmtree(tmp_path / "st")
    shared.unlink()
    again = TextClassifier.load(tmp_path / "taken away" / "st").predict(texts)
    assert again[0] == predicted
    assert all(
        abs(a - b) < 1e-4
        for one, other in zip(again[1], probabilities, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_any_encoder_folder_trains_and_the_same_seed_gives_the_same_student(quick: StudentSettings) -> None:
    from graft.students.fit import fit

    texts = [text for text, _ in SEEDS]
    first = fit(SEEDS, LABELS, quick)
    again = fit(list(reversed(SEEDS)), LABELS, quick)
    other = fit(SEEDS, LABELS, quick.model_copy(update={"seed": 7}))
    assert first.model.predict(texts)[0] == [label for _, label in SEEDS]
    assert first.model.predict(texts) == again.model.predict(texts)
    assert first.model.predict(texts)[1] != other.model.predict(texts)[1]
    assert first.model.max_length == 32  # cut to the encoder's positions


def test_texts_of_any_kind_get_a_prediction_whatever_they_are_batched_with(quick: StudentSettings) -> None:
    from graft.students.fit import fit

    model = fit(SEEDS, LABELS, quick).model
    odd = ["", "   ", "{{ 7*7 }}", "\x00", "word " * 500, "пароль 密码"]
    together = model.predict(odd)[1]
    for text, row in zip(odd, together, strict=True):
        assert model.predict([text])[1][0] == pytest.approx(row, abs=1e-5)
    assert model.predict([]) == ([], [])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("a", "billing"), ("b", "billing")], "every training row has the label 'billing'"),
        ([], "there is no training row"),
        ([*SEEDS, ("x", "weather")], "labels that the dataset lacks: weather"),
    ],
)
def test_rows_that_cannot_be_trained_on(rows: list[tuple[str, str]], expected: str) -> None:
    from graft.students.fit import fit

    with pytest.raises(GraftError, match=expected):
        fit(rows, LABELS, QUICK)


def test_a_loss_that_is_no_number_ends_training_and_leaves_what_was_there(
    tmp_path: Path, tiny: Path, quick: StudentSettings
) -> None:
    import torch
    from transformers import BertModel

    from graft.students.launch import train_classifier

    train_classifier(SEEDS, LABELS, quick, tmp_path / "st")
    before = (tmp_path / "st/head.safetensors").read_bytes()
    broken = tmp_path / "broken"
    model = BertModel.from_pretrained(tiny)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.fill_(float("nan"))
    model.save_pretrained(broken)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (broken / name).write_bytes((tiny / name).read_bytes())
    with pytest.raises(GraftError, match="the loss is not finite at step 1 of"):
        train_classifier(SEEDS, LABELS, quick.model_copy(update={"encoder": str(broken)}), tmp_path / "st")
    assert (tmp_path / "st/head.safetensors").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"st", "broken"}


def test_an_absurd_learning_rate_is_named(
    tmp_path: Path, quick: StudentSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graft.students.launch import train_classifier

    monkeypatch.setattr("graft.students.loop.HEAD_RATE", 1000.0)
    absurd = quick.model_copy(update={"learning_rate": 0.99, "batch_size": 1, "weight_decay": 0.0})
    rows = [("same", label) for label in LABELS]
    with pytest.raises(GraftError, match=r"the loss ended at \d+\.\d\d, guessing has 1\.39") as caught:
        train_classifier(rows, LABELS, absurd, tmp_path / "st")
    assert caught.value.where == "student.learning_rate"
    assert not list(tmp_path.iterdir())


def test_out_of_memory_halves_the_batch_and_is_noted(quick: StudentSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from graft.students.classifier import TextClassifier
    from graft.students.fit import fit

    whole = TextClassifier.forward

    def small(self: TextClassifier, texts: list[str]) -> torch.Tensor:
        if len(texts) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, texts)

    monkeypatch.setattr(TextClassifier, "forward", small)
    messages: list[str] = []
    steps: list[tuple[int, int]] = []
    fit(SEEDS, LABELS, quick, messages.append, lambda done, total: steps.append((done, total)))
    assert [text for text in messages if "memory" in text] == [
        "not enough memory: starting again with batches of 6", "not enough memory: starting again with batches of 3",
    ]  # fmt: skip
    assert steps[-1] == (20 * 4, 20 * 4)


def test_few_rows_are_trained_for_a_floor_of_steps_and_labels_without_rows_are_named(quick: StudentSettings) -> None:
    from graft.students.fit import fit

    messages: list[str] = []
    fitted = fit(SEEDS, [*LABELS, "praise"], quick.model_copy(update={"epochs": 1}), messages.append)
    assert (fitted.steps, fitted.epochs) == (10, 10.0)
    assert "13 rows are few: 10 steps instead of 1" in messages  # 8 rows and 5 names
    assert any("praise" in text for text in messages)


def test_encoders_are_found_or_named_with_the_way_out(tmp_path: Path, tiny: Path) -> None:
    built_in = find_encoder("all-MiniLM-L6-v2")
    assert (built_in.revision[:7], built_in.licence) == ("sha256:", "Apache-2.0")
    (tiny / "README.md").write_text("---\nlicense: mit\n---\n")
    assert find_encoder(str(tiny)).licence == "mit"
    with pytest.raises(GraftError, match="holds no encoder"):
        find_encoder(str(tmp_path))


def test_an_unreachable_hub_is_an_error_with_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(GraftError, match="name a folder that holds the encoder"):
        find_encoder("somebody/no-such-encoder")


def test_a_folder_without_a_student(tmp_path: Path) -> None:
    from graft.students.classifier import TextClassifier

    with pytest.raises(NotFound):
        TextClassifier.load(tmp_path)


def test_version_and_seeds_only_are_trained_and_compared(tmp_path: Path, quick: StudentSettings) -> None:
    from graft.students.classifier import TextClassifier
    from graft.students.train import train_student

    messages: list[str] = []
    home = Home(tmp_path)
    report = train_student(
        rows=[*TEST, SEEDS[0]], seeds=SEEDS, test_rows=TEST, test_name="held.jsonl", labels=LABELS, settings=quick,
        home=home, dataset="desk", version=3, say=messages.append,
    )  # fmt: skip
    base, ours = report.students
    assert (base.version, base.trained_on, base.train_rows) == (None, "seeds", 8)
    assert (ours.version, ours.trained_on, ours.train_rows) == (3, "version", 16)  # the seed given twice counts once
    assert base.id != ours.id and ours.id.startswith("st_")
    assert report.gain == report.evaluations[1].accuracy - report.evaluations[0].accuracy > 0  # it saw the test's rows
    assert "8 of 8 rows of held.jsonl are also training rows: the figures are too good" in messages
    loaded = TextClassifier.load(home.root / ours.path)
    accuracy = sum(p == label for p, (_, label) in zip(loaded.predict([t for t, _ in TEST])[0], TEST, strict=True)) / 8
    assert report.evaluations[1].accuracy == accuracy
    assert json.loads((home.root / ours.path / "classifier.json").read_text())["labels"] == LABELS
    assert all(path.is_file() and path.parent.parent == home.students for path in report.confusion)
    for word in ("seeds only", "with version", "gain", "macro-F1", *LABELS):
        assert word in report.text


def test_test_labels_are_checked_before_anything_is_trained(tmp_path: Path, quick: StudentSettings) -> None:
    from graft.students.train import train_student

    with pytest.raises(GraftError, match="lacks: weather"):
        train_student(
            rows=[], seeds=SEEDS, test_rows=[("rain", "weather")], test_name="t", labels=LABELS, settings=quick,
            home=Home(tmp_path), dataset="desk", version=1, say=lambda text: None,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())
