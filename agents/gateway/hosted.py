"""Hosted providers that are sent directly: address, key, price and request fields, as LiteLLM has them.

They speak OpenAI's protocol, but for Anthropic (anthropic.py).

LiteLLM is not imported, which takes 5 to 7 s: only its list of models and prices is read. A model that LiteLLM would
send in a way that is not reproduced here exactly stays with LiteLLM; `tests/test_gateway_hosted.py` compares the two
for every model of the list.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import orjson

from graft.agents.gateway.ledger import MICRO
from graft.schemas.addresses import ADDRESS_FIX, checked_url
from graft.schemas.calls import Usage
from graft.schemas.errors import ModelUnreachable
from graft.schemas.models import ModelSpec, Price
from graft.schemas.problems import FieldErrors


@dataclass(frozen=True)
class Host:
    """One provider.

    Attributes:
        address: its base address.
        keys: variables of its key; the first that is set counts.
        moved: variables with an address to use instead.
        special: variables that make LiteLLM send something else.
    """

    address: str
    keys: tuple[str, ...]
    moved: tuple[str, ...] = ()
    special: tuple[str, ...] = ()


HOSTS: Mapping[str, Host] = MappingProxyType({
    "openai": Host(
        "https://api.openai.com/v1", ("OPENAI_API_KEY",), ("OPENAI_BASE_URL", "OPENAI_API_BASE"),
        ("OPENAI_ORGANIZATION", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"),
    ),
    "mistral": Host(
        "https://api.mistral.ai/v1", ("MISTRAL_API_KEY",), (), ("MISTRAL_AZURE_API_BASE", "MISTRAL_AZURE_API_KEY")
    ),
    "groq": Host("https://api.groq.com/openai/v1", ("GROQ_API_KEY",), ("GROQ_API_BASE",)),
    "together_ai": Host(
        "https://api.together.ai/v1",
        ("TOGETHER_API_KEY", "TOGETHER_AI_API_KEY", "TOGETHERAI_API_KEY", "TOGETHER_AI_TOKEN"),
        ("TOGETHER_AI_API_BASE",),
    ),
    "deepseek": Host("https://api.deepseek.com/beta", ("DEEPSEEK_API_KEY",), ("DEEPSEEK_API_BASE",)),
    "openrouter": Host(
        "https://openrouter.ai/api/v1", ("OPENROUTER_API_KEY", "OR_API_KEY"), ("OPENROUTER_API_BASE",),
        ("OR_SITE_URL", "OR_APP_NAME"),
    ),
    "anthropic": Host(
        "https://api.anthropic.com", ("ANTHROPIC_API_KEY",), ("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL"),
        ("ANTHROPIC_AUTH_TOKEN", "LITELLM_ANTHROPIC_DISABLE_URL_SUFFIX"),
    ),
    "gemini": Host("https://generativelanguage.googleapis.com/v1beta/openai", ("GEMINI_API_KEY", "GOOGLE_API_KEY")),
})  # fmt: skip
"""By LiteLLM's name of the provider."""
SPECIAL = ("USE_LITELLM_PROXY", "SSL_VERIFY", "SSL_CERTIFICATE", "SSL_SECURITY_LEVEL", "SSL_ECDH_CURVE")
"""Variables that make LiteLLM send to any provider in another way."""
SUBSCRIPTION = "sk-ant-oat"
"""Beginning of Anthropic's OAuth tokens, which LiteLLM sends with other headers."""
LIST = "model_prices_and_context_window_backup.json"
KEPT = (
    "litellm_provider", "mode", "alias_of", "input_cost_per_token", "output_cost_per_token",
    "cache_read_input_token_cost", "off_peak_pricing", "supports_assistant_prefill", "supports_response_schema",
    "supports_system_messages", "supports_native_structured_output", "supports_sampling_params",
    "supports_none_reasoning_effort", "default_reasoning_effort",
)  # fmt: skip
LONG = re.compile(r"_above_(\d+)k_tokens")
"""Fields with the price of prompts longer than so many thousand tokens."""
PRICED_OTHERWISE = ("together-ai-", "gemini/gemini-exp-")
"""Beginnings of names whose row is not what LiteLLM charges."""
NO_SCHEMA = frozenset({"gpt-4", "gpt-3.5-turbo-16k"})
SAMPLING = ("logprobs", "top_logprobs", "top_p")
ORDINARY = frozenset({"cached_tokens", "text_tokens", "reasoning_tokens", "accepted_prediction_tokens"})
"""Details of a usage that the three rates of a row cover."""
TOOL = "json_tool_call"
"""Tool by which Groq's models without JSON schemas return JSON."""
PREFIXING = frozenset({"mistral", "deepseek", "codestral"})
"""Providers that continue the last turn only if it is marked `prefix`."""
RATES = frozenset({"input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost"})
OFF_PEAK, WINDOW = RATES | {"windows"}, frozenset({"hours_utc", "weekdays"})
"""Fields of an off-peak price, and of one of its windows, that are understood here."""
USUAL_TIERS, USUAL_PLACES = (None, "auto", "default", "on_demand", "standard"), (None, "global", "not_available")

