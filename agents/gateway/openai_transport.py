"""Any server that speaks OpenAI's protocol, called directly over one pooled aiohttp session."""

from __future__ import annotations

import os
import re
import time
from typing import Any

import aiohttp
import orjson

from graft.agents.gateway.chat_templates import stops_of, templated
from graft.agents.gateway.ledger import price_of
from graft.agents.gateway.openai_values import logprobs_of, seconds_of, usage_of, word_of
from graft.agents.gateway.payload import TooLarge, body_within, cleaned, json_of, storable
from graft.agents.gateway.structured import parse_reply
from graft.agents.gateway.transport import Damaged, NotBilled, RateLimited, Refused, begun_of, no_prefill
from graft.schemas.calls import CallRequest, Reply, Usage
from graft.schemas.errors import CallFailed, KeyMissing, ModelUnreachable
from graft.schemas.extra import sendable
from graft.schemas.models import ModelSpec

TOO_LONG = re.compile(r"context.{0,20}(?:size|length|window)", re.IGNORECASE)
"""How llama.cpp, vLLM and OpenAI speak of a prompt that is too long."""
RAW = 2_000
"""Characters of a server's error that are kept."""
WHY = 200
"""Characters of a refusal that a person is shown."""
CONNECT_S = 30.0
"""Seconds for a connection at most: without one the request was not sent, and is not billed."""
MAY_BE_BILLED = frozenset({408, 504, 524})
"""Statuses of a proxy that gave up waiting: the model may have gone on, and be billed."""
BASE_URL = "check model and base_url in the recipe (an address mostly ends in /v1)"


class OpenAITransport:
    """Chat and completion requests; `endpoints` gives the address of models that run on this machine."""

    def __init__(self, endpoints: dict[str, str], connections: int) -> None:
        self._endpoints = endpoints
        self._unconstrained: set[str] = set()
        self._continuing: set[str] = set()
        self._not_continuing: dict[str, str] = {}
        connector = aiohttp.TCPConnector(limit=connections, limit_per_host=0, keepalive_timeout=60)
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), skip_auto_headers=("User-Agent",)
        )

    async def close(self) -> None:
        """Close the pool."""
        await self._session.close()

    async def send(self, request: CallRequest) -> Reply:
        """One attempt. Raises CallFailed, KeyMissing, ModelUnreachable."""
        base = address_of(request.model, self._endpoints)
        if request.continues and request.messages:
            return await self._go_on(base, request)
        return await self._attempt(base, request, chat=bool(request.messages))

    async def _go_on(self, base: str, request: CallRequest) -> Reply:
        """A begun assistant turn: continued by the server, or by the raw template where it is known not to do so."""
        model = request.model
        if model.prefill == "none":
            raise no_prefill(model, "its prefill is none", "give it another prefill")
        if model.prefill == "template":
            return await self._attempt(base, as_template(request), chat=False)
        if base in self._not_continuing:
            if model.prefill == "auto" and model.chat_template:
                return await self._attempt(base, as_template(request), chat=False)
            raise no_prefill(model, self._not_continuing[base])
        try:
            reply = await self._attempt(base, request, chat=True)
        except Refused as failure:
            return await self._refused_to_go_on(base, request, failure)
        except Damaged:
            self._continuing.add(base)
            raise
        self._continuing.add(base)
        return reply

    async def _refused_to_go_on(self, base: str, request: CallRequest, failure: Refused) -> Reply:
        """Whether the refusal is about the begun turn, then the template or an error for a person; else the refusal.

        Where the server does not say so, it is about the begun turn if this server never continued one before.
        """
        model, named = request.model, names_begun_turn(failure.raw)
        doubtful = model.prefill == "auto" and base not in self._continuing
        if failure.status not in (400, 422) or not (named or doubtful):
            raise failure
        why = f"HTTP {failure.status}: {failure.raw[:WHY]}"
        if named:
            self._not_continuing[base] = why
        if model.prefill != "auto" or not model.chat_template:
            raise no_prefill(model, why)
        reply = await self._attempt(base, as_template(request), chat=False)
        self._not_continuing[base] = why  # the raw prompt went through: it was the begun turn
        return reply

    async def _attempt(self, base: str, request: CallRequest, *, chat: bool) -> Reply:
        constrained = request.json_schema is not None and base not in self._unconstrained
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
        patience = aiohttp.ClientTimeout(total=model.timeout_s, sock_connect=min(CONNECT_S, 0.9 * model.timeout_s))
        try:
            async with self._session.post(
                url, data=data, headers=headers_of(model), timeout=patience, allow_redirects=False
            ) as response:
                payload = await body_within(response)
                if response.status != 200:
                    raise failure_of(response.status, response.headers.get("Retry-After"), payload, model)
        except aiohttp.ConnectionTimeoutError:
            raise NotBilled("timeout", f"no connection within {patience.sock_connect:g} s", where=model.name) from None
        except TimeoutError:
            raise CallFailed("timeout", f"no reply within {model.timeout_s:g} s", where=model.name) from None
        except TooLarge as error:
            raise Damaged("malformed", f"the reply is too large: {error}", where=model.name) from None
        except aiohttp.InvalidURL:
            raise ModelUnreachable("its base_url is no address", where=model.name, fix=BASE_URL) from None
        except (aiohttp.ClientError, OSError) as error:
            kind = NotBilled if isinstance(error, aiohttp.ClientConnectorError) else CallFailed
            raise kind("connection", f"the connection failed ({type(error).__name__})", where=model.name) from None
        return reply_of(request, payload, chat, time.perf_counter() - started)


