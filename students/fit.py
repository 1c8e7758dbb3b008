"""Training a classifier: AdamW, linear warm-up and decay, on whatever device there is. Loads torch.

A loop of our own: transformers' Trainer draws in accelerate, writes checkpoints and logs, and hides the few things
that matter here (a floor on steps, a faster head, halved batches).
"""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from schemas.errors import GraftError, StorageFull
from schemas.students import StudentSettings
from students.classifier import TextClassifier
from students.encoder import find_encoder

MIN_STEPS = 60
"""Optimiser steps at least, so that a handful of seeds is trained as fairly as a whole version."""

HEAD_RATE = 10.0
"""How much faster the new layer learns than the encoder."""

DIVERGED = 1.5
"""A last pass whose mean loss is this many times that of guessing has not learned, it has come apart."""

_FULL = (28, 122)  # ENOSPC, EDQUOT

Say = Callable[[str], None]
Progress = Callable[[int, int], None]
"""(steps done, steps in all)."""


def _silent(text: str) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class Fit:
    """A trained classifier and what it took. `loss` is the mean over the last pass, `epochs` the passes made."""

    model: TextClassifier
    device: str
    seconds: float
    steps: int
    epochs: float
    loss: float


@dataclass(frozen=True)
class TrainResult:
    """Where a trained classifier lies and what it took."""

    path: Path
    device: str
    seconds: float
    loss: float
    epochs: float


def train_classifier(
    rows: Sequence[tuple[str, str]], labels: Sequence[str], settings: StudentSettings, out: Path, *,
    say: Say = _silent, progress: Progress | None = None,
) -> TrainResult:  # fmt: skip
    """Train on (text, label) rows and write the classifier to `out`, whole or not at all. Errors as `fit`."""
    fitted = fit(rows, labels, settings, say, progress)
    save(fitted.model, out)
    return TrainResult(out, fitted.device, fitted.seconds, fitted.loss, fitted.epochs)


