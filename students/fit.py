"""Trains a classifier: AdamW, linear warm-up and decay, on the available device. Loads torch.

This module checks rows, handles lack of memory and writes the result; the loop itself is in `students.loop`, and
`students.launch` starts one process or several.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from graft.data.scores.answers import carried
from graft.schemas.base import stable_hash
from graft.schemas.errors import NO_SPACE, GraftError, StorageFull
from graft.schemas.students import StudentSettings
from graft.students.checkpoint import NAME, Checkpoint
from graft.students.classifier import TextClassifier
from graft.students.device import device_name, multiplying, pick_device, share_of_peak
from graft.students.distributed import ALONE, ProcessGroup
from graft.students.encoder import Encoder, find_encoder
from graft.students.heads import Head, head_of
from graft.students.loop import HEAD_RATE, BatchPlan, Loop, Outcome, Progress, Say
from graft.students.rows import Given, TrainRow, as_rows, named

MIN_STEPS = 60
"""Optimiser steps at least, so that a handful of seeds is trained as fairly as a whole version."""


def silent(text: str) -> None:
    """Reports nothing."""


@dataclass(frozen=True)
class Fit:
    """A trained classifier and figures of its training.

    `loss` is the mean over the pass whose weights are kept: pass `best`, or the last one (None). `epochs` counts the
    passes, `note` reports an unusual end (stopped early, diverged), else it is empty. `tokens_per_second` counts no
    padding and only the time of steps; `peak_share` is the used share of the devices' peak arithmetic, None if the peak
    is unknown.
    """

    model: TextClassifier = field(repr=False)
    device: str
    seconds: float
    steps: int
    epochs: float
    loss: float
    best: int | None = None
    note: str = ""
    tokens_per_second: float = 0.0
    peak_share: float | None = None

    @property
    def figures(self) -> dict[str, Any]:
        """Everything but the model, as plain values."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "model"}


@dataclass(frozen=True)
class _Task:
    """Inputs that stay the same when training starts again with smaller batches."""

    rows: Sequence[TrainRow]
    validation: Sequence[TrainRow]
    head: Head
    settings: StudentSettings
    encoder: Encoder
    say: Say
    progress: Progress | None
    group: ProcessGroup = ALONE
    batch_size: int | None = None


def fit(
    rows: Sequence[Given],
    labels: Sequence[str],
    settings: StudentSettings,
    say: Say = silent,
    progress: Progress | None = None,
    *,
    validation: Sequence[Given] = (),
    checkpoints: Path | None = None,
    group: ProcessGroup = ALONE,
    batch_size: int | None = None,
) -> Fit:
    """Train on rows, or (text, label) pairs, and each label's name.

    The same rows, settings and seed give the same weights on one machine's CPU, whatever the order of the rows, also if
    a killed training resumes from a checkpoint in the folder `checkpoints`. `validation` is only for
    `settings.patience`. If memory runs out, training starts again with half the batch and a message. If the loss is not
    finite, the weights of an earlier pass are kept, and `note` reports it. Raises GraftError if fewer than two labels
    have rows, a row's label is unknown, or training diverges before a pass ended well.

    For `students.launch`: in a `group` of several processes lack of memory raises MemoryOut, as all must start again,
    with a smaller `batch_size`.
    """
    given, judged = as_rows(rows), as_rows(validation) if settings.patience else []
    check_rows(given, judged, labels, say)
    if settings.patience and not judged:
        say("no validation rows: patience is not used, training makes all its passes")
    everything = sorted([*given, *as_rows(named(labels))], key=lambda row: row.order)  # whatever order they came in
    head = head_of(settings, labels)
    task = _Task(everything, judged, head, settings, find_encoder(settings.encoder), say, progress, group, batch_size)
    return _fitting(task, Checkpoint(checkpoints, _facts(task), say, only_reads=group.rank > 0))


