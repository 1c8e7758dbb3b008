"""One training by a transformers Trainer: it resumes after a kill, halves batches if memory runs out, and stops if it
diverges. Every stage comes through here with a function that makes its trainer.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback

from graft.schemas.errors import NO_SPACE, GraftError, StorageFull
from graft.schemas.students import StudentSettings
from graft.students.device import pick_device, uses_bf16
from graft.students.instruct.base import quiet_libraries

EVERY = 60.0
"""Seconds between two checkpoints at least; the first pass that ended well is always kept."""

SHARE = 0.05
"""Largest share of the training time spent on writing them, judged by the last write."""

WHOLE, FACTS = "whole.json", "facts.json"

Say = Callable[[str], None]
Make = Callable[["Attempt"], Any]
"""A plan to the Trainer that carries it out."""


@dataclass(frozen=True)
class Attempt:
    """Plan of one attempt: rows per batch, batches per step, and the folder of its checkpoints."""

    batch_size: int
    accumulate: int
    folder: Path


@dataclass(frozen=True)
class Ended:
    """A training's model and figures. `tokens` were learned from in `seconds`, without padding."""

    model: Any
    device: str
    seconds: float
    tokens: int
    steps: int
    loss: float
    note: str = ""


def common(settings: StudentSettings, plan: Attempt) -> dict[str, Any]:
    """The TrainingArguments that all stages share. bfloat16 on CUDA only; nothing is shown, logged or sent."""
    device = pick_device()
    return {
        "output_dir": str(plan.folder), "per_device_train_batch_size": plan.batch_size,
        "gradient_accumulation_steps": plan.accumulate, "activation_checkpointing": settings.recompute,
        "bf16": uses_bf16(device), "fp16": False, "seed": settings.seed,
        "data_seed": settings.seed, "weight_decay": settings.weight_decay, "max_length": settings.instruct.max_length,
        "save_strategy": "no", "logging_strategy": "steps", "logging_steps": 1, "logging_nan_inf_filter": False,
        "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": device.type == "cuda",
    }  # fmt: skip


def one_device(args: Any) -> Any:
    """Arguments that use one GPU unless a launcher (accelerate launch) started several processes, as TRL requires."""
    if args.n_gpu > 1:
        args._n_gpu = 1
    return args


