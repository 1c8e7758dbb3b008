"""A provider that answers every request alike, in OpenAI's or Anthropic's protocol, and keeps what it was sent."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from in_thread import InThread

from graft.schemas.models import ModelSpec

JSON = '{"score": 1}'
ANTHROPIC = ("anthropic-version", "anthropic-beta")


class Recording(InThread):
    """A provider that answers every request alike and keeps what it was sent."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.usage: dict[str, Any] = {}
        self.answer: dict[str, Any] = {}
        self.status = 200
        app = web.Application()
        app.router.add_post("/{path:.*}", self._answer)
        super().__init__(app)

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        headers = {name: request.headers.get(name) for name in ("Authorization", "x-api-key", *ANTHROPIC)}
        self.seen.append((request.path, {name: value for name, value in headers.items() if value}, body))
        answers = _messages if request.path.endswith("/messages") else _chat
        return web.json_response(answers(body, self.usage) | self.answer, status=self.status)


def _chat(body: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": JSON}
    if "tools" in body:
        called = {"name": body["tools"][0]["function"]["name"], "arguments": JSON}
        calls = [{"id": "c", "type": "function", "function": called}]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100,
             "prompt_tokens_details": {"cached_tokens": 400}, **more}  # fmt: skip
    return {
        "id": "x", "object": "chat.completion", "created": 1, "model": body["model"], "service_tier": "default",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}], "usage": usage,
    }  # fmt: skip


def _messages(body: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    content = [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, {"type": "text", "text": JSON[:4]},
               {"type": "text", "text": JSON[4:]}]  # fmt: skip
    usage = {"input_tokens": 600, "output_tokens": 100, "cache_read_input_tokens": 400, "service_tier": "standard",
             "inference_geo": "global", "cache_creation_input_tokens": 0, **more}  # fmt: skip
    return {
        "id": "x", "type": "message", "role": "assistant", "model": body["model"], "content": content,
        "stop_reason": "end_turn", "stop_sequence": None, "usage": usage,
    }  # fmt: skip


def model(model: str, **more: Any) -> ModelSpec:
    """A model of provider litellm."""
    return ModelSpec(**{"name": "m", "provider": "litellm", "model": model, **more})
