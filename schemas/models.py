"""Models and roles of a recipe."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue, field_validator, model_validator

from graft.schemas.addresses import KEY_FIX, checked_url
from graft.schemas.base import OFF, STUDENT_PATTERN, Slug, Value
from graft.schemas.extra import OWN_HEADERS, PRICED, check_extra, plain_name
from graft.schemas.money import is_local
from graft.schemas.problems import FieldErrors, Finding, field_error
from graft.schemas.redaction import is_key

Provider = Literal["embedded", "openai", "litellm", "encoder"]
Style = Literal["chat", "completion"]
Answer = Literal["scores", "logprobs", "name"]
Prefill = Literal["auto", "continue", "template", "none"]
ChatTemplate = Literal["chatml", "gemma", "llama3", "llama2", "mistral"]
GuardTemplate = Literal["labels", "llama-guard-1", "llama-guard-2", "llama-guard-3"]
Calibration = Literal["none", "content_free", "batch"]
Cache = Annotated[Literal["reuse", "refresh", "off"], OFF]


EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$")]


class Price(Value):
    """US dollars for a million tokens. Leave out the whole price if it is unknown: unknown is not free."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached_input: float | None = Field(default=None, ge=0, description="price of prompt tokens read from a cache")


@dataclass(frozen=True)
class HubName:
    """A file of a model hub: repository, path in it, and revision (branch, tag or commit)."""

    repo: str
    file: str
    revision: str


HUB_PATTERN = re.compile(r"hf:([\w.-]+/[\w.-]+)/((?:[\w.-]+/)*[\w.-]+\.gguf)(?:@([\w./-]+))?", re.ASCII)


CONTEXT = 2048
"""Tokens of a prompt with its reply on an embedded server, unless the recipe sets `context`."""


class ModelSpec(Value):
    """One model of the pool and how to reach it.

    embedded: a small model installed as wheels (such as `gemma-3-270m` and `qwen2.5-coder-1.5b-instruct`), a path to a
    GGUF file, or such a file of a hub (`hf:OWNER/REPO/FILE.gguf@REVISION`), served on this machine. openai: any server
    that speaks OpenAI's protocol (vLLM, llama.cpp, Ollama). litellm: every hosted provider, by LiteLLM's name of the
    model. encoder: judges only: a sentence encoder by a text's similarity to the seeds, or a student of this home (its
    id, `st_…`) by its predictions.

    No field holds a key: `api_key_env` and `headers_env` name environment variables.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    name: Slug = Field(description="how roles refer to this model")
    provider: Provider
    model: str = Field(
        min_length=1, description="the model's id at its endpoint, a built-in name, a GGUF path, or hf:OWNER/REPO/FILE"
    )
    style: Style = Field(default="chat", description="completion for base models, chat for tuned models")
    base_url: str | None = Field(default=None, description="such as http://127.0.0.1:8000/v1 (openai, litellm)")
    api_key_env: EnvName | None = Field(default=None, description="environment variable that holds the key")
    headers_env: dict[HeaderName, EnvName] = Field(
        default_factory=dict, description="further HTTP headers: each name with the environment variable of its value"
    )
    weights: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of the weights of a model on this machine: filled in by a run; if given, it must match",
    )
    revision: str | None = Field(default=None, description="part of a call's key: change it when the weights change")
    licence: str | None = Field(default=None, description="SPDX id or name; listed on every card")
    price: Price | None = None
    max_concurrency: int = Field(default=16, ge=1, le=4096, description="maximum calls in flight at this endpoint")
    requests_per_minute: int | None = Field(default=None, ge=1, description="the provider's limit for this model")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="prompt and completion tokens together")
    hedge: bool | None = Field(
        default=None, description="send a slow call a second time; left out: as limits.hedge, if calls are free"
    )
    timeout_s: float = Field(default=120.0, gt=0, le=3600)
    context: int | None = Field(
        default=None, ge=512, le=131_072,
        description="tokens of a prompt with its reply, for an embedded model: 2,048 if left out; more take memory",
    )  # fmt: skip
    top_logprobs: int = Field(
        default=20, ge=0, le=2000, description="number of alternatives that the server can return"
    )
    prefill: Prefill = Field(
        default="auto",
        description="how to send a begun assistant turn: continued by the server, as a raw template, or never",
    )
    chat_template: ChatTemplate | None = Field(
        default=None, description="the model's turn format, for servers that cannot continue a turn"
    )
    extra: dict[str, JsonValue] = Field(default_factory=dict, description="further request fields, sent unchanged")

    @field_validator("base_url")
    @classmethod
    def _address(cls, address: str | None) -> str | None:
        return None if address is None else checked_url(address)

    @field_validator("extra")
    @classmethod
    def _free_fields(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        check_extra(extra)
        return extra

    @field_validator("model", "api_key_env", "revision", "licence")
    @classmethod
    def _no_key(cls, word: str | None) -> str | None:
        if word and is_key(word):
            raise FieldErrors([Finding((), "a key must not be in a recipe", KEY_FIX)])
        return word

    @field_validator("headers_env")
    @classmethod
    def _headers(cls, headers: dict[str, str]) -> dict[str, str]:
        wrong = [
            Finding((name,), f"{name} is set by Graft", "remove it") for name in headers if name.lower() in OWN_HEADERS
        ]
        wrong += [
            Finding((name,), "a key must not be in a recipe", KEY_FIX)
            for name, variable in headers.items() if is_key(variable)
        ]  # fmt: skip
        if wrong:
            raise FieldErrors(wrong)
        return headers

    @property
    def room(self) -> str:
        """The context that a prompt must fit into, for messages; an embedded model's can be set."""
        if self.provider != "embedded":
            return "the server's context"
        own = self.slot_tokens
        return f"the context of {own:,} tokens: give {self.name} a larger one, such as context: {2 * own}"

    @property
    def slot_tokens(self) -> int:
        """Tokens of a prompt with its reply on an embedded server."""
        return self.context or CONTEXT

    @property
    def local(self) -> bool:
        """True if it runs on this machine and nobody charges for it (`schemas.money.is_local`)."""
        return is_local({**dict(self), "price": self.price and dict(self.price)})

    @property
    def is_student(self) -> bool:
        """True for a student of this home that judges, as `graft improve` lets it."""
        return self.provider == "encoder" and self.model.startswith("st_")

    @model_validator(mode="after")
    def _endpoint(self) -> ModelSpec:
        if self.provider == "openai" and not self.base_url:
            fix = "add base_url: the server's address, such as http://127.0.0.1:8000/v1"
            raise field_error(("base_url",), "provider openai needs base_url", fix)
        from_hub = self.provider == "embedded" and self.model.startswith("hf:")
        if from_hub and (not HUB_PATTERN.fullmatch(self.model) or ".." in self.model):
            fix = "write hf:OWNER/REPO/FILE.gguf, or hf:OWNER/REPO/FILE.gguf@REVISION"
            raise field_error(("model",), "it is not the name of a GGUF file on a hub", fix)
        if self.provider in ("embedded", "encoder") and self.base_url:
            fix = "remove base_url, or use provider openai"
            raise field_error(("base_url",), f"provider {self.provider} runs on this machine", fix)
        if self.is_student and not re.fullmatch(STUDENT_PATTERN, self.model):
            raise field_error(
                ("model",), "a student's id is st_ followed by letters or digits", "graft students lists them"
            )
        if self.prefill == "template" and not self.chat_template:
            fix = "add chat_template: llama3, chatml, gemma, mistral or llama2"
            raise field_error(("chat_template",), "prefill: template needs chat_template, the model's turn format", fix)
        wrong = [
            Finding(("extra", name), f"{name} changes the price of a call", "also give the model a price")
            for name in self.extra if self.price is None and plain_name(name) in PRICED
        ]  # fmt: skip
        local = self.provider in ("embedded", "encoder")
        if local and self.headers_env:
            wrong.append(Finding(("headers_env",), f"provider {self.provider} takes no headers", "remove it"))
        if self.provider != "embedded" and self.context is not None:
            wrong.append(Finding(("context",), "the server decides the context of this model", "remove it"))
        if not local and self.weights:
            wrong.append(Finding(("weights",), "this model's weights are not on this machine", "set revision instead"))
        if self.api_key_env and any(name.lower() == "authorization" for name in self.headers_env):
            fix = "keep one of the two"
            wrong.append(Finding(("headers_env",), "api_key_env sets the header Authorization already", fix))
        if wrong:
            raise FieldErrors(wrong)
        return self

    @property
    def key_variables(self) -> tuple[str, ...]:
        """The environment variables that hold this model's keys."""
        return (*((self.api_key_env,) if self.api_key_env else ()), *self.headers_env.values())


