"""A real OpenAI-compatible server on loopback with seeded replies, latency and faults.

    python tests/fake_llm.py --port 0 --median-ms 200 --sigma 0.5 --rate-limit-above 32 --error-rate 0.05

Prints its address as the first line. The same request body gets the same reply. GET /stats counts; POST /reset forgets;
POST /behave with a JSON object of Behaviour's fields (see fake_faults.py) changes it from then on and forgets.
It stands in for speed and failure, never for the claim that real models work.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import time
from collections import Counter, deque
from dataclasses import asdict
from typing import Any

import orjson
from aiohttp import web
from fake_faults import (
    USAGES,
    Behaviour,
    Windows,
    billed,
    go_wrong,
    out_of_credit,
    reply_time,
    to_wait,
    tokens_reserved,
)
from fake_replies import REFUSALS, begun_in, judged_in, list_reply, name_reply, plain_parts, schema_in
from in_thread import InThread

LIST = """
amber anchor apple arrow autumn badge bakery barrel basket beacon bicycle blanket bottle branch bridge bucket
button cabin candle canyon carpet castle cedar chapel cherry circle clover coffee copper corner cotton cradle
crystal dancer desert dinner dragon drawer eagle echo engine falcon feather fiddle forest fountain galaxy garden
ginger glacier guitar hammer harbor helmet hollow honey island jacket jungle kettle ladder lantern lemon lizard
lumber magnet maple marble meadow mirror monkey needle ocean olive orchard oyster paddle palace pebble pepper
piano pillow planet pocket prairie puzzle rabbit ribbon river rocket saddle salmon shadow silver spider spring
stable summer sunset temple thunder ticket timber tunnel turtle valley velvet violin wagon walnut whistle willow
window winter yellow zephyr
"""
WORDS = LIST.split()


class FakeLLM:
    """The server's state and handlers."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.reset()

    def reset(self) -> None:
        """Forget every counter; what is being answered still counts when it ends."""
        self.calls = self.most_in_flight = 0
        self.in_flight = getattr(self, "in_flight", 0)
        self.statuses: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self.bodies: Counter[bytes] = Counter()
        self.tokens: Counter[str] = Counter()
        self.seen: deque[tuple[str, dict[str, Any]]] = deque(maxlen=100)
        self.windows = Windows()
        self.latency_s = self.first_at = self.last_at = 0.0

    def stats(self) -> dict[str, Any]:
        """The counters. `duplicates`: sound answers to a body that had one before; `cost_usd`: what is on the bill.

        The status of a connection that was dropped is 0.
        """
        how, tokens = self.behaviour, self.tokens
        return {
            "calls": self.statuses[200], "requests": self.calls, "in_flight": self.in_flight,
            "duplicates": sum(n - 1 for n in self.bodies.values()), "distinct": len(self.bodies),
            "statuses": {str(status): n for status, n in self.statuses.items()}, "faults": dict(self.faults),
            "latency_s": self.latency_s, "first_at": self.first_at, "last_at": self.last_at,
            "most_in_flight": self.most_in_flight,
            "prompt_tokens": tokens["prompt"], "completion_tokens": tokens["completion"],
            "cost_usd": (tokens["prompt"] * how.input_usd + tokens["completion"] * how.output_usd) / 1e6,
        }  # fmt: skip

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/v1/completions", self.completion)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/stats", self._stats)
        app.router.add_post("/reset", self._reset)
        app.router.add_post("/behave", self._behave)
        return app

    async def _stats(self, _: web.Request) -> web.Response:
        return self._json(self.stats())

    async def _reset(self, _: web.Request) -> web.Response:
        self.reset()
        return web.Response(text="ok")

    async def _behave(self, request: web.Request) -> web.Response:
        self.behaviour = Behaviour(**{**asdict(self.behaviour), **orjson.loads(await request.read())})
        self.reset()
        return web.Response(text="ok")

    async def models(self, request: web.Request) -> web.Response:
        if self.behaviour.key and request.headers.get("Authorization") != f"Bearer {self.behaviour.key}":
            return web.Response(status=401, text="bad key")
        return self._json({"object": "list", "data": [{"id": "fake", "object": "model"}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=True)

    async def completion(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=False)

    async def _answer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        raw = await request.read()
        digest = hashlib.blake2b(raw + str(self.behaviour.seed).encode(), digest_size=16).digest()
        self.calls += 1
        self.first_at = self.first_at or time.time()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            body = plain_parts(orjson.loads(raw))
            self.seen.append((request.path, body))
            response, act = await self._serve(request, body, digest, chat)
        finally:
            self.in_flight -= 1
            self.last_at = time.time()
        self.statuses[0 if act in ("reset", "half") else response.status] += 1
        if act in ("", "trickle"):
            self.bodies[digest] += 1
        return response

    async def _serve(
        self, request: web.Request, body: dict[str, Any], digest: bytes, chat: bool
    ) -> tuple[web.StreamResponse, str]:
        """The reply, and the fault in it; empty for a sound one."""
        how, rng = self.behaviour, random.Random(digest)
        refusal = self._refusal(request, body)
        if refusal is not None:
            return refusal, "refused"
        latency = reply_time(how, rng)
        if latency:
            await asyncio.sleep(latency)
        self.latency_s += latency
        act, payload = self._drawn(digest), self._payload(body, rng, chat)
        if billed(how, act):
            self.tokens.update(self._spent(body, payload))
        return (await go_wrong(how, act, request, payload) if act else self._json(payload)), act

    def _refusal(self, request: web.Request, body: dict[str, Any]) -> web.Response | None:
        """An immediate error, before any work; None if there is none."""
        how = self.behaviour
        if how.key and request.headers.get("Authorization") != f"Bearer {how.key}":
            return web.Response(status=401, text="bad key")
        if how.answers_paid and self.bodies.total() >= how.answers_paid:
            return out_of_credit()
        if how.rate_limit_above and self.in_flight > how.rate_limit_above:
            return to_wait(how, how.limit_status, "slow down")
        if self.windows.wait_s(how, tokens_reserved(body)):
            return to_wait(how, how.limit_status, "too many in this minute")
        if how.echo_key:
            return web.Response(status=400, text=f"cannot serve {request.headers.get('Authorization')}")
        if self.calls <= how.fail_first:
            return to_wait(how, how.fail_status, "failing first")
        if how.refuse_schema and "response_format" in body:
            return web.Response(status=400, text="response_format is not supported")
        if how.reject_continue and "continue_final_message" in body:
            return web.Response(status=400, text="unknown field continue_final_message")
        return None

    def _drawn(self, digest: bytes) -> str:
        """The fault of this reply, counted; empty for none."""
        draw = random.Random(digest + str(self.calls).encode()).random()
        for rate, act in self.behaviour.faults():
            if draw < rate:
                self.faults[act] += 1
                return act
            draw -= rate
        return ""

    @staticmethod
    def _spent(body: dict[str, Any], payload: dict[str, Any]) -> dict[str, int]:
        """Tokens of a reply that was computed, even if the usage is not reported."""
        content = "".join(message["content"] for message in body.get("messages", ())) or body.get("prompt") or ""
        choice = payload["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        return {"prompt": max(1, len(content) // 4), "completion": max(1, len(text) // 4)}

    def _payload(self, body: dict[str, Any], rng: random.Random, chat: bool) -> dict[str, Any]:
        schema, form = (body.get("response_format") or {}).get("json_schema", {}).get("schema"), "{}"
        if schema is None and chat:
            schema, form = schema_in(body), "```json\n{}\n```"
        text = self.behaviour.reply_text or (
            form.replace("{}", json.dumps(self._value(schema, rng, "", self._low_rate(body))))
            if schema
            else self._free(body, rng, chat)
        )
        if self.behaviour.echo_begun:
            text = begun_in(body) + text
        content = "".join(message["content"] for message in body.get("messages", ())) or body.get("prompt") or ""
        cut = bool(self.behaviour.cut_rate) and rng.random() < self.behaviour.cut_rate
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if cut else "stop"}
        choice.update({"message": {"role": "assistant", "content": text}} if chat else {"text": text})
        if self._with_logprobs(body, chat):
            choice["logprobs"] = self._logprobs(content, rng)
            if self.behaviour.openai_logprobs and not chat:
                choice["logprobs"] = self._older(choice["logprobs"]["content"])
        name = self.behaviour.served_model or body.get("model")
        payload: dict[str, Any] = {"id": "fake", "object": "x", "created": 1, "model": name, "choices": [choice]}
        if self.behaviour.usage:
            spent = self._spent(body, payload)
            usage = {"prompt_tokens": spent["prompt"], "completion_tokens": spent["completion"]}
            payload["usage"] = {**usage, "total_tokens": sum(usage.values())}
            if self.behaviour.cached_share:
                cached = int(usage["prompt_tokens"] * self.behaviour.cached_share)
                payload["usage"]["prompt_tokens_details"] = {"cached_tokens": cached}
            if self.behaviour.usage_as:
                payload["usage"] = USAGES[self.behaviour.usage_as](payload["usage"])
        return payload

    def _with_logprobs(self, body: dict[str, Any], chat: bool) -> bool:
        requested = body.get("top_logprobs") or (0 if chat else body.get("logprobs"))
        return self.behaviour.logprobs and int(requested or 0) > 0

    def _free(self, body: dict[str, Any], rng: random.Random, chat: bool) -> str:
        """A reply that no schema binds."""
        how = self.behaviour
        rate = how.prefilled_refuse_rate if begun_in(body) else how.refuse_rate
        if rate and rng.random() < rate:
            return rng.choice(REFUSALS)
        if how.name_answers and not self._with_logprobs(body, chat):
            name = name_reply(body, rng, how.off_label_rate, WORDS)
            if name is not None:
                return name
        listed = list_reply(body, rng, sentence)
        return sentence(rng) if listed is None else listed

    def _logprobs(self, text: str, rng: random.Random) -> dict[str, Any]:
        """A preference among the prompt's own words, so that labels named in it are found."""
        names = sorted({word.strip(".,:;-\"'") for word in text.split()} - {""}, key=lambda w: (len(w), w))[-400:]
        scored = sorted(((name, -10 * rng.random()) for name in names), key=lambda item: -item[1])
        top = [{"token": " " + name, "logprob": value} for name, value in scored]
        return {"content": [{"token": top[0]["token"], "logprob": top[0]["logprob"], "top_logprobs": top}]}

    @staticmethod
    def _older(content: list[dict[str, Any]]) -> dict[str, Any]:
        """The same in the form of OpenAI's completions."""
        return {
            "tokens": [place["token"] for place in content],
            "token_logprobs": [place["logprob"] for place in content],
            "top_logprobs": [{other["token"]: other["logprob"] for other in p["top_logprobs"]} for p in content],
        }

    def _low_rate(self, body: dict[str, Any]) -> float:
        """Share of low scores: all of them where the text that is judged is a poor one, which all judges agree on."""
        how = self.behaviour
        if how.poor_rate and random.Random(f"{how.seed} {judged_in(body)}").random() < how.poor_rate:
            return 1.0
        return how.low_score_rate

    def _value(self, schema: dict[str, Any], rng: random.Random, name: str, low_rate: float) -> Any:
        if "enum" in schema:
            return rng.choice(schema["enum"])
        kind = schema.get("type")
        if kind == "boolean":
            return rng.random() < 0.8
        if kind == "object":
            return {key: self._value(part, rng, key, low_rate) for key, part in schema.get("properties", {}).items()}
        if kind == "array":
            count = max(1, int(schema.get("minItems", 1)))
            return [self._value(schema.get("items", {}), rng, name, low_rate) for _ in range(count)]
        if kind in ("integer", "number"):
            low, high = schema.get("minimum", 0), schema.get("maximum", 10)
            if high <= 1:
                return int(rng.random() > low_rate / 3)
            bad = rng.random() < low_rate
            return int(rng.randint(low, max(low, high - 4)) if bad else rng.randint(max(low, high - 2), high))
        return rng.choice(WORDS) if name in ("keywords", "comment", "name", "values") else sentence(rng)

    @staticmethod
    def _json(value: Any) -> web.Response:
        return web.Response(body=orjson.dumps(value), content_type="application/json")


def sentence(rng: random.Random) -> str:
    """Nine to thirteen words, so varied that hardly any two are near-duplicates."""
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(9, 13)))


