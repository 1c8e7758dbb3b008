"""Processes that train one model together: who takes which rows, and how gradients are summed. Loads torch.

Each has the whole model and a share of every batch. Gradients are summed once a step, so all of them have the same
weights all the time, and those of one process up to rounding; only dropout draws other random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from graft.students.rows import TrainRow


@dataclass(frozen=True)
class ProcessGroup:
    """This process, number `rank` of `size`; alone by default, where nothing is sent."""

    rank: int = 0
    size: int = 1

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def share(self, rows: Sequence[TrainRow]) -> Sequence[TrainRow]:
        """The rows of a batch that this process takes; perhaps none."""
        return rows if self.alone else rows[self.rank :: self.size]

    def draw_anew(self, seed: int, step: int) -> None:
        """Other random numbers for each process and step, so that one that is taken up needs no state of the others."""
        if not self.alone:
            torch.manual_seed(((seed * 1_000_003 + step) * 1_009 + self.rank) % 2**63)

    def alike(self, model: nn.Module) -> None:
        """Give every process the weights of the first."""
        if not self.alone:
            for weights in model.state_dict().values():
                dist.broadcast(weights, 0)

    def total(self, value: float, device: torch.device) -> float:
        """The sum of every process's number."""
        if self.alone:
            return value
        held = torch.tensor([value], dtype=torch.float64, device=device)
        dist.all_reduce(held)
        return float(held)

    def sum_gradients(self, model: nn.Module, value: float) -> float:
        """Put the sum of every process's gradients into each; returns the sum of their values.

        Weights that nobody has a gradient of keep none: the optimiser leaves them alone.
        """
        if self.alone:
            return value
        weights = [one for one in model.parameters() if one.requires_grad]
        had = [1.0 if one.grad is not None else 0.0 for one in weights]
        device = weights[0].device
        parts = [(torch.zeros_like(one) if one.grad is None else one.grad).flatten().float() for one in weights]
        flat = torch.cat([*parts, torch.tensor([*had, value], device=device)])
        dist.all_reduce(flat)
        _spread(flat, weights)
        return float(flat[-1])


def _spread(flat: Tensor, weights: Sequence[Tensor]) -> None:
    """Cut summed gradients into those of each weight."""
    start, had = 0, flat[-len(weights) - 1 : -1].tolist()
    for one, owners in zip(weights, had, strict=True):
        part = flat[start : start + one.numel()].view_as(one).to(one.dtype)
        one.grad = part if owners else None
        start += one.numel()


ALONE = ProcessGroup()
