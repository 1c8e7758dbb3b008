"""Preference training (DPO, arXiv 2305.18290) with TRL's DPOTrainer, from where supervised training left the student.

The reference is that supervised student: a frozen copy of its adapter or, in full training, of the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from graft.schemas import pretrained
from graft.schemas.base import stable_hash
from graft.schemas.students import DpoSettings, StudentSettings
from graft.students.instruct.base import CausalBase, load_model, quiet_libraries
from graft.students.instruct.data import Pair, plain
from graft.students.instruct.runner import Ended, Plan, Say, common, train
from graft.students.instruct.sft import learned_with, one_device


def train_dpo(
    base: CausalBase, tokenizer: Any, start: Path, pairs: Sequence[Pair], settings: StudentSettings,
    dpo: DpoSettings, folder: Path, say: Say,
) -> Ended:  # fmt: skip
    """Train the student in `start` on pairs, with checkpoints in `folder`. Errors as `runner.train`."""
    full = settings.instruct.adapter == "full"
    data = Dataset.from_list([_row(tokenizer, pair) for pair in pairs])

    def make(plan: Plan) -> Any:
        torch.manual_seed(settings.seed)
        args = one_device(
            DPOConfig(
                **common(settings, plan), num_train_epochs=dpo.epochs, learning_rate=dpo.learning_rate, beta=dpo.beta,
                warmup_steps=settings.instruct.warmup,
            )
        )  # fmt: skip
        model = load_model(str(start)) if full else adapted(base, start, trainable=True)
        frozen = load_model(str(start)) if full else None
        return DPOTrainer(
            model=model, ref_model=frozen, args=args, train_dataset=data, processing_class=tokenizer
        )  # fmt: skip

    facts = stable_hash(
        "dpo", [(pair.instruction, pair.chosen, pair.rejected) for pair in pairs], learned_with(settings),
        base.revision, str(torch.__version__),
    )  # fmt: skip
    size = max(1, min(settings.instruct.batch_size // 2, len(pairs)))  # a pair is two rows
    ended = train(make, Plan(size, settings.accumulate, folder), facts, say)
    if not full:
        ended.model.delete_adapter("ref")
    return ended


def adapted(base: CausalBase, folder: Path, *, trainable: bool = False) -> Any:
    """The base model with the adapter in a folder."""
    model = load_model(base.place, base.commit, frozen=True)
    with quiet_libraries():
        return pretrained.adapted(model, folder, trainable=trainable)


def _row(tokenizer: Any, pair: Pair) -> dict[str, Any]:
    def said(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": plain(tokenizer, text)}]

    return {
        "prompt": said("user", pair.instruction), "chosen": said("assistant", pair.chosen),
        "rejected": said("assistant", pair.rejected),
    }  # fmt: skip