def address_of(model: ModelSpec, endpoints: dict[str, str]) -> str:
    """The base address that a model is reached at, without a slash at its end."""
    address = model.base_url or endpoints.get(model.name)
    if not address:
        raise ModelUnreachable("no address is known", where=model.name, fix="give the model a base_url in the recipe")
    return address.rstrip("/")


def headers_of(model: ModelSpec) -> dict[str, str]:
    """Content type, the model's key and its own headers from their variables.

    Raises KeyMissing with a variable's name.
    """
    headers = {"Content-Type": "application/json"} | own_headers(model)
    if model.api_key_env:
        headers["Authorization"] = f"Bearer {_needed(model.api_key_env, model)}"
    return headers


def own_headers(model: ModelSpec) -> dict[str, str]:
    """The headers of `headers_env` with their values. Raises KeyMissing."""
    return {name: _needed(variable, model) for name, variable in model.headers_env.items()}


def keys_of(model: ModelSpec) -> tuple[str, ...]:
    """The values of the model's variables that are set, longest first."""
    return tuple(sorted(filter(None, (_secret(name, model) for name in model.key_variables)), key=len, reverse=True))


def _needed(variable: str, model: ModelSpec) -> str:
    value = _secret(variable, model)
    if not value:
        raise KeyMissing(
            f"the environment variable {variable} is not set",
            where=model.name,
            fix=f"export {variable}=… before the run",
        )
    return value


def _secret(variable: str, model: ModelSpec) -> str:
    """A variable's value without the line break that a file leaves; empty if it is not set."""
    value = os.environ.get(variable, "").strip()
    if value and not (value.isascii() and value.isprintable()):
        raise KeyMissing(
            f"the environment variable {variable} holds no key: it has letters that no key has",
            where=model.name, fix=f"export {variable}=… again, in one line",
        )  # fmt: skip
    return value


def raw_of(payload: bytes, model: ModelSpec) -> str:
    """The beginning of what a server said, for the record, without the key should it have repeated it."""
    return storable(_without_key(payload.decode(errors="replace"), model)[:RAW])


def _without_key(text: str, model: ModelSpec) -> str:
    for key in keys_of(model):
        text = text.replace(key, "(key)")
    return text


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
        if request.continues:  # the names are vLLM's; llama.cpp and SGLang take them too
            body.update({"continue_final_message": True, "add_generation_prompt": False})
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
    return with_extra(body, request.model)


def with_extra(body: dict[str, Any], model: ModelSpec) -> dict[str, Any]:
    """The body with the model's extra fields. No extra field replaces one of Graft's, however the model was made."""
    if not model.extra:
        return body
    return {**body, **{name: value for name, value in sendable(model.extra).items() if name not in body}}


def as_template(request: CallRequest) -> CallRequest:
    """A request with a begun turn as a raw prompt in the model's own turn format, for /completions."""
    name = request.model.chat_template
    if name is None:
        raise no_prefill(request.model, "its chat_template is not set")
    stop = tuple(dict.fromkeys((*request.stop, *stops_of(name))))
    return request.model_copy(update={"prompt": templated(name, request.messages, begun=True), "stop": stop})


def names_begun_turn(raw: str) -> bool:
    """Whether a server's refusal is about going on with a begun turn."""
    return any(word in raw for word in ("continue_final_message", "add_generation_prompt", "prefill"))


