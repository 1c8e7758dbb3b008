"""Supervised fine-tuning on chat turns (TRL's SFTTrainer): loss on the assistant's tokens only, by LoRA or in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from graft.schemas.base import stable_hash
from graft.schemas.students import StudentSettings
from graft.students.instruct.base import CausalBase, load_model
from graft.students.instruct.data import Encoded
from graft.students.instruct.runner import Ended, Plan, Say, common, train

LEARNS_WITH = {"seed", "weight_decay", "accumulate", "group_lengths"}
"""Fields of StudentSettings that change an instruction student's weights, beside all of `instruct`."""


def train_sft(
    base: CausalBase, tokenizer: Any, rows: Sequence[Encoded], settings: StudentSettings, folder: Path, say: Say
) -> Ended:
    """Train the base on the rows, with checkpoints in `folder`. Errors as `runner.train`."""
    chosen = settings.instruct
    data = Dataset.from_list([{"input_ids": list(row.ids), "labels": list(row.labels)} for row in rows])

    def make(plan: Plan) -> Any:
        torch.manual_seed(settings.seed)  # before LoRA draws its weights
        args = one_device(
            SFTConfig(
                **common(settings, plan), num_train_epochs=chosen.epochs, learning_rate=chosen.learning_rate,
                warmup_steps=chosen.warmup, lr_scheduler_type="linear",
                train_sampling_strategy="group_by_length" if settings.group_lengths else "random",
            )
        )  # fmt: skip
        lora = chosen.adapter == "lora"
        return SFTTrainer(
            model=load_model(base.place, base.commit, frozen=lora), args=args, train_dataset=data,
            processing_class=tokenizer, peft_config=lora_of(settings) if lora else None,
        )  # fmt: skip

    facts = stable_hash("sft", [row.ids for row in rows], learned_with(settings), base.revision, str(torch.__version__))
    return train(make, Plan(min(chosen.batch_size, len(rows)), settings.accumulate, folder), facts, say)


def lora_of(settings: StudentSettings) -> LoraConfig:
    """An adapter on every linear layer but the output, as is usual for text models."""
    chosen = settings.instruct
    return LoraConfig(
        r=chosen.lora_rank, lora_alpha=chosen.lora_alpha, lora_dropout=chosen.lora_dropout,
        target_modules="all-linear", task_type="CAUSAL_LM",
    )  # fmt: skip


def learned_with(settings: StudentSettings) -> dict[str, Any]:
    """The settings that make an instruction student's weights."""
    return settings.model_dump(mode="json", include=LEARNS_WITH | {"instruct"})


def one_device(args: Any) -> Any:
    """Arguments that use one GPU unless a launcher (accelerate launch) started several processes: TRL wants it so."""
    if args.n_gpu > 1:
        args._n_gpu = 1
    return args
