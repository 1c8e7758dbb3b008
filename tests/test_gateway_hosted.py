"""Hosted providers that speak OpenAI's protocol: sent directly, with the request and price of LiteLLM itself."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_llm import Serving
from fake_provider import JSON, Recording, model

from graft.agents.gateway import Gateway
from graft.agents.gateway import hosted as module
from graft.agents.gateway.hosted import HOSTS, hosted, hosted_address
from graft.agents.gateway.hosted_transport import HostedTransport
from graft.agents.gateway.litellm_transport import LiteLLMTransport, _continues, _load
from graft.schemas.calls import CallRequest, Message, Reply, Usage
from graft.schemas.errors import CallFailed, GraftError, KeyMissing, ModelUnreachable
from graft.schemas.models import ModelSpec, Price

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # LiteLLM's own, and pydantic's about its classes
    pytest.mark.filterwarnings("ignore:.*Pydantic serializer warnings.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*using the `ReadOnly` qualifier.*:UserWarning"),  # pydantic's, about LiteLLM's
]
SCHEMA = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"],
          "additionalProperties": False}  # fmt: skip
BY_LITELLM = ("mistral", "openai", "groq", "together_ai", "deepseek", "openrouter", "anthropic")
"""The providers whose protocol LiteLLM speaks too; it uses Google's own for Gemini."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in HOSTS.values():
        for variable in (*host.keys, *host.moved, *host.special):
            monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("GRAFT_TEST_KEY", "sk-test")


@pytest.fixture
def provider() -> Iterator[Recording]:
    with Recording() as recording:
        yield recording


def ask(spec: ModelSpec, **more: Any) -> CallRequest:
    turns = (Message(role="system", content="Be kind."), Message(role="user", content="Hello"))
    given = {"temperature": 0.2, "top_p": 0.9, "max_tokens": 77, "stop": ("END",), "seed": 7, "top_logprobs": 3, **more}
    return CallRequest(model=spec, role="reviewer", purpose="test", messages=turns, **given)


async def sent(transport: Any, provider: Recording, request: CallRequest) -> tuple[Any, Reply]:
    provider.seen.clear()
    reply: Reply = await transport.send(request)
    [arrived] = provider.seen
    return arrived, reply.model_copy(update={"latency_s": 0.0})


def names() -> list[str]:
    """Every chat model of LiteLLM's list, and one that it does not list, of each provider."""
    listed = [
        (row["litellm_provider"], name)
        for name, row in (module._rows() or {}).items()
        if row.get("mode") in ("chat", "completion", "responses") and row["litellm_provider"] in BY_LITELLM
    ]
    found = [name if name.startswith(f"{host}/") else f"{host}/{name}" for host, name in listed]
    more = ["groq/llama-3.1-8b-instant", "openrouter/deepseek/deepseek-chat", "openrouter/openai/gpt-4o", "openai/o9"]
    return sorted({*found, *more, *(f"{host}/unlisted" for host in BY_LITELLM)})


async def test_every_model_is_sent_and_priced_as_by_litellm(provider: Recording) -> None:
    """The guard against drift of LiteLLM: its own code sends the same calls to the same server."""
    direct, litellm, compared = HostedTransport(4), LiteLLMTransport(), set[str]()
    for name in names():
        provider.usage = {"cost": 0.5} if name.startswith("openrouter/") else {}
        for temperature, constrained in ((0.2, True), (1.0, False)):
            spec = model(name, base_url=f"{provider.url}", api_key_env="GRAFT_TEST_KEY")
            request = ask(spec, temperature=temperature, json_schema=SCHEMA if constrained else None)
            if hosted(spec) is None:
                continue
            (arrived, reply), (expected, theirs) = (
                await sent(direct, provider, request), await sent(litellm, provider, request)
            )  # fmt: skip
            compared.add(name)
            assert arrived == expected, name
            if theirs.price_usd is None:  # OpenRouter's charge, and Groq's prices of OpenAI's models, are lost there
                theirs = theirs.model_copy(update={"price_usd": reply.price_usd})
                assert reply.price_usd is None or name.startswith(("openrouter/", "groq/openai/"))
            assert reply.price_usd is theirs.price_usd or reply.price_usd == pytest.approx(theirs.price_usd, rel=1e-9)
            assert reply.model_copy(update={"price_usd": None}) == theirs.model_copy(update={"price_usd": None}), name
        assert await direct.price(model(name)) == await litellm.price(model(name)), name
    await direct.close()
    await litellm.close()
    left = {name for name in names() if name not in compared}
    assert {name.partition("/")[0] for name in compared} == set(BY_LITELLM)
    assert {"openai/gpt-5-pro", "openai/gpt-4o-search-preview", "openai/o9", "anthropic/unlisted"} <= left
    left_at = {name.partition("/")[0] for name in left}
    assert len(left) < len(compared) / 5 and left_at == {"openai", "together_ai", "anthropic"}