Row = Mapping[str, Any]


class Odd(Exception):
    """A reply whose price LiteLLM must compute."""


@dataclass(frozen=True)
class Hosted:
    """A model that is sent directly.

    Attributes:
        name: LiteLLM's name of it.
        host: LiteLLM's name of its provider.
        spec: the model as a server of its own: the provider's name of it, address and key.
        row: its row in LiteLLM's list; empty for an unknown model.
    """

    name: str
    host: str
    spec: ModelSpec
    row: Row

    @property
    def continues(self) -> bool:
        """True if a prefilled turn can be sent, by the model's `prefill: continue` or LiteLLM's list."""
        if self.spec.prefill in ("none", "template"):
            return False
        return self.spec.prefill == "continue" or bool(self.row.get("supports_assistant_prefill"))


def hosted(model: ModelSpec) -> Hosted | None:
    """Return how to send a model of provider litellm directly; None if LiteLLM must. Raises ModelUnreachable."""
    host, name = _named(model)
    row = known(model.model)
    if not host or row is None or model.extra or any(map(os.environ.get, (*SPECIAL, *HOSTS[host].special))):
        return None
    if _is_foreign(host, name, row):
        return None
    base = _base(host, model)
    if _proxied(base) or (host == "gemini" and not (model.base_url and base.endswith("/openai"))):
        return None  # without such an address LiteLLM uses Google's own protocol
    if host != "openrouter":
        name = row.get("name", name).removeprefix(f"{host}/")
    variable = _key(host, model, base)
    if os.environ.get(variable or "", "").strip().startswith(SUBSCRIPTION):
        return None
    own = {"provider": "openai", "model": name, "base_url": base, "api_key_env": variable}
    return Hosted(model.model, host, model.model_copy(update=own), {} if host == "openrouter" else row)


def _is_foreign(host: str, name: str, row: Row) -> bool:
    """Return True if LiteLLM sends a model to another provider, or by another protocol of OpenAI's."""
    if host == "anthropic" and not row:
        return True
    if host == "openai":
        unknown = _reasons(name) and not row
        if unknown or row.get("mode") == "responses" or name.startswith("responses/") or "search" in name:
            return True
    return host != "openrouter" and row.get("litellm_provider", host) != host


def hosted_address(model: ModelSpec) -> str | None:
    """Base address of a model of provider litellm; None if it is unknown, because only LiteLLM knows it."""
    host, _ = _named(model)
    return _base(host, model) if host else model.base_url


def listed_price(row: Row | None) -> Price | None:
    """Price of a row of LiteLLM's list; None, never 0, if it has none."""
    if not row or row.get("input_cost_per_token") is None:
        return None
    cached = row.get("cache_read_input_token_cost")
    return Price(
        input=row["input_cost_per_token"] * MICRO, output=(row.get("output_cost_per_token") or 0) * MICRO,
        cached_input=None if cached is None else cached * MICRO,
    )  # fmt: skip


