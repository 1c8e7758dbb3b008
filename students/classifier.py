"""The classifier of a student: any transformers encoder, masked mean pooling, one linear layer.

MiniLM was trained with mean pooling and has no trained pooler, so transformers' stock sequence classifier would put a
random pooler and a random head on it: with a few rows a class that starts far below the encoder's own accuracy.
Here the mean over the real tokens is normalised, and the layer starts from each class's mean vector (weight
imprinting, Qi et al. 2018): training begins at nearest-centroid accuracy and improves on it. Its head
(`students.heads`) reads the logits: as one label a text, or as several.

Loads torch: import it only where a student is trained or used.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from graft.schemas.errors import GraftError, NotFound
from graft.schemas.pretrained import check_written, pretrained
from graft.students.encoder import Encoder, quiet_transformers
from graft.students.heads import Head, Predicted, head_in
from graft.students.words import restored, share

SCALE = 10.0
"""Initial factor of cosines before the softmax; the layer then learns its own."""

BATCH = 64
"""Batch size without training."""


class TextClassifier(nn.Module):
    """Texts to logits, which `outputs` reads as labels and probabilities. `head` is the linear layer before them."""

    def __init__(self, encoder: Any, tokenizer: Any, outputs: Head, max_length: int) -> None:
        super().__init__()
        self.encoder, self.tokenizer = encoder, tokenizer
        self.outputs, self.max_length = outputs, _fitting(max_length, encoder, tokenizer)
        self.head = nn.Linear(int(encoder.config.hidden_size), len(outputs.labels))

    @classmethod
    def start(cls, encoder: Encoder, outputs: Head, max_length: int) -> TextClassifier:
        """A classifier before training, on the CPU in 32 bits. Raises GraftError if the encoder cannot be loaded."""
        try:
            with quiet_transformers():
                commit = encoder.commit or "main"
                tokenizer = pretrained("AutoTokenizer", encoder.place, revision=commit)
                body = pretrained("AutoModel", encoder.place, revision=commit, dtype=torch.float32)
        except (OSError, ValueError, ImportError) as error:
            raise GraftError(
                f"the encoder {encoder.place!r} cannot be loaded: {(str(error).splitlines() or [''])[0]}",
                where="student.encoder", fix="check it; without a network, name a folder that holds it",
            ) from None  # fmt: skip
        if body.config.is_encoder_decoder or not hasattr(body.config, "hidden_size"):
            raise GraftError(
                f"{encoder.place!r} is a {body.config.model_type}, not a text encoder", where="student.encoder",
                fix="name an encoder such as BERT, MiniLM, RoBERTa, DeBERTa or ModernBERT",
            )  # fmt: skip
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        return cls(body, tokenizer, outputs, max_length)

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the logits."""
        return self.outputs.labels

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.head.weight.device

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Texts to unit vectors, shape (texts, hidden): the mean over real tokens, normalised."""
        batch = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(self.device)
        states = self.encoder(**batch).last_hidden_state.float()
        mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
        pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        return nn.functional.normalize(pooled, dim=-1)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Logits, shape (texts, labels)."""
        logits: Tensor = self.head(self.embed(texts))
        return logits

    @torch.no_grad()
    def imprint(self, rows: Sequence[tuple[str, str]]) -> None:
        """Start the layer from each class's mean vector; a class without rows starts from its name.

        The bias, one number for all labels, lies midway between the logits of a text's label and those of the others:
        a softmax ignores it, sigmoids start out even.
        """
        self.eval()
        sums, count = torch.zeros_like(self.head.weight), 0
        for place, label in enumerate(self.labels):
            texts = [text for text, wanted in rows if wanted == label][:BATCH] or [label.replace("_", " ")]
            vectors = self.embed(texts)
            self.head.weight[place] = SCALE * nn.functional.normalize(vectors.mean(0), dim=-1)
            sums[place], count = vectors.sum(0), count + len(texts)
        own = (sums * self.head.weight).sum()
        others = sums.sum(0) @ self.head.weight.sum(0) - own
        self.head.bias.fill_(-float(own / count + others / (count * max(1, len(self.labels) - 1))) / 2)

    def predict(self, texts: Sequence[str]) -> tuple[list[str], list[list[float]]]:
        """The most probable label of each text, and each text's probabilities in the order of `labels`.

        They sum to 1, except for a student with several labels per text: there they are independent (see
        `predict_many`).
        """
        answer = self._probabilities(texts)
        return [self.labels[place] for place in answer.argmax(-1).tolist()], answer.tolist()

    def say(self, texts: Sequence[str]) -> Predicted:
        """Predictions for each text, a label or a cell of labels, and all probabilities."""
        answer = self._probabilities(texts).tolist()
        return self.outputs.predicted(answer), answer

    def predict_many(self, texts: Sequence[str]) -> tuple[list[tuple[str, ...]], list[list[float]]]:
        """The labels of each text whose probability is above their threshold, perhaps none, and all probabilities.

        Raises GraftError for a student that gives exactly one label.
        """
        answer = self._probabilities(texts).tolist()
        return self.outputs.many(answer), answer

    def _probabilities(self, texts: Sequence[str]) -> Tensor:
        """Shape (texts, labels), on the CPU."""
        self.eval()
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        answer = torch.zeros(len(texts), len(self.labels))
        with torch.inference_mode():
            for start in range(0, len(order), BATCH):
                places = order[start : start + BATCH]
                logits = self([texts[place] for place in places]).float()
                answer[places] = self.outputs.activate(logits).cpu()
        return answer

    def save(self, folder: Path) -> None:
        """Encoder, config.json and tokenizer as transformers writes them; the layer as safetensors; labels as JSON."""
        with quiet_transformers():
            self.encoder.save_pretrained(folder / "encoder")
            self.tokenizer.save_pretrained(folder / "encoder")
        layer = {"weight": self.head.weight.detach().cpu(), "bias": self.head.bias.detach().cpu()}
        save_file(layer, folder / "head.safetensors")
        self.save_facts(folder)

    def share_words(self, folder: Path, encoder: Encoder) -> None:
        """Let a saved classifier share its encoder's word embeddings with the other students beside its folder.

        Without room or with another kind of weights it stays whole.
        """
        own = self.encoder.get_input_embeddings().weight
        name = next((key for key, value in self.encoder.named_parameters() if value is own), "")
        with contextlib.suppress(OSError):
            base = TextClassifier.start(encoder, self.outputs, self.max_length).encoder.get_input_embeddings()
            share(folder, base.weight, name)

    def save_facts(self, folder: Path) -> None:
        """classifier.json, whole or not at all: labels in order, length, and the facts of the head."""
        facts: dict[str, Any] = {"labels": self.labels, "max_length": self.max_length, **self.outputs.facts()}
        staged = folder / "classifier.json.part"
        staged.write_text(json.dumps(facts, indent=2, ensure_ascii=False), encoding="utf-8")
        staged.replace(folder / "classifier.json")

    @classmethod
    def load(cls, folder: Path) -> TextClassifier:
        """A saved classifier, on the CPU. Raises NotFound if there is none, GraftError if it holds code."""
        if not (folder / "classifier.json").is_file():
            raise NotFound("no student found", where=str(folder), fix="train one: graft train NAME")
        check_written(folder)
        facts = json.loads((folder / "classifier.json").read_text(encoding="utf-8"))
        model = cls.start(Encoder(str(folder / "encoder"), "", ""), head_in(facts), facts["max_length"])
        restored(folder / "encoder", model.encoder.get_input_embeddings())
        model.head.load_state_dict(load_file(folder / "head.safetensors"))
        return model.eval()


def _fitting(max_length: int, encoder: Any, tokenizer: Any) -> int:
    """The requested length in tokens, capped by the encoder's positions (RoBERTa's start after its padding)."""
    positions = getattr(encoder.config, "max_position_embeddings", None) or max_length
    if encoder.config.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= 2
    return min(max_length, int(positions), int(tokenizer.model_max_length))