def test_name_address_and_prefill_are_those_of_litellm() -> None:
    litellm = _load()
    for name in names():
        for prefill in ("auto", "continue", "none"):
            spec = model(name, prefill=prefill)
            if (found := hosted(spec)) is None:
                continue
            theirs = litellm.get_llm_provider(name)
            assert (found.spec.model, found.host) == theirs[:2]
            assert theirs[3] in (None, found.spec.base_url) and hosted_address(spec) == found.spec.base_url
            assert found.continues == _continues(litellm, spec), name
    for bare in ("gpt-4o-mini", "claude-haiku-4-5"):
        found = hosted(model(bare))
        assert found and (found.spec.model, found.host) == litellm.get_llm_provider(bare)[:2]
    assert hosted(model("grok-4")) is None is hosted_address(model("xai/grok-4"))


@pytest.mark.parametrize("host", BY_LITELLM)
async def test_key_and_address_come_from_the_variables_that_litellm_reads(
    provider: Recording, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    name = "anthropic/claude-haiku-4-5" if host == "anthropic" else f"{host}/unlisted"
    direct, litellm, loaded = HostedTransport(4), LiteLLMTransport(), _load()
    for variable in HOSTS[host].keys:
        with monkeypatch.context() as one:
            one.setenv(variable, f"sk-{variable}")
            found = hosted(model(name))
            assert found and found.spec.api_key_env == variable
            assert loaded.get_llm_provider(name)[2] in (None, f"sk-{variable}")
            for moved in HOSTS[host].moved:
                one.setenv(moved, f"{provider.url}/elsewhere")
                spec = model(name, name=f"{moved}-{variable}".lower().replace("_", "-"))
                arrived, _ = await sent(direct, provider, ask(spec))
                assert arrived == (await sent(litellm, provider, ask(spec)))[0]
                assert arrived[1]["Authorization" if host != "anthropic" else "x-api-key"].endswith(f"sk-{variable}")
                one.delenv(moved)
    with pytest.raises(KeyMissing, match=HOSTS[host].keys[0]):
        await direct.send(ask(model(name)))
    await direct.close()
    await litellm.close()


async def test_the_provider_s_key_goes_to_no_other_address(
    provider: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "sk-groq")
    transport = HostedTransport(1)
    arrived, _ = await sent(transport, provider, ask(model("groq/unlisted", base_url=provider.url)))
    assert not arrived[1]
    await transport.close()
    for address in ("https://api.groq.com/openai/v1", "https://api.groq.com:443/openai/v1"):
        own = hosted(model("groq/unlisted", base_url=address))
        assert own and own.spec.api_key_env == "GROQ_API_KEY"
    for address in ("http://api.groq.com/openai/v1", "https://api.groq.com.example/openai/v1"):
        other = hosted(model("groq/unlisted", base_url=address))
        assert other and other.spec.api_key_env is None
    monkeypatch.setenv("GROQ_API_BASE", "http://10.0.0.7/v1")
    plain = hosted(model("groq/unlisted"))
    assert plain and plain.spec.api_key_env is None, "no key crosses a network in the clear"
    monkeypatch.setenv("GROQ_API_BASE", "https://name:word@gate.example/v1")
    with pytest.raises(ModelUnreachable, match="GROQ_API_BASE") as caught:
        hosted(model("groq/unlisted"))
    assert "word" not in str(caught.value)


@pytest.mark.parametrize("name", ["groq/unlisted", "text-completion-openai/unlisted"])
async def test_nor_does_litellm_send_it_there(provider: Recording, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("GROQ_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    transport = HostedTransport(1)
    prompt = {"messages": (), "prompt": "Hello"} if name.startswith("text") else {}
    with contextlib.suppress(CallFailed):  # the answer is a chat's
        await transport.send(ask(model(name, base_url=provider.url, extra={"min_p": 0.1})).model_copy(update=prompt))
    assert [headers for _, headers, _ in provider.seen] == [{"Authorization": "Bearer none"}]
    await transport.close()


async def test_an_unknown_model_is_named(provider: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_BASE", provider.url)
    monkeypatch.setenv("GROQ_API_KEY", "sk-groq")
    provider.status, transport = 404, HostedTransport(1)
    with pytest.raises(ModelUnreachable, match="has no model 'unlisted'") as caught:
        await transport.send(ask(model("groq/unlisted")))
    assert caught.value.fix == "check model in the recipe"
    await transport.close()


@pytest.mark.parametrize("variable", ["USE_LITELLM_PROXY", "OPENAI_ORG_ID", "https_proxy"])
def test_what_litellm_would_send_otherwise_stays_with_it(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    assert hosted(model("openai/gpt-4o")) is not None
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert hosted(model("openai/gpt-4o")) is None
    assert hosted_address(model("openai/gpt-4o")) == HOSTS["openai"].address


@pytest.mark.parametrize("name", ["gemini/gemini-2.5-flash", "xai/grok-4", "openai/gpt-5-pro", "anthropic/unlisted",
                                  "openai/claude-haiku-4-5", "together_ai/together-ai-up-to-4b"])  # fmt: skip
def test_other_protocols_stay_with_litellm(name: str) -> None:
    assert hosted(model(name)) is None


def test_a_token_of_a_subscription_stays_with_litellm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-api03-0")
    assert hosted(model("anthropic/claude-haiku-4-5"))
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-oat01-0")
    assert hosted(model("anthropic/claude-haiku-4-5")) is None


def test_further_fields_stay_with_litellm() -> None:
    assert hosted(model("openai/gpt-4o", extra={"presence_penalty": 0.5})) is None


async def test_gemini_s_compatible_endpoint_gets_the_fields_that_it_accepts(provider: Recording) -> None:
    spec = model("gemini/gemini-2.5-flash-lite", base_url=f"{provider.url}/v1beta/openai", api_key_env="GRAFT_TEST_KEY")
    async with asyncio.timeout(30):
        transport = HostedTransport(1)
        (path, key, body), reply = await sent(transport, provider, ask(spec, json_schema=SCHEMA))
        await transport.close()
    assert (path, key) == ("/v1/v1beta/openai/chat/completions", {"Authorization": "Bearer sk-test"})
    assert body["model"] == "gemini-2.5-flash-lite" and not body.keys() & {"seed", "logprobs", "top_logprobs"}
    assert reply.parsed == {"score": 1} and reply.price_usd


@pytest.mark.parametrize(("name", "usage", "answer"), [
    ("openai/gpt-4o-mini", {}, {"service_tier": "priority"}),
    ("openai/gpt-4o-mini", {}, {"model": "gpt-4o-2024-05-13"}), ("openai/gpt-4o-mini", {}, {"model": "other"}),
    ("openai/gpt-5.4", {"prompt_tokens": 300_000}, {}),
    ("openai/gpt-5.4", {"prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 500}}, {}),
    ("deepseek/deepseek-v4-flash", {}, {}), ("openai/gpt-4o", {"cost": 0.25}, {}),
    ("deepseek/deepseek-chat", {"prompt_tokens_details": None, "prompt_cache_hit_tokens": 300}, {}),
    ("openai/gpt-4o", {"prompt_tokens": None}, {}), ("openai/gpt-4o", {}, {"choices": []}),
])  # fmt: skip
async def test_a_special_price_is_litellm_s(
    provider: Recording, name: str, usage: dict[str, Any], answer: dict[str, Any]
) -> None:
    provider.usage, provider.answer = usage, answer
    spec = model(name, base_url=provider.url, api_key_env="GRAFT_TEST_KEY")
    prices: list[float | None] = []
    for transport in (HostedTransport(1), LiteLLMTransport()):
        try:
            prices.append((await transport.send(ask(spec))).price_usd)
        except GraftError as failure:
            prices.append(getattr(failure, "price_usd", None))
        await transport.close()
    assert prices[0] == (None if prices[1] is None else pytest.approx(prices[1], rel=1e-9))


@pytest.mark.parametrize("name", ["deepseek/deepseek-v4-flash", "deepseek/deepseek-v4-pro"])
def test_off_peak_prices_are_litellm_s_all_week(name: str) -> None:
    from litellm._internal_context import pinned_billing_time

    litellm, found = _load(), hosted(model(name))
    counts = {"prompt_tokens": 1000, "completion_tokens": 100}
    answer = {"usage": {**counts, "prompt_tokens_details": {"cached_tokens": 400}}}
    parsed, seen = litellm.ModelResponse(model=name.partition("/")[2], **answer), set()
    for minute in range(0, 7 * 24 * 60, 30):
        now = datetime(2026, 11, 30, tzinfo=UTC) + timedelta(minutes=minute)
        assert found is not None
        at = dataclasses.replace(found, row=module._now(found.row, now))
        price = module.price_of_answer(at, answer, Usage(**counts, cached_tokens=400))
        with pinned_billing_time(now):
            assert price == pytest.approx(litellm.completion_cost(parsed, model=name), rel=1e-9)
        seen.add(price)
    assert len(seen) == 2


@pytest.mark.parametrize(("usage", "price"), [
    ({"cost": 0.25}, 0.25), ({"cost": 0.25, "is_byok": True}, None), ({}, None), ({"cost": -1}, None),
    ({"cost": "much"}, None), ({"cost": True}, None),
])  # fmt: skip
async def test_openrouter_states_its_charge(provider: Recording, usage: dict[str, Any], price: float | None) -> None:
    provider.usage = usage
    transport = HostedTransport(1)
    spec = model("openrouter/openai/gpt-4o", base_url=provider.url, api_key_env="GRAFT_TEST_KEY")
    assert (await transport.send(ask(spec))).price_usd == price
    await transport.close()


async def test_a_schema_refused_by_one_model_is_sent_to_the_others(fake_llm: Serving, tmp_path: Path) -> None:
    both = [model(f"openai/{name}", name=name, base_url=fake_llm.url) for name in ("a", "b")]
    async with Gateway(journal=tmp_path / "journal.sqlite") as gateway:
        fake_llm.set(refuse_schema=True, reply_text=JSON)
        await gateway.call(ask(both[0], json_schema=SCHEMA))
        fake_llm.set(refuse_schema=False, reply_text=JSON)
        await gateway.call(ask(both[1], json_schema=SCHEMA))
        assert "response_format" in fake_llm.last_body()
        await gateway.call(ask(both[0], json_schema=SCHEMA, seed=8))
        assert "response_format" not in fake_llm.last_body()


async def test_a_reply_that_came_through_litellm_is_not_paid_again(
    fake_llm: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ask(model("openai/gpt-4o-mini", base_url=fake_llm.url, api_key_env="GRAFT_TEST_KEY"))
    with monkeypatch.context() as before:
        before.setattr("graft.agents.gateway.hosted_transport.hosted", lambda model: None)
        async with Gateway(journal=tmp_path / "journal.sqlite") as gateway:
            first = await gateway.call(request)
    async with Gateway(journal=tmp_path / "journal.sqlite", money_usd=1.0) as gateway:
        again = await gateway.call(request)
        other = await gateway.call(request.model_copy(update={"sample": 1}))
    assert again.cached and again.text == first.text and fake_llm.stats()["calls"] == 1 + (not other.cached)
    assert again.price_usd and other.price_usd == pytest.approx(again.price_usd, rel=0.5)


@pytest.mark.parametrize("cap", [1.0, None])
def test_a_priced_call_does_not_import_litellm(fake_llm: Serving, tmp_path: Path, cap: float | None) -> None:
    code = f"""
import asyncio, sys
from pathlib import Path
from graft.agents.gateway import Gateway
from graft.schemas.calls import CallRequest, Message
from graft.schemas.models import ModelSpec

async def main():
    spec = ModelSpec(name="m", provider="litellm", model="groq/openai/gpt-oss-20b")
    request = CallRequest(model=spec, role="r", purpose="t", messages=(Message(role="user", content="Hello"),))
    async with Gateway(journal=Path({str(tmp_path / "journal.sqlite")!r}), money_usd={cap}) as gateway:
        assert (await gateway.call(request)).price_usd

asyncio.run(main())
assert not {{"litellm", "openai", "httpx"}} & sys.modules.keys(), "imported"
"""
    environment = {"PATH": "", "PYTHONPATH": str(Path(__file__).parent.parent), "GROQ_API_KEY": "sk-groq",
                   "GROQ_API_BASE": fake_llm.url}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_price_in_the_recipe_comes_first(fake_llm: Serving, tmp_path: Path) -> None:
    async def once() -> Reply:
        spec = model("openai/gpt-4o", base_url=fake_llm.url, price=Price(input=1e6, output=0))
        async with Gateway(journal=tmp_path / "journal.sqlite") as gateway:
            return await gateway.call(ask(spec))

    reply = asyncio.run(once())
    assert reply.price_usd == reply.usage.prompt_tokens
