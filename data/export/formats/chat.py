"""Chat formats for language-model trainers: messages, alpaca, sharegpt, prompt and completion, LLaMA-Factory.

Rows with `messages` are written as the conversations that they are. For a task with labels the user turn is the text
and the assistant turn is the label. With `ask` the text follows a question that lists the labels, with `instruction` it
follows that text. For a task with responses the assistant turn is the response.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from graft.data.export.formats.base import (
    Columns,
    Format,
    Params,
    Source,
    Written,
    formats_for,
    path_of,
    row_columns,
    turn,
)
from graft.schemas.errors import GraftError

ASK = "Which of these labels fits the text? Answer with the label alone.\nLabels: "


Line = dict[str, Any]


def _talks(source: Source) -> bool:
    """True if the rows are conversations."""
    return "messages" in source.further


def _plain(source: Source) -> None:
    if _talks(source):
        what = "its rows are conversations, which this format cannot hold"
        raise GraftError(what, where=source.found.ref, fix=f"--format {' or '.join(formats_for(source.task))}")
    _needs_answers(source)


def _needs_answers(source: Source) -> None:
    if _talks(source):
        return
    if not source.task.labelled and not source.has_response:
        what = "its rows have no response to use as the assistant's turn"
        raise GraftError(what, where=source.found.ref, fix="--format jsonl")


def _question(source: Source) -> str:
    return source.instruction or ASK + json.dumps(source.labels, ensure_ascii=False)


def _read(source: Source, params: Params) -> str:
    """SQL of the words that a model reads: the text and the task's further columns of its prompt."""
    named = [name for name in source.task.prompt if name in source.further]
    paths = [f"json_extract_string(data, {params.add(path_of(name))})" for name in named]
    return " || ".join(("text", *(f"coalesce(chr(10) || chr(10) || {path}, '')" for path in paths)))


def _judged(source: Source, params: Params) -> str:
    """SQL of a classifier's input: the words, and for a guard also the response to them."""
    words = _read(source, params)
    if not source.has_response:
        return words
    return words + " || CASE WHEN coalesce(response, '') = '' THEN '' ELSE chr(10) || chr(10) || response END"


def turns(source: Source, params: Params) -> tuple[str, str]:
    """Return the SQL of the user's content and of the assistant's."""
    if not source.task.labelled:
        return _read(source, params), "coalesce(response, '')"
    prompt = _judged(source, params)
    if source.ask or source.instruction:
        prompt = f"{params.add(_question(source) + chr(10) * 2 + 'Text: ')} || {prompt}"
    return prompt, "label"


def _messages(source: Source, params: Params) -> Columns:
    if _talks(source):
        return row_columns(source, params)
    user, assistant = turns(source, params)
    return {
        "messages": f"[{{'role': 'user', 'content': {user}}}, {{'role': 'assistant', 'content': {assistant}}}]",
    }


def _sharegpt(source: Source, params: Params) -> Columns:
    if _talks(source):
        return row_columns(source, params)
    user, assistant = turns(source, params)
    return {"conversations": f"[{{'from': 'human', 'value': {user}}}, {{'from': 'gpt', 'value': {assistant}}}]"}


def _prompt_completion(source: Source, params: Params) -> Columns:
    if _talks(source):
        return row_columns(source, params)
    user, assistant = turns(source, params)
    if source.plain:
        return {"prompt": user, "completion": assistant}
    return {"prompt": turn("user", user), "completion": turn("assistant", assistant)}


def _alpaca(source: Source, params: Params) -> Columns:
    if not source.task.labelled:
        return {"instruction": _read(source, params), "input": "''", "output": "coalesce(response, '')"}
    return {"instruction": params.add(_question(source)), "input": _judged(source, params), "output": "label"}


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


def _called(turn: Line) -> Line:
    """A turn as chat templates read it: a call is a function with arguments."""
    calls = [{"type": "function", **({"id": one["id"]} if one.get("id") else {}),
              "function": {"name": one["name"], "arguments": one.get("arguments", {})}}
             for one in turn.get("tool_calls", ())]  # fmt: skip
    return {**turn, **({"tool_calls": calls} if calls else {})}


def _tools(row: Line) -> list[Line]:
    return [{"type": "function", "function": one} for one in row["data"].get("tools") or ()]


def _turns_of(source: Source) -> Callable[[Line], str] | None:
    def line(row: Line) -> str:
        tools = _tools(row)
        turns = [_called(turn) for turn in row["data"].get("messages", ())]
        return _json({"messages": turns, **({"tools": tools} if tools else {})})

    return line if _talks(source) else None


def _last_turn(source: Source) -> Callable[[Line], str] | None:
    """All turns but the last as the prompt, the last as the completion."""

    def line(row: Line) -> str:
        tools, turns = _tools(row), [_called(turn) for turn in row["data"].get("messages", ())]
        return _json({"prompt": turns[:-1], "completion": turns[-1:], **({"tools": tools} if tools else {})})

    return line if _talks(source) else None


def _sharegpt_of(source: Source) -> Callable[[Line], str] | None:
    """LLaMA-Factory's ShareGPT: calls as function_call, results as observation, system and tools beside the turns."""
    speakers = {"user": "human", "assistant": "gpt", "tool": "observation"}

    def line(row: Line) -> str:
        said, system = list[Line](), ""
        for one in row["data"].get("messages", ()):
            role, words, calls = one["role"], one["content"], one.get("tool_calls", ())
            if role == "system":
                system = words
            elif words or not calls:
                said.append({"from": speakers.get(role, role), "value": words})
            called = [json.dumps({"name": call["name"], "arguments": call["arguments"]}) for call in calls]
            said += [{"from": "function_call", "value": call} for call in called]
        tools = [one["function"] for one in _tools(row)]
        more = {**({"system": system} if system else {}), **({"tools": json.dumps(tools)} if tools else {})}
        return _json({"conversations": said, **more})

    return line if _talks(source) else None


def _json(value: Line) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


KINDS = (
    Format("messages", "`messages` of user and assistant: TRL's SFT, OpenAI's fine-tuning", "jsonl",
           _messages, check=_needs_answers, instructed=True, lines=_turns_of, column="messages", optional=True),
    Format("prompt_completion", "`prompt`, `completion`: TRL's SFT on the answer alone", "jsonl",
           _prompt_completion, check=_needs_answers, instructed=True, lines=_last_turn, column="messages",
           optional=True),
    Format("alpaca", "`instruction`, `input`, `output`", "jsonl", _alpaca, check=_plain, instructed=True),
    Format("sharegpt", "`conversations` of human and gpt", "jsonl", _sharegpt,
           check=_needs_answers, instructed=True, lines=_sharegpt_of, column="messages", optional=True),
    Format("llamafactory", "alpaca's files and LLaMA-Factory's dataset_info.json", "jsonl", _alpaca,
           check=_plain, instructed=True, beside=_dataset_info),
)  # fmt: skip
