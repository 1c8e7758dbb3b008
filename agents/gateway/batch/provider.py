"""Batch API of one model's provider, through LiteLLM: request file, batch, results and price.

LiteLLM speaks OpenAI's protocol for openai, hosted_vllm and litellm_proxy, and translates it for other providers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import orjson

from graft.agents.gateway.batch.store import Batch
from graft.agents.gateway.credentials import headers_of, own_headers, raw_of
from graft.agents.gateway.hosted import PREFIXING
from graft.agents.gateway.ledger import MICRO
from graft.agents.gateway.litellm_transport import PASSED, LiteLLMTransport, _continues, _load, own_settings
from graft.agents.gateway.openai_transport import body_of, failure_of
from graft.agents.gateway.transport import Refused, no_prefill
from graft.schemas.calls import CallRequest
from graft.schemas.errors import CallFailed, GraftError, ModelUnreachable
from graft.schemas.extra import sendable
from graft.schemas.models import ModelSpec, Price

OPENAI_LIKE = frozenset({"openai", "azure", "hosted_vllm", "litellm_proxy"})
SUPPORTED = OPENAI_LIKE | {"vertex_ai", "bedrock", "mistral", "xai"}
"""Providers whose files and batches LiteLLM 1.110 can create, read and poll."""
LISTABLE = OPENAI_LIKE | {"vertex_ai", "xai"}
CANCELLABLE = OPENAI_LIKE | {"vertex_ai", "bedrock", "xai"}
NAMED = frozenset({"bedrock", "mistral"})
"""Providers for which LiteLLM requires the model's name with every batch request."""
SLOWEST_S = 120.0
"""Least timeout of a batch request in seconds: a file may have 100 MB."""
RESULT_BYTES = 1_000_000_000
"""Largest result file in bytes."""
CLOCKS_APART_S = 86_400.0
PAGES = 100
"""Pages of a hundred batches searched for a lost batch."""
HALF = 0.5


class Gone(CallFailed):
    """The provider no longer has a batch or a file."""