def fit(
    rows: Sequence[tuple[str, str]],
    labels: Sequence[str],
    settings: StudentSettings,
    say: Say = _silent,
    progress: Progress | None = None,
) -> Fit:
    """Train on (text, label) rows and each label's name.

    The same rows, settings and seed give the same weights on one machine's CPU, whatever order the rows come in.
    Where memory runs out, training starts again with half the batch and says so. Raises GraftError where fewer than
    two labels have rows, a row's label is unknown, or training comes apart (the loss is no number, or never fell).
    """
    _check(rows, labels, say)
    rows = sorted([*rows, *named(labels)])  # whatever order they came in
    batch_size = min(settings.batch_size, len(rows))
    while True:
        try:
            return _fit(rows, labels, settings, batch_size, say, progress)
        except RuntimeError as error:
            if not _is_memory(error):
                raise
        if batch_size == 1:
            raise GraftError("not enough memory for one row", where="training", fix="a smaller encoder or max_length")
        batch_size //= 2
        say(f"not enough memory: starting again with batches of {batch_size}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def save(model: TextClassifier, folder: Path) -> None:
    """Write a model whole or not at all: into a folder beside, then renamed. Raises StorageFull."""
    staging, old = folder.with_name(folder.name + ".partial"), folder.with_name(folder.name + ".old")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        model.save(staging)
    except OSError as error:
        shutil.rmtree(staging, ignore_errors=True)
        if error.errno in _FULL:
            raise StorageFull("no space left for the student's weights", where=str(folder), fix="free space") from None
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def named(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Each label's name in words, as one more example of it; a name without letters says nothing.

    With two rows a class this is worth 7 points on CLINC150's ten domains; with thirty it is one row in thirty-one.
    """
    return [(label.replace("_", " "), label) for label in labels if any(sign.isalpha() for sign in label)]


def _check(rows: Sequence[tuple[str, str]], labels: Sequence[str], say: Say) -> None:
    present = {label for _, label in rows}
    if unknown := sorted(present - set(labels)):
        raise GraftError(
            f"training rows with labels that the dataset lacks: {', '.join(unknown[:5])}", where="training rows",
            fix=f"the dataset has {', '.join(labels)}",
        )  # fmt: skip
    if len(present) < 2:
        what = f"every training row has the label {present.pop()!r}" if present else "there is no training row"
        raise GraftError(
            f"{what}: a classifier needs rows of two classes or more", where="training rows",
            fix="add seeds of the other labels; graft show NAME --rejected says why rows were rejected",
        )  # fmt: skip
    if absent := [label for label in labels if label not in present]:
        say(f"no training rows for {len(absent)} labels, known by their names only: {', '.join(absent[:5])}")


def _is_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory: CUDA has a class for it, Apple's and the CPU's allocators only a message."""
    said = str(error).casefold()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said


def pick_device() -> torch.device:
    """cuda, else Apple's mps, else cpu."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _fit(
    rows: Sequence[tuple[str, str]], labels: Sequence[str], settings: StudentSettings, batch_size: int,
    say: Say, progress: Progress | None,
) -> Fit:  # fmt: skip
    started = time.perf_counter()
    device = pick_device()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(settings.seed)
        model = TextClassifier.start(find_encoder(settings.encoder), labels, settings.max_length).to(device)
        model.imprint(rows)
        a_pass = math.ceil(len(rows) / batch_size)
        steps = max(MIN_STEPS, settings.epochs * a_pass)
        if steps > settings.epochs * a_pass:
            say(f"{len(rows)} rows are few: {steps} steps instead of {settings.epochs * a_pass}")
        losses = _train(model, rows, settings, batch_size, steps, say, progress)
    model.eval()
    loss = sum(losses[-a_pass:]) / len(losses[-a_pass:])
    guessing = math.log(len(labels))
    whole = all(bool(torch.isfinite(weights).all()) for weights in model.parameters())
    if loss > DIVERGED * guessing or not whole:
        raise _apart(f"the loss ended at {loss:.2f}, where guessing gives {guessing:.2f}")
    return Fit(model, str(device), time.perf_counter() - started, steps, steps / a_pass, loss)


def _train(
    model: TextClassifier, rows: Sequence[tuple[str, str]], settings: StudentSettings, batch_size: int, steps: int,
    say: Say, progress: Progress | None,
) -> list[float]:  # fmt: skip
    """Runs the steps; every step's loss in nats."""
    optimiser = torch.optim.AdamW(
        [
            {"params": list(model.encoder.parameters()), "lr": settings.learning_rate},
            {"params": list(model.head.parameters()), "lr": settings.learning_rate * HEAD_RATE},
        ],
        weight_decay=settings.weight_decay,
        fused=True,  # a step of MiniLM on 2 cores: 10 ms instead of 74
    )
    warm = max(1, int(steps * settings.warmup))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )
    numbers = {label: place for place, label in enumerate(model.labels)}
    losses: list[float] = []
    model.train()
    for step, batch in zip(range(1, steps + 1), _batches(rows, batch_size, settings.seed), strict=False):
        with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
            logits = model([text for text, _ in batch])
        wanted = torch.tensor([numbers[label] for _, label in batch], device=model.device)
        loss = nn.functional.cross_entropy(logits.float(), wanted)
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise _apart(f"the loss is no number at step {step} of {steps}")
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if progress is not None:
            progress(step, steps)
        if step % max(1, steps // 4) == 0:
            say(f"step {step} of {steps}, loss {losses[-1]:.3f}")
    return losses


def _apart(what: str) -> GraftError:
    return GraftError(
        f"training came apart: {what}", where="student.learning_rate",
        fix="lower it (1e-5 to 1e-4 is usual); if it is, the encoder's weights are broken",
    )  # fmt: skip


def _batches(rows: Sequence[tuple[str, str]], size: int, seed: int) -> Iterator[list[tuple[str, str]]]:
    """Endless batches: every row once in each pass, in another order each time."""
    rng, order = random.Random(seed), list(rows)
    while True:
        rng.shuffle(order)
        for start in range(0, len(order), size):
            yield order[start : start + size]
