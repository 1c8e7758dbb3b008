"""Transport for servers that speak OpenAI's protocol, over one pooled aiohttp session."""

from __future__ import annotations

import math
import re
import time
from email.utils import parsedate_to_datetime
from operator import itemgetter
from ssl import SSLContext
from typing import Any

import aiohttp
import orjson

from graft.agents.gateway.chat_templates import stops_of, templated
from graft.agents.gateway.credentials import headers_of, raw_of, without_keys
from graft.agents.gateway.ledger import price_of
from graft.agents.gateway.payload import TooLarge, body_within, cleaned, json_of, storable
from graft.agents.gateway.structured import parse_reply
from graft.agents.gateway.transport import Damaged, NotBilled, RateLimited, Refused, no_prefill, prefill_of
from graft.schemas.calls import CallRequest, Reply, TokenLogprob, Usage
from graft.schemas.errors import CallFailed, ModelUnreachable
from graft.schemas.extra import sendable
from graft.schemas.models import ModelSpec

TOO_LONG = re.compile(r"context.{0,20}(?:size|length|window)", re.IGNORECASE)
"""Wording of llama.cpp, vLLM and OpenAI for a prompt that is too long."""
WHY = 200
"""Characters shown of a refusal."""
LONGEST_WORD = 200
"""Characters kept of a finish reason or a model's name."""
LEAST_LOGPROB = -10_000.0
CONNECT_S = 30.0
"""Connection timeout at most, in seconds: a request without a connection was not sent and is not billed."""
MAY_BE_BILLED = frozenset({408, 504, 524})
"""Statuses of a proxy that timed out: the model may have finished, and the provider may bill it."""
MOST_TOKENS = 10_000_000
"""Largest plausible token count: ten times the longest context."""
BASE_URL = "check model and base_url in the recipe (an address usually ends in /v1)"


