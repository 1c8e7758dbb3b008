"""Predicts with a student: on ONNX Runtime if the exported folder has a model for it, else with PyTorch.

On ONNX neither torch nor transformers is imported: numpy, onnxruntime and tokenizers suffice.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from graft.schemas.errors import GraftError, MissingExtra, NotFound
from graft.students.heads import Answer, Head, Rule, Several, head_in

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray


FACTS = "labels.json"
"""File of an exported folder: labels in order, length, padding, temperature, threshold."""

GRAPH = "model.onnx"
HEAD = "head.safetensors"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
BATCH = 32
"""Batch size."""

CHUNK = 512
"""Texts in memory at once; sorted by length, so that batches need little padding."""

Engine = Literal["auto", "onnx", "pytorch"]
Predicted = tuple[Sequence[str], Sequence[Sequence[float]]]
"""Labels, and the probabilities of each text."""


class _Logits(Protocol):
    """Texts to logits, shape (texts, labels)."""

    def __call__(self, texts: Sequence[str]) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Predictor:
    """A student that is ready to predict. `engine` is onnx or pytorch."""

    head: Head
    rule: Rule
    engine: str
    logits: _Logits

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the probabilities."""
        return self.head.labels

    @classmethod
    def open(cls, folder: Path, *, rule: Rule | None = None, engine: Engine = "auto") -> Predictor:
        """The student of an exported folder, or of a trained one (GRAFT_HOME/students/<id>).

        `rule` replaces the folder's. "auto" takes ONNX if the folder holds a model and onnxruntime is
        installed. Raises NotFound if there is no student, MissingExtra if nothing can run it, GraftError if it is
        broken.
        """
        facts = _facts(folder)
        rule = rule or Rule(facts.get("temperature") or 1.0, facts.get("threshold"), facts.get("positive") or "")
        head = head_in(facts)
        has_graph = (folder / GRAPH).is_file()
        able = has_graph and importlib.util.find_spec("onnxruntime") is not None
        if engine == "onnx" or (engine == "auto" and able):
            if not able:
                raise _cannot(folder, has_graph)
            return cls(head, rule, "onnx", _OnnxLogits(folder, facts))
        if importlib.util.find_spec("torch") is None:
            raise _cannot(folder, has_graph)
        return cls(head, rule, "pytorch", _TorchLogits(folder))

    def predict(self, texts: Sequence[str]) -> list[Answer]:
        """One answer per text, in their order.

        For a student with several labels per text the label is a cell such as `a|b`, empty for none, its
        probability that of exactly this set, the labels taken as independent, and `probabilities` need not sum to 1.
        """
        return self.head.answers(self._logits(texts), self.rule)

    def predict_many(self, texts: Sequence[str]) -> list[Several]:
        """The labels of each text whose probability is above their threshold, in the texts' order.

        Temperature and rule do not apply. Raises GraftError for a student that gives exactly one label.
        """
        shares = self.head.shares(self._logits(texts)).tolist()
        return [Several(labels, row) for labels, row in zip(self.head.many(shares), shares, strict=True)]

    def _logits(self, texts: Sequence[str]) -> NDArray[float64]:
        """In batches of texts of similar length."""
        import numpy

        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        logits = numpy.zeros((len(texts), len(self.labels)))
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            logits[places] = self.logits([texts[place] for place in places])
        return logits

    def stream(self, texts: Iterable[str]) -> Iterator[tuple[str, Answer]]:
        """(text, answer) of any number of texts, in their order; at most CHUNK of them are in memory."""
        waiting = iter(texts)
        while chunk := list(islice(waiting, CHUNK)):
            yield from zip(chunk, self.predict(chunk), strict=True)


class _OnnxLogits:
    """A student's graph on the CPU."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as OMP_WAIT_POLICY for torch
        broken = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NoSuchFile)
        try:
            self.session = onnxruntime.InferenceSession(
                str(folder / GRAPH), options, providers=["CPUExecutionProvider"]
            )
        except broken:
            raise GraftError(
                "this ONNX model cannot be read", where=str(folder / GRAPH), fix="export it again: graft export-student"
            ) from None
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(facts["max_length"])
        self.tokenizer.enable_padding(**facts["padding"])
        self.inputs = [given.name for given in self.session.get_inputs()]

    def __call__(self, texts: Sequence[str]) -> NDArray[Any]:
        import numpy

        found = self.tokenizer.encode_batch(list(texts))
        columns = {
            "input_ids": [one.ids for one in found],
            "attention_mask": [one.attention_mask for one in found],
            "token_type_ids": [one.type_ids for one in found],
        }
        feed = {name: numpy.array(columns[name], dtype=numpy.int64) for name in self.inputs}
        return numpy.asarray(self.session.run(["logits"], feed)[0])


class _TorchLogits:
    """A student on the available device."""

    def __init__(self, folder: Path) -> None:
        from graft.students.device import pick_device

        self.model = load_classifier(folder).to(pick_device())

    def __call__(self, texts: Sequence[str]) -> NDArray[Any]:
        import numpy
        import torch

        with torch.inference_mode():
            return numpy.asarray(self.model(list(texts)).float().cpu().numpy())


def load_classifier(folder: Path) -> Any:
    """The TextClassifier of an exported or a trained folder, on the CPU. Errors as `TextClassifier.load`."""
    from graft.students.classifier import TextClassifier

    if not (folder / FACTS).is_file():
        return TextClassifier.load(folder)
    from safetensors.torch import load_file

    from graft.schemas.pretrained import check_written
    from graft.students.encoder import Encoder

    check_written(folder)
    facts = _facts(folder)
    model = TextClassifier.start(Encoder(str(folder), "", ""), head_in(facts), facts["max_length"])
    model.head.load_state_dict(load_file(folder / HEAD))
    return model.eval()


def is_student(folder: Path) -> bool:
    """Return True if a student, exported or trained, is in the folder."""
    return (folder / FACTS).is_file() or (folder / "classifier.json").is_file()


def _facts(folder: Path) -> dict[str, Any]:
    for name in (FACTS, "classifier.json"):
        if (folder / name).is_file():
            try:
                facts = json.loads((folder / name).read_text(encoding="utf-8"))
            except ValueError:
                facts = None
            if isinstance(facts, dict) and facts.get("labels") and facts.get("max_length"):
                return facts
            raise GraftError(f"{name} was not written by Graft", where=str(folder), fix="export the student again")
    raise NotFound("no student found", where=str(folder), fix="train one: graft train NAME")


def _cannot(folder: Path, has_graph: bool) -> GraftError:
    if has_graph:
        return MissingExtra("onnxruntime is not installed", where=str(folder), fix="pip install 'graft-factory[onnx]'")
    return MissingExtra(
        "there is no ONNX model here, and PyTorch is not installed", where=str(folder),
        fix="export it (graft export-student), or pip install 'graft-factory[train]'",
    )  # fmt: skip