class Serving(InThread):
    """The server in a thread of this process, for tests. `url` ends in /v1."""

    def __init__(self, **behaviour: Any) -> None:
        self.fake = FakeLLM(Behaviour(**behaviour))
        super().__init__(self.fake.app())

    def stats(self) -> dict[str, Any]:
        return self.fake.stats()

    def last_body(self) -> dict[str, Any]:
        """The newest request's body."""
        return self.fake.seen[-1][1]

    def last_path(self) -> str:
        """The newest request's path, such as /v1/completions."""
        return self.fake.seen[-1][0]

    def set(self, **behaviour: Any) -> None:
        """Behave otherwise from now on, and forget the counters."""
        self.fake.behaviour = Behaviour(**{**asdict(self.fake.behaviour), **behaviour})
        self.fake.reset()

    def turn(self, **behaviour: Any) -> None:
        """Behave otherwise from now on; the counters, and with them the bill, go on."""
        self.fake.behaviour = Behaviour(**{**asdict(self.fake.behaviour), **behaviour})


def main() -> None:
    """Serve until terminated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    for name, value in asdict(Behaviour()).items():
        if not isinstance(value, bool):
            kind = float if value is None else type(value)
            parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=value)
    given = vars(parser.parse_args())
    port = given.pop("port")

    async def serve() -> None:
        runner = web.AppRunner(FakeLLM(Behaviour(**given)).app(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
