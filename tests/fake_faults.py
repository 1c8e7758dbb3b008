"""Behaviours of the fake server: reply times, a provider's limits, and faults of replies."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

import orjson
from aiohttp import web


@dataclass
class Behaviour:
    """Behaviour of the server. Rates are shares of requests; a fault is drawn from the body and its number of arrivals.

    `latency` names the shape of the reply time around `median_ms`: lognormal (by `sigma`), constant, uniform (from 0 to
    twice the median), or bimodal (`slow_share` of the replies take `slow_times` as long). Refusals are immediate.
    """

    seed: int = 0
    median_ms: float = 0.0
    sigma: float = 0.5
    latency: str = "lognormal"
    slow_share: float = 0.05
    slow_times: float = 10.0
    error_rate: float = 0.0
    error_status: int = 500
    malformed_rate: float = 0.0
    wrong_schema_rate: float = 0.0
    empty_rate: float = 0.0
    reset_rate: float = 0.0
    half_rate: float = 0.0  # headers and half of the body, then the connection is dropped
    hang_rate: float = 0.0
    trickle_rate: float = 0.0  # the body byte by byte over trickle_s
    trickle_s: float = 2.0
    rate_limit_above: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    window_s: float = 60.0  # what the two limits above call a minute
    limit_status: int = 429
    retry_after: float | None = None
    retry_after_date: bool = False  # an HTTP date in place of seconds
    answers_paid: int = 0  # sound answers until the account is out of credit; 0: it never is
    low_score_rate: float = 0.15
    poor_rate: float = 0.0  # texts that every judge scores low
    fail_first: int = 0
    fail_status: int = 500
    refuse_schema: bool = False
    logprobs: bool = True
    openai_logprobs: bool = False
    usage: bool = True
    usage_as: str = ""  # a name of USAGES: the reported usage is wrong
    bill_lost: bool = False  # resets, and errors other than 500 to 503, are on the bill: the model had done its work
    cached_share: float = 0.0
    served_model: str = ""  # the name that replies carry in place of the requested one
    input_usd: float = 0.0
    output_usd: float = 0.0  # prices of a million tokens, for the bill in the counters
    key: str = ""
    echo_key: bool = False
    reply_text: str = ""
    refuse_rate: float = 0.0
    prefilled_refuse_rate: float = 0.0
    reject_continue: bool = False
    echo_begun: bool = False
    name_answers: bool = False
    off_label_rate: float = 0.0
    cut_rate: float = 0.0

    def faults(self) -> Iterator[tuple[float, str]]:
        """The faults of a reply with their rates, in the order in which they are drawn."""
        for name in ("error", "malformed", "wrong_schema", "empty", "reset", "hang", "half", "trickle"):
            yield getattr(self, f"{name}_rate"), name


USAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "null": lambda told: None,
    "list": lambda told: [1, 2],
    "negative": lambda told: {"prompt_tokens": -told["prompt_tokens"], "completion_tokens": -told["completion_tokens"]},
    "zero": lambda told: dict.fromkeys(told, 0),
    "text": lambda told: {name: str(count) for name, count in told.items()},
    "true": lambda told: dict.fromkeys(told, True),
    "half": lambda told: dict.fromkeys(told, 0.5),
    "huge": lambda told: dict.fromkeys(told, 10**15),
    "cached": lambda told: {**told, "prompt_tokens_details": {"cached_tokens": 10**6}},
    "one": lambda told: {"prompt_tokens": told["prompt_tokens"]},
}
"""Ways to tell a usage that cannot be true, each made from the true one."""


def billed(how: Behaviour, act: str) -> bool:
    """Return True if a request that met this fault is on the bill."""
    free = ("error",) if how.error_status in (500, 502, 503) else ()
    return act not in (free if how.bill_lost else ("error", "reset"))


def reply_time(how: Behaviour, rng: random.Random) -> float:
    """Seconds that one reply takes, by the behaviour's shape. ValueError for a shape that is none."""
    median = how.median_ms / 1000
    if not median:
        return 0.0
    if how.latency == "lognormal":
        return median * math.exp(how.sigma * rng.gauss(0, 1))
    if how.latency == "constant":
        return median
    if how.latency == "uniform":
        return 2 * median * rng.random()
    if how.latency == "bimodal":
        return median * (how.slow_times if rng.random() < how.slow_share else 1.0)
    raise ValueError(f"no latency shape {how.latency!r}")


