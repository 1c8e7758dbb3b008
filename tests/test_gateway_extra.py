"""The request sent to a server equals the reserved, keyed and recorded one, with any extra fields of a model."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from fake_llm import Serving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ways import WAYS, named

from graft.agents.gateway import Gateway
from graft.agents.gateway.journal import unpacked
from graft.agents.gateway.journal_store import ROWS, export, opened
from graft.agents.gateway.openai_transport import body_of
from graft.schemas.calls import CallRequest, Message
from graft.schemas.errors import KeyMissing, ModelUnreachable
from graft.schemas.extra import own_setting
from graft.schemas.models import ModelSpec, Price

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # LiteLLM's own, and pydantic's about its classes
    pytest.mark.filterwarnings("ignore:.*Pydantic serializer warnings.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*using the `ReadOnly` qualifier.*:UserWarning"),  # pydantic's, about LiteLLM's
]
OWN = {"model": "fake", "temperature": 0.2, "top_p": 0.9, "max_tokens": 32, "seed": 7,
       "messages": [{"role": "user", "content": "hello"}]}  # fmt: skip
SLIPPED = {
    "max_tokens": 9000, "max_completion_tokens": 9000, "n": 5, "best_of": 5, "messages": [], "prompt": "x",
    "model": "dear", "stream": True, "temperature": 2, "seed": 1, "timeout": 0.001, "mock_response": "for free",
    "api_base": "http://127.0.0.1:9", "extra_body": {"n": 7, "max_tokens": 9000, "min_p": 0.5}, "min_p": 0.5,
    "api_key": "sk-another-0123456789", "extra_headers": {"Authorization": "none"}, "num_retries": 9,
}  # fmt: skip


def ask(spec: ModelSpec) -> CallRequest:
    return CallRequest(
        model=spec, role="generator", purpose="test", max_tokens=32, seed=7,
        messages=(Message(role="user", content="hello"),),
    )  # fmt: skip


def model(url: str, **more: Any) -> ModelSpec:
    return ModelSpec(**{"name": "m", "provider": "openai", "model": "fake", "base_url": url, **more})


def recorded(journal: Path) -> list[tuple[str, dict[str, Any]]]:
    with opened(journal, read_only=True) as connection:
        return [(row[0], orjson.loads(unpacked(row[1]))) for row in connection.execute(ROWS)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.floats(-9, 9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8,
)  # fmt: skip
FIELD = st.sampled_from(["top_k", "min_p", "extra_body", "options", "n", "Max_Tokens", "stream", "messages", "model",
                         "seed", "stop", "api_key", "chat_template_kwargs"]) | st.text(max_size=12)  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(extra=st.dictionaries(FIELD, JSON, max_size=4))
def test_the_body_that_arrives_is_the_one_that_was_keyed_and_recorded(
    fake_llm: Serving, tmp_path: Path, extra: dict[str, Any]
) -> None:
    """Or the recipe is refused, because of a field that it names."""
    try:
        spec = model(fake_llm.url, extra=extra)
    except ValidationError as refused:
        assert "extra" in str(refused)
        spec = model(fake_llm.url).model_copy(update={"extra": extra})
        sent = body_of(ask(spec), chat=True, constrained=False)
        assert {name: sent[name] for name in OWN} == OWN, "even what slips through changes none of Graft's fields"
        return
    assert not any(own_setting(name) for name in extra)
    asyncio.run(_once(tmp_path / "journal.sqlite", ask(spec)))
    key, body = recorded(tmp_path / "journal.sqlite")[-1]
    assert fake_llm.last_body() == orjson.loads(orjson.dumps({**OWN, **extra})) == body
    assert key == ask(spec).key()
    (tmp_path / "journal.sqlite").unlink()


async def _once(journal: Path, request: CallRequest, **more: Any) -> None:
    async with Gateway(journal=journal, retries=0, **more) as gateway:
        await gateway.call(request)


@pytest.mark.parametrize("provider", WAYS)
async def test_what_slips_past_a_recipe_is_not_sent(
    fake_llm: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    monkeypatch.setenv("GRAFT_TEST_KEY", "sk-test")
    fake_llm.set(key="sk-test")
    plain = model(fake_llm.url, **named(provider), api_key_env="GRAFT_TEST_KEY")
    await _once(tmp_path / "journal.sqlite", ask(plain.model_copy(update={"extra": SLIPPED})))
    sent = fake_llm.last_body()
    assert {name: sent[name] for name in OWN} == OWN
    assert sent.keys() <= OWN.keys() | {"min_p", "extra_body"} and sent["min_p"] == 0.5
    assert sent.get("extra_body", {"min_p": 0.5}) == {"min_p": 0.5}


async def test_a_cap_holds_with_any_extra_fields(fake_llm: Serving, tmp_path: Path) -> None:
    """Eight replies of 9,000 tokens each came for the price of one of 32."""
    spec = model(fake_llm.url, price=Price(input=0, output=1000))
    slipped = spec.model_copy(update={"extra": {"n": 8, "max_tokens": 9000}})
    await _once(tmp_path / "journal.sqlite", ask(slipped), money_usd=0.04)
    assert (fake_llm.last_body()["max_tokens"], "n" in fake_llm.last_body()) == (32, False)


async def test_words_in_extra_are_reserved_too(fake_llm: Serving, tmp_path: Path) -> None:
    from graft.schemas.errors import BudgetExhausted

    spec = model(fake_llm.url, price=Price(input=1000, output=0), extra={"chat_template": "x" * 30_000})
    with pytest.raises(BudgetExhausted):
        await _once(tmp_path / "journal.sqlite", ask(spec), money_usd=1.0)


async def test_an_argument_of_litellms_own_is_refused_before_anything_is_sent(
    fake_llm: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_TEST_KEY", "sk-test")
    spec = model(fake_llm.url, provider="litellm", model="openai/fake", api_key_env="GRAFT_TEST_KEY",
                 extra={"litellm_session_id": "x"})  # fmt: skip
    with pytest.raises(ModelUnreachable, match="an argument of LiteLLM itself") as caught:
        await _once(tmp_path / "journal.sqlite", ask(spec))
    assert caught.value.where == "models.m.extra.litellm_session_id" and fake_llm.stats()["requests"] == 0


@pytest.mark.parametrize("provider", WAYS)
async def test_a_header_of_a_provider_comes_from_the_environment(
    fake_llm: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    word = "Bearer a-word-without-shape"
    fake_llm.set(key=word.removeprefix("Bearer "))
    if provider == "litellm":
        monkeypatch.setenv("OPENAI_API_KEY", "unused-0123")
    spec = model(fake_llm.url, **named(provider), headers_env={"Authorization": "SHOP_HEADER"})
    with pytest.raises(KeyMissing, match="SHOP_HEADER"):
        await _once(tmp_path / "journal.sqlite", ask(spec))
    monkeypatch.setenv("SHOP_HEADER", word)
    await _once(tmp_path / "journal.sqlite", ask(spec))
    assert fake_llm.stats()["statuses"] == {"200": 1}
    assert word.encode() not in (tmp_path / "journal.sqlite").read_bytes()
    fake_llm.set(key="", echo_key=True)
    with pytest.raises(Exception, match="refused") as caught:
        await _once(tmp_path / "other.sqlite", ask(spec))
    assert word not in str(caught.value) + str(getattr(caught.value, "raw", ""))


@pytest.mark.parametrize("url", ["http://me:hush@127.0.0.1:1/v1", "http://127.0.0.1:1/v1?key=hush"])
def test_an_address_from_elsewhere_holds_no_key_either(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="must not hold") as caught:
        Gateway(journal=tmp_path / "journal.sqlite", endpoints={"m": url})
    assert "hush" not in str(caught.value)


def test_a_journal_of_an_earlier_graft_is_exported_without_keys(tmp_path: Path) -> None:
    from graft.agents.gateway.journal import Journal
    from graft.schemas.calls import Reply

    body = {**OWN, "top_k": 3, "extra_body": {"headers": {"X-Key": "a-word-77"}, "note": "sk-canary0123456789ab"}}
    journal = Journal(tmp_path / "journal.sqlite")
    asyncio.run(journal.add(orjson.dumps(body), Reply(key="k" * 32, text="hello")))
    journal.close()
    export(tmp_path / "journal.sqlite", tmp_path / "out.jsonl")
    line = (tmp_path / "out.jsonl").read_text()
    assert "a-word-77" not in line and "sk-canary" not in line
    assert orjson.loads(line)["request"]["messages"] == OWN["messages"] and '"top_k":3' in line
