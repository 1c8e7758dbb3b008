"""Replies of the fake server to requests of a special form: a numbered list, a label by name, a refusal."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I cannot assist with that request.",
    "As an AI language model, I can't do that.",
)
LIST_ITEMS = 3
BEGUN = re.compile(
    r".*(?:<\|im_start\|>assistant\n|<start_of_turn>model\n|assistant<\|end_header_id\|>\n\n|\[/INST\] )(.+)\Z",
    re.DOTALL,
)
"""The text after the last assistant's opening in a raw prompt."""
OPENED = re.compile(r"(?:\A|\n|\s)(Example )?1[.:]\s*\Z")
NAME_LINE = re.compile(r"^(?:- |Label: )(.+?)(?:: .*)?$", re.MULTILINE)


def begun_in(body: dict[str, Any]) -> str:
    """The assistant's turn that a request leaves open; empty where there is none."""
    messages = body.get("messages") or ()
    if messages:
        return str(messages[-1]["content"]) if messages[-1]["role"] == "assistant" else ""
    found = BEGUN.match(body.get("prompt") or "")
    return found[1] if found else ""


def prompt_in(body: dict[str, Any]) -> str:
    """The last user's message, or the prompt."""
    answers = [message["content"] for message in body.get("messages") or () if message["role"] == "user"]
    return str(answers[-1]) if answers else str(body.get("prompt") or "")


def judged_in(body: dict[str, Any]) -> str:
    """The text shown to a judge between tags, or else the whole prompt."""
    prompt = prompt_in(body)
    return prompt.partition("<text>")[2].partition("</text>")[0].strip() or prompt


def list_reply(body: dict[str, Any], rng: random.Random, sentence: Callable[[random.Random], str]) -> str | None:
    """A numbered list of three; it continues an opened `1.` or `Example 1:`. None: no list requested."""
    prompt, begun = prompt_in(body), begun_in(body)
    opened = OPENED.search(begun or prompt)
    if not opened and "short texts" not in prompt:
        return None
    mark = "Example {}:" if opened and opened[1] else "{}."
    text = "\n".join(f"{mark.format(n)} {sentence(rng)}" for n in range(1, LIST_ITEMS + 1))
    return text.removeprefix(mark.format(1)) if opened else text


def name_reply(body: dict[str, Any], rng: random.Random, off_label_rate: float, words: list[str]) -> str | None:
    """One of the labels that the conversation lists, or another word; None if no label is requested."""
    shown, prompt = prompt_in(body), str(body.get("prompt") or "")
    if "Which label?" not in shown and not prompt.rstrip().endswith("Label:"):
        return None
    text = "\n".join([*(message["content"] for message in body.get("messages") or ()), prompt])
    names = sorted({found[1].strip() for found in NAME_LINE.finditer(text)} - {""})
    if not names or rng.random() < off_label_rate:
        return rng.choice([word for word in words if word not in names])
    return rng.choice(names)


def plain_parts(body: dict[str, Any]) -> dict[str, Any]:
    """The body with each message's content as one text, where a client sends it in parts."""
    for message in body.get("messages", ()):
        if isinstance(message.get("content"), list):
            message["content"] = "".join(part.get("text", "") for part in message["content"])
    return body


def schema_in(body: dict[str, Any]) -> dict[str, Any] | None:
    """The JSON schema that a prompt asks for between `<response_schema>` tags, with its references resolved."""
    found = re.search(r"<response_schema>\s*(\{.*?\})\s*</response_schema>", body["messages"][-1]["content"], re.DOTALL)
    if found is None:
        return None
    schema = json.loads(found[1])
    defined = schema.get("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(one) for one in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolved(defined[part["$ref"].rpartition("/")[2]])
        return {key: resolved(value) for key, value in part.items() if key != "$defs"}

    return resolved(schema)