class Windows:
    """The provider's requests and tokens of the last minute. What is refused takes nothing of either."""

    def __init__(self) -> None:
        self._taken: deque[tuple[float, int]] = deque()

    def wait_s(self, how: Behaviour, tokens: int) -> float:
        """0.0, and the request is counted; or the seconds until there is room for it."""
        if not how.requests_per_minute and not how.tokens_per_minute:
            return 0.0
        now = time.monotonic()
        while self._taken and self._taken[0][0] <= now - how.window_s:
            self._taken.popleft()
        if self._fits(how, tokens, len(self._taken), sum(taken for _, taken in self._taken)):
            self._taken.append((now, tokens))
            return 0.0
        count, held = len(self._taken), sum(taken for _, taken in self._taken)
        for at, taken in self._taken:
            count, held = count - 1, held - taken
            if self._fits(how, tokens, count, held):
                return max(0.001, at + how.window_s - now)
        return how.window_s

    @staticmethod
    def _fits(how: Behaviour, tokens: int, count: int, held: int) -> bool:
        requests_fit = not how.requests_per_minute or count < how.requests_per_minute
        return requests_fit and (not how.tokens_per_minute or held + tokens <= how.tokens_per_minute)


def tokens_reserved(body: dict[str, Any]) -> int:
    """Tokens that a provider reserves on arrival: the prompt by the fake's own count, and all of max_tokens."""
    given = sum(len(message["content"]) for message in body.get("messages", ())) or len(body.get("prompt") or "")
    return given // 4 + int(body.get("max_tokens") or 16)


def to_wait(how: Behaviour, status: int, text: str) -> web.Response:
    """A refusal, with Retry-After in the form that the behaviour sets, if any."""
    headers = {}
    if how.retry_after is not None:
        moment = formatdate(math.ceil(time.time() + how.retry_after), usegmt=True)
        headers["Retry-After"] = moment if how.retry_after_date else f"{how.retry_after:g}"
    return web.Response(status=status, headers=headers, text=text)


def out_of_credit() -> web.Response:
    """The answer of OpenAI's protocol once the account is empty: a 429 for which waiting does not help."""
    error = {"type": "insufficient_quota", "code": "insufficient_quota", "message": "the account has no credit left"}
    return web.Response(status=429, body=orjson.dumps({"error": error}), content_type="application/json")


def with_text(payload: dict[str, Any], text: str) -> dict[str, Any]:
    """The same reply with another text, in the chat and in the completions form."""
    payload["choices"][0].setdefault("message", {})["content"] = text
    payload["choices"][0]["text"] = text
    return payload


async def go_wrong(how: Behaviour, act: str, request: web.Request, payload: dict[str, Any]) -> web.StreamResponse:
    """A reply with the named fault. For half and hang it never comes whole; a trickle does, slowly."""
    if act == "error":
        return web.Response(status=how.error_status, text="a fault")
    if act == "malformed":
        return web.Response(body=orjson.dumps(payload)[:40], content_type="application/json")
    if act == "empty":
        return web.Response(body=orjson.dumps({"choices": [], "usage": {}}), content_type="application/json")
    if act == "wrong_schema":
        body = orjson.dumps(with_text(payload, '{"unasked": 1}'))
        return web.Response(body=body, content_type="application/json")
    if act == "hang":
        await asyncio.sleep(3600)
    if act in ("half", "trickle"):
        return await _in_pieces(request, orjson.dumps(payload), how.trickle_s if act == "trickle" else None)
    _drop(request)
    return web.Response(status=500)


async def _in_pieces(request: web.Request, body: bytes, seconds: float | None) -> web.StreamResponse:
    """The body over so many seconds; None: half of it, and the connection is dropped."""
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    if seconds is None:
        await response.write(body[: len(body) // 2])
        await asyncio.sleep(0.01)  # so that it is sent before the end
        _drop(request)
        return response
    for place in range(len(body)):
        await response.write(body[place : place + 1])
        await asyncio.sleep(seconds / len(body))
    await response.write_eof()
    return response


def _drop(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
