"""How pages look: colours that can be told apart, charts that are read at a glance, words that stay whole."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import graft.dashboard as static
from graft.dashboard.charts import OTHERS, PALETTE, REST, shades
from graft.dashboard.charts.shapes import stacked_days

EYES = {
    "normal": np.eye(3),
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip
"""On linear RGB, severity 1.0: Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color
Vision Deficiency", IEEE TVCG 15(6), 2009, table 1."""
GROUNDS = re.findall(r"--(?:ground|card): (#\w{6})", (Path(static.__file__).parent / "static/graft.css").read_text())
"""Backgrounds of page and panel, light and dark."""


def linear(colour: str) -> np.ndarray:
    """Linear RGB of a hex colour (IEC 61966-2-1)."""
    held = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(held <= 0.04045, held / 12.92, ((held + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Oklab of linear RGB: Ottosson, "A perceptual color space for image processing", 2020."""
    cones = np.cbrt(np.clip(rgb, 0, 1) @ np.array([
        [0.4122214708, 0.2119034982, 0.0883024619], [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005]]))  # fmt: skip
    made: np.ndarray = cones @ np.array([
        [0.2104542553, 1.9779984951, 0.0259040371], [0.7936177850, -2.4285922050, 0.7827717662],
        [-0.0040720468, 0.4505937099, -0.8086757660]])  # fmt: skip
    return made


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("eyes", EYES)
def test_any_two_label_colours_differ_to_all_eyes(eyes: str) -> None:
    seen = {colour: oklab(EYES[eyes] @ linear(colour)) for colour in (*PALETTE[:8], OTHERS)}
    near = min((float(np.linalg.norm(seen[a] - seen[b])), a, b) for a, b in combinations(seen, 2))
    assert near[0] >= (0.12 if eyes == "normal" else 0.07), near


def test_label_colours_stand_out_on_light_and_dark_pages() -> None:
    assert len(GROUNDS) == 4
    for colour in (*PALETTE, OTHERS):
        for ground in GROUNDS:
            assert contrast(colour, ground) >= 3, (colour, ground)


def test_no_two_labels_share_a_colour_of_the_palette() -> None:
    made = shades({f"label {n}": n for n in range(12)})
    assert made["label 11"] == PALETTE[0]
    own = [colour for colour in made.values() if colour != OTHERS]
    assert len(own) == len(set(own)) == 8
    assert [name for name, colour in made.items() if colour == OTHERS] == [f"label {n}" for n in (3, 2, 1, 0)]
    rows = [{"day": "2026-11-25", "part": f"model {n}", "value": n + 1} for n in range(12)]
    drawn = stacked_days(rows, day="day", value="value", part="part", title="tokens")["encoding"]["color"]["scale"]
    assert len(drawn["domain"]) == len(set(drawn["range"])) == 8
    assert dict(zip(drawn["domain"], drawn["range"], strict=True))[REST] == OTHERS