def price_of_answer(model: Hosted, answer: Any, usage: Usage) -> float | None:
    """US dollars of an answer at the listed price of the model that served it; None if unknown. Raises Odd."""
    given = answer["usage"]
    if usage.prompt_tokens is None or usage.completion_tokens is None:
        return None
    if model.host == "openrouter":  # it reports its own charge, without the upstream's where that has your key
        cost = given.get("cost")
        charged = type(cost) in (int, float) and not given.get("is_byok") and math.isfinite(cost) and cost >= 0
        return float(cost) if charged else None
    if model.row.get("input_cost_per_token") is None:
        return None
    served = answer.get("model")
    row = _now((_served(model.host, served) if isinstance(served, str) else None) or model.row, datetime.now(UTC))
    if _is_odd(row, answer, usage.prompt_tokens):
        raise Odd
    cached = min(usage.cached_tokens or 0, usage.prompt_tokens)
    rate, cached_rate = row["input_cost_per_token"], row.get("cache_read_input_token_cost")
    prompt = (usage.prompt_tokens - cached) * rate + cached * (rate if cached_rate is None else cached_rate)
    return float(prompt + usage.completion_tokens * (row.get("output_cost_per_token") or 0))


def _now(row: Row, now: datetime) -> Row:
    """A row with its rates at a time: those off peak replace the others in their windows. Other rules stay Odd."""
    cheaper = row.get("off_peak_pricing")
    if cheaper is None or cheaper.keys() - OFF_PEAK or any(rule.keys() != WINDOW for rule in cheaper["windows"]):
        return row
    clock = f"{now:%H:%M}"
    for rule in cheaper["windows"]:
        spans = [rule["hours_utc"]] if isinstance(rule["hours_utc"], str) else rule["hours_utc"]
        if now.isoweekday() in rule["weekdays"] and any(_within(span, clock) for span in spans):
            row = {**row, **cheaper}
            break
    return {name: value for name, value in row.items() if name not in ("off_peak_pricing", "windows")}


def _within(span: str, clock: str) -> bool:
    """Return True from the start of a span such as 22:00-06:00 until its end, which may be on the next day."""
    start, _, end = span.partition("-")
    return start <= clock < end if start < end else clock >= start or clock < end


def _is_odd(row: Row, answer: Row, prompt: int) -> bool:
    """Return True if more than the rates of prompt, cached and completion tokens decide the price."""
    usage = answer["usage"]
    if "off_peak_pricing" in row or "reasoning" in row or prompt > row.get("long", math.inf):
        return True
    if usage.get("cost") is not None or any(tier.get("service_tier") not in USUAL_TIERS for tier in (answer, usage)):
        return True
    if usage.get("inference_geo") not in USUAL_PLACES or usage.get("speed") not in USUAL_TIERS or "iterations" in usage:
        return True
    for part in ("prompt_tokens_details", "completion_tokens_details"):
        counted = usage.get(part)
        if isinstance(counted, dict) and any(counted[name] for name in counted.keys() - ORDINARY):
            return True
    return False


def adapt(body: dict[str, Any], model: Hosted) -> None:
    """Change a request's body to the fields that the provider and the model accept, as LiteLLM does."""
    name = model.spec.model
    if model.host == "openai":
        if _reasons(name):
            _reason(body, model.row, name.startswith("o"))
        elif name in NO_SCHEMA:
            body.pop("response_format", None)
    elif model.host in ("mistral", "gemini"):
        seed = body.pop("seed", None)
        if seed is not None and model.host == "mistral":
            body["random_seed"] = seed
        for field in ("logprobs", "top_logprobs"):
            body.pop(field, None)
    elif model.host == "groq" and "response_format" in body and not model.row.get("supports_response_schema"):
        schema = body.pop("response_format")["json_schema"]["schema"]
        body["tools"] = [{"type": "function", "function": {"name": TOOL, "parameters": schema}}]
        body["tool_choice"] = {"type": "function", "function": {"name": TOOL}}
    elif model.host == "openrouter":
        body["usage"] = {"include": True}


def _reasons(name: str) -> bool:
    """Return True for OpenAI's reasoning models, by name as LiteLLM does."""
    reasons = (name[:1] == "o" and name[1:2].isdigit()) or "gpt-5" in name or "gpt-6" in name
    return reasons and "gpt-5-chat" not in name


def _reason(body: dict[str, Any], row: Row, o_series: bool) -> None:
    """The fields of OpenAI's reasoning models, which sample freely only if they do not reason by default."""
    body["max_completion_tokens"] = body.pop("max_tokens")
    if not o_series:
        body.pop("stop", None)
    elif not row.get("supports_system_messages"):
        body["messages"] = [
            {**message, "role": "user" if message["role"] == "system" else message["role"]}
            for message in body["messages"]
        ]
    if not row.get("supports_none_reasoning_effort") or row.get("default_reasoning_effort") != "none":
        for field in (*SAMPLING, *(("temperature",) if body["temperature"] != 1 else ())):
            body.pop(field, None)


