"""A student as an ONNX model in a folder of its own that needs neither Graft nor PyTorch. Loads torch.

The graph is encoder, masked mean, normalisation and the linear layer: token ids to logits. It is accepted only if ONNX
Runtime, with the written tokenizer, returns the same as PyTorch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graft.schemas.errors import NO_SPACE, GraftError, MissingExtra, StorageFull
from graft.students.classifier import TextClassifier
from graft.students.encoder import quiet_transformers
from graft.students.heads import Rule
from graft.students.predict import FACTS, GRAPH, HEAD, INPUTS, Predictor

TOLERANCE = 1e-3
"""Largest accepted difference of a logit."""

CHECKED = 32
"""Number of texts of different lengths that both are compared on."""

OPSET = 18
_ONE_FILE = 1_500_000_000
"""Bytes of weights that fit into one ONNX file (protobuf ends at 2 GiB)."""

_WORDS = ("where", "is", "my", "parcel", "and", "when", "will", "the", "courier", "bring", "it", "to", "our", "house")

Card = Callable[[float], str]
"""The largest difference from PyTorch to the README's text."""


class Graph(nn.Module):
    """The exported part of a classifier: token ids to logits."""

    def __init__(self, model: TextClassifier) -> None:
        super().__init__()
        self.encoder, self.head = model.encoder, model.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Logits, shape (texts, labels)."""
        more = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **more).last_hidden_state.float()
        mask = attention_mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        logits: Tensor = self.head(nn.functional.normalize(pooled, dim=-1))
        return logits


def export_folder(
    model: TextClassifier, folder: Path, *, student: str, rule: Rule, card: Card, overwrite: bool = False
) -> float:
    """Write `folder`, whole or not at all: ONNX model, weights, tokenizer, labels.json, README.md.

    Returns the largest difference of a logit from PyTorch over 32 texts. Raises GraftError if it is above 1e-3, if the
    graph cannot be made, or if the folder exists and `overwrite` is false (or it holds files that no export wrote);
    MissingExtra without onnx, onnxscript and onnxruntime; StorageFull.
    """
    for module in ("onnx", "onnxruntime", "onnxscript"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(f"an export needs {module}", where=student, fix="pip install 'graft-factory[onnx]'")
    check_target(folder, overwrite)
    model = model.cpu().eval()
    staging = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        with _explained(folder):
            staging.mkdir(parents=True)
            _weights(model, staging)
            _facts(model, staging, student, rule)
            _graph(model, staging / GRAPH)
            difference = check(model, staging)
            (staging / "README.md").write_text(card(difference), encoding="utf-8")
            _list_files(staging)
            _put(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return difference


def check_target(folder: Path, overwrite: bool) -> None:
    """Check that an export may be written there. Raises GraftError; only files of an earlier export are ever
    replaced."""
    if not folder.exists():
        return
    try:
        known = set(json.loads((folder / FACTS).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        known = set()
    strange = sorted(path.name for path in folder.iterdir() if path.name not in known) if folder.is_dir() else ["it"]
    if strange:
        raise GraftError(
            f"the folder exists and holds files that no export wrote: {', '.join(strange[:5])}", where=str(folder),
            fix="name another folder with --out",
        )  # fmt: skip
    if not overwrite and known:
        raise GraftError("this export exists already", where=str(folder), fix="another folder, or --overwrite")


def check(model: TextClassifier, folder: Path) -> float:
    """The largest difference of a logit between the folder's ONNX model and PyTorch, each with its own tokenizer.

    Compares 32 texts of different lengths, some beyond the longest input, in batches and some of them alone. Raises
    GraftError if it is above 1e-3.
    """
    texts = sample_texts(model.max_length)
    found = Predictor.open(folder, engine="onnx")
    worst = 0.0
    with torch.inference_mode():
        for batch in (texts, *([text] for text in texts[:: CHECKED // 4])):
            theirs = torch.from_numpy(found.logits(batch)).float()
            worst = max(worst, float((theirs - model(batch).float().cpu()).abs().max()))
    if not worst <= TOLERANCE:
        raise GraftError(
            f"the ONNX model is not equivalent: a logit differs by {worst:.3g}, allowed is {TOLERANCE:g}",
            where=str(folder), fix="use the student with PyTorch; report its encoder in an issue",
        )  # fmt: skip
    return worst


def sample_texts(max_length: int) -> list[str]:
    """32 texts of 1 word to slightly more than `max_length` words."""
    counts = [1 + round(place * 1.2 * max_length / (CHECKED - 1)) for place in range(CHECKED)]
    return [" ".join(_WORDS[(place + n) % len(_WORDS)] for n in range(count)) for place, count in enumerate(counts)]


def _weights(model: TextClassifier, folder: Path) -> None:
    from safetensors.torch import save_file

    with quiet_transformers():
        model.encoder.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
    if not (folder / "tokenizer.json").is_file():
        raise GraftError("the encoder's tokenizer has no fast form", where="student.encoder", fix="use it with PyTorch")
    layer = {"weight": model.head.weight.detach().contiguous(), "bias": model.head.bias.detach().contiguous()}
    save_file(layer, folder / HEAD)


def _facts(model: TextClassifier, folder: Path, student: str, rule: Rule) -> None:
    tokenizer = model.tokenizer
    padding = {"direction": tokenizer.padding_side, "pad_id": tokenizer.pad_token_id, "pad_token": tokenizer.pad_token}
    facts: dict[str, Any] = {
        "student": student, "labels": model.labels, "max_length": model.max_length, "padding": padding,
        "temperature": rule.temperature, "threshold": rule.threshold, "positive": rule.positive,
        **model.outputs.facts(),
    }  # fmt: skip
    _write_json(folder / FACTS, facts)


def _list_files(folder: Path) -> None:
    """Record an export in labels.json; safetensors' files get the permissions of the other files."""
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    for path in folder.iterdir():
        path.chmod((folder / FACTS).stat().st_mode)
    _write_json(folder / FACTS, {**facts, "files": sorted(path.name for path in folder.iterdir())})


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _graph(model: TextClassifier, file: Path) -> None:
    """The ONNX file, with variable batch size and length."""
    example = model.tokenizer(sample_texts(min(model.max_length, 16))[:3], padding=True, truncation=True,
                              max_length=model.max_length, return_tensors="pt")  # fmt: skip
    names = [name for name in INPUTS if name in example]
    size = sum(value.numel() * value.element_size() for value in model.parameters())
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=model.max_length)
    try:
        with _quiet():
            torch.onnx.export(
                Graph(model).eval(), tuple(example[name] for name in names), file, input_names=names,
                output_names=["logits"], opset_version=OPSET, dynamo=True, external_data=size > _ONE_FILE,
                dynamic_shapes=tuple({0: batch, 1: length} for _ in names), verbose=False,
            )  # fmt: skip
    except torch.onnx.errors.OnnxExporterError as error:
        cause = error.__cause__ or error
        raise GraftError(
            f"this encoder cannot be exported to ONNX: {(str(cause).splitlines() or [''])[0][:200]}",
            where="student.encoder", fix="use the student with PyTorch",
        ) from error  # fmt: skip


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's progress, advice and log lines: none of them needs an action."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in NO_SPACE or "no space left" in str(error).lower()
        if full:
            raise StorageFull(
                "no space left for the export", where=str(folder), fix="free space, export again"
            ) from None
        raise GraftError(
            f"the export cannot be written: {str(error)[:200]}", where=str(folder), fix="a folder that you may write to"
        ) from error


def _put(staging: Path, folder: Path) -> None:
    """Replace an earlier export, which is restored if that fails."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    try:
        staging.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
