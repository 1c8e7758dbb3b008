"""Training a classifier: AdamW, linear warm-up and decay, on whatever device there is. Loads torch.

Here are the rows' checks, the memory that runs out, and what is written; the loop itself is in `students.loop`.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from schemas.base import stable_hash
from schemas.errors import NO_SPACE, GraftError, StorageFull
from schemas.students import StudentSettings
from students.checkpoint import NAME, Checkpoint
from students.classifier import TextClassifier
from students.encoder import Encoder, find_encoder
from students.loop import HEAD_RATE, Loop, Plan, Progress, Say
from students.rows import Given, TrainRow, as_rows

MIN_STEPS = 60
"""Optimiser steps at least, so that a handful of seeds is trained as fairly as a whole version."""

NOT_LEARNED = {"test", "text_field", "label_field", "runs"}
"""Settings that change nothing in the weights."""


def _silent(text: str) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class Fit:
    """A trained classifier and what it took.

    `loss` is the mean over the pass whose weights it has: pass `best`, or the last one (None). `epochs` are the passes
    made, `note` says what a person should know of how it ended (stopped early, came apart); empty where all went well.
    """

    model: TextClassifier
    device: str
    seconds: float
    steps: int
    epochs: float
    loss: float
    best: int | None = None
    note: str = ""


@dataclass(frozen=True)
class TrainResult:
    """Where a trained classifier lies and what it took; fields as of `Fit`."""

    path: Path
    device: str
    seconds: float
    loss: float
    epochs: float
    best: int | None = None
    note: str = ""


@dataclass(frozen=True)
class _Task:
    """What stays the same when training starts again with smaller batches."""

    rows: Sequence[TrainRow]
    validation: Sequence[TrainRow]
    labels: Sequence[str]
    settings: StudentSettings
    encoder: Encoder
    say: Say
    progress: Progress | None


def train_classifier(
    rows: Sequence[Given], labels: Sequence[str], settings: StudentSettings, out: Path, *,
    say: Say = _silent, progress: Progress | None = None, validation: Sequence[Given] = (),
) -> TrainResult:  # fmt: skip
    """Train on the rows and write the classifier to `out`, whole or not at all. Arguments and errors as `fit`.

    A long training leaves checkpoints beside `out`, from which the same call goes on after a kill.
    """
    fitted = fit(rows, labels, settings, say, progress, validation=validation, checkpoints=_staging(out))
    save(fitted.model, out)
    return TrainResult(
        out, fitted.device, fitted.seconds, fitted.loss, fitted.epochs, best=fitted.best, note=fitted.note
    )


def fit(
    rows: Sequence[Given],
    labels: Sequence[str],
    settings: StudentSettings,
    say: Say = _silent,
    progress: Progress | None = None,
    *,
    validation: Sequence[Given] = (),
    checkpoints: Path | None = None,
) -> Fit:
    """Train on rows, or (text, label) pairs, and each label's name.

    The same rows, settings and seed give the same weights on one machine's CPU, whatever order the rows come in, and
    also where a killed training goes on from a checkpoint in the folder `checkpoints`. `validation` is only for
    `settings.patience`. Where memory runs out, training starts again with half the batch and says so. Where the loss is
    no number, the weights of an earlier pass are kept, and `note` says it. Raises GraftError where fewer than two
    labels have rows, a row's label is unknown, or training comes apart before a pass ended well.
    """
    given, judged = as_rows(rows), as_rows(validation) if settings.patience else []
    _check(given, judged, labels, say)
    if settings.patience and not judged:
        say("no validation rows: patience is not used, training goes through all its passes")
    everything = sorted([*given, *as_rows(named(labels))], key=lambda row: row.order)  # whatever order they came in
    task = _Task(everything, judged, labels, settings, find_encoder(settings.encoder), say, progress)
    return _fitting(task, Checkpoint(checkpoints, _facts(task), say))


def _fitting(task: _Task, checkpoint: Checkpoint) -> Fit:
    """Trains, from the checkpoint where there is one, with batches that fit into memory."""
    found = checkpoint.load()
    batch_size = found["batch_size"] if found else min(task.settings.batch_size, len(task.rows))
    while True:
        try:
            return _fit(task, batch_size, checkpoint, found)
        except GraftError:
            checkpoint.remove()
            raise
        except RuntimeError as error:
            if not _is_memory(error):
                raise
        checkpoint.remove()
        if batch_size == 1:
            raise GraftError("not enough memory for one row", where="training", fix="a smaller encoder or max_length")
        found, batch_size = None, batch_size // 2
        task.say(f"not enough memory: starting again with batches of {batch_size}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def save(model: TextClassifier, folder: Path) -> None:
    """Write a model whole or not at all: into a folder beside, then renamed. Raises StorageFull.

    A checkpoint in the folder beside goes when the weights are whole, and not before.
    """
    staging, old = _staging(folder), folder.with_name(folder.name + ".old")
    try:
        staging.mkdir(parents=True, exist_ok=True)
        _clear(staging)
        model.save(staging)
        (staging / NAME).unlink(missing_ok=True)
    except OSError as error:
        _clear(staging)
        with contextlib.suppress(OSError):
            staging.rmdir()  # stays where a checkpoint is in it
        if error.errno in NO_SPACE:
            raise StorageFull("no space left for the student's weights", where=str(folder), fix="free space") from None
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _staging(folder: Path) -> Path:
    return folder.with_name(folder.name + ".partial")


def _clear(staging: Path) -> None:
    """Empty a folder of all but the checkpoint."""
    for left in staging.iterdir() if staging.is_dir() else ():
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        elif left.name != NAME:
            left.unlink(missing_ok=True)


def named(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Each label's name in words, as one more example of it; a name without letters says nothing.

    With two rows a class this is worth 7 points on CLINC150's ten domains; with thirty it is one row in thirty-one.
    """
    return [(label.replace("_", " "), label) for label in labels if any(sign.isalpha() for sign in label)]


