"""Supervised fine-tuning on chat turns (TRL's SFTTrainer): loss on the assistant's tokens only, by LoRA or in full."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graft.schemas.base import stable_hash
from graft.schemas.errors import GraftError
from graft.schemas.students import StageSettings
from graft.students.instruct.base import load_model
from graft.students.instruct.stages.base import Course, Stage

if TYPE_CHECKING:
    from graft.students.instruct.runner import Attempt, Ended


class SftSettings(StageSettings):
    """None of its own: they are the block's."""

    kind: Literal["sft"] = "sft"


class Sft(Stage):
    """From the base model."""

    Settings = SftSettings

    def nothing(self, course: Course) -> str:
        """Never: a student without a turn is not trained at all."""
        return ""

    def train(self, course: Course, start: Path | None, folder: Path) -> Ended:
        """On the turns."""
        import torch
        from datasets import Dataset
        from peft import LoraConfig
        from trl import SFTConfig, SFTTrainer

        from graft.students.instruct.runner import Attempt, common, one_device, train

        if start is not None:
            raise GraftError(
                "sft starts from the base model", where="student.instruct.stages", fix="put it first, and once"
            )
        settings, chosen, base = course.settings, course.settings.instruct, course.base
        data = Dataset.from_list([{"input_ids": list(row.ids), "labels": list(row.labels)} for row in course.rows])
        lora = chosen.adapter == "lora"
        adapter = LoraConfig(  # on every linear layer but the output, as is usual for text models
            r=chosen.lora_rank, lora_alpha=chosen.lora_alpha, lora_dropout=chosen.lora_dropout,
            target_modules="all-linear", task_type="CAUSAL_LM",
        )  # fmt: skip

        def make(plan: Attempt) -> Any:
            torch.manual_seed(settings.seed)  # before LoRA draws its weights
            args = one_device(
                SFTConfig(
                    **common(settings, plan), num_train_epochs=chosen.epochs, learning_rate=chosen.learning_rate,
                    warmup_steps=chosen.warmup, lr_scheduler_type="linear",
                    train_sampling_strategy="group_by_length" if settings.group_lengths else "random",
                )
            )  # fmt: skip
            return SFTTrainer(
                model=load_model(base.place, base.commit, frozen=lora), args=args, train_dataset=data,
                processing_class=course.tokenizer, peft_config=adapter if lora else None,
            )  # fmt: skip

        facts = stable_hash(
            "sft", [row.ids for row in course.rows], settings.learned_with("instruct"), base.revision,
            str(torch.__version__),
        )  # fmt: skip
        size = min(chosen.batch_size, len(course.rows))
        return train(make, Attempt(size, settings.accumulate, folder), facts, course.say)


KIND = Sft
