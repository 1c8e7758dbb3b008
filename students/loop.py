"""The training loop: optimisation, stopping, choice of weights. Loads torch.

It replaces transformers' Trainer, which needs accelerate, writes checkpoints and logs, and hides the few settings that
matter here (a floor on steps, a faster head, halved batches).
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graft.schemas.errors import GraftError
from graft.schemas.students import StudentSettings
from graft.students.checkpoint import Checkpoint
from graft.students.classifier import BATCH, TextClassifier
from graft.students.device import uses_bf16
from graft.students.distributed import ALONE, ProcessGroup
from graft.students.objectives.base import objective_of
from graft.students.rows import TrainRow

HEAD_RATE = 10.0
"""Factor of the new layer's learning rate over the encoder's."""

DIVERGED = 1.5
"""A last pass whose mean loss is this many times that of guessing has diverged."""

KEEP_EVERY = 50
"""Steps between two copies of good weights at least; the first pass that ended well is always copied."""

Say = Callable[[str], None]
Progress = Callable[[int, int], None]
"""(steps done, steps in all)."""
CHUNK = 50
"""Steps whose rows are sorted by length together (`group_lengths`); these rows are drawn anew each pass."""

Step = list[list[TrainRow]]
"""The batches whose gradients make one step."""


@dataclass(frozen=True)
class BatchPlan:
    """Inputs of a training: batches of at most `batch_size` rows, `settings.accumulate` of them per step.

    Without `validation`, patience is not used. `lengths` are the tokens of each text.
    """

    rows: Sequence[TrainRow]
    validation: Sequence[TrainRow]
    settings: StudentSettings
    batch_size: int
    steps: int
    lengths: Mapping[str, int]
    group: ProcessGroup = ALONE

    @property
    def a_pass(self) -> int:
        """Steps of one pass over the rows."""
        return math.ceil(len(self.rows) / (self.batch_size * self.settings.accumulate))


@dataclass(frozen=True)
class Kept:
    """Weights after `step` steps, on the CPU; `judged` is their loss on the validation rows, if any."""

    step: int
    loss: float
    judged: float | None
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Outcome:
    """The end of a training.

    Steps made, the mean loss of the pass whose weights the model has, that pass (None: the last), a note for
    people, the seconds before a kill, and the tokens per second of steps.
    """

    steps: int
    loss: float
    best: int | None = None
    note: str = ""
    seconds_before: float = 0.0
    tokens_per_second: float = 0.0


def in_steps(
    rows: Sequence[TrainRow], size: int, settings: StudentSettings, lengths: Mapping[str, int], skipped: int = 0
) -> Iterator[Step]:
    """Endless steps of `settings.accumulate` batches of at most `size` rows, after `skipped` passes.

    Every row comes once in each pass, in another order each time. With `settings.group_lengths` the rows of some steps,
    drawn at random, form batches of similar length (tokens, by text), which are shuffled again.
    """
    rng, order = random.Random(settings.seed), list(rows)
    for done in itertools.count():
        rng.shuffle(order)
        batches = _grouped(order, size, settings, lengths, rng) if settings.group_lengths else _cut(order, size)
        if done >= skipped:
            for start in range(0, len(batches), settings.accumulate):
                yield batches[start : start + settings.accumulate]


def _cut(rows: Sequence[TrainRow], size: int) -> list[list[TrainRow]]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def _grouped(
    order: Sequence[TrainRow], size: int, settings: StudentSettings, lengths: Mapping[str, int], rng: random.Random
) -> list[list[TrainRow]]:
    """One pass in batches of similar length, in random order."""
    found: list[list[TrainRow]] = []
    for chunk in _cut(order, CHUNK * size * settings.accumulate):
        batches = _cut(sorted(chunk, key=lambda row: lengths[row.text]), size)
        rng.shuffle(batches)
        found += batches
    return found


class Loop:
    """One training of one model. The random state is torch's global one: seed it before, and fork it around the
    training."""

    def __init__(
        self, model: TextClassifier, plan: BatchPlan, say: Say, progress: Progress | None, checkpoint: Checkpoint
    ) -> None:
        self._model, self._plan, self._say, self._progress = model, plan, say, progress
        self._checkpoint, self._group = checkpoint, plan.group
        self._half = uses_bf16(model.device)
        self._objective = objective_of(model.outputs, plan.settings)(model.outputs, plan.settings, plan.rows)
        self._highest = DIVERGED * self._objective.guessing(plan.rows)
        self._optimiser, self._schedule = _optimiser(model, plan.settings, plan.steps)
        self._patience = plan.settings.patience if plan.validation else None
        self._started, self._before = time.perf_counter(), 0.0
        self._step = self._worse = self._tokens = 0
        self._stepping = 0.0
        self._losses: deque[float] = deque(maxlen=plan.a_pass)
        self._kept: Kept | None = None
        self._told = ""

    def run(self, found: dict[str, Any] | None = None) -> Outcome:
        """Trains, from the checkpoint's state `found` if given. The model has the weights to keep afterwards.

        Raises GraftError if training diverged before a pass ended well.
        """
        if found is not None:
            self._take_up(found)
        plan = self._plan
        self._model.train()
        batches = in_steps(plan.rows, plan.batch_size, plan.settings, plan.lengths, self._step // plan.a_pass)
        while self._step < plan.steps and not (self._patience and self._worse >= self._patience):
            if not self._one(next(batches)):
                return self._fallen_back(f"the loss is not finite at step {self._step + 1} of {plan.steps}")
            if self._step % plan.a_pass == 0 or self._step == plan.steps:
                self._after_pass()
        if self._patience and self._kept is not None:
            return self._best(self._kept)
        loss = sum(self._losses) / len(self._losses)
        ended = f"the loss ended at {loss:.2f}, guessing has {self._highest / DIVERGED:.2f}"
        if loss > self._highest:
            raise _apart(ended)
        if not _whole(self._model):
            return self._fallen_back(ended)
        return self._ended(loss)

    def _ended(self, loss: float, best: int | None = None, note: str = "") -> Outcome:
        speed = self._tokens / self._stepping if self._stepping else 0.0
        note = "; ".join(part for part in (note, self._told) if part)
        return Outcome(self._step, loss, best, note, self._before, speed)

    def _one(self, batches: Step) -> bool:
        """One step; whether its loss was finite."""
        model, steps, started = self._model, self._plan.steps, time.perf_counter()
        value = self._gradients(batches)
        if not math.isfinite(value):
            return False
        self._losses.append(value)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        self._optimiser.step()
        self._schedule.step()
        self._step += 1
        self._tokens += sum(self._plan.lengths[row.text] for batch in batches for row in batch)
        self._stepping += time.perf_counter() - started
        if self._progress is not None:
            self._progress(self._step, steps)
        if self._step % max(1, steps // 4) == 0:
            self._say(f"step {self._step} of {steps}, loss {value:.3f}")
        return True

    def _gradients(self, batches: Step) -> float:
        """Put the gradients of the mean loss over the rows of several batches into the model; returns that loss, in
        nats."""
        self._optimiser.zero_grad(set_to_none=True)
        self._group.draw_anew(self._plan.settings.seed, self._step)
        count, value = sum(len(batch) for batch in batches), 0.0
        for batch in batches:
            if part := self._group.share(batch):
                loss = self._of(part) * (len(part) / count)
                value += float(loss.detach())
                torch.autograd.backward(loss)
        return self._group.sum_gradients(self._model, value)

    def _of(self, batch: Sequence[TrainRow]) -> Tensor:
        with torch.autocast(self._model.device.type, torch.bfloat16, enabled=self._half):
            return self._objective.loss(self._model, batch, self._step)

    def _after_pass(self) -> None:
        plan, loss = self._plan, sum(self._losses) / len(self._losses)
        self._told = self._objective.after_pass()
        if self._told:
            self._say(self._told)
        last = self._step == plan.steps
        if self._patience:
            judged = self._judged()
            best = math.inf if self._kept is None or self._kept.judged is None else self._kept.judged
            self._worse = 0 if judged < best else self._worse + 1
            if judged < best and _whole(self._model):
                self._kept = Kept(self._step, loss, judged, _copied(self._model))
        elif not last and (self._kept is None or self._step - self._kept.step >= KEEP_EVERY):
            self._keep(loss)
        if not last and self._checkpoint.due and _whole(self._model):
            self._checkpoint.save(self._state())

    def _keep(self, loss: float) -> None:
        if loss <= self._highest and _whole(self._model):
            self._kept = Kept(self._step, loss, None, _copied(self._model))

    @torch.inference_mode()
    def _judged(self) -> float:
        """The mean loss on the validation rows, in nats."""
        self._model.eval()
        rows, size = self._plan.validation, min(BATCH, 4 * self._plan.batch_size)
        parts = [self._group.share(rows[start : start + size]) for start in range(0, len(rows), size)]
        total = sum(float(self._of(part)) * len(part) for part in parts if part)
        self._model.train()
        return self._group.total(total, self._model.device) / len(rows)

    def _best(self, kept: Kept) -> Outcome:
        """The weights of the pass with the lowest validation loss."""
        self._model.load_state_dict(kept.weights)
        if kept.loss > self._highest:
            raise _apart(f"the loss was {kept.loss:.2f}, guessing has {self._highest / DIVERGED:.2f}")
        best, made = self._pass_of(kept.step), self._pass_of(self._step)
        early = f", stopped after {made}" if self._step < self._plan.steps else f" of {made}"
        note = f"weights of pass {best}{early}: the lowest loss on the validation rows, {kept.judged:.3f}"
        self._say(note)
        return self._ended(kept.loss, best, note)

    def _fallen_back(self, what: str) -> Outcome:
        """The last good weights, if there are any."""
        kept = self._kept
        if kept is None or kept.loss > self._highest:
            raise _apart(what)
        self._model.load_state_dict(kept.weights)
        best = self._pass_of(kept.step)
        note = f"training diverged: {what}; the weights of pass {best}, which ended well, are kept. A lower "
        note += "student.learning_rate may help"
        self._say(note)
        return self._ended(kept.loss, best, note)

    def _pass_of(self, step: int) -> int:
        return math.ceil(step / self._plan.a_pass)

    def _state(self) -> dict[str, Any]:
        """State from which a training with the same facts resumes to the same result."""
        kept = self._kept if self._patience else None
        return {
            "batch_size": self._plan.batch_size, "step": self._step, "worse": self._worse,
            "losses": list(self._losses), "seconds": self._before + time.perf_counter() - self._started,
            "model": self._model.state_dict(), "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(), "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "kept": vars(kept) if kept else None, "tokens": self._tokens, "stepping": self._stepping,
            "objective": self._objective.state(),
        }  # fmt: skip

    def _take_up(self, found: dict[str, Any]) -> None:
        self._step, self._worse, self._before = found["step"], found["worse"], found["seconds"]
        self._tokens, self._stepping = found["tokens"], found["stepping"]
        self._losses.extend(found["losses"])
        self._model.load_state_dict(found["model"])
        self._optimiser.load_state_dict(found["optimiser"])
        self._schedule.load_state_dict(found["schedule"])
        torch.set_rng_state(found["random"])
        if found["random_cuda"]:
            torch.cuda.set_rng_state_all(found["random_cuda"])
        self._objective.resume(found.get("objective") or {})
        if found["kept"]:
            self._kept = Kept(**found["kept"])
        elif not self._patience:
            self._keep(sum(self._losses) / len(self._losses))
        self._say(f"resumed from checkpoint {self._step} of {self._plan.steps}")


def _optimiser(
    model: TextClassifier, settings: StudentSettings, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
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
    return optimiser, schedule


def _whole(model: TextClassifier) -> bool:
    """Return True if every weight is finite."""
    return all(bool(torch.isfinite(weights).all()) for weights in model.parameters())


def _copied(model: TextClassifier) -> dict[str, Tensor]:
    return {name: weights.detach().to("cpu", copy=True) for name, weights in model.state_dict().items()}


def _apart(what: str) -> GraftError:
    return GraftError(
        f"training diverged: {what}", where="student.learning_rate",
        fix="lower it (1e-5 to 1e-4 is usual); if it is, the encoder's weights are broken",
    )  # fmt: skip
