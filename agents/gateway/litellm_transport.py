"""Transport for all other providers, through LiteLLM. Its own retries are off: the gateway retries."""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

from graft.agents.gateway.credentials import headers_of, own_headers
from graft.agents.gateway.hosted import PREFIXING, keeps_key_back, listed_price
from graft.agents.gateway.ledger import tokens_of
from graft.agents.gateway.openai_transport import MAY_BE_BILLED, names_schema, reply_of, seconds_of, with_extra
from graft.agents.gateway.payload import bytes_of
from graft.agents.gateway.transport import Damaged, NotBilled, RateLimited, Refused, no_prefill
from graft.schemas.calls import CallRequest, Reply
from graft.schemas.errors import CallFailed, GraftError, ModelUnreachable
from graft.schemas.extra import sendable
from graft.schemas.models import ModelSpec, Price

TEXT_COMPLETION = "text-completion-openai/"
PASSED = frozenset({
    "api_version", "organization", "region_name", "vertex_project", "vertex_location", "aws_region_name",
    "aws_profile_name", "aws_role_name", "aws_session_name", "aws_external_id", "aws_batch_role_arn",
    "watsonx_region_name", "s3_bucket_name", "s3_region_name", "s3_bucket_owner", "s3_output_bucket_name",
    "gcs_bucket_name", "bucket_name", "tenant_id", "client_id", "azure_scope", "metadata", "bedrock_tags",
    "enable_prompt_caching", "merge_reasoning_content_in_choices",
})  # fmt: skip
"""Arguments of LiteLLM itself that an `extra` may set: they locate an account and do not change a call."""
CAUSES = 20
"""Causes of an exception that are searched."""
BROKEN_JSON = re.compile(r"line \d+ column \d+ \(char \d+\)")
"""Message of a JSON parser, which LiteLLM reports as a server failure."""


