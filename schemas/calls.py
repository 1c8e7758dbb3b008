"""A model call: the request, the reply, and the stored record."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from graft.schemas.addresses import normal_url
from graft.schemas.base import Value, stable_hash
from graft.schemas.models import ModelSpec

FailureCode = Literal[
    "timeout", "rate_limited", "server_error", "connection", "refused_by_server", "malformed",
    "empty", "schema_unmet", "cut", "budget", "no_logprobs", "no_label_tokens", "refusal", "cancelled",
    "unexpected",
]  # fmt: skip


class Message(Value):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class CallRequest(Value):
    """One request to one model. Either `messages` (chat) or `prompt` (completion) is set.

    `purpose` names the step (such as `review.text`), for reports; it changes no reply and is not in the key.
    An encoder takes its text in `prompt` and labels in `choices`, with labelled examples in `context`.
    """

    model: ModelSpec
    role: str
    purpose: str
    messages: tuple[Message, ...] = ()
    continues: bool = Field(default=False, description="the model continues the last assistant turn")
    prompt: str | None = None
    json_schema: dict[str, Any] | None = None
    choices: tuple[str, ...] = Field(default=(), description="label names whose probability is requested")
    context: tuple[tuple[str, str], ...] = Field(default=(), description="(text, label) pairs; encoders only")
    temperature: float = 0.2
    top_p: float = 0.9
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int | None = None
    top_logprobs: int = 0
    sample: int = Field(default=0, description="repeats the same request for another reply")

    def key(self) -> str:
        """Hash of everything that can change the reply (32 hex digits)."""
        model = self.model
        more: dict[str, Any] = {"weights": model.weights} if model.weights else {}
        if model.context:
            more["context"] = model.context  # a full context cuts a reply short
        if model.headers_env:
            more["headers"] = sorted(name.lower() for name in model.headers_env)  # their values are secret
        return stable_hash(
            model.provider, model.model, model.revision, model.base_url and normal_url(model.base_url), model.style,
            model.extra,
            [[m.role, m.content] for m in self.messages], self.prompt, self.json_schema, self.choices, self.context,
            self.temperature, self.top_p, self.max_tokens, self.stop, self.seed, self.top_logprobs, self.sample,
            *((model.prefill, model.chat_template) if self.continues else ()), *((more,) if more else ()), length=32,
        )  # fmt: skip


class TokenLogprob(Value):
    """The alternatives at one place of a reply: token text to natural log-probability, best first."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class Usage(Value):
    """Tokens of one call, as the server counted them; None if it did not report them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


class Reply(Value):
    """A model's reply, and its cost."""

    key: str
    text: str
    finish_reason: str = "stop"
    logprobs: tuple[TokenLogprob, ...] = ()
    parsed: Any = Field(default=None, description="the JSON value, if a json_schema was requested")
    usage: Usage = Usage()
    price_usd: float | None = Field(default=None, description="cost of this call when it was made; None: unknown")
    latency_s: float = 0.0
    attempts: int = 1
    cached: bool = Field(default=False, description="read from the journal: nothing was paid now")
    served_model: str | None = Field(default=None, description="the model that answered, as the server reports")


class Call(Value):
    """The record of one call, as the lake keeps it beside the candidate that it served."""

    key: str
    run_id: str
    candidate_id: str
    role: str
    purpose: str
    model: str
    provider: str
    served_model: str | None
    revision: str | None
    request: str = Field(description="the request as JSON, without keys or addresses of secrets")
    reply: str | None
    failure: FailureCode | None = None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    price_usd: float | None
    latency_s: float
    attempts: int
    cached: bool
    at: datetime