def _check(rows: Sequence[TrainRow], validation: Sequence[TrainRow], labels: Sequence[str], say: Say) -> None:
    present = {row.label for row in rows}
    if unknown := sorted((present | {row.label for row in validation}) - set(labels)):
        raise GraftError(
            f"training rows with labels that the dataset lacks: {', '.join(unknown[:5])}", where="training rows",
            fix=f"the dataset has {', '.join(labels)}",
        )  # fmt: skip
    if any(row.soft is not None and len(row.soft) != len(labels) for row in (*rows, *validation)):
        raise ValueError("a soft label has not one number a label")
    if len(present) < 2:
        what = f"every training row has the label {present.pop()!r}" if present else "there is no training row"
        raise GraftError(
            f"{what}: a classifier needs rows of two classes or more", where="training rows",
            fix="add seeds of the other labels; graft show NAME --rejected says why rows were rejected",
        )  # fmt: skip
    if absent := [label for label in labels if label not in present]:
        say(f"no training rows for {len(absent)} labels, known by their names only: {', '.join(absent[:5])}")


def _facts(task: _Task) -> dict[str, str]:
    """What a checkpoint must have been made with; the keys are words for people."""
    learned_with = task.settings.model_dump(mode="json", exclude=NOT_LEARNED)
    return {
        "torch version": str(torch.__version__),
        "device": pick_device().type,
        "settings": stable_hash(learned_with, list(task.labels), MIN_STEPS, HEAD_RATE),
        "data": stable_hash([row.order for row in task.rows], [row.order for row in task.validation]),
        "encoder": task.encoder.revision,
    }


def _is_memory(error: RuntimeError) -> bool:
    """Whether torch ran out of memory: CUDA has a class for it, Apple's and the CPU's allocators only a message."""
    said = str(error).casefold()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in said or "can't allocate memory" in said


def pick_device() -> torch.device:
    """cuda, else Apple's mps, else cpu."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _fit(task: _Task, batch_size: int, checkpoint: Checkpoint, found: dict[str, Any] | None) -> Fit:
    started, settings, count = time.perf_counter(), task.settings, len(task.rows)
    device = pick_device()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(settings.seed)
        model = TextClassifier.start(task.encoder, task.labels, settings.max_length).to(device)
        if found is None:
            model.imprint([row.pair for row in task.rows])
        a_pass = math.ceil(count / batch_size)
        steps = max(MIN_STEPS, settings.epochs * a_pass)
        if steps > settings.epochs * a_pass:
            task.say(f"{count} rows are few: {steps} steps instead of {settings.epochs * a_pass}")
        plan = Plan(task.rows, task.validation, settings, batch_size, steps)
        ended = Loop(model, plan, task.say, task.progress, checkpoint).run(found)
    model.eval()
    seconds = time.perf_counter() - started + ended.seconds_before
    return Fit(model, str(device), seconds, ended.steps, ended.steps / a_pass, ended.loss, ended.best, ended.note)