def names_schema(raw: str) -> bool:
    """Whether a server's refusal is about the constrained format."""
    return "response_format" in raw or "json_schema" in raw or "grammar" in raw


def failure_of(status: int, retry_after: str | None, payload: bytes, model: ModelSpec) -> Exception:
    """The error of a status that is not 200."""
    raw, name = raw_of(payload, model), model.name
    if status == 429 and "insufficient_quota" in raw:
        return ModelUnreachable("the account has no money or quota left", where=name, fix="top it up at the provider")
    if status == 429 or (status == 503 and retry_after):
        code, after = "rate_limited" if status == 429 else "server_error", seconds_of(retry_after)
        return RateLimited(
            f"the server asks to wait (HTTP {status})", where=name, retry_after=after, raw=raw, code=code
        )
    if status in (401, 403):
        variable = f"check {model.api_key_env}" if model.api_key_env else "name the variable of its key in api_key_env"
        return ModelUnreachable(f"the server refused the key (HTTP {status})", where=name, fix=variable)
    if status in (404, 405) or 300 <= status < 400:
        return ModelUnreachable(
            f"the server has no model {model.model!r}, or no such address (HTTP {status})", where=name, fix=BASE_URL
        )
    if status in (408, 425) or status >= 500:
        kind = CallFailed if status in MAY_BE_BILLED else NotBilled
        return kind("server_error", f"the server failed (HTTP {status})", where=name, raw=raw)
    what = "the prompt does not fit the server's context" if TOO_LONG.search(raw) else "the server refused the request"
    return Refused(f"{what} (HTTP {status})", where=name, raw=raw, status=status)


def reply_of(request: CallRequest, payload: bytes, chat: bool, latency_s: float) -> Reply:
    """The reply in a 200. Raises Damaged where it is broken, empty, or not what the schema asks."""
    model = request.model
    usage: Usage | None = None
    try:
        answer = json_of(payload)
        usage = usage_of(answer.get("usage"))
        if not answer["choices"]:
            raise _damaged(CallFailed("empty", "the server's answer has no choice", where=model.name), usage, request)
        choice = answer["choices"][0]
        text = (choice.get("message") or {}).get("content") if chat else choice.get("text")
        text = storable(text) if isinstance(text, str) else ""
        if (begun := begun_of(request)).strip():
            text = text.removeprefix(begun)  # some servers say what was begun once more
        logprobs = logprobs_of(choice.get("logprobs")) if request.top_logprobs else ()
        finish, served = word_of(choice.get("finish_reason")), word_of(answer.get("model"))
    except (LookupError, TypeError, AttributeError, ValueError):  # orjson's errors are ValueErrors
        what = "the server's answer is not JSON with choices"
        failure = CallFailed("malformed", what, where=model.name, raw=raw_of(payload, model))
        raise _damaged(failure, usage, request) from None
    if text.strip() and not usage.completion_tokens:
        usage = usage.model_copy(update={"completion_tokens": None})
    if not text.strip() and not logprobs:
        raise _damaged(CallFailed("empty", "the reply is empty", where=model.name, raw=text), usage, request)
    try:
        parsed = _parsed(text, request.json_schema, model.name) if request.json_schema is not None else None
    except CallFailed as failure:
        raise _damaged(failure, usage, request) from None
    price = price_of(model, usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
    return Reply.model_construct(
        key="", text=text, finish_reason=finish or "stop", logprobs=logprobs, parsed=parsed, usage=usage,
        price_usd=price, latency_s=latency_s, attempts=1, cached=False, served_model=served,
    )  # fmt: skip


def _parsed(text: str, schema: dict[str, Any], where: str) -> Any:
    """The JSON value of a reply, such that the journal can keep it. Raises CallFailed."""
    try:
        value = parse_reply(text, schema, where)
        if "\\u0000" in text:
            value = cleaned(value)
        orjson.dumps(value)
    except (TypeError, RecursionError):
        raise CallFailed("malformed", "the reply's JSON nests too deeply", where=where, raw=text) from None
    return value


def _damaged(failure: CallFailed, usage: Usage | None, request: CallRequest) -> Damaged:
    counts = usage or Usage()
    price = price_of(request.model, counts.prompt_tokens, counts.completion_tokens, counts.cached_tokens)
    raw = _without_key(failure.raw, request.model)
    return Damaged(failure.code, failure.what, where=failure.where, raw=raw, usage=usage, price_usd=price)
