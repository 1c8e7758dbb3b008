"""Turn formats of well-known models, for servers that accept a raw prompt but cannot continue a prefilled turn.

Prompts carry no begin-of-text token: every supported server adds it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from graft.schemas.calls import Message
from graft.schemas.models import ChatTemplate


@dataclass(frozen=True)
class TurnFormat:
    """Text before and after each turn.

    `system` is None if the format has no system turn; the system text then precedes the first user turn, between
    `system_before` and `system_after`.
    """

    user: tuple[str, str]
    assistant: tuple[str, str]
    stop: tuple[str, ...]
    system: tuple[str, str] | None = None
    system_before: str = ""
    system_after: str = "\n\n"


FORMATS: dict[ChatTemplate, TurnFormat] = {
    "chatml": TurnFormat(
        system=("<|im_start|>system\n", "<|im_end|>\n"), user=("<|im_start|>user\n", "<|im_end|>\n"),
        assistant=("<|im_start|>assistant\n", "<|im_end|>\n"), stop=("<|im_end|>", "<|im_start|>"),
    ),
    "gemma": TurnFormat(
        user=("<start_of_turn>user\n", "<end_of_turn>\n"), assistant=("<start_of_turn>model\n", "<end_of_turn>\n"),
        stop=("<end_of_turn>", "<start_of_turn>"),
    ),
    "llama3": TurnFormat(
        system=("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        user=("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        assistant=("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"), stop=("<|eot_id|>",),
    ),
    "llama2": TurnFormat(
        user=("[INST] ", " [/INST]"), assistant=(" ", " </s><s>"), stop=("</s>", "[INST]"),
        system_before="<<SYS>>\n", system_after="\n<</SYS>>\n\n",
    ),
    "mistral": TurnFormat(user=("[INST] ", "[/INST]"), assistant=(" ", "</s>"), stop=("</s>", "[INST]")),
}  # fmt: skip
CONTROL = re.compile(
    r"(?P<first>[<\[])(?="
    r"\||/?s>|/?<?/?SYS>>|(?:bos|eos|pad|unk|mask)>|unused\d+>|(?:start|end)_of_(?:turn|image)>|[a-z_]+\|>"
    r"|/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|IMG|IMG_BREAK|IMG_END|PREFIX"
    r"|MIDDLE|SUFFIX|THINK|ARGS|CALL_ID|AUDIO|BEGIN_AUDIO|control_\d+)\]"
    r")"
)
"""First characters of anything that a tokenizer of these formats may read as a control token."""


def templated(name: ChatTemplate, messages: Sequence[Message], *, prefilled: bool) -> str:
    """Render a conversation as one prompt, up to the assistant's next words.

    A space breaks control tokens inside messages, so that no message can end its turn or open another.

    Args:
        name: the turn format.
        messages: the conversation.
        prefilled: the last message is the assistant's and stays open.

    Raises:
        ValueError: `prefilled`, and the last message is not the assistant's.
    """
    how, turns = FORMATS[name], list(messages)
    if prefilled and (not turns or turns[-1].role != "assistant"):
        raise ValueError("a prefilled turn needs an assistant message at the end")
    open_turn = turns.pop() if prefilled else None
    pieces: list[str] = []
    for role, text in _merged(how, turns):
        before, after = _around(how, role)
        pieces.append(before + text + after)
    pieces.append(how.assistant[0] + (plain(open_turn.content) if open_turn else ""))
    prompt = "".join(pieces)
    # the separating space belongs to the answer: at the end of a prompt it would change the first word's token
    return prompt if open_turn else prompt.rstrip(" ")


def plain(text: str) -> str:
    """Insert a space into every control token of any format, so that it is read as text."""
    return CONTROL.sub(r"\g<first> ", text)


def stops_of(name: ChatTemplate) -> tuple[str, ...]:
    """Stop strings of a turn format."""
    return FORMATS[name].stop


def _merged(how: TurnFormat, turns: Sequence[Message]) -> list[tuple[str, str]]:
    """(role, text) of each closed turn; the system text joins the first user turn if the format has no system turn."""
    spoken = [(turn.role, plain(turn.content).strip()) for turn in turns]
    if how.system is not None:
        return list(spoken)
    system = "\n\n".join(text for role, text in spoken if role == "system")
    rest: list[tuple[str, str]] = [(role, text) for role, text in spoken if role != "system"]
    if not system:
        return rest
    head = how.system_before + system + how.system_after
    if rest and rest[0][0] == "user":
        return [("user", head + rest[0][1]), *rest[1:]]
    return [("user", head.rstrip()), *rest]


def _around(how: TurnFormat, role: str) -> tuple[str, str]:
    if role == "system" and how.system is not None:
        return how.system
    return how.user if role == "user" else how.assistant
