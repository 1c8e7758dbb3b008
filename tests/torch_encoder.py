"""all-MiniLM-L6-v2 on PyTorch, which the encoder is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from graft.agents.local.encoder import minilm_folder
from graft.agents.local.minilm import DIMENSIONS, MIDDLE, Vectors
from graft.schemas.pretrained import pretrained

BATCH = 64


@cache
def _loaded() -> tuple[Any, Any]:
    from transformers.utils import logging

    logging.disable_progress_bar()
    path = str(minilm_folder())
    tokenizer = pretrained("AutoTokenizer", path, local_files_only=True)
    return tokenizer, pretrained("AutoModel", path, local_files_only=True).eval()


def features(texts: Sequence[str]) -> Vectors:
    """Unit vectors of the last layer and of MIDDLE, beside each other and of length 1 together."""
    return np.concatenate([embed(texts), embed(texts, MIDDLE)], axis=1) * np.float32(0.5**0.5)


def embed(texts: Sequence[str], layer: int = -1) -> Vectors:
    """Unit vectors of texts cut at 256 tokens, in batches of 64 by length."""
    import torch

    tokenizer, model = _loaded()
    vectors = np.zeros((len(texts), DIMENSIONS), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            some = [texts[place] for place in places]
            batch = tokenizer(some, padding=True, truncation=True, max_length=256, return_tensors="pt")
            hidden = model(**batch, output_hidden_states=True).hidden_states[layer]
            mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            vectors[places] = torch.nn.functional.normalize(mean, dim=1).numpy()
    return vectors
