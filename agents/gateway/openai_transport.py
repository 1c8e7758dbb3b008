"""Any server that speaks OpenAI's protocol, called directly over one pooled aiohttp session."""

from __future__ import annotations

import os
import time
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import orjson

from agents.gateway.ledger import price_of
from agents.gateway.structured import parse_reply
from agents.gateway.transport import RateLimited
from schemas.calls import CallRequest, Reply, TokenLogprob, Usage
from schemas.errors import CallFailed, KeyMissing, ModelUnreachable
from schemas.models import ModelSpec

RAW = 2_000
"""Characters of a server's error that are kept."""


class OpenAITransport:
    """Chat and completion requests; `endpoints` gives the address of models that run on this machine."""

    def __init__(self, endpoints: dict[str, str], connections: int) -> None:
        self._endpoints = endpoints
        self._unconstrained: set[str] = set()
        connector = aiohttp.TCPConnector(limit=connections, limit_per_host=0, keepalive_timeout=60)
        self._session = aiohttp.ClientSession(
            connector=connector, json_serialize=lambda value: orjson.dumps(value).decode()
        )

    async def close(self) -> None:
        """Close the pool."""
        await self._session.close()

    async def send(self, request: CallRequest) -> Reply:
        """One attempt. Raises CallFailed, KeyMissing, ModelUnreachable."""
        model = request.model
        base = address_of(model, self._endpoints)
        constrained = request.json_schema is not None and base not in self._unconstrained
        chat = bool(request.messages)
        url = f"{base}/chat/completions" if chat else f"{base}/completions"
        started = time.perf_counter()
        try:
            return await self._post(url, request, chat, constrained, started)
        except CallFailed as failure:
            if constrained and failure.code == "refused_by_server" and names_schema(failure.raw):
                self._unconstrained.add(base)
                return await self._post(url, request, chat, False, started)
            raise

    async def _post(self, url: str, request: CallRequest, chat: bool, constrained: bool, started: float) -> Reply:
        model = request.model
        data = orjson.dumps(body_of(request, chat=chat, constrained=constrained))
        try:
            async with self._session.post(
                url, data=data, headers=headers_of(model), timeout=aiohttp.ClientTimeout(total=model.timeout_s)
            ) as response:
                payload = await response.read()
                if response.status != 200:
                    raise failure_of(response.status, response.headers.get("Retry-After"), payload, model)
        except TimeoutError:
            raise CallFailed("timeout", f"no reply within {model.timeout_s:g} s", where=model.name) from None
        except aiohttp.ClientError as error:
            raise CallFailed(
                "connection", f"the connection failed ({type(error).__name__})", where=model.name
            ) from None
        return reply_of(request, payload, chat, time.perf_counter() - started)


def address_of(model: ModelSpec, endpoints: dict[str, str]) -> str:
    """The base address that a model is reached at, without a slash at its end."""
    address = model.base_url or endpoints.get(model.name)
    if not address:
        raise ModelUnreachable("no address is known", where=model.name, fix="give the model a base_url in the recipe")
    return address.rstrip("/")


def headers_of(model: ModelSpec) -> dict[str, str]:
    """Content type and, where the model names a variable, its key. Raises KeyMissing with the variable's name."""
    headers = {"Content-Type": "application/json"}
    if model.api_key_env:
        key = os.environ.get(model.api_key_env)
        if not key:
            raise KeyMissing(
                f"the environment variable {model.api_key_env} is not set", where=model.name,
                fix=f"export {model.api_key_env}=… before the run",
            )  # fmt: skip
        headers["Authorization"] = f"Bearer {key}"
    return headers


def body_of(request: CallRequest, *, chat: bool, constrained: bool) -> dict[str, Any]:
    """The request's JSON body."""
    body: dict[str, Any] = {
        "model": request.model.model,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
    }
    if chat:
        body["messages"] = [{"role": message.role, "content": message.content} for message in request.messages]
    else:
        body["prompt"] = request.prompt or ""
    if request.stop:
        body["stop"] = list(request.stop)
    if request.seed is not None:
        body["seed"] = request.seed + request.sample
    if constrained:
        named = {"name": "reply", "strict": True, "schema": request.json_schema}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
        if not chat and request.model.provider == "embedded":
            body["json_schema"] = request.json_schema  # llama.cpp's own name for it on /completions
    if request.top_logprobs:
        body.update(
            {"logprobs": True, "top_logprobs": request.top_logprobs} if chat else {"logprobs": request.top_logprobs}
        )
    return {**body, **request.model.extra}