class Provider:
    """Batch requests for one model. Every method raises CallFailed or ModelUnreachable, without the key in the text.

    A request is never cancelled half-way, because the provider may act on it: it stays in `in_flight` until it ends.
    """

    def __init__(self, litellm: Any, model: ModelSpec, in_flight: set[asyncio.Future[Any]]) -> None:
        self._litellm, self._model, self._in_flight = litellm, model, in_flight
        self.kind = kind_of(litellm, model)
        self.lists = self.kind in LISTABLE
        """True if `search` can find a batch; false once the provider turns out not to list batches."""

    async def upload(self, lines: bytes) -> str:
        """Upload the request file (JSON lines); returns the provider's id of the file."""
        file = ("graft.jsonl", lines)
        return str((await self._fields(self._litellm.acreate_file(file=file, purpose="batch", **self._to())))["id"])

    async def create(self, input_file: str, batch: str, chat: bool) -> dict[str, Any]:
        """Create a batch; `batch` is our id, by which `search` finds it."""
        endpoint = "/v1/chat/completions" if chat else "/v1/completions"
        return await self._fields(
            self._litellm.acreate_batch(
                completion_window="24h", endpoint=endpoint, input_file_id=input_file, metadata={"graft": batch},
                **self._to(),
            )
        )  # fmt: skip

    async def retrieve(self, remote: str) -> dict[str, Any]:
        """Return a batch's status. Raises Gone."""
        quiet = {"batch_ignore_default_logging": True}  # otherwise LiteLLM reads the results again for its own log
        return await self._fields(self._litellm.aretrieve_batch(remote, litellm_metadata=quiet, **self._to()))

    async def content(self, file: str) -> bytes:
        """Download a result file. Raises Gone."""
        from graft.agents.gateway.litellm_http import most_bytes

        usual = most_bytes.set(RESULT_BYTES)
        try:
            return bytes((await self._request(self._litellm.afile_content(file, **self._to()))).content)
        finally:
            most_bytes.reset(usual)

    async def cancel(self, remote: str) -> None:
        """Cancel a batch; answers so far are charged."""
        if self.kind not in CANCELLABLE:
            raise CallFailed("refused_by_server", f"LiteLLM cannot cancel a batch of {self.kind}", where=self._name)
        await self._fields(self._litellm.acancel_batch(remote, **self._to()))

    async def search(self, batch: Batch) -> dict[str, Any] | None:
        """Find a batch whose id at the provider is unknown, by our id or its file; None if absent."""
        if not self.lists:
            return None
        after: str | None = None
        for _ in range(PAGES):
            try:
                page = await self._fields(self._litellm.alist_batches(after=after, limit=100, **self._to()))
            except Gone:
                self.lists = False
                return None
            found: list[dict[str, Any]] = page.get("data") or []
            for one in found:
                if (one.get("metadata") or {}).get("graft") == batch.id or (
                    batch.input_file and one.get("input_file_id") == batch.input_file
                ):
                    return one
            oldest = found[-1].get("created_at") if found else None
            past = oldest is not None and oldest < batch.created - CLOCKS_APART_S
            if not found or past or page.get("has_more") is False:
                return None
            after = found[-1]["id"]
        return None

    @property
    def _name(self) -> str:
        return self._model.name

    def _to(self) -> dict[str, Any]:
        """Address and credentials."""
        model = self._model
        to: dict[str, Any] = {
            "custom_llm_provider": self.kind, "api_base": model.base_url,
            "api_key": headers_of(model).get("Authorization", "").removeprefix("Bearer ") or None,
            "timeout": max(SLOWEST_S, model.timeout_s), "max_retries": 0,
        }  # fmt: skip
        to = {**_extras(model)[1], **to}
        headers = own_headers(model)
        if self.kind in OPENAI_LIKE:
            headers["Connection"] = "close"  # LiteLLM opens a client per request and closes none
        if headers:
            to["extra_headers"] = headers
        if self.kind in NAMED:
            to["model"] = model.model
        return {name: value for name, value in to.items() if value is not None}

    async def _fields(self, call: Awaitable[Any]) -> dict[str, Any]:
        answer = await self._request(call)
        return dict(answer if isinstance(answer, dict) else answer.model_dump())

    async def _request(self, call: Awaitable[Any]) -> Any:
        request = asyncio.ensure_future(call)
        self._in_flight.add(request)
        request.add_done_callback(self._finished)
        try:
            return await asyncio.shield(request)
        except self._errors() as error:
            raise self._failure(error) from None

    def _finished(self, request: asyncio.Future[Any]) -> None:
        self._in_flight.discard(request)
        if not request.cancelled():
            request.exception()  # marks it as retrieved, even if no caller waits any more

    def _errors(self) -> tuple[type[Exception], ...]:
        import httpx
        import openai
        from litellm.llms.base_llm.chat.transformation import BaseLLMException

        mistakes = (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError)
        return (openai.OpenAIError, httpx.HTTPError, BaseLLMException, *mistakes)

    def _failure(self, error: Exception) -> GraftError:
        import openai

        status, kind = getattr(error, "status_code", None), type(error).__name__
        if isinstance(error, openai.APITimeoutError | TimeoutError):
            return CallFailed("timeout", "the provider did not answer a batch request in time", where=self._name)
        if isinstance(error, openai.APIConnectionError | OSError):
            return CallFailed("connection", f"the connection failed ({kind})", where=self._name)
        if not isinstance(status, int):
            return CallFailed("server_error", f"the provider's batch API failed ({kind})", where=self._name)
        text = str(error).encode()
        if status == 404:
            raw = raw_of(text, self._model)
            return Gone("server_error", "the provider does not know the batch or its file", where=self._name, raw=raw)
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        return _as_error(failure_of(status, headers.get("retry-after"), text, self._model))


