"""The shapes that trainers of language models read: messages, alpaca, sharegpt, prompt and completion, LLaMA-Factory.

For a task with labels the user says the text and the assistant the label; with `ask` the text comes after a
question that names the labels, with `instruction` after those words. For a task of responses the assistant says
the response.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from graft.data.export.registry import Columns, Format, Params, Source, Written
from graft.schemas.errors import GraftError

ASK = "Which of these labels fits the text? Answer with the label alone.\nLabels: "


def _needs_answers(source: Source) -> None:
    if not source.task.labelled and not source.has_response:
        what = "its rows have no response: there is nothing for the assistant to say"
        raise GraftError(what, where=source.found.ref, fix="--format jsonl")


def _question(source: Source) -> str:
    return source.instruction or ASK + json.dumps(source.labels, ensure_ascii=False)


def _judged(source: Source) -> str:
    """What a classifier reads: the text, and for a guard the response to it."""
    if not source.has_response:
        return "text"
    return "text || CASE WHEN coalesce(response, '') = '' THEN '' ELSE chr(10) || chr(10) || response END"


def turns(source: Source, params: Params) -> tuple[str, str]:
    """SQL of what the user says, and of what the assistant does."""
    if not source.task.labelled:
        return "text", "coalesce(response, '')"
    said = _judged(source)
    if source.ask or source.instruction:
        said = f"{params.add(_question(source) + chr(10) * 2 + 'Text: ')} || {said}"
    return said, "label"


def turn(role: str, said: str) -> str:
    """SQL of a conversation of one message."""
    return f"[{{'role': '{role}', 'content': {said}}}]"


def _messages(source: Source, params: Params) -> Columns:
    user, assistant = turns(source, params)
    return {
        "messages": f"[{{'role': 'user', 'content': {user}}}, {{'role': 'assistant', 'content': {assistant}}}]",
    }


def _sharegpt(source: Source, params: Params) -> Columns:
    user, assistant = turns(source, params)
    return {"conversations": f"[{{'from': 'human', 'value': {user}}}, {{'from': 'gpt', 'value': {assistant}}}]"}


def _prompt_completion(source: Source, params: Params) -> Columns:
    user, assistant = turns(source, params)
    if source.plain:
        return {"prompt": user, "completion": assistant}
    return {"prompt": turn("user", user), "completion": turn("assistant", assistant)}


def _alpaca(source: Source, params: Params) -> Columns:
    if not source.task.labelled:
        return {"instruction": "text", "input": "''", "output": "coalesce(response, '')"}
    return {"instruction": params.add(_question(source)), "input": _judged(source), "output": "label"}


def _dataset_info(source: Source, files: Sequence[Written], folder: Path) -> Mapping[str, str]:
    """LLaMA-Factory's index: a data set for each file, and how its columns are called."""
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    index = {
        f"{source.found.dataset}_{Path(file.path).name.partition('.')[0]}".replace("-", "_"): {
            "file_name": file.path, "formatting": "alpaca", "columns": columns,
        }
        for file in files
    }  # fmt: skip
    return {"dataset_info.json": json.dumps(index, indent=2, ensure_ascii=False) + "\n"}


FORMATS = (
    Format("messages", "training", "`messages` of user and assistant: TRL's SFT, OpenAI's fine-tuning", "jsonl",
           _messages, check=_needs_answers),
    Format("prompt_completion", "training", "`prompt`, `completion`: TRL's SFT on the answer alone", "jsonl",
           _prompt_completion, check=_needs_answers),
    Format("alpaca", "training", "`instruction`, `input`, `output`", "jsonl", _alpaca, check=_needs_answers),
    Format("sharegpt", "training", "`conversations` of human and gpt", "jsonl", _sharegpt,
           check=_needs_answers),
    Format("llamafactory", "training", "alpaca's files and LLaMA-Factory's dataset_info.json", "jsonl", _alpaca,
           check=_needs_answers, beside=_dataset_info),
)  # fmt: skip
