"""Anthropic's Messages API, sent directly: LiteLLM's requests, and its reading of every answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fake_provider import Recording, model

from graft.agents.gateway.hosted import HOSTS
from graft.agents.gateway.hosted_transport import HostedTransport
from graft.agents.gateway.litellm_transport import LiteLLMTransport
from graft.schemas.calls import CallRequest, Message
from graft.schemas.errors import CallFailed, GraftError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # LiteLLM's own, and pydantic's about its classes
    pytest.mark.filterwarnings("ignore:.*Pydantic serializer warnings.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*using the `ReadOnly` qualifier.*:UserWarning"),  # pydantic's, about LiteLLM's
]
SCORE = {"type": "integer", "minimum": 0, "maximum": 10, "description": "How good."}
WORDS = {"type": "array", "minItems": 1, "maxItems": 3, "items": {"type": "string", "minLength": 1, "maxLength": 9}}
PAIRS = {"type": "array", "minItems": 2, "items": {"type": "object", "properties": {"name": {"type": "string"}},
                                                   "additionalProperties": False}}  # fmt: skip
LABEL = {"type": "string", "enum": ["yes", "no"], "title": "Label"}
CLOSED: dict[str, Any] = {
    "type": "object", "properties": {"score": SCORE, "words": WORDS, "pairs": PAIRS, "label": LABEL},
    "required": ["score"], "additionalProperties": False,
}  # fmt: skip
TURNS = {"user": "Hello ", "assistant": "Well then ", "system": "Be kind."}


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recording]:
    monkeypatch.setenv("GRAFT_TEST_KEY", "sk-test")
    for variable in HOSTS["anthropic"].special:
        monkeypatch.delenv(variable, raising=False)
    with Recording() as recording:
        yield recording


def ask(provider: Recording, name: str = "claude-haiku-4-5", roles: str = "system user", **more: Any) -> CallRequest:
    spec = more.pop("spec", {})
    turns = tuple(Message(role=role, content=TURNS[role]) for role in roles.split())  # type: ignore[arg-type]
    given = {
        "temperature": 0.2,
        "top_p": 0.9,
        "max_tokens": 77,
        "seed": 7,
        "top_logprobs": 3,
        "messages": turns,
        **more,
    }
    full = model(f"anthropic/{name}", base_url=provider.url, api_key_env="GRAFT_TEST_KEY", **spec)
    return CallRequest(model=full, role="reviewer", purpose="test", **given)


async def both(provider: Recording, request: CallRequest) -> tuple[list[Any], list[Any]]:
    """The requests of the direct transport and of LiteLLM as they arrived, and the reply that each returned."""
    arrived, outcomes = [], []
    for transport in (HostedTransport(1), LiteLLMTransport()):
        provider.seen.clear()
        try:
            reply = await transport.send(request)
            usd = None if reply.price_usd is None else round(reply.price_usd, 12)
            outcomes.append((reply.text, reply.finish_reason, reply.parsed, reply.usage, reply.served_model, usd))
        except GraftError as failure:
            outcomes.append((type(failure).__mro__[-4:], getattr(failure, "code", "")))
        await transport.close()
        arrived.append(list(provider.seen))
        assert len(provider.seen) == 1
    return arrived, outcomes


@pytest.mark.parametrize("name", ["claude-haiku-4-5", "claude-opus-4-7"])
@pytest.mark.parametrize("more", [
    {}, {"roles": "user"}, {"roles": "system system user"}, {"roles": "system user assistant user"},
    {"roles": "user assistant", "continues": True, "spec": {"prefill": "continue"}}, {"stop": ("\n", "END", " ")},
    {"stop": ("\n",)}, {"temperature": 1.0}, {"json_schema": CLOSED}, {"json_schema": {**CLOSED, "required": []}},
])  # fmt: skip
async def test_every_form_of_request_is_litellm_s(provider: Recording, name: str, more: dict[str, Any]) -> None:
    (direct, litellm), (ours, theirs) = await both(provider, ask(provider, name, **more))
    assert direct == litellm and ours == theirs
    assert direct[0][1]["anthropic-version"] and "user-agent" not in direct[0][1]


@pytest.mark.parametrize("more", [
    {"roles": "user user"}, {"roles": "assistant user"}, {"roles": "user system user"}, {"roles": "system"},
    {"messages": (Message(role="user", content=" "),)}, {"spec": {"headers_env": {"anthropic-beta": "BETA"}}},
    {"json_schema": {"type": "object", "properties": {"score": SCORE}}},
    {"json_schema": {**CLOSED, "properties": {"a": {"enum": [1, 2]}}}}, {"json_schema": {**CLOSED, "oneOf": []}},
])  # fmt: skip
async def test_any_other_form_stays_with_litellm(
    provider: Recording, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    monkeypatch.setenv("BETA", "one")

    async def send(self: LiteLLMTransport, request: CallRequest) -> None:
        raise CallFailed("cancelled", "through LiteLLM")

    monkeypatch.setattr(LiteLLMTransport, "send", send)
    transport = HostedTransport(1)
    with pytest.raises(CallFailed, match="through LiteLLM"):
        await transport.send(ask(provider, **more))
    await transport.close()


@pytest.mark.parametrize(("usage", "answer"), [
    *(({}, {"stop_reason": reason}) for reason in ("max_tokens", "stop_sequence", "refusal", "pause_turn", "other")),
    ({}, {"stop_reason": "refusal", "content": []}), ({}, {"content": [{"type": "text", "text": " "}]}),
    ({"cache_creation_input_tokens": 300}, {}), ({"cache_read_input_tokens": None}, {}), ({"inference_geo": "us"}, {}),
    ({"speed": "fast"}, {}), ({"service_tier": "priority"}, {}), ({"input_tokens": 150_000}, {}),
    ({}, {"model": "claude-opus-4-5"}),
    ({}, {"model": "claude-haiku-4-5-20251001"}), ({"output_tokens": 0}, {}),
])  # fmt: skip
async def test_an_answer_means_what_it_means_to_litellm(
    provider: Recording, usage: dict[str, Any], answer: dict[str, Any]
) -> None:
    provider.usage, provider.answer = usage, answer
    _, (ours, theirs) = await both(provider, ask(provider))
    assert ours == theirs


async def test_a_count_that_is_missing_makes_the_price_unknown(provider: Recording) -> None:
    provider.usage = {"input_tokens": None}
    transport = HostedTransport(1)
    reply = await transport.send(ask(provider))
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.price_usd) == (None, 100, None)
    await transport.close()


@pytest.mark.parametrize("answer", [
    {"content": None}, {"content": [{"type": "text"}]}, {"content": "x"}, {"content": [None]},
    {"type": "error", "content": None, "error": {"type": "overloaded_error", "message": "x"}},
])  # fmt: skip
async def test_an_answer_of_any_other_shape_is_malformed(provider: Recording, answer: dict[str, Any]) -> None:
    provider.answer = answer
    transport = HostedTransport(1)
    with pytest.raises(CallFailed) as caught:
        await transport.send(ask(provider))
    assert caught.value.code == "malformed"
    await transport.close()


@pytest.mark.parametrize(("status", "error"), [
    (400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error"), (404, "not_found_error"),
    (413, "request_too_large"), (429, "rate_limit_error"), (500, "api_error"), (529, "overloaded_error"),
])  # fmt: skip
async def test_errors_end_alike(provider: Recording, status: int, error: str) -> None:
    provider.status, provider.answer = status, {"type": "error", "error": {"type": error, "message": "no"}}
    _, (ours, theirs) = await both(provider, ask(provider))
    assert ours == theirs
