"""Word embeddings shared by the students of one encoder: the encoder's matrix once, and each student's changed rows.

Fine-tuning learns only the rows of words in the training texts, of MiniLM's 30,522 some hundred; weight decay shrinks
all others by one factor. The matrix is half of MiniLM's weights. A student's folder stays whole, since its copy of the
encoder's matrix is a hard link to `students/shared/SHA256.safetensors`: a copied folder holds everything.
Loads torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from graft.schemas.home import SHARED_WORDS

WORDS, CHANGED, WEIGHTS = "words.safetensors", "words_changed.safetensors", "model.safetensors"
"""In a student's folder `encoder`: the encoder's matrix, the student's own rows, all other weights."""
CLOSE = 1e-6
"""Largest difference of a weight from the shared one: some roundings; a step with a gradient moves a weight further."""
SAMPLED = 7
MOST = 0.5
"""Share of changed rows beyond which a student keeps its whole matrix."""


def share(folder: Path, original: Any, name: str) -> bool:
    """Replace a saved student's word embeddings by the shared ones and its changed rows; True if that was possible.

    The folder can be loaded at any moment meanwhile: the weights are replaced last.

    Args:
        folder: the student's folder
        original: the encoder's word embeddings before training, shape (words, size)
        name: of the matrix among the student's weights
    """
    inside = folder / "encoder"
    weights = inside / WEIGHTS
    if not weights.is_file():  # weights in several files
        return False
    tensors, base = load_file(weights), original.detach().cpu().contiguous()
    own = tensors.get(name)
    if own is None or own.shape != base.shape or {own.dtype, base.dtype} != {torch.float32}:
        return False
    scale = _decay(own, base)
    rows = ((own - base * scale).abs().amax(dim=1) > CLOSE).nonzero().flatten()
    if len(rows) > MOST * len(base):
        return False
    _link(_blob(folder.parent / SHARED_WORDS, base), inside / WORDS)
    kept = {"rows": rows, "values": own[rows].contiguous(), "scale": torch.tensor(scale)}
    save_file(kept, inside / CHANGED, metadata={"of": name})
    staged = inside / f".{WEIGHTS}.{os.getpid()}.part"
    try:
        with safe_open(weights, "pt") as opened:
            facts = opened.metadata()
        save_file({key: value for key, value in tensors.items() if key != name}, staged, metadata=facts)
        staged.replace(weights)
    finally:
        staged.unlink(missing_ok=True)
    return True


def restored(inside: Path, embeddings: Any) -> None:
    """Fill a loaded encoder's word embeddings if its folder shares them; a whole folder is left as it was loaded."""
    if not (inside / WORDS).is_file():
        return
    with safe_open(inside / CHANGED, "pt") as own, safe_open(inside / WEIGHTS, "pt") as weights:
        if own.metadata()["of"] in set(weights.keys()):
            return  # the weights were not replaced yet
    changed = load_file(inside / CHANGED)
    matrix: Tensor = load_file(inside / WORDS)["words"] * changed["scale"]
    matrix[changed["rows"]] = changed["values"]
    with torch.no_grad():
        embeddings.weight.copy_(matrix)


def _decay(own: Tensor, base: Tensor) -> float:
    """The factor by which weight decay has shrunk the rows without a gradient, which are most."""
    sample, before = own.flatten()[::SAMPLED], base.flatten()[::SAMPLED]
    large = before.abs() > 1e-3
    return float((sample[large] / before[large]).median()) if bool(large.any()) else 1.0


def _blob(shared: Path, base: Tensor) -> Path:
    """The file of a matrix, written once and whole."""
    digest = hashlib.sha256(base.numpy().tobytes()).hexdigest()
    file = shared / f"{digest}.safetensors"
    if not file.is_file():
        shared.mkdir(exist_ok=True)
        staged = shared / f".{digest[:16]}.{os.getpid()}.part"
        try:
            save_file({"words": base}, staged)
            staged.replace(file)
        finally:
            staged.unlink(missing_ok=True)
    return file


def _link(file: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none."""
    import shutil

    target.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.link(file, target)
        return
    shutil.copy2(file, target)
