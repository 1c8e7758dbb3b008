"""The classifier that a student is: any transformers encoder, masked mean pooling, one linear layer.

MiniLM was trained with mean pooling and has no trained pooler, so a stock sequence classifier would start from noise.
Here the pooled vector is normalised and the layer starts from each class's mean vector (weight imprinting, Qi et al.
2018), so that even two examples a class begin at nearest-centroid accuracy and training only improves on it.

This module is imported only where a student is trained or used: it loads torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, logging

from schemas.errors import GraftError
from students.encoder import Encoder

SCALE = 10.0
"""What cosines are multiplied by before the softmax, at the start; the layer then learns its own."""

BATCH = 64


class TextClassifier(nn.Module):
    """Texts to a distribution over `labels`."""

    def __init__(self, encoder: Any, tokenizer: Any, labels: Sequence[str], max_length: int) -> None:
        super().__init__()
        self.encoder, self.tokenizer = encoder, tokenizer
        self.labels, self.max_length = tuple(labels), max_length
        self.head = nn.Linear(int(encoder.config.hidden_size), len(self.labels))

    @classmethod
    def start(cls, encoder: Encoder, labels: Sequence[str], max_length: int) -> TextClassifier:
        """A classifier before training. Raises GraftError where the encoder cannot be had, with the offline way."""
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            tokenizer = AutoTokenizer.from_pretrained(encoder.place)
            body = AutoModel.from_pretrained(encoder.place)
        except (OSError, ValueError) as error:
            raise GraftError(
                f"the encoder {encoder.place!r} cannot be loaded: {str(error).splitlines()[0]}", where="student.encoder",
                fix="check the id; without a network, name a folder that holds it, or leave the field out",
            ) from None  # fmt: skip
        return cls(body, tokenizer, labels, max_length)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Texts to pooled, normalised vectors (n x hidden)."""
        batch = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(self.device)
        states = self.encoder(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
        pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        return nn.functional.normalize(pooled.float(), dim=-1)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Logits (n x labels)."""
        logits: Tensor = self.head(self.embed(texts))
        return logits

    @torch.no_grad()
    def imprint(self, rows: Sequence[tuple[str, str]]) -> None:
        """Start the layer from each class's mean vector; a class without rows starts from its name."""
        self.eval()
        for place, label in enumerate(self.labels):
            texts = [text for text, wanted in rows if wanted == label][:BATCH] or [label]
            self.head.weight[place] = SCALE * nn.functional.normalize(self.embed(texts).mean(0), dim=-1)
        self.head.bias.zero_()

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str]) -> Tensor:
        """Probabilities (n x labels) on the CPU, in batches sorted by length."""
        self.eval()
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        answer = torch.empty(len(texts), len(self.labels))
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            answer[places] = self([texts[place] for place in places]).softmax(-1).float().cpu()
        return answer

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The most probable label of each text."""
        return [self.labels[place] for place in self.probabilities(texts).argmax(-1).tolist()]

    def save(self, folder: Path) -> None:
        """Encoder and tokenizer as transformers writes them, the layer as safetensors, labels as JSON."""
        self.encoder.save_pretrained(folder / "encoder", safe_serialization=True)
        self.tokenizer.save_pretrained(folder / "encoder")
        save_file(
            {"weight": self.head.weight.detach().cpu(), "bias": self.head.bias.detach().cpu()},
            folder / "head.safetensors",
        )
        facts = {"labels": self.labels, "max_length": self.max_length}
        (folder / "classifier.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> TextClassifier:
        """A saved classifier, on the CPU."""
        facts = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
        model = cls.start(Encoder(str(folder / "encoder"), "", ""), facts["labels"], facts["max_length"])
        model.head.load_state_dict(load_file(folder / "head.safetensors"))
        return model
