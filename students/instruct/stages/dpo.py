"""Preference training (DPO, arXiv 2305.18290) with TRL's DPOTrainer, starting from the previous stage's student.

The reference is that earlier student: a frozen copy of its adapter or, in full training, of the whole model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from graft.schemas.base import stable_hash
from graft.schemas.errors import GraftError
from graft.schemas.students import DpoSettings, StageSettings
from graft.students.instruct.base import load_adapted, load_model
from graft.students.instruct.data import Pair, plain
from graft.students.instruct.stages.base import Course, Stage

if TYPE_CHECKING:
    from graft.students.instruct.runner import Attempt, Ended


class DpoStage(StageSettings, DpoSettings):
    """As the block `dpo` of an instruction student."""

    kind: Literal["dpo"] = "dpo"


class Dpo(Stage):
    """From a student that has been trained already."""

    Settings = DpoStage
    pairs = True
    first = False

    def nothing(self, course: Course) -> str:
        """There may be no pair."""
        if course.pairs:
            return ""
        return (
            "no preferences were trained: no response was rejected for a wrong answer beside an accepted one to the "
            "same instruction (method.responses: 4 makes such pairs)"
        )

    def train(self, course: Course, start: Path | None, folder: Path) -> Ended:
        """On the pairs."""
        import torch
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer

        from graft.students.instruct.runner import Attempt, common, one_device, train

        if start is None:
            raise GraftError(
                "dpo starts from a trained student", where="student.instruct.stages", fix="put sft before it"
            )
        settings, base, dpo, trained = course.settings, course.base, cast(DpoStage, self.own), start
        course.say(f"preferences: {len(course.pairs)} pairs of an accepted and a wrong response")
        full = settings.instruct.adapter == "full"
        data = Dataset.from_list([_row(course.tokenizer, pair) for pair in course.pairs])

        def make(plan: Attempt) -> Any:
            torch.manual_seed(settings.seed)
            args = one_device(
                DPOConfig(
                    **common(settings, plan), num_train_epochs=dpo.epochs, learning_rate=dpo.learning_rate,
                    beta=dpo.beta, warmup_steps=settings.instruct.warmup,
                )
            )  # fmt: skip
            model = load_model(str(trained)) if full else load_adapted(base, trained, trainable=True)
            frozen = load_model(str(trained)) if full else None
            return DPOTrainer(
                model=model, ref_model=frozen, args=args, train_dataset=data, processing_class=course.tokenizer
            )

        facts = stable_hash(
            "dpo", [(pair.instruction, pair.chosen, pair.rejected) for pair in course.pairs],
            settings.learned_with("instruct"), base.revision, str(torch.__version__),
        )  # fmt: skip
        size = max(1, min(settings.instruct.batch_size // 2, len(course.pairs)))  # a pair is two rows
        ended = train(make, Attempt(size, settings.accumulate, folder), facts, course.say)
        if not full:
            ended.model.delete_adapter("ref")
        return ended


def _row(tokenizer: Any, pair: Pair) -> dict[str, Any]:
    def turn(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": plain(tokenizer, text)}]

    return {
        "prompt": turn("user", pair.instruction), "chosen": turn("assistant", pair.chosen),
        "rejected": turn("assistant", pair.rejected),
    }  # fmt: skip


KIND = Dpo
