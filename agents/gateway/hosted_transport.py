"""Transport for hosted providers: directly where they speak OpenAI's protocol, otherwise through LiteLLM."""

from __future__ import annotations

import contextlib
import os
import ssl
from functools import cache
from typing import Any

import certifi

from graft.agents.gateway import anthropic
from graft.agents.gateway.hosted import PREFIXING, Hosted, Odd, adapt, hosted, known, listed_price, price_of_answer
from graft.agents.gateway.ledger import tokens_of
from graft.agents.gateway.litellm_transport import LiteLLMTransport
from graft.agents.gateway.openai_transport import BASE_URL, OpenAITransport, reply_of
from graft.agents.gateway.payload import bytes_of, json_of
from graft.agents.gateway.transport import Damaged, no_prefill
from graft.schemas.calls import CallRequest, Reply, Usage
from graft.schemas.errors import ModelUnreachable
from graft.schemas.models import ModelSpec, Price


class HostedTransport(OpenAITransport):
    """Sends the calls of models with provider litellm.

    Args:
        connections: size of the connection pool.
    """

    def __init__(self, connections: int) -> None:
        super().__init__({}, connections, _trusting(os.environ.get("SSL_CERT_FILE") or certifi.where()))
        self._others: LiteLLMTransport | None = None
        self._models: dict[str, tuple[ModelSpec, Hosted | None]] = {}
        self._sent: dict[int, Hosted] = {}

    async def close(self) -> None:
        """Close the connections, LiteLLM's too."""
        await super().close()
        if self._others is not None:
            await self._others.close()

    async def send(self, request: CallRequest) -> Reply:
        """One attempt. Raises CallFailed, KeyMissing, ModelUnreachable."""
        model = self._hosted(request.model)
        if model is None or not request.messages or not _is_reproduced(model, request):
            return await self._litellm().send(request)
        if request.continues and not model.continues:
            fix = "use provider openai with the server's address"
            raise no_prefill(request.model, "LiteLLM does not support it for this model", fix)
        direct = request.model_copy(update={"model": model.spec})
        try:
            return await self._attempt(model.spec.base_url or "", direct, chat=True)
        except ModelUnreachable as failure:
            if failure.fix != BASE_URL or request.model.base_url:
                raise
            raise ModelUnreachable(failure.what, where=failure.where, fix="check model in the recipe") from None

    async def price(self, model: ModelSpec) -> Price | None:
        """Return a model's listed price; None, never 0, for an unknown model."""
        row = known(model.model)
        return await self._litellm().price(model) if row is None else listed_price(row)

    def _hosted(self, model: ModelSpec) -> Hosted | None:
        found = self._models.get(model.name)
        if found is None or (found[0] is not model and found[0] != model):
            direct = hosted(model)
            found = self._models[model.name] = (model, direct)
            if direct is not None:
                self._sent[id(direct.spec)] = direct
        return found[1]

    def _litellm(self) -> LiteLLMTransport:
        self._others = self._others or LiteLLMTransport()
        return self._others

    def _parts(
        self, base: str, request: CallRequest, *, chat: bool, constrained: bool
    ) -> tuple[str, dict[str, str], dict[str, Any]]:
        model = self._sent[id(request.model)]
        plain = request.model_copy(update={"continues": False}) if request.continues else request
        url, headers, body = super()._parts(base, plain, chat=chat, constrained=constrained)
        if model.host == "anthropic":
            url = base if base.endswith("/v1/messages") else f"{base}/v1/messages"
            return url, anthropic.headers(headers, constrained=constrained), anthropic.body(body, model.row)
        if request.continues and model.host in PREFIXING:
            body["messages"][-1]["prefix"] = True
        adapt(body, model)
        return url, headers, body

    async def _read(self, request: CallRequest, payload: bytes, chat: bool, latency_s: float) -> Reply:
        model = self._sent[id(request.model)]
        if model.host == "anthropic":
            with contextlib.suppress(LookupError, TypeError, AttributeError, ValueError):
                payload = bytes_of(anthropic.answer(json_of(payload)))
        if request.model.price is not None:
            return reply_of(request, payload, chat, latency_s)
        try:
            reply = reply_of(request, payload, chat, latency_s)
        except Damaged as failure:
            failure.price_usd = await self._charge(model, payload, failure.usage)
            raise
        return reply.model_copy(update={"price_usd": await self._charge(model, payload, reply.usage)})

    async def _charge(self, model: Hosted, payload: bytes, usage: Usage | None) -> float | None:
        """US dollars of an answer; None if unknown."""
        if tokens_of(usage) is None:
            return None
        answer = json_of(payload)
        try:
            return price_of_answer(model, answer, usage or Usage())
        except Odd:
            return await self._litellm().cost(answer, model.name, model.host)


def _is_reproduced(model: Hosted, request: CallRequest) -> bool:
    return model.host != "anthropic" or (anthropic.is_plain(request, model.row) and not request.model.headers_env)


@cache
def _trusting(authorities: str) -> ssl.SSLContext:
    """The certificate authorities of a file, as LiteLLM trusts them."""
    return ssl.create_default_context(cafile=authorities)
