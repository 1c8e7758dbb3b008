"""Perplexity of texts under a causal model. Every run imports this module: it loads nothing until a model is named."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

from graft.schemas.errors import GraftError
from graft.schemas.home import Home

FIELD = "gates.fluency.model"
NEEDED = ("torch", "transformers")
Say = Callable[[str], None]


def perplexities(home: Home, say: Say = lambda text: None) -> Callable[[str], Callable[[str], float]]:
    """A function from a model's name to one that gives the perplexity of a text. Thread-safe; a model stays loaded.

    The model is resolved at once, which raises GraftError if it cannot be used, and loaded for the first text.
    llama.cpp's server returns no log-probabilities of a prompt, so the model runs in this process, on the CPU.
    """

    def opened(name: str) -> Callable[[str], float]:
        from graft.students.instruct.base import find_base, load_model, load_tokenizer

        try:
            base = find_base(name, home.models, say, NEEDED)
        except GraftError as error:
            raise type(error)(error.what, where=FIELD, fix=error.fix) from None
        lock, loaded = threading.Lock(), list[tuple[Any, Any]]()

        def perplexity(text: str) -> float:
            with lock:
                if not loaded:
                    loaded.append((load_tokenizer(base), load_model(base.place, base.commit).eval()))
                return _perplexity(*loaded[0], text)

        return perplexity

    return opened


def _perplexity(tokenizer: Any, model: Any, text: str) -> float:
    """exp of the mean negative log-probability of a text's tokens after the first, which nothing foretells; of a single
    token that token's."""
    import torch

    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    tokens = torch.tensor([[begin, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    if tokens.shape[1] < 2:
        return 1.0
    with torch.inference_mode():
        scores = model(tokens).logits[0, :-1].log_softmax(-1)
    lost = -scores.gather(1, tokens[0, 1:, None])[:, 0]
    return math.exp(min(80.0, float(lost[1:].mean() if len(lost) > 1 else lost.mean())))
