"""Devices for training: type, precision, peak arithmetic.

Torch is loaded inside the functions.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

FLOPS_PER_WEIGHT = 6
"""Operations per parameter and token: 2 forward, 4 backward (arXiv 2001.08361, section 2.1; without attention)."""

_PEAKS = (
    (("H200", "NVL"), 835.5), (("H200",), 989.4), (("GH200",), 989.4),
    (("H100", "NVL"), 835.5), (("H100", "PCIe"), 756.5), (("H100",), 989.4),
    (("A100",), 312.0), (("A40",), 149.7), (("A30",), 165.0), (("A10",), 125.0),
    (("L40S",), 362.05), (("L40",), 181.05), (("L4",), 121.0),
    (("RTX", "4090"), 165.2), (("RTX", "3090"), 71.0),
    (("MI300X",), 1307.4),
)  # fmt: skip
"""Words that all occur in a device's name (the first match counts), and its peak in 10^12 operations per second."""

_OTHERS = frozenset({"MIG", "LAPTOP", "MOBILE", "D", "TI", "SUPER", "MAX-Q", "VGPU"})
"""Words that mark another device, or a part of one."""


def pick_device() -> torch.device:
    """cuda, else Apple's mps, else cpu."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def uses_bf16(device: torch.device) -> bool:
    """Return True if training multiplies in bfloat16: on CUDA devices that support it; elsewhere it stays in 32 bits.

    A device that only emulates bfloat16 (V100, T4) would be slower with it.
    """
    import torch

    return device.type == "cuda" and bool(torch.cuda.is_bf16_supported(including_emulation=False))


def device_name(device: torch.device) -> str:
    """The manufacturer's name, such as NVIDIA L4; without CUDA the device's type."""
    import torch

    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else device.type


def peak_flops(name: str) -> float | None:
    """Peak operations per second of a device with that name (as CUDA reports it): dense bfloat16, summed in 32 bits.

    None if unknown: a CPU, a laptop's part, a slice of a device. Figures are the makers', without sparsity
    (NVIDIA's data sheets often print twice as much): the data sheets of H100, H200, A100, A40, A30, A10, L40S, L40 and
    L4; the appendices of the white papers on the Ada (RTX 4090) and GA102 (RTX 3090) architectures; AMD's data sheet of
    the MI300X. A plain "H100" is taken for the SXM board, whose name has neither PCIe nor NVL.
    """
    words = {word.upper() for word in re.split(r"[\s_/]+|-(?=SXM|PCI)", name.strip())}
    if words & _OTHERS:
        return None
    for wanted, tera in _PEAKS:
        if all(word.upper() in words for word in wanted):
            return tera * 1e12
    return None


def training_flops(parameters: int, tokens: float) -> float:
    """Operations of training on this many tokens: 6 per parameter and token.

    Count the parameters that multiply: those of lookup tables (embeddings) do not. Recomputation that saves memory is
    not counted.
    """
    return float(FLOPS_PER_WEIGHT) * parameters * tokens


def share_of_peak(parameters: int, tokens_per_second: float, name: str, devices: int = 1) -> float | None:
    """Share of the peak of this many devices of that name that a training used; None if the peak is unknown."""
    peak = peak_flops(name)
    return None if peak is None else training_flops(parameters, tokens_per_second) / (peak * devices)


def multiplying(model: torch.nn.Module) -> int:
    """Number of a model's parameters that multiply: all but its embeddings, which are looked up.

    A matrix that is both (a causal model's tied output layer) counts.
    """
    from torch import nn

    looked_up = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    used = {id(part.weight) for part in model.modules() if isinstance(part, nn.Linear)}
    return sum(weights.numel() for weights in model.parameters() if id(weights) not in looked_up - used)
