"""Loads models of transformers and peft safely: only safetensors weights, never code of the model's own.

A config can name a Python file of its own repository (`auto_map`), and a `.bin` file is a pickle: loading either runs
whatever its author wrote. Both are refused here, before transformers reads anything else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graft.schemas.errors import GraftError

DESCRIBED = ("config.json", "tokenizer_config.json", "adapter_config.json")
"""The files of a model that can name code."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".msgpack", ".h5")
CODE = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".sh")
ADAPTER = "adapter_model.safetensors"
_CONVERT = "convert them if you trust them (model.save_pretrained writes safetensors), or name another model"
_LARGEST = 20_000_000
"""Most bytes of a config; a tokenizer's with many added tokens has a few million."""


def pretrained(kind: str, place: str, *, revision: str | None = None, **options: Any) -> Any:
    """An object of transformers' class `kind` (such as AutoModel), from a folder or an id of the Hugging Face hub.

    Raises GraftError if the model needs code of its own or has no safetensors weights, and the OSError, ValueError
    or ImportError that transformers raises.
    """
    import transformers

    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # it would fetch converted weights from a pull request
    refuse_code(place, revision)
    if "Model" in kind and "gguf_file" not in options:
        refuse_pickles(place)
        options["use_safetensors"] = True
    try:
        return getattr(transformers, kind).from_pretrained(place, revision=revision, trust_remote_code=False, **options)
    except OSError as error:
        if "use_safetensors" not in str(error):
            raise
        raise GraftError("it has no safetensors weights", where=place, fix=_CONVERT) from None


def untrained(kind: str, config: Any) -> Any:
    """A model of transformers' class `kind` with random weights."""
    import transformers

    return getattr(transformers, kind).from_config(config, trust_remote_code=False)


def adapted(model: Any, folder: Path, *, trainable: bool = False) -> Any:
    """The model with the peft adapter in a folder. Raises GraftError as `check_written`."""
    from peft import PeftModel

    check_written(folder)
    if not (folder / ADAPTER).is_file():
        raise GraftError(f"the adapter has no {ADAPTER}", where=str(folder), fix="train the student again")
    return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)


def tagger(place: str) -> Any:
    """A token classifier on the CPU: a text to its entities, each with start, end and entity_group. Errors likewise."""
    from transformers import pipeline

    model = pretrained("AutoModelForTokenClassification", place)
    tokenizer = pretrained("AutoTokenizer", place)
    return pipeline(
        "token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple", device=-1,
        trust_remote_code=False,
    )  # fmt: skip


def check_written(folder: Path) -> None:
    """Raises GraftError if a folder that Graft wrote (a student, an export) holds code, pickles or links to code."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (*PICKLES, *CODE):
            raise GraftError(
                f"{path.relative_to(folder)} can run code when it is loaded, and Graft writes no such file",
                where=str(folder), fix="do not use this student; train it again from its dataset",
            )  # fmt: skip
    for found in (folder, folder / "encoder"):
        if found.is_dir():
            refuse_code(str(found))


def weights_in(folder: Path) -> list[Path]:
    """The safetensors weights of a model's folder, sorted; none if it holds no model.

    Raises GraftError if the weights are there as pickles only.
    """
    refuse_pickles(str(folder))
    return sorted(folder.glob("*.safetensors")) if (folder / "config.json").is_file() else []


def refuse_pickles(place: str) -> None:
    """Raises GraftError if a folder has weights, but no safetensors."""
    folder = Path(place)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES):
        raise GraftError(
            f"its weights are not safetensors but {pickles[0]}, which can run code when it is loaded", where=place,
            fix=_CONVERT,
        )  # fmt: skip


def refuse_code(place: str, revision: str | None = None) -> None:
    """Raises GraftError if a config of the model names code: an `auto_map`, or a kernel from the hub."""
    for file in _configs(place, revision):
        if named := _names_code(_read(file)):
            raise GraftError(
                f"{file.name} names code of the model's own ({named}), which Graft never runs", where=place,
                fix="name a model that transformers has a class for; if it has, remove the entry from the file",
            )  # fmt: skip


def _configs(place: str, revision: str | None) -> Iterator[Path]:
    if Path(place).is_dir():
        yield from (file for name in DESCRIBED if (file := Path(place) / name).is_file())
        return
    from transformers.utils import cached_file

    for name in DESCRIBED:
        found = cached_file(
            place, name, revision=revision, _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False, _raise_exceptions_for_connection_errors=False,
        )  # fmt: skip
        if found is not None:
            yield Path(found)


def _read(file: Path) -> Any:
    try:
        with file.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        return json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        what, where = str(error).splitlines()[0][:120], str(file.parent)
        raise GraftError(f"{file.name} cannot be read: {what}", where=where, fix="download it again") from None


def _names_code(found: Any) -> str:
    """The name of an entry at any depth that names code; "" where there is none."""
    waiting = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            for key, one in value.items():
                kernel = key.endswith("_implementation") and "/" in str(one)
                if (key in ("auto_map", "custom_pipelines") and one) or kernel:
                    return str(key)
            waiting += value.values()
    return ""