def train(make: Make, plan: Attempt, facts: str, say: Say) -> Ended:
    """Carry out a plan, from its checkpoint if there is one with the same `facts`.

    If memory runs out, it starts again with half the batch and twice the accumulation, with a message. If the loss is
    not finite, it stops with the last good weights, and `note` reports it. Raises GraftError if there are none or not
    even one row fits, and StorageFull.
    """
    plan = _taken_up(plan, facts, say)
    while True:
        try:
            with _quiet():
                return _attempt(make, plan, say)
        except UnpicklingError:
            say("the checkpoint of an earlier training cannot be read: starting again")
            shutil.rmtree(plan.folder, ignore_errors=True)
            _write_facts(plan, facts)
            continue
        except RuntimeError as error:
            if not _is_memory(error):
                raise
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            raise StorageFull(
                "no space left for a checkpoint", where=str(plan.folder), fix="free some space and train again"
            ) from None
        if plan.batch_size == 1:
            raise GraftError(
                "not enough memory for one row", where="student.instruct",
                fix="adapter: lora, student.recompute: true, a lower max_length, or a smaller base model",
            )  # fmt: skip
        plan = Attempt(plan.batch_size // 2, plan.accumulate * 2, plan.folder)
        say(f"not enough memory: starting again with batches of {plan.batch_size}")
        shutil.rmtree(plan.folder, ignore_errors=True)
        _write_facts(plan, facts)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class Watch:
    """Follows a training: decides on checkpoints, detects a loss that is not finite, counts learned tokens."""

    def __init__(self, folder: Path, before: Mapping[str, float]) -> None:
        self.folder, self.before = folder, before
        self.broken, self.losses, self.tokens = "", list[float](), 0
        self._began = time.monotonic()
        self._next, self._saved = self._began + EVERY, bool(before)
        self._requested = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of training, with those before a kill, as far as a checkpoint records them."""
        return self.before.get("seconds", 0.0) + time.monotonic() - self._began

    @property
    def learned(self) -> int:
        """Tokens learned from, with those before a kill."""
        return int(self.before.get("tokens", 0)) + self.tokens

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock: making the trainer does not count."""
        self._began = time.monotonic()
        self._next = self._began + EVERY

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **kwargs: Any) -> None:
        """A step's loss and the tokens so far."""
        self.tokens = max(self.tokens, int(logs.get("num_tokens", 0)))
        if "loss" not in logs:
            return
        loss = float(logs["loss"])
        if math.isfinite(loss):
            self.losses.append(loss)
        else:
            self._break(f"the loss is not finite at step {state.global_step}", control)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        """Request a checkpoint when it is due, but never of weights that are not finite."""
        if time.monotonic() >= self._next:
            self._ask(state, control, model)

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        """Always keep the first pass that ended well, unless it is the only one."""
        if not self._saved and state.global_step < state.max_steps:
            self._ask(state, control, model)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint as whole and remove the earlier ones."""
        made = self.folder / f"checkpoint-{state.global_step}"
        facts = {"seconds": self.seconds, "tokens": self.learned, "loss": self.losses[-1] if self.losses else None}
        (made / WHOLE).write_text(json.dumps(facts), encoding="utf-8")
        for other in self.folder.glob("checkpoint-*"):
            if other != made:
                shutil.rmtree(other, ignore_errors=True)
        ended = time.monotonic()
        self._saved, self._next = True, ended + max(EVERY, (ended - self._requested) / SHARE)

    def _ask(self, state: Any, control: Any, model: Any) -> None:
        if self.broken:
            return
        if not is_whole(model):
            self._break(f"weights are not finite after step {state.global_step}", control)
            return
        self._requested, control.should_save = time.monotonic(), True

    def _break(self, what: str, control: Any) -> None:
        self.broken = self.broken or what
        control.should_save, control.should_training_stop = False, True


def is_whole(model: Any) -> bool:
    """Return True if every trained weight is finite."""
    return all(bool(torch.isfinite(each).all()) for each in model.parameters() if each.requires_grad)


def _attempt(make: Make, plan: Attempt, say: Say) -> Ended:
    found = _checkpoint(plan.folder)
    before = json.loads((found / WHOLE).read_text(encoding="utf-8")) if found else {}
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        trainer = make(plan)
        watch: Watch = type("Watching", (Watch, TrainerCallback), {})(plan.folder, before)
        trainer.add_callback(watch)
        trainer.remove_callback(PrinterCallback)
        if found:
            say(f"resumed from checkpoint {found.name.rpartition('-')[2]}")
        ended = trainer.train(resume_from_checkpoint=str(found) if found else None)
    if not watch.broken and not is_whole(trainer.model):
        watch.broken = "weights are not finite after the last step"
    note = _fallen_back(trainer, plan.folder, watch.broken, say) if watch.broken else ""
    last = watch.losses[-10:]
    return Ended(
        trainer.model, str(trainer.args.device), watch.seconds, watch.learned, int(ended.global_step),
        sum(last) / len(last) if last else float("nan"), note,
    )  # fmt: skip


def _fallen_back(trainer: Any, folder: Path, what: str, say: Say) -> str:
    """Put the last good weights into the trainer's model; returns the note. Raises GraftError if there are none."""
    found = _checkpoint(folder)
    if found is None:
        raise GraftError(
            f"training diverged: {what}", where="student.instruct.learning_rate",
            fix="lower it (2e-4 suits LoRA, 2e-5 every weight); if it is, the base model's weights are broken",
        )  # fmt: skip
    trainer._load_from_checkpoint(str(found))
    note = f"training diverged: {what}; the weights of step {found.name.rpartition('-')[2]} are kept. A lower "
    note += "learning rate may help"
    say(note)
    return note


def _taken_up(plan: Attempt, facts: str, say: Say) -> Attempt:
    """The plan that a checkpoint with these facts was made with; a checkpoint with other facts, or none, is removed."""
    file = plan.folder / FACTS
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        same = known["facts"] == facts and _checkpoint(plan.folder) is not None
        kept = Attempt(int(known["batch_size"]), int(known["accumulate"]), plan.folder)
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if same:
        return kept
    if _checkpoint(plan.folder):
        say("the checkpoint of an earlier training has other rows or settings: starting again")
    shutil.rmtree(plan.folder, ignore_errors=True)
    _write_facts(plan, facts)
    return plan


def _write_facts(plan: Attempt, facts: str) -> None:
    plan.folder.mkdir(parents=True, exist_ok=True)
    known = {"facts": facts, "batch_size": plan.batch_size, "accumulate": plan.accumulate}
    (plan.folder / FACTS).write_text(json.dumps(known), encoding="utf-8")


def _checkpoint(folder: Path) -> Path | None:
    """The last checkpoint that was written to its end."""
    whole = [file.parent for file in folder.glob(f"checkpoint-*/{WHOLE}")]
    return max(whole, key=lambda each: int(each.name.rpartition("-")[2]), default=None)


def _is_memory(error: RuntimeError) -> bool:
    """Return True if torch ran out of memory: CUDA has a class for it, other allocators only a message."""
    message = str(error).casefold()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in message or "can't allocate memory" in message


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences progress bars and advice of transformers, datasets and TRL inside."""
    from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        with quiet_libraries():
            yield
    finally:
        if shown:
            enable_progress_bar()
