"""Chat formats for language-model trainers: messages, alpaca, sharegpt, prompt and completion, LLaMA-Factory.

For a task with labels the user turn is the text and the assistant turn is the label. With `ask` the text follows a
question that lists the labels, with `instruction` it follows that text. For a task with responses the assistant turn is
the response.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from graft.data.export.formats.base import Columns, Format, Params, Source, Written, turn
from graft.schemas.errors import GraftError

ASK = "Which of these labels fits the text? Answer with the label alone.\nLabels: "


def _needs_answers(source: Source) -> None:
    if not source.task.labelled and not source.has_response:
        what = "its rows have no response to use as the assistant's turn"
        raise GraftError(what, where=source.found.ref, fix="--format jsonl")


def _question(source: Source) -> str:
    return source.instruction or ASK + json.dumps(source.labels, ensure_ascii=False)


def _judged(source: Source) -> str:
    """SQL of a classifier's input: the text, and for a guard also the response to it."""
    if not source.has_response:
        return "text"
    return "text || CASE WHEN coalesce(response, '') = '' THEN '' ELSE chr(10) || chr(10) || response END"


def turns(source: Source, params: Params) -> tuple[str, str]:
    """Return the SQL of the user's content and of the assistant's."""
    if not source.task.labelled:
        return "text", "coalesce(response, '')"
    prompt = _judged(source)
    if source.ask or source.instruction:
        prompt = f"{params.add(_question(source) + chr(10) * 2 + 'Text: ')} || {prompt}"
    return prompt, "label"


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
    """LLaMA-Factory's index: a dataset for each file, with its column names."""
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    index = {
        f"{source.found.dataset}_{Path(file.path).name.partition('.')[0]}".replace("-", "_"): {
            "file_name": file.path, "formatting": "alpaca", "columns": columns,
        }
        for file in files
    }  # fmt: skip
    return {"dataset_info.json": json.dumps(index, indent=2, ensure_ascii=False) + "\n"}


KINDS = (
    Format("messages", "`messages` of user and assistant: TRL's SFT, OpenAI's fine-tuning", "jsonl",
           _messages, check=_needs_answers, instructed=True),
    Format("prompt_completion", "`prompt`, `completion`: TRL's SFT on the answer alone", "jsonl",
           _prompt_completion, check=_needs_answers, instructed=True),
    Format("alpaca", "`instruction`, `input`, `output`", "jsonl", _alpaca, check=_needs_answers, instructed=True),
    Format("sharegpt", "`conversations` of human and gpt", "jsonl", _sharegpt,
           check=_needs_answers, instructed=True),
    Format("llamafactory", "alpaca's files and LLaMA-Factory's dataset_info.json", "jsonl", _alpaca,
           check=_needs_answers, instructed=True, beside=_dataset_info),
)  # fmt: skip
