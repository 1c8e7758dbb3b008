"""Every other provider, through LiteLLM. Its own retries are off: there is one retry policy, the gateway's."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import orjson

from agents.gateway.openai_transport import RAW, headers_of, names_schema, reply_of
from agents.gateway.transport import RateLimited
from schemas.calls import CallRequest, Reply
from schemas.errors import CallFailed, ModelUnreachable


class LiteLLMTransport:
    """Chat and text completion over LiteLLM, which is imported at the first call (5 to 7 s)."""

    def __init__(self) -> None:
        self._litellm: Any = None
        self._unconstrained: set[str] = set()

    async def close(self) -> None:
        """LiteLLM keeps its own clients; close those that it opened."""
        if self._litellm is not None:
            await self._litellm.close_litellm_async_clients()

    async def send(self, request: CallRequest) -> Reply:
        """One attempt. Raises CallFailed, KeyMissing, ModelUnreachable."""
        if self._litellm is None:
            self._litellm = await asyncio.to_thread(_load)
        constrained = request.json_schema is not None and request.model.name not in self._unconstrained
        try:
            return await self._ask(request, constrained)
        except CallFailed as failure:
            if constrained and failure.code == "refused_by_server" and names_schema(failure.raw):
                self._unconstrained.add(request.model.name)
                return await self._ask(request, False)
            raise

    async def _ask(self, request: CallRequest, constrained: bool) -> Reply:
        litellm, model = self._litellm, request.model
        started = time.perf_counter()
        chat = bool(request.messages)
        try:
            call = litellm.acompletion if chat else litellm.atext_completion
            answer = await call(**_arguments(request, chat, constrained))
        except Exception as error:
            raise _failure(litellm, error, request) from None
        payload = answer.model_dump()
        reply = reply_of(request, orjson.dumps(payload, default=str), chat, time.perf_counter() - started)
        if model.price is not None:
            return reply
        return reply.model_copy(update={"price_usd": _price(litellm, answer, model.model)})


def _load() -> Any:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.drop_params = True
    return litellm


def _arguments(request: CallRequest, chat: bool, constrained: bool) -> dict[str, Any]:
    model = request.model
    key = headers_of(model).get("Authorization", "").removeprefix("Bearer ")
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
    return {name: value for name, value in {**given, **model.extra}.items() if value is not None}


def _failure(litellm: Any, error: Exception, request: CallRequest) -> Exception:
    """LiteLLM's exception as ours. Its text may hold the key, so only the class and status are passed on."""
    name, kind, raw = request.model.name, type(error).__name__, ""
    if isinstance(error, litellm.Timeout | asyncio.TimeoutError):
        return CallFailed("timeout", f"no reply within {request.model.timeout_s:g} s", where=name)
    if isinstance(error, litellm.RateLimitError):
        response = getattr(error, "response", None)
        after = response.headers.get("retry-after") if response is not None else None
        return RateLimited("the provider asks to wait", where=name, retry_after=_number(after))
    if isinstance(error, litellm.AuthenticationError | litellm.PermissionDeniedError):
        variable = request.model.api_key_env or "the provider's own variable"
        return ModelUnreachable("the provider refused the key", where=name, fix=f"check {variable}")
    if isinstance(error, litellm.NotFoundError):
        return ModelUnreachable(f"the provider has no model {request.model.model!r}", where=name, fix="check model")
    if isinstance(error, litellm.BadRequestError):
        raw = "response_format" if names_schema(str(error)) else ""
        return CallFailed("refused_by_server", f"the provider refused the request ({kind})", where=name, raw=raw[:RAW])
    if isinstance(error, litellm.APIConnectionError):
        return CallFailed("connection", f"the connection failed ({kind})", where=name)
    if isinstance(error, litellm.APIError | litellm.InternalServerError | litellm.ServiceUnavailableError):
        return CallFailed("server_error", f"the provider failed ({kind})", where=name)
    return CallFailed("malformed", f"the provider's answer cannot be read ({kind})", where=name)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _price(litellm: Any, answer: Any, model: str) -> float | None:
    """LiteLLM's price of an answer; None, never 0, where its table does not know the model."""
    known = litellm.model_cost.get(model) or litellm.model_cost.get(model.split("/", 1)[-1])
    if not known or known.get("input_cost_per_token") is None:
        return None
    try:
        return float(litellm.completion_cost(completion_response=answer, model=model))
    except (ValueError, KeyError, litellm.exceptions.APIError):
        return None
