"""Training a classifier: AdamW, linear warm-up and decay, on whatever device there is. Loads torch."""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from schemas.errors import GraftError
from schemas.students import StudentSettings
from students.classifier import TextClassifier
from students.encoder import find_encoder

MIN_STEPS = 40
"""Optimiser steps at least, so that a handful of seeds is trained as fairly as a whole version."""

HEAD_RATE = 10.0
"""How much faster the new layer learns than the encoder."""


@dataclass(frozen=True)
class Fit:
    """A trained classifier and what it took."""

    model: TextClassifier
    device: str
    seconds: float
    steps: int
    loss: float


def pick_device() -> torch.device:
    """cuda, else Apple's mps, else cpu."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def fit(
    rows: Sequence[tuple[str, str]],
    labels: Sequence[str],
    settings: StudentSettings,
    say: Callable[[str], None] = lambda text: None,
) -> Fit:
    """Train on (text, label) rows. The same rows, settings and seed give the same weights on one machine.

    Raises GraftError where fewer than two labels have rows, or where the loss is no number.
    """
    present = sorted({label for _, label in rows})
    if len(present) < 2:
        raise GraftError(
            f"rows of {len(present)} class{'' if len(present) == 1 else 'es'}: a classifier needs two or more",
            where="training rows", fix="see what was rejected and why (graft show NAME --rejected)",
        )  # fmt: skip
    batch_size = settings.batch_size
    while True:
        try:
            return _fit(rows, labels, settings, batch_size, say)
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise GraftError("not enough memory for one row", fix="a smaller encoder or max_length") from None
            batch_size = max(1, batch_size // 2)
            say(f"not enough memory: going on with batches of {batch_size}")
            torch.cuda.empty_cache()


def _fit(
    rows: Sequence[tuple[str, str]], labels: Sequence[str], settings: StudentSettings, batch_size: int,
    say: Callable[[str], None],
) -> Fit:  # fmt: skip
    started = time.perf_counter()
    torch.manual_seed(settings.seed)
    device = pick_device()
    model = TextClassifier.start(find_encoder(settings.encoder), labels, settings.max_length).to(device)
    model.imprint(rows)
    steps = max(MIN_STEPS, settings.epochs * math.ceil(len(rows) / batch_size))
    optimiser = torch.optim.AdamW(
        [
            {"params": model.encoder.parameters(), "lr": settings.learning_rate},
            {"params": model.head.parameters(), "lr": settings.learning_rate * HEAD_RATE},
        ],
        weight_decay=settings.weight_decay,
    )
    warm = max(1, int(steps * settings.warmup))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm)))
    )
    numbers = {label: place for place, label in enumerate(labels)}
    value, batches = 0.0, _batches(rows, batch_size, settings.seed)
    model.train()
    for step in range(steps):
        batch = next(batches)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model([text for text, _ in batch])
        wanted = torch.tensor([numbers[label] for _, label in batch], device=device)
        loss = nn.functional.cross_entropy(logits.float(), wanted)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise GraftError(
                f"the loss became {value} at step {step}", where="student.learning_rate", fix="lower it (1e-4 is usual)"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if steps >= 10 and (step + 1) % (steps // 10) == 0:
            say(f"step {step + 1} of {steps}, loss {value:.3f}")
    model.eval()
    return Fit(model, str(device), time.perf_counter() - started, steps, value)


def _batches(rows: Sequence[tuple[str, str]], size: int, seed: int):  # type: ignore[no-untyped-def]
    """Endless batches: every row once in each pass, in another order each time."""
    rng, order = random.Random(seed), list(rows)
    while True:
        rng.shuffle(order)
        for start in range(0, len(order), size):
            yield order[start : start + size]


def save(model: TextClassifier, folder: Path) -> None:
    """Write a model whole or not at all: into a folder beside, then renamed."""
    staging = folder.with_name(folder.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    model.save(staging)
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)