def known(model: str) -> Row | None:
    """A model's row of LiteLLM's list, by its whole name or without the provider; empty if unknown.

    None if the list cannot be read, or the row is not what LiteLLM charges.
    """
    rows = _rows()
    if rows is None:
        return None
    bare = model.partition("/")[2] or model
    if model.startswith(PRICED_OTHERWISE) or bare.startswith(PRICED_OTHERWISE):
        return None
    return rows.get(model) or rows.get(bare) or {}


@cache
def _rows() -> dict[str, Row] | None:
    """LiteLLM's list, with the fields that are used here; an alias has its target's row."""
    package = importlib.util.find_spec("litellm")
    path = Path(package.origin).parent / LIST if package and package.origin else None
    if path is None or not path.exists():
        return None
    whole = orjson.loads(path.read_bytes())
    return {name: _row(whole, row) for name, row in whole.items()}


def _row(whole: dict[str, Any], row: dict[str, Any]) -> Row:
    target = row.get("alias_of")
    if target in whole:
        return {**_row(whole, whole[target]), "name": target}
    kept = {field: row[field] for field in KEPT if field in row}
    if thresholds := [int(found[1]) for field in row if "above" in field and (found := LONG.search(field))]:
        kept["long"] = 1000 * min(thresholds)
    if row.get("output_cost_per_reasoning_token") not in (None, row.get("output_cost_per_token")):
        kept["reasoning"] = True
    return kept


def _served(host: str, name: str) -> Row | None:
    rows = _rows() or {}
    for key in (f"{host}/{name}", name):
        row = rows.get(key)
        if row and row["litellm_provider"] == host and row.get("input_cost_per_token") is not None:
            return row
    return None


def keeps_key_back(model: ModelSpec) -> bool:
    """Return True if LiteLLM must be kept from sending a provider's own key to an address that only a recipe names."""
    host = model.model.partition("/")[0].removeprefix("text-completion-")
    if not model.base_url or host not in HOSTS or model.headers_env:
        return False
    return _key(host, model, _base(host, model)) is None


def _named(model: ModelSpec) -> tuple[str, str]:
    """The provider of HOSTS (empty: another) and its name of the model. OpenAI's and Anthropic's may be bare."""
    host, slash, name = model.model.partition("/")
    if model.provider == "litellm" and slash and host in HOSTS:
        return host, name
    bare = model.provider == "litellm" and not slash and not model.base_url
    listed = (known(host) or {}).get("litellm_provider", "") if bare else ""
    return (listed, model.model) if listed in ("openai", "anthropic") else ("", "")


def _base(host: str, model: ModelSpec) -> str:
    """Base address: the recipe's, that of the environment, or the provider's. Raises ModelUnreachable."""
    base = model.base_url
    if not base:
        variable = next(filter(os.environ.get, HOSTS[host].moved), "")
        try:
            base = checked_url(os.environ[variable]) if variable else HOSTS[host].address
        except FieldErrors:
            what = f"the environment variable {variable} does not hold an address without a key"
            raise ModelUnreachable(what, where=model.name, fix=ADDRESS_FIX) from None
    base = base.rstrip("/")
    return f"{base}/v1" if host == "mistral" and not base.endswith("/v1") else base


def _key(host: str, model: ModelSpec, base: str) -> str | None:
    """Variable of the key. The provider's own key is sent to no address that only the recipe names."""
    if model.api_key_env or any(name.lower() == "authorization" for name in model.headers_env):
        return model.api_key_env
    own, there = urlsplit(HOSTS[host].address), urlsplit(base)
    secure = there.scheme == "https" or there.hostname in ("127.0.0.1", "::1", "localhost")
    if (model.base_url and there[:2] != own[:2]) or not secure:
        return None
    return next(filter(os.environ.get, HOSTS[host].keys), HOSTS[host].keys[0])


def _proxied(base: str) -> bool:
    """Return True if the environment has a proxy for an address, which LiteLLM would use."""
    parts, proxies = urlsplit(base), getproxies()
    return bool(proxies.get(parts.scheme) or proxies.get("all")) and not proxy_bypass(parts.hostname or "")