def kind_of(litellm: Any, model: ModelSpec) -> str:
    """Return LiteLLM's name of a model's provider. Raises ModelUnreachable if it has no batch API there."""
    try:
        kind = str(litellm.get_llm_provider(model.model)[1])
    except litellm.BadRequestError:
        raise ModelUnreachable(
            f"LiteLLM has no provider for {model.model!r}", where=model.name, fix="check model in the recipe"
        ) from None
    kind = "openai" if kind == "text-completion-openai" else kind
    if kind not in SUPPORTED:
        raise ModelUnreachable(
            f"LiteLLM has no batch API for {kind}", where=model.name, fix="set batch: false for the roles of this model"
        )
    return kind


def line_of(litellm: Any, request: CallRequest, key: str, constrained: bool) -> bytes:
    """Build a request's line for the batch file, in OpenAI's form, which LiteLLM translates if necessary."""
    model, chat = request.model, bool(request.messages)
    name, kind, _, _ = litellm.get_llm_provider(model.model)
    bare = model.model_copy(update={"model": name, "extra": {}})
    body = body_of(request.model_copy(update={"model": bare, "continues": False}), chat=chat, constrained=constrained)
    if chat and kind in OPENAI_LIKE:
        body = {"model": name, "messages": body.pop("messages")} | _accepted(litellm, name, kind, body)
    if chat and request.continues and kind in PREFIXING:
        body["messages"][-1]["prefix"] = True
    body = {**_extras(model)[0], **body}
    url = "/v1/chat/completions" if chat else "/v1/completions"
    return orjson.dumps({"custom_id": key, "method": "POST", "url": url, "body": body}) + b"\n"


def check_prefill(litellm: Any, request: CallRequest) -> None:
    """Raise NoPrefill if a prefilled turn cannot be sent, as the transport does."""
    if request.continues and request.messages and not _continues(litellm, request.model):
        fix = "use provider openai with the server's address"
        raise no_prefill(request.model, "LiteLLM does not support it for this model", fix)


async def price_in_batch(litellm: Any, transport: LiteLLMTransport, model: ModelSpec) -> Price | None:
    """Return a model's price in a batch: half its price, or else LiteLLM's batch rates or half its usual rates."""
    listed = await transport.price(model)
    usual = model.price or listed
    if usual is None:
        return None
    table = litellm.model_cost.get(model.model) or litellm.model_cost.get(model.model.split("/", 1)[-1]) or {}
    known = {} if model.price is not None else table

    def rate(name: str, otherwise: float | None) -> float | None:
        cost = known.get(f"{name}_batches")
        return cost * MICRO if cost is not None else None if otherwise is None else otherwise * HALF

    return Price(
        input=rate("input_cost_per_token", usual.input) or 0.0,
        output=rate("output_cost_per_token", usual.output) or 0.0,
        cached_input=rate("cache_read_input_token_cost", usual.cached_input),
    )  # fmt: skip


def load() -> Any:
    """Import LiteLLM as the transport does (5 to 7 s the first time)."""
    return _load()


def model_of(batch: Batch) -> ModelSpec:
    """Build the part of a batch's model that batch requests need."""
    return ModelSpec(
        name="batch", provider="litellm", model=batch.model, base_url=batch.base_url, api_key_env=batch.api_key_env
    )


def _accepted(litellm: Any, name: str, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Fields that a model accepts, under its own names (such as max_completion_tokens)."""
    given = {field: value for field, value in fields.items() if field != "model"}
    try:
        mapped = litellm.utils.get_optional_params(model=name, custom_llm_provider=kind, drop_params=True, **given)
    except litellm.BadRequestError as error:
        raise Refused(f"the model does not accept the request ({type(error).__name__})", where=name) from None
    return {field: value for field, value in mapped.items() if field not in ("stream", "extra_body")}


def _extras(model: ModelSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a model's extra fields into those of the request body and arguments of LiteLLM (such as api_version)."""
    own, extra = own_settings(), sendable(model.extra)
    body = {name: value for name, value in extra.items() if name not in own}
    return body, {name: value for name, value in extra.items() if name in own & PASSED}


def _as_error(error: Exception) -> GraftError:
    return error if isinstance(error, GraftError) else CallFailed("server_error", type(error).__name__)
