"""Which precision a device is used in, and how much of its arithmetic a training used."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graft.students.device import multiplying, peak_flops, share_of_peak, training_flops, uses_bf16


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100-PCIE-40GB", 312.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40", 181.05),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("AMD Instinct MI300X", 1307.4),
    ],
)
def test_the_peaks_are_the_makers_dense_ones(name: str, tera: float) -> None:
    assert peak_flops(name) == tera * 1e12


@pytest.mark.parametrize(
    "name",
    [
        "cpu", "mps", "", "Tesla T4", "Tesla V100-SXM2-16GB", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA A10G",
        "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 3090 Ti", "L400",
    ],
)  # fmt: skip
def test_what_is_no_whole_known_device_has_no_peak(name: str) -> None:
    assert peak_flops(name) is None and share_of_peak(10, 10.0, name) is None


def test_the_share_is_six_operations_a_parameter_and_token() -> None:
    assert training_flops(1000, 50) == 300_000
    assert share_of_peak(10**8, 1e5, "NVIDIA L4", devices=2) == pytest.approx(6e13 / (2 * 121e12))


def test_lookup_tables_do_not_multiply_unless_they_are_the_output_layer_too() -> None:
    table, layer = nn.Embedding(7, 3), nn.Linear(3, 7)
    assert multiplying(nn.ModuleList([table, layer])) == 3 * 7 + 7
    layer.weight = table.weight
    assert multiplying(nn.ModuleList([table, layer])) == 3 * 7 + 7


def test_bfloat16_is_used_where_the_device_has_it_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[bool] = []
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: requests.append(including_emulation) or True
    )
    assert uses_bf16(torch.device("cuda")) and requests == [False]
    assert not uses_bf16(torch.device("cpu")) and not uses_bf16(torch.device("mps"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    assert not uses_bf16(torch.device("cuda"))