class OpenAITransport:
    """Sends chat and completion requests.

    Args:
        endpoints: base address of each model that runs on this machine, by the model's name.
        connections: size of the connection pool.
        authorities: certificate authorities; without them, the system's.
    """

    def __init__(self, endpoints: dict[str, str], connections: int, authorities: SSLContext | None = None) -> None:
        self._endpoints = endpoints
        self._unconstrained: set[tuple[str, str]] = set()
        self._continuing: set[str] = set()
        self._not_continuing: dict[str, str] = {}
        connector = aiohttp.TCPConnector(
            limit=connections, limit_per_host=0, keepalive_timeout=60, ssl=authorities or True
        )
        self._session = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), skip_auto_headers=("User-Agent",)
        )

    async def close(self) -> None:
        """Close the connection pool."""
        await self._session.close()

    async def send(self, request: CallRequest) -> Reply:
        """One attempt. Raises CallFailed, KeyMissing, ModelUnreachable."""
        base = address_of(request.model, self._endpoints)
        if request.continues and request.messages:
            return await self._continue_turn(base, request)
        return await self._attempt(base, request, chat=bool(request.messages))

    async def _continue_turn(self, base: str, request: CallRequest) -> Reply:
        """Continue a prefilled turn: through the server, or through the raw template if the server cannot."""
        model = request.model
        if model.prefill == "none":
            raise no_prefill(model, "prefill is none", "choose another prefill")
        if model.prefill == "template":
            return await self._attempt(base, as_template(request), chat=False)
        if base in self._not_continuing:
            if model.prefill == "auto" and model.chat_template:
                return await self._attempt(base, as_template(request), chat=False)
            raise no_prefill(model, self._not_continuing[base])
        try:
            reply = await self._attempt(base, request, chat=True)
        except Refused as failure:
            return await self._fall_back(base, request, failure)
        except Damaged:
            self._continuing.add(base)
            raise
        self._continuing.add(base)
        return reply

    async def _fall_back(self, base: str, request: CallRequest, failure: Refused) -> Reply:
        """Fall back to the template if the refusal concerns the prefill; otherwise raise the refusal.

        A refusal that does not name the prefill counts as one if this server has never continued a turn before.
        """
        model, named = request.model, names_prefill(failure.raw)
        doubtful = model.prefill == "auto" and base not in self._continuing
        if failure.status not in (400, 422) or not (named or doubtful):
            raise failure
        why = f"HTTP {failure.status}: {failure.raw[:WHY]}"
        if named:
            self._not_continuing[base] = why
        if model.prefill != "auto" or not model.chat_template:
            raise no_prefill(model, why)
        reply = await self._attempt(base, as_template(request), chat=False)
        self._not_continuing[base] = why  # the raw prompt succeeded, so the prefill caused the refusal
        return reply

    async def _attempt(self, base: str, request: CallRequest, *, chat: bool) -> Reply:
        place = (base, request.model.model)
        constrained = request.json_schema is not None and place not in self._unconstrained
        started = time.perf_counter()
        try:
            return await self._post(base, request, chat, constrained, started)
        except CallFailed as failure:
            if constrained and failure.code == "refused_by_server" and names_schema(failure.raw):
                self._unconstrained.add(place)
                return await self._post(base, request, chat, False, started)
            raise

    async def _post(self, base: str, request: CallRequest, chat: bool, constrained: bool, started: float) -> Reply:
        model = request.model
        url, headers, body = self._parts(base, request, chat=chat, constrained=constrained)
        patience = aiohttp.ClientTimeout(total=model.timeout_s, sock_connect=min(CONNECT_S, 0.9 * model.timeout_s))
        try:
            async with self._session.post(
                url,
                data=orjson.dumps(body),
                headers=headers,
                timeout=patience,
                allow_redirects=False,
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
            raise ModelUnreachable("base_url is not a valid address", where=model.name, fix=BASE_URL) from None
        except (aiohttp.ClientError, OSError) as error:
            kind = NotBilled if isinstance(error, aiohttp.ClientConnectorError) else CallFailed
            raise kind("connection", f"the connection failed ({type(error).__name__})", where=model.name) from None
        return await self._read(request, payload, chat, time.perf_counter() - started)

    def _parts(
        self, base: str, request: CallRequest, *, chat: bool, constrained: bool
    ) -> tuple[str, dict[str, str], dict[str, Any]]:
        """Address, headers and body."""
        url = f"{base}/chat/completions" if chat else f"{base}/completions"
        return url, headers_of(request.model), body_of(request, chat=chat, constrained=constrained)

    async def _read(self, request: CallRequest, payload: bytes, chat: bool, latency_s: float) -> Reply:
        return reply_of(request, payload, chat, latency_s)


def address_of(model: ModelSpec, endpoints: dict[str, str]) -> str:
    """Return a model's base address without a trailing slash. Raises ModelUnreachable."""
    address = model.base_url or endpoints.get(model.name)
    if not address:
        raise ModelUnreachable("the address is unknown", where=model.name, fix="set the model's base_url in the recipe")
    return address.rstrip("/")


def body_of(request: CallRequest, *, chat: bool, constrained: bool) -> dict[str, Any]:
    """Build the request's JSON body.

    Args:
        request: the call.
        chat: use the form of /chat/completions, else of /completions.
        constrained: send the JSON schema as response_format.
    """
    body: dict[str, Any] = {
        "model": request.model.model,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
    }
    if chat:
        body["messages"] = [{"role": message.role, "content": message.content} for message in request.messages]
        if request.continues:  # vLLM's names, which llama.cpp and SGLang accept too
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
            body["json_schema"] = request.json_schema  # llama.cpp's name for it on /completions
    if request.top_logprobs:
        body.update(
            {"logprobs": True, "top_logprobs": request.top_logprobs} if chat else {"logprobs": request.top_logprobs}
        )
    return with_extra(body, request.model)


def with_extra(body: dict[str, Any], model: ModelSpec) -> dict[str, Any]:
    """Add the model's extra fields to the body. No extra field replaces an existing field."""
    if not model.extra:
        return body
    return {**body, **{name: value for name, value in sendable(model.extra).items() if name not in body}}


def as_template(request: CallRequest) -> CallRequest:
    """Convert a request with a prefilled turn to a raw prompt in the model's turn format, for /completions."""
    name = request.model.chat_template
    if name is None:
        raise no_prefill(request.model, "chat_template is not set")
    stop = tuple(dict.fromkeys((*request.stop, *stops_of(name))))
    return request.model_copy(update={"prompt": templated(name, request.messages, prefilled=True), "stop": stop})


def names_prefill(raw: str) -> bool:
    """Return True if a server's refusal concerns the prefill."""
    return any(word in raw for word in ("continue_final_message", "add_generation_prompt", "prefill"))


def names_schema(raw: str) -> bool:
    """Return True if a server's refusal concerns the response format."""
    return "response_format" in raw or "json_schema" in raw or "grammar" in raw


def failure_of(status: int, retry_after: str | None, payload: bytes, model: ModelSpec) -> Exception:
    """Convert a status other than 200 to an error."""
    raw, name = raw_of(payload, model), model.name
    if status == 402 or (status == 429 and "insufficient_quota" in raw):
        return ModelUnreachable("the account has no credit or quota left", where=name, fix="top it up at the provider")
    if status == 429 or (status == 503 and retry_after):
        code, after = "rate_limited" if status == 429 else "server_error", seconds_of(retry_after)
        return RateLimited(
            f"rate limited by the server (HTTP {status})", where=name, retry_after=after, raw=raw, code=code
        )
    if status in (401, 403):
        variable = f"check {model.api_key_env}" if model.api_key_env else "set api_key_env to the variable of its key"
        return ModelUnreachable(f"the server refused the key (HTTP {status})", where=name, fix=variable)
    if status in (404, 405) or 300 <= status < 400:
        return ModelUnreachable(
            f"the server has no model {model.model!r} or no such address (HTTP {status})", where=name, fix=BASE_URL
        )
    if status in (408, 425) or status >= 500:
        kind = CallFailed if status in MAY_BE_BILLED else NotBilled
        return kind("server_error", f"the server failed (HTTP {status})", where=name, raw=raw)
    what = f"the prompt exceeds {model.room}" if TOO_LONG.search(raw) else "the server refused the request"
    return Refused(f"{what} (HTTP {status})", where=name, raw=raw, status=status)


def seconds_of(retry_after: str | None) -> float | None:
    """Parse Retry-After, a number or a date, to seconds; None if absent or unreadable."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, OverflowError, LookupError, TypeError, AttributeError, OSError):
            return None  # the date parser raises each of these for some text
    return None if math.isnan(seconds) else max(0.0, seconds)


def reply_of(request: CallRequest, payload: bytes, chat: bool, latency_s: float) -> Reply:
    """Parse the body of a 200. Raises Damaged if the reply is broken, empty, or in breach of the schema."""
    model = request.model
    usage: Usage | None = None
    try:
        answer = json_of(payload)
        usage = usage_of(answer.get("usage"))
        if not answer["choices"]:
            raise _damaged(CallFailed("empty", "the server's answer has no choices", where=model.name), usage, request)
        choice = answer["choices"][0]
        text = _content(choice.get("message") or {}, request) if chat else choice.get("text")
        text = storable(text) if isinstance(text, str) else ""
        if (prefill := prefill_of(request)).strip():
            text = text.removeprefix(prefill)  # some servers repeat the prefill
        logprobs = logprobs_of(choice.get("logprobs")) if request.top_logprobs else ()
        finish, served = _word(choice.get("finish_reason")), _word(answer.get("model"))
    except (LookupError, TypeError, AttributeError, ValueError):  # orjson's errors are ValueErrors
        what, raw = "the server's answer is not JSON with choices", raw_of(payload, model)
        failure = CallFailed("malformed", what, where=model.name, raw=raw)
        raise _damaged(failure, usage, request) from None
    if text.strip() and not usage.completion_tokens:
        usage = usage.model_copy(update={"completion_tokens": None})
    if not text.strip() and not logprobs:
        raise _damaged(CallFailed("empty", "the reply is empty", where=model.name, raw=text), usage, request)
    try:
        parsed = _parsed(text, request.json_schema, model.name) if request.json_schema is not None else None
    except CallFailed as failure:
        raise _damaged(failure, usage, request, cut=finish == "length") from None
    price = price_of(model, usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
    return Reply.model_construct(
        key="", text=text, finish_reason=finish or "stop", logprobs=logprobs, parsed=parsed, usage=usage,
        price_usd=price, latency_s=latency_s, attempts=1, cached=False, served_model=served,
    )  # fmt: skip


def _content(message: dict[str, Any], request: CallRequest) -> Any:
    """Text of a chat's message. JSON may come as the arguments of a tool call, where a request had to ask for one."""
    calls = message.get("tool_calls")
    if request.json_schema is not None and not message.get("content") and isinstance(calls, list) and len(calls) == 1:
        return calls[0]["function"].get("arguments")
    return message.get("content")


def _word(value: Any) -> str | None:
    """Short text of an answer, such as a model's name; None if it is not text."""
    return storable(value[:LONGEST_WORD]) if isinstance(value, str) else None


def _parsed(text: str, schema: dict[str, Any], where: str) -> Any:
    """Parse a reply's JSON to a value that the journal can store. Raises CallFailed."""
    try:
        value = parse_reply(text, schema, where)
        if "\\u0000" in text:
            value = cleaned(value)
        orjson.dumps(value)
    except (TypeError, RecursionError):
        raise CallFailed("malformed", "the reply's JSON is nested too deeply", where=where, raw=text) from None
    return value


def _damaged(failure: CallFailed, usage: Usage | None, request: CallRequest, cut: bool = False) -> Damaged:
    counts, ended = usage or Usage(), f"the reply was cut off at max_tokens: {request.max_tokens}"
    price = price_of(request.model, counts.prompt_tokens, counts.completion_tokens, counts.cached_tokens)
    code, what = ("cut", ended) if cut else (failure.code, failure.what)
    raw = without_keys(failure.raw, request.model)
    return Damaged(code, what, where=failure.where, raw=raw, usage=usage, price_usd=price)


def usage_of(usage: Any) -> Usage:
    """Read the token counts; None if absent or impossible.

    Values that are not counts, a prompt without tokens, and more cached than prompt tokens are impossible. DeepSeek
    uses a field of its own for cached tokens.
    """
    usage = usage if isinstance(usage, dict) else {}
    details, own = usage.get("prompt_tokens_details"), usage.get("prompt_cache_hit_tokens")
    prompt, cached = _count(usage.get("prompt_tokens")) or None, own
    if isinstance(details, dict):
        cached = details.get("cached_tokens", own)
    cached = _count(cached)
    if cached is not None and cached > (prompt or 0):
        cached = None
    return Usage.model_construct(
        prompt_tokens=prompt, completion_tokens=_count(usage.get("completion_tokens")), cached_tokens=cached
    )


def _count(value: Any) -> int | None:
    """Read a token count: 12.0 is valid, true and "12" are not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= MOST_TOKENS and value == int(value) else None


def logprobs_of(logprobs: dict[str, Any] | None) -> tuple[TokenLogprob, ...]:
    """Read the alternatives of each token, best first, from the chat form (also llama.cpp's) or the completions form.

    Raises TypeError, AttributeError, LookupError or ValueError for any other form.
    """
    if not logprobs:
        return ()
    if logprobs.get("content"):
        return tuple(
            _place(
                p["token"], p["logprob"], [(other["token"], other["logprob"]) for other in p.get("top_logprobs") or ()]
            )
            for p in logprobs["content"]
        )
    tokens, values = logprobs.get("tokens") or (), logprobs.get("token_logprobs") or ()
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    return tuple(
        _place(token, value, list((top or {}).items()))
        for token, value, top in zip(tokens, values, tops, strict=False)
        if value is not None
    )


def _place(token: Any, logprob: Any, top: list[tuple[Any, Any]]) -> TokenLogprob:
    listed = [(storable(other), _logprob(value)) for other, value in top if value is not None]
    listed.sort(key=itemgetter(1), reverse=True)
    return TokenLogprob.model_construct(token=storable(token), logprob=_logprob(logprob), top=tuple(listed))


def _logprob(value: Any) -> float:
    """Clamp a log-probability to a range that sums of exponentials tolerate. Raises TypeError."""
    if not isinstance(value, int | float):
        raise TypeError("not a number")
    return max(LEAST_LOGPROB, min(0.0, float(value)))