class RoleSpec(Value):
    """The models of a role and their sampling. Defaults are GRA's (temperature 0.2, top_p 0.9)."""

    models: tuple[Slug, ...] = Field(default=(), description="names of models; empty: the whole pool")
    temperature: float = Field(default=0.2, ge=0, le=2)
    top_p: float = Field(default=0.9, gt=0, le=1)
    max_tokens: int = Field(default=512, ge=1, le=32_768)
    answer: Answer = Field(
        default="scores", description="answer format of a judge; an encoder always returns probabilities"
    )
    calibration: Calibration = Field(default="batch", description="correction of label log-probabilities")
    cache: Cache = Field(
        default="reuse",
        description="journaled replies: reuse all, refresh (only those of this run), or off (neither read nor kept)",
    )
    batch: bool = Field(
        default=False, description="send calls through the provider's batch API: half the price, hours of waiting"
    )
    money_usd: float | None = Field(default=None, ge=0, description="cap of this role, within limits.money_usd")


class LabelerSpec(RoleSpec):
    """Labels texts without the intended label: by log-probabilities, or by the label's name (a vote)."""

    temperature: float = Field(default=0.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=32, ge=1, le=32_768)
    answer: Answer = Field(default="logprobs", description="logprobs (a distribution) or name (a vote)")

    @model_validator(mode="after")
    def _labels(self) -> LabelerSpec:
        if self.answer == "scores":
            raise field_error(("answer",), "answer: scores is for reviewers", "write answer: logprobs or answer: name")
        return self


class GuardSpec(LabelerSpec):
    """The teacher, which scores a message (and a response) against the policy."""

    template: GuardTemplate = Field(
        default="labels",
        description="labels: any model answers harmful or safe; llama-guard-N: that model's own format",
    )
    calibration: Calibration = Field(default="none", description="correction of label log-probabilities")


def hub_name(model: ModelSpec) -> HubName | None:
    """The file of a hub that an embedded model names; None if it names none."""
    found = HUB_PATTERN.fullmatch(model.model) if model.provider == "embedded" else None
    return HubName(found[1], found[2], found[3] or "main") if found else None


EMBEDDED_POOL: tuple[ModelSpec, ...] = (
    ModelSpec(
        name="gemma", provider="embedded", model="gemma-3-270m", style="completion",
        licence="Gemma Terms of Use", max_concurrency=8, top_logprobs=200,
    ),
    ModelSpec(
        name="smollm2", provider="embedded", model="smollm2-135m-instruct", style="chat",
        licence="Apache-2.0", max_concurrency=8, top_logprobs=200,
    ),
    ModelSpec(name="minilm", provider="encoder", model="all-MiniLM-L6-v2", licence="Apache-2.0"),
)  # fmt: skip
