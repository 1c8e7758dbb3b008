"""Processes that train one model together: shares of rows, sums of gradients. Loads torch.

Each has the whole model and a share of every batch. Gradients are summed once per step, so all processes have the
same weights, equal to those of a single process up to rounding; only dropout draws other random numbers.
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
    """This process, number `rank` of `size`; by default alone, without communication."""

    rank: int = 0
    size: int = 1

    @property
    def alone(self) -> bool:
        """True if this is the only process."""
        return self.size == 1

    def share(self, rows: Sequence[TrainRow]) -> Sequence[TrainRow]:
        """The rows of a batch that this process takes; perhaps none."""
        return rows if self.alone else rows[self.rank :: self.size]

    def draw_anew(self, seed: int, step: int) -> None:
        """Seed each process and step differently, so that a resumed process needs no state of the others."""
        if not self.alone:
            torch.manual_seed(((seed * 1_000_003 + step) * 1_009 + self.rank) % 2**63)

    def alike(self, model: nn.Module) -> None:
        """Copy the first process's weights to every process."""
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
        """Replace each process's gradients by their sum; returns the sum of their values.

        Weights without a gradient in any process keep none: the optimiser leaves them alone.
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
