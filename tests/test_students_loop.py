"""Steps of several batches, batches of like length, layers computed again, and the tokens of a second."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import tiny_encoder
import torch
import transformers.modeling_utils
from hypothesis import given
from hypothesis import strategies as st
from tiny_encoder import LABELS, ROWS

from graft.schemas.students import StudentSettings
from graft.students import checkpoint, loop
from graft.students.classifier import TextClassifier
from graft.students.fit import Fit, fit
from graft.students.launch import train_classifier
from graft.students.loop import in_steps
from graft.students.rows import TrainRow, as_rows


@pytest.fixture(autouse=True)
def few_steps(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.students.fit.MIN_STEPS", 10)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Without dropout, so that it does not matter how rows are parted into batches."""
    folder = tiny_encoder.write(tmp_path_factory.mktemp("encoder"), [text for text, _ in ROWS])
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def trained(encoder: str, messages: list[str] | None = None, **changes: Any) -> Fit:
    requested = {"encoder": encoder, **tiny_encoder.SETTINGS, "patience": None, **changes}
    return fit(
        ROWS, LABELS, StudentSettings.model_validate(requested), (messages if messages is not None else []).append
    )


def apart(one: TextClassifier, other: TextClassifier) -> float:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


# ---- the order


@given(
    st.integers(1, 60), st.integers(1, 5), st.integers(1, 4), st.booleans(), st.integers(0, 3), st.integers(0, 2**32)
)
def test_every_pass_has_each_row_once_and_a_pass_can_be_taken_up(
    count: int, size: int, accumulate: int, group: bool, skipped: int, seed: int
) -> None:
    rows = [TrainRow("x" * (7 * n % 11) + str(n), "a") for n in range(count)]
    lengths = {row.text: len(row.text) for row in rows}
    settings = StudentSettings(seed=seed, accumulate=accumulate, group_lengths=group)
    a_pass = -(-count // (size * accumulate))
    steps = list(islice(in_steps(rows, size, settings, lengths), 5 * a_pass))
    for start in range(0, len(steps), a_pass):
        whole = [row for step in steps[start : start + a_pass] for batch in step for row in batch]
        assert Counter(whole) == Counter(rows)
    assert all(0 < len(batch) <= size for step in steps for batch in step)
    assert all(0 < len(step) <= accumulate for step in steps)
    assert list(islice(in_steps(rows, size, settings, lengths, skipped), a_pass)) == steps[skipped * a_pass :][:a_pass]


def test_batches_of_like_length_have_less_padding_and_no_order_of_length() -> None:
    rows = [TrainRow("x" * (1 + 37 * n % 101), "a") for n in range(101)]
    lengths = {row.text: len(row.text) for row in rows}

    def padding(group: bool) -> tuple[int, list[int]]:
        steps = list(islice(in_steps(rows, 5, StudentSettings(group_lengths=group), lengths), 21))
        longest = [max(len(row.text) for row in batch) for step in steps for batch in step]
        return sum(map(len, (r.text for s in steps for b in s for r in b))), longest

    (tokens, grouped), (same, mixed) = padding(True), padding(False)
    assert tokens == same and sum(grouped) * 1.5 < sum(mixed)
    assert grouped != sorted(grouped) and grouped != sorted(grouped, reverse=True)


# ---- several batches a step


@pytest.mark.parametrize(
    "kind", [{}, {"soft_weight": 0.5, "class_weights": "balanced"}, {"multi_label": 0.5, "class_weights": "balanced"}]
)
def test_some_batches_make_the_step_that_one_of_all_their_rows_makes(encoder: str, kind: dict[str, Any]) -> None:
    one = trained(encoder, batch_size=12, accumulate=1, **kind)
    several = trained(encoder, batch_size=5, accumulate=3, **kind)
    assert (several.steps, several.epochs) == (one.steps, one.epochs) == (12, 12.0)
    assert several.loss == pytest.approx(one.loss, abs=1e-5) and apart(one.model, several.model) < 1e-4
    assert apart(one.model, trained(encoder, batch_size=5, **kind).model) > 1e-3


def test_a_training_in_groups_is_the_same_every_time_and_after_a_stop(
    tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested = {"encoder": encoder, **tiny_encoder.SETTINGS, "batch_size": 2, "accumulate": 2, "group_lengths": True}
    settings = StudentSettings.model_validate({**requested, "patience": None})
    whole = fit(ROWS, LABELS, settings)
    assert apart(whole.model, fit(ROWS[::-1], LABELS, settings).model) == 0.0
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)

    def stop(step: int, steps: int) -> None:
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_classifier(ROWS, LABELS, settings, tmp_path / "st", progress=stop)
    messages: list[str] = []
    train_classifier(ROWS, LABELS, settings, tmp_path / "st", say=messages.append)
    assert "resumed from checkpoint 6 of 36" in messages
    assert apart(whole.model, TextClassifier.load(tmp_path / "st")) == 0.0


# ---- layers computed again


def test_layers_computed_again_give_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = str(tiny_encoder.write(tmp_path, [text for text, _ in ROWS], layers=2))  # with dropout
    again: list[object] = []
    whole = transformers.modeling_utils.checkpoint
    monkeypatch.setattr(
        transformers.modeling_utils, "checkpoint", lambda *a, **k: again.append(1) or whole(*a, **k)
    )  # fmt: skip
    plain = trained(encoder)
    assert not again
    saving = trained(encoder, recompute=True)
    assert len(again) == 2 * saving.steps and saving.note == ""
    assert apart(plain.model, saving.model) < 1e-6
    assert not saving.model.encoder.is_activation_checkpointing


def test_an_encoder_without_recomputation_is_trained_with_a_note(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertModel

    monkeypatch.setattr(BertModel, "supports_gradient_checkpointing", False)
    messages: list[str] = []
    fitted = trained(encoder, messages, recompute=True)
    assert "student.recompute has no effect: bert" in fitted.note and fitted.note in messages
    assert apart(fitted.model, trained(encoder).model) == 0.0


# ---- tokens a second


def test_tokens_are_counted_without_padding(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def tick() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(loop.time, "perf_counter", tick)
    fitted = trained(encoder)
    texts = [text for text, _ in ROWS] + [row.text for row in as_rows([(label, label) for label in LABELS])]
    a_pass = sum(min(16, len(text.split()) + 2) for text in texts)  # with [CLS] and [SEP]
    assert fitted.tokens_per_second == pytest.approx(a_pass * 12 / fitted.steps)  # each step took one tick
    assert fitted.peak_share is None


def test_a_known_device_has_a_share_of_its_peak(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.students.fit.device_name", lambda device: "NVIDIA L4")
    fitted = trained(encoder, epochs=1)
    tables = sum(part.weight.numel() for part in fitted.model.modules() if isinstance(part, torch.nn.Embedding))
    multiplied = sum(weights.numel() for weights in fitted.model.parameters()) - tables
    assert fitted.peak_share == pytest.approx(6 * multiplied * fitted.tokens_per_second / 121e12)