class LiteLLMTransport:
    """Chat and text completion through LiteLLM, which is imported at the first call (5 to 7 s)."""

    _in_use = 0
    """Transports of this process that share LiteLLM's cache of clients."""

    def __init__(self) -> None:
        self._litellm: Any = None
        self._closed = False
        self._completers: dict[tuple[str | None, str | None], Any] = {}
        LiteLLMTransport._in_use += 1
        self._unconstrained: set[str] = set()
        self._checked: set[str] = set()

    async def close(self) -> None:
        """Close LiteLLM's clients and flush its cache, which would otherwise return closed clients."""
        if self._closed:
            return
        self._closed = True
        LiteLLMTransport._in_use -= 1
        for client in self._completers.values():
            await client.close()
        if self._litellm is not None and not LiteLLMTransport._in_use:
            await self._litellm.close_litellm_async_clients()
            self._litellm.in_memory_llm_clients_cache.flush_cache()

    async def send(self, request: CallRequest) -> Reply:
        """One attempt. Raises CallFailed, KeyMissing, ModelUnreachable."""
        litellm = await self._ready()
        self._check_extra(request.model)
        if request.continues and request.messages and not _continues(litellm, request.model):
            fix = "use provider openai with the server's address"
            raise no_prefill(request.model, "LiteLLM does not support it for this model", fix)
        constrained = request.json_schema is not None and request.model.name not in self._unconstrained
        try:
            return await self._complete(request, constrained)
        except CallFailed as failure:
            if constrained and failure.code == "refused_by_server" and names_schema(failure.raw):
                self._unconstrained.add(request.model.name)
                return await self._complete(request, False)
            raise

    async def price(self, model: ModelSpec) -> Price | None:
        """Return a model's price from LiteLLM's table; None, never 0, for an unknown model."""
        return listed_price(_known(await self._ready(), model.model))

    async def cost(self, answer: dict[str, Any], model: str, provider: str) -> float | None:
        """Return the price in US dollars that LiteLLM computes of a model's answer; None if unknown."""
        litellm = await self._ready()
        try:
            parsed = litellm.ModelResponse(**answer)
        except (ValueError, TypeError, AttributeError):
            return None
        parsed._hidden_params = {"custom_llm_provider": provider}
        return _price(litellm, parsed, model)

    def _check_extra(self, model: ModelSpec) -> None:
        """Raise ModelUnreachable if an extra field is an argument of LiteLLM itself."""
        if not model.extra or model.name in self._checked:
            return
        if strange := sorted(own_settings() & sendable(model.extra).keys() - PASSED):
            raise ModelUnreachable(
                f"{strange[0]} is an argument of LiteLLM itself, not a field of a request",
                where=f"models.{model.name}.extra.{strange[0]}", fix="remove it",
            )  # fmt: skip
        self._checked.add(model.name)

    async def _ready(self) -> Any:
        if self._litellm is None:
            self._litellm = await asyncio.to_thread(_load)
        return self._litellm

    def _completer(self, arguments: dict[str, Any]) -> Any:
        """Return one client per address for OpenAI's completions: LiteLLM would open one per call and close none."""
        import httpx
        import openai

        base, key = arguments.get("base_url"), arguments.get("api_key")
        if (base, key) not in self._completers:
            from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

            http: Any = httpx.AsyncClient(transport=AsyncHTTPHandler.create_async_transport(), timeout=None)
            client = openai.AsyncOpenAI(base_url=base, api_key=key, max_retries=0, http_client=http)
            self._completers[base, key] = client
        return self._completers[base, key]

    async def _complete(self, request: CallRequest, constrained: bool) -> Reply:
        litellm, model = self._litellm, request.model
        import openai

        started = time.perf_counter()
        chat = bool(request.messages)
        arguments = _arguments(request, chat, constrained)
        if chat and request.continues and _provider(litellm, model) in PREFIXING:
            arguments["messages"][-1]["prefix"] = True
        if not chat and model.model.startswith(TEXT_COMPLETION) and "api_key" in arguments:
            arguments["client"] = self._completer(arguments)
        try:
            async with asyncio.timeout(model.timeout_s):  # LiteLLM's own timeout covers each read only
                answer = await (litellm.acompletion if chat else litellm.atext_completion)(**arguments)
        except (openai.OpenAIError, OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            failure = _failure(litellm, error, request)
            if type(failure) is CallFailed and _not_billed(error):
                failure = NotBilled(failure.code, failure.what, where=failure.where)
            raise failure from None
        price = None if model.price is not None else _price(litellm, answer, model.model)
        try:
            fields = answer.model_dump()
            if not (fields.get("usage") or {}).get("prompt_tokens"):  # LiteLLM inserts 0 if the server counts none
                fields["usage"] = price = None
            payload = bytes_of(fields)
        except (ValueError, TypeError, AttributeError) as error:
            raise _failure(litellm, error, request) from None
        try:
            reply = reply_of(request, payload, chat, time.perf_counter() - started)
        except Damaged as failure:
            if model.price is None:
                failure.price_usd = price if tokens_of(failure.usage) is not None else None
            raise
        if model.price is not None:
            return reply
        return reply.model_copy(update={"price_usd": price if tokens_of(reply.usage) is not None else None})


def _load() -> Any:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm
    from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

    from graft.agents.gateway.litellm_http import bound

    bound(AsyncHTTPHandler)
    with warnings.catch_warnings():  # pydantic builds LiteLLM's models on first use and warns about one of them
        warnings.simplefilter("ignore", UserWarning)
        litellm.ModelResponse()
        litellm.TextCompletionResponse()
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.drop_params = True
    return litellm


def _arguments(request: CallRequest, chat: bool, constrained: bool) -> dict[str, Any]:
    model = request.model
    key = headers_of(model).get("Authorization", "").removeprefix("Bearer ")
    key = key or ("none" if keeps_key_back(model) else "")
    given: dict[str, Any] = {
        "model": model.model, "temperature": request.temperature, "top_p": request.top_p,
        "max_tokens": request.max_tokens, "timeout": model.timeout_s, "num_retries": 0, "max_retries": 0,
        "stop": list(request.stop) or None, "seed": None if request.seed is None else request.seed + request.sample,
        "base_url": model.base_url, "api_key": key or None,
    }  # fmt: skip
    if chat:
        given["messages"] = [{"role": message.role, "content": message.content} for message in request.messages]
    else:
        given["prompt"] = request.prompt or ""
    if constrained:
        named = {"name": "reply", "strict": True, "schema": request.json_schema}
        given["response_format"] = {"type": "json_schema", "json_schema": named}
    if request.top_logprobs:
        given.update(
            {"logprobs": True, "top_logprobs": request.top_logprobs} if chat else {"logprobs": request.top_logprobs}
        )
    if model.headers_env:
        given["extra_headers"] = own_headers(model)
    return {name: value for name, value in with_extra(given, model).items() if value is not None}


@cache
def own_settings() -> frozenset[str]:
    """Arguments that LiteLLM itself acts on.

    An `extra` may set those in PASSED; the others would change a call's destination, cost or number of attempts.
    """
    from litellm.types.router import GenericLiteLLMParams
    from litellm.types.utils import all_litellm_params

    return frozenset(all_litellm_params) | frozenset(GenericLiteLLMParams.model_fields)


def _failure(litellm: Any, error: Exception, request: CallRequest) -> GraftError:
    """Convert LiteLLM's exception. Its text may contain the key, so only class and status are kept."""
    name, kind = request.model.name, type(error).__name__
    if (large := _oversized(error)) is not None:
        return Damaged("malformed", f"the reply is too large: {large}", where=name)
    if isinstance(error, litellm.Timeout | TimeoutError):
        return CallFailed("timeout", f"no reply within {request.model.timeout_s:g} s", where=name)
    status = getattr(error, "status_code", None)
    limited = isinstance(error, litellm.RateLimitError)
    if status == 402 or (limited and "insufficient_quota" in str(error)):
        fix = "top it up at the provider"
        return ModelUnreachable("the account has no credit or quota left", where=name, fix=fix)
    if limited:
        return RateLimited("rate limited by the provider", where=name, retry_after=_retry_after(error))
    if status in (401, 403) or isinstance(error, litellm.AuthenticationError | litellm.PermissionDeniedError):
        variable = request.model.api_key_env or "the provider's own variable"
        return ModelUnreachable("the provider refused the key", where=name, fix=f"check {variable}")
    if isinstance(error, litellm.NotFoundError):
        return ModelUnreachable(
            f"the provider has no model {request.model.model!r}", where=name, fix="check model in the recipe"
        )
    if isinstance(error, litellm.BadRequestError):
        text = str(error) + str(getattr(getattr(error, "response", None), "text", ""))
        raw = "response_format" if names_schema(text) else ""
        return Refused(f"the provider refused the request ({kind})", where=name, raw=raw)
    if BROKEN_JSON.search(str(error)):
        return Damaged("malformed", "the provider's answer is invalid JSON", where=name)
    if isinstance(error, litellm.APIConnectionError) or "Connection error" in str(error):
        return CallFailed("connection", f"the connection failed ({kind})", where=name)
    if isinstance(error, litellm.APIError | litellm.InternalServerError | litellm.ServiceUnavailableError):
        return CallFailed("server_error", f"the provider failed ({kind})", where=name)
    return CallFailed("malformed", f"the provider's answer cannot be read ({kind})", where=name)


def _oversized(error: BaseException | None) -> BaseException | None:
    """Find the size error that caused LiteLLM's error; None for another cause."""
    from graft.agents.gateway.litellm_http import Oversized

    return next((one for one in _causes(error) if isinstance(one, Oversized)), None)


def _not_billed(error: BaseException | None) -> bool:
    """Return True if a failure is free of charge, judged by the cause behind LiteLLM's error."""
    import httpx

    for one in _causes(error):
        if isinstance(one, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
            return True
        if isinstance(one, httpx.HTTPStatusError):
            return one.response.status_code not in MAY_BE_BILLED
    return False


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, CAUSES at most."""
    for _ in range(CAUSES):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _continues(litellm: Any, model: ModelSpec) -> bool:
    """Return True if a prefilled turn can be sent, by the model's `prefill: continue` or LiteLLM's table."""
    if model.prefill in ("none", "template"):
        return False
    return model.prefill == "continue" or bool(litellm.utils.supports_assistant_prefill(model.model))


def _provider(litellm: Any, model: ModelSpec) -> str:
    try:
        return str(litellm.get_llm_provider(model.model)[1])
    except litellm.BadRequestError:
        return ""


def _retry_after(error: Any) -> float | None:
    for place in (getattr(error, "litellm_response_headers", None), getattr(error, "response", None)):
        headers = getattr(place, "headers", place)
        after = headers.get("retry-after") if headers is not None and hasattr(headers, "get") else None
        if after is not None:
            return seconds_of(str(after))
    return None


def _known(litellm: Any, model: str) -> dict[str, Any] | None:
    known = litellm.model_cost.get(model) or litellm.model_cost.get(model.split("/", 1)[-1])
    return known if known and known.get("input_cost_per_token") is not None else None


def _price(litellm: Any, answer: Any, model: str) -> float | None:
    """Return LiteLLM's price of an answer; None, never 0, for an unknown model."""
    if not _known(litellm, model):
        return None
    try:
        price = float(litellm.completion_cost(completion_response=answer, model=model))
        return price if math.isfinite(price) and price >= 0 else None
    except (
        ValueError, LookupError, TypeError, AttributeError, litellm.exceptions.APIError,
        litellm.exceptions.ModelNotMappedError,
    ):  # fmt: skip
        return None
