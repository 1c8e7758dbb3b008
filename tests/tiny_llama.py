"""A randomly initialised Llama of 32 dimensions, for training tests; run as a program, a training that kills itself.

`python tests/tiny_llama.py BASE HOME DIE_AT`: trains on TURNS and PAIRS with a checkpoint after every step, and ends by
SIGKILL when the DIE_AT-th of them is written.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from graft.schemas.home import Home
from graft.schemas.students import InstructSettings, StudentSettings
from graft.students.instruct.data import Pair, Turn
from graft.students.instruct.train import Held, InstructReport, train_instruct_student

THINGS = ["kettle", "lamp", "chair", "scarf", "clock", "basket", "mirror", "pillow"]
TURNS = [Turn(f"how do I return a {thing}", f"send the {thing} back with its receipt", "it is short and clear")
         for thing in THINGS]  # fmt: skip
PAIRS = [Pair(turn.instruction, turn.response, f"keep the {thing} it cannot be sent")
         for turn, thing in zip(TURNS, THINGS, strict=True)]  # fmt: skip
SETTINGS: dict[str, Any] = {
    "adapter": "full", "epochs": 4, "batch_size": 4, "learning_rate": 1e-2, "max_length": 64, "lora_rank": 4,
}  # fmt: skip


def write(folder: Path, template: bool = True) -> Path:
    """Write model and tokenizer, whose words are those of the rows. Returns the folder."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    texts = [*(f"{turn.instruction} {turn.response} {turn.rationale}" for turn in TURNS)]
    texts += [pair.rejected for pair in PAIRS]
    words = sorted({word for text in texts for word in text.split()})
    marks = ["<unk>", "<pad>", "<end>", "<user>", "<bot>", "Instruction", "Answer", ":"]
    vocabulary = {word: n for n, word in enumerate([*marks, *words])}
    inner = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>", eos_token="<end>",
        additional_special_tokens=["<user>", "<bot>"],
    )  # fmt: skip
    if template:
        tokenizer.chat_template = (
            "{% for message in messages %}{{ '<user> ' if message['role'] == 'user' else '<bot> ' }}"
            "{{ message['content'] }} <end>\n{% endfor %}{% if add_generation_prompt %}<bot> {% endif %}"
        )
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=128, pad_token_id=1, eos_token_id=2,
            bos_token_id=None,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def settings_for(base: Path, student: dict[str, Any] | None = None, **instruct: Any) -> StudentSettings:
    """Settings of a short training of the base in a folder."""
    chosen = InstructSettings.model_validate({**SETTINGS, "base": str(base), **instruct})
    return StudentSettings.model_validate({"instruct": chosen, **(student or {})})


def learn(base: Path, home: Path, messages: list[str], student: dict[str, Any] | None = None, **instruct: Any) -> (
    InstructReport
):  # fmt: skip
    """A training on all but the last two turns and pairs, which are held out."""
    home.mkdir(exist_ok=True)
    return train_instruct_student(
        TURNS[:-2], PAIRS[:-2], Held(TURNS[-2:], PAIRS[-2:]), settings=settings_for(base, student, **instruct),
        home=Home(home), dataset="shop", version=1, say=messages.append,
    )  # fmt: skip


def main(base: str, home: str, die_at: int) -> None:
    """The training that does not live to its end."""
    import torch

    from graft.students.instruct import runner

    torch.set_num_threads(1)
    runner.EVERY, runner.SHARE = 0.0, 1e9
    written = 0
    save = runner.Watch.on_save

    def on_save(self: runner.Watch, *args: Any, **kwargs: Any) -> None:
        nonlocal written
        save(self, *args, **kwargs)
        written += 1
        if written == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    runner.Watch.on_save = on_save  # type: ignore[method-assign]
    learn(Path(base), Path(home), [], dpo={"epochs": 2, "learning_rate": 1e-3})


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