def _fitting(task: _Task, checkpoint: Checkpoint) -> Fit:
    """Trains, from the checkpoint if there is one, with batches that fit into memory."""
    found = checkpoint.load()
    batch_size = found["batch_size"] if found else min(task.batch_size or task.settings.batch_size, len(task.rows))
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
        if not task.group.alone:
            raise MemoryOut(batch_size)
        found, batch_size = None, halved(batch_size, task.say)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class MemoryOut(Exception):
    """One process of several had not enough memory for its share of batches of this many rows."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        super().__init__(batch_size)


def halved(batch_size: int, say: Say) -> int:
    """Batch size to start again with after lack of memory. Raises GraftError if it was one row."""
    if batch_size == 1:
        fix = "a smaller encoder or max_length, or student.recompute"
        raise GraftError("not enough memory for one row", where="training", fix=fix)
    say(f"not enough memory: starting again with batches of {batch_size // 2}")
    return batch_size // 2


def save(model: TextClassifier, folder: Path) -> None:
    """Write a model whole or not at all: into a folder beside, then renamed. Raises StorageFull.

    A checkpoint in the folder beside is removed only once the weights are whole. Predictions of an earlier training of
    the same student on evaluation files stay.
    """
    beside, old = staging(folder), folder.with_name(folder.name + ".old")
    try:
        beside.mkdir(parents=True, exist_ok=True)
        _clear(beside)
        model.save(beside)
        carried(folder, beside)
        (beside / NAME).unlink(missing_ok=True)
    except OSError as error:
        _clear(beside)
        with contextlib.suppress(OSError):
            beside.rmdir()  # stays where a checkpoint is in it
        if error.errno in NO_SPACE:
            raise StorageFull("no space left for the student's weights", where=str(folder), fix="free space") from None
        raise
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    beside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def staging(folder: Path) -> Path:
    """Temporary folder of a classifier until it is whole, and of its checkpoints."""
    return folder.with_name(folder.name + ".partial")


def _clear(folder: Path) -> None:
    """Empty a folder of all but the checkpoint."""
    for left in folder.iterdir() if folder.is_dir() else ():
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        elif left.name != NAME:
            left.unlink(missing_ok=True)


def check_rows(rows: Sequence[TrainRow], validation: Sequence[TrainRow], labels: Sequence[str], say: Say) -> None:
    """Check that a classifier can learn from the rows; reports labels without rows. Raises GraftError."""
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
            fix="add seeds of the other labels; graft show NAME --rejected lists the reasons of rejections",
        )  # fmt: skip
    if absent := [label for label in labels if label not in present]:
        say(f"no training rows for {len(absent)} labels, known by their names only: {', '.join(absent[:5])}")


def _facts(task: _Task) -> dict[str, str]:
    """Facts that a checkpoint must match; the keys are words for people."""
    learned_with = task.settings.learned_with("classifier")
    return {
        "torch version": str(torch.__version__),
        "device": _device_of(task.group),
        "settings": stable_hash(learned_with, list(task.head.labels), MIN_STEPS, HEAD_RATE),
        "data": stable_hash([row.order for row in task.rows], [row.order for row in task.validation]),
        "encoder": task.encoder.revision,
    }


def _is_memory(error: RuntimeError) -> bool:
    """Return True if torch ran out of memory: CUDA has a class for it, other allocators only a message."""
    message = str(error).casefold()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in message or "can't allocate memory" in message


def _device_of(group: ProcessGroup) -> str:
    """For people and checkpoints: cuda, or cuda x 4."""
    kind = pick_device().type
    return kind if group.alone else f"{kind} x {group.size}"


def _fit(task: _Task, batch_size: int, checkpoint: Checkpoint, found: dict[str, Any] | None) -> Fit:
    started, settings, count = time.perf_counter(), task.settings, len(task.rows)
    device = pick_device()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(settings.seed)
        model = TextClassifier.start(task.encoder, task.head, settings.max_length).to(device)
        if found is None:
            model.imprint([row.pair for row in task.rows])
            task.group.alike(model)
        a_pass = math.ceil(count / (batch_size * settings.accumulate))
        steps = max(MIN_STEPS, settings.epochs * a_pass)
        if steps > settings.epochs * a_pass:
            task.say(f"{count} rows are few: {steps} steps instead of {settings.epochs * a_pass}")
        with _recomputed(model, settings.recompute) as missing:
            plan = BatchPlan(
                task.rows, task.validation, settings, batch_size, steps, _lengths(model, task.rows), task.group
            )  # fmt: skip
            ended = Loop(model, plan, task.say, task.progress, checkpoint).run(found)
    model.eval()
    seconds = time.perf_counter() - started + ended.seconds_before
    return _fit_of(task, model, seconds, ended, ended.steps / a_pass, missing)


def _fit_of(task: _Task, model: TextClassifier, seconds: float, ended: Outcome, epochs: float, missing: str) -> Fit:
    if missing:
        task.say(missing)
    share = share_of_peak(multiplying(model), ended.tokens_per_second, device_name(model.device), task.group.size)
    return Fit(
        model, _device_of(task.group), seconds, ended.steps, epochs, ended.loss, ended.best,
        "; ".join(part for part in (ended.note, missing) if part), ended.tokens_per_second, share,
    )  # fmt: skip


@contextlib.contextmanager
def _recomputed(model: TextClassifier, wanted: bool) -> Iterator[str]:
    """Context in which the encoder recomputes its layers, if set; yields a message if it cannot."""
    encoder = model.encoder
    if not wanted:
        yield ""
    elif not getattr(encoder, "supports_gradient_checkpointing", False):
        yield f"student.recompute has no effect: {encoder.config.model_type} encoders cannot compute layers again"
    else:
        encoder.activation_checkpointing_enable({"use_reentrant": False})
        try:
            yield ""
        finally:
            encoder.activation_checkpointing_disable()


def _lengths(model: TextClassifier, rows: Sequence[TrainRow]) -> dict[str, int]:
    """Number of tokens of each row's text for the encoder."""
    texts, found = list({row.text: None for row in rows}), list[int]()
    for start in range(0, len(texts), 1000):
        cut = model.tokenizer(texts[start : start + 1000], truncation=True, max_length=model.max_length)
        found += [len(tokens) for tokens in cut["input_ids"]]
    return dict(zip(texts, found, strict=True))
