"""A randomly initialised BERT of 16 dimensions, for training tests; run as a program, a training that kills itself.

`python tests/tiny_encoder.py ENCODER OUT DIE_AT`: trains on ROWS into OUT with a checkpoint after every pass, and ends
by SIGKILL after step DIE_AT.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

LABELS = ["delivery", "billing", "account", "technical"]
ROWS = [
    ("where is my parcel", "delivery"), ("the courier never came", "delivery"),
    ("I was charged twice", "billing"), ("please send me an invoice", "billing"),
    ("I forgot my password", "account"), ("how do I change my address", "account"),
    ("the screen stays black", "technical"), ("the app crashes when it starts", "technical"),
]  # fmt: skip
SETTINGS = {"epochs": 12, "batch_size": 5, "learning_rate": 5e-3, "max_length": 16, "patience": 9}


def write(folder: Path, texts: Iterable[str], layers: int = 1) -> Path:
    """Write encoder and tokenizer, whose words are those of the texts. Returns the folder."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = sorted({word for text in texts for word in text.casefold().split()})
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=layers, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=32,
        )  # fmt: skip
        BertModel(config).save_pretrained(folder)
    return folder


def main(encoder: str, out: str, die_at: int) -> None:
    """The training that does not live to its end."""
    import torch

    from graft.schemas.students import StudentSettings
    from graft.students import checkpoint
    from graft.students.launch import train_classifier

    torch.set_num_threads(1)
    checkpoint.EVERY, checkpoint.SHARE = 0.0, 1e9

    def progress(step: int, steps: int) -> None:
        if step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = StudentSettings.model_validate({"encoder": encoder, **SETTINGS})
    train_classifier(ROWS, LABELS, settings, Path(out), progress=progress, validation=ROWS[:3])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
