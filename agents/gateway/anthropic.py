"""Anthropic's Messages API: requests and answers translated from and to OpenAI's protocol, as LiteLLM does.

Only requests whose translation is reproduced exactly are `plain`; LiteLLM sends the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graft.agents.gateway.structured import UNDERSTOOD
from graft.schemas.calls import CallRequest

VERSION = "2023-06-01"
STRUCTURED = "structured-outputs-2025-11-13"
FINISH = {
    "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls",
    "refusal": "content_filter", "pause_turn": "length", "model_context_window_exceeded": "length",
}  # fmt: skip
NOTES = {
    "minItems": "minimum number of items: {}", "maxItems": "maximum number of items: {}",
    "minimum": "minimum value: {}", "maximum": "maximum value: {}",
    "minLength": "minimum length: {}", "maxLength": "maximum length: {}",
}  # fmt: skip
"""Constraints that the API refuses in a schema: they become notes in its descriptions."""


def is_plain(request: CallRequest, row: Mapping[str, Any]) -> bool:
    """Return True if a request has turns and a schema that are translated here."""
    roles = [message.role for message in request.messages]
    first = next((place for place, role in enumerate(roles) if role != "system"), len(roles))
    turns = roles[first:]
    alternate = all(role == ("user", "assistant")[place % 2] for place, role in enumerate(turns))
    open_end = bool(turns) and (turns[-1] == "assistant") == request.continues
    if not alternate or not open_end or not all(message.content.strip() for message in request.messages):
        return False
    if request.json_schema is None:
        return True
    return bool(row.get("supports_native_structured_output")) and _is_closed(request.json_schema)


def _is_closed(schema: Any) -> bool:
    """Return True for a schema of simple keywords, whose objects have no further fields and whose enums are texts."""
    if not isinstance(schema, dict) or not schema.keys() <= UNDERSTOOD or not isinstance(schema.get("type"), str):
        return False
    if schema["type"] == "object" and schema.get("additionalProperties") is not False:
        return False
    if not all(isinstance(name, str) and schema["type"] == "string" for name in schema.get("enum", ())):
        return False
    parts = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    return all(_is_closed(part) for part in parts)


def headers(plain: Mapping[str, str], *, constrained: bool) -> dict[str, str]:
    """The headers of a request, from those of OpenAI's protocol."""
    own = {name: value for name, value in plain.items() if name != "Authorization"}
    own |= {"anthropic-version": VERSION} | ({"anthropic-beta": STRUCTURED} if constrained else {})
    key = plain.get("Authorization", "").removeprefix("Bearer ")
    return {**own, "x-api-key": key} if key else own


def body(given: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a request, from that of OpenAI's protocol. A seed and log-probabilities have no counterpart."""
    blocks = [(turn["role"], {"type": "text", "text": turn["content"]}) for turn in given["messages"]]
    if blocks[-1][0] == "assistant":  # the API refuses white space at the end of a begun turn
        blocks[-1][1]["text"] = blocks[-1][1]["text"].rstrip()
    sent: dict[str, Any] = {
        "model": given["model"], "max_tokens": given["max_tokens"],
        "messages": [{"role": role, "content": [block]} for role, block in blocks if role != "system"],
    }  # fmt: skip
    if system := [block for role, block in blocks if role == "system"]:
        sent["system"] = system
    if row.get("supports_sampling_params") is not False:
        sent |= {"temperature": given["temperature"], "top_p": given["top_p"]}
    elif given["temperature"] == 1:
        sent["temperature"] = given["temperature"]
    if stop := [text for text in given.get("stop", ()) if not text.isspace()]:
        sent["stop_sequences"] = stop
    if "response_format" in given:
        schema = given["response_format"]["json_schema"]["schema"]
        sent["output_format"] = {"type": "json_schema", "schema": _accepted(schema)}
    return sent


def _accepted(schema: Mapping[str, Any]) -> dict[str, Any]:
    noted = {name for name in NOTES.keys() & schema.keys() if name != "minItems" or schema[name] not in (0, 1)}
    kept: dict[str, Any] = {name: value for name, value in schema.items() if name not in noted}
    if noted:
        notes = ", ".join(label.format(schema[name]) for name, label in NOTES.items() if name in noted)
        kept["description"] = " ".join(filter(None, (schema.get("description"), f"Note: {notes}.")))
    if "properties" in schema:
        kept["properties"] = {name: _accepted(part) for name, part in schema["properties"].items()}
    if "items" in schema:
        kept["items"] = _accepted(schema["items"])
    return kept


def answer(given: Any) -> dict[str, Any]:
    """An answer in the form of OpenAI's protocol. Raises LookupError, TypeError, AttributeError for any other shape."""
    usage = given.get("usage")
    text = "".join(part["text"] for part in given["content"] if part["type"] == "text")
    choice = {"finish_reason": FINISH.get(given.get("stop_reason"), "stop"), "message": {"content": text}}
    return {"model": given.get("model"), "choices": [choice], "usage": _usage(usage if isinstance(usage, dict) else {})}


def _usage(given: Mapping[str, Any]) -> dict[str, Any]:
    """Token counts: a prompt's include those read from and written to a cache."""
    read, written = (given.get(f"cache_{what}_input_tokens") or 0 for what in ("read", "creation"))
    fresh = given.get("input_tokens")
    return {
        "prompt_tokens": None if fresh is None else fresh + read + written,
        "completion_tokens": given.get("output_tokens"),
        "prompt_tokens_details": {"cached_tokens": read, "cache_creation_tokens": written},
        "cache_creation_input_tokens": written, "cache_read_input_tokens": read,
        **{name: given[name] for name in ("service_tier", "inference_geo", "speed", "iterations") if given.get(name)},
    }  # fmt: skip