def names_schema(raw: str) -> bool:
    """Whether a server's refusal is about the constrained format."""
    return "response_format" in raw or "json_schema" in raw or "grammar" in raw


def failure_of(status: int, retry_after: str | None, payload: bytes, model: ModelSpec) -> Exception:
    """The error of a status that is not 200."""
    raw = payload[:RAW].decode(errors="replace")
    if status == 429:
        return RateLimited("the server asks to wait", where=model.name, retry_after=seconds_of(retry_after), raw=raw)
    if status in (401, 403):
        variable = (
            f": check {model.api_key_env}" if model.api_key_env else ": name the variable of its key in api_key_env"
        )
        return ModelUnreachable(
            f"the server refused the key (HTTP {status})", where=model.name, fix="let it in" + variable
        )
    if status == 404:
        return ModelUnreachable(
            f"the server has no model {model.model!r}, or no such address (HTTP 404)", where=model.name,
            fix="check model and base_url (it mostly ends in /v1)",
        )  # fmt: skip
    if status in (408, 425) or status >= 500:
        return CallFailed("server_error", f"the server failed (HTTP {status})", where=model.name, raw=raw)
    return CallFailed("refused_by_server", f"the server refused the request (HTTP {status})", where=model.name, raw=raw)


def seconds_of(retry_after: str | None) -> float | None:
    """Retry-After in seconds, from a number or a date; None where it is absent or unreadable."""
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None


def reply_of(request: CallRequest, payload: bytes, chat: bool, latency_s: float) -> Reply:
    """The reply in a 200. Raises CallFailed where it is damaged, empty, or not what the schema asks."""
    name = request.model.name
    try:
        answer = orjson.loads(payload)
        choices = answer["choices"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        raw = payload[:RAW].decode(errors="replace")
        raise CallFailed("malformed", "the server's answer is not JSON with choices", where=name, raw=raw) from None
    if not choices:
        raise CallFailed("empty", "the server's answer has no choice", where=name)
    choice = choices[0]
    text = (choice.get("message") or {}).get("content") if chat else choice.get("text")
    logprobs = logprobs_of(choice.get("logprobs")) if request.top_logprobs else ()
    if not text and not logprobs:
        raise CallFailed("empty", "the reply is empty", where=name)
    parsed = parse_reply(text or "", request.json_schema, name) if request.json_schema is not None else None
    usage = usage_of(answer.get("usage") or {})
    return Reply.model_construct(
        key="",
        text=text or "",
        finish_reason=choice.get("finish_reason") or "stop",
        logprobs=logprobs,
        parsed=parsed,
        usage=usage,
        price_usd=price_of(request.model, usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens),
        latency_s=latency_s,
        attempts=1,
        cached=False,
        served_model=answer.get("model"),
    )


def usage_of(usage: dict[str, Any]) -> Usage:
    """Token counts; None where the server left them out."""
    details = usage.get("prompt_tokens_details") or {}
    return Usage.model_construct(
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        cached_tokens=details.get("cached_tokens"),
    )


def logprobs_of(logprobs: dict[str, Any] | None) -> tuple[TokenLogprob, ...]:
    """Alternatives at each place, from the chat form (also llama.cpp's) or the older completions form."""
    if not logprobs:
        return ()
    if logprobs.get("content"):
        return tuple(
            TokenLogprob.model_construct(
                token=place["token"], logprob=place["logprob"],
                top=tuple((other["token"], other["logprob"]) for other in place.get("top_logprobs") or ()),
            )
            for place in logprobs["content"]
        )  # fmt: skip
    tops = logprobs.get("top_logprobs") or ()
    return tuple(
        TokenLogprob.model_construct(
            token=token, logprob=value, top=tuple(sorted((top or {}).items(), key=lambda item: -item[1]))
        )
        for token, value, top in zip(
            logprobs.get("tokens") or (), logprobs.get("token_logprobs") or (), tops, strict=False
        )
    )
