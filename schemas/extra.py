"""A model's `extra`: request fields that a recipe may add, and those that it must not, at any depth.

Refused are keys (by a field's name or a text's shape), and every field that Graft itself sends, or uses to reserve
money or to read replies, under the names that OpenAI, Azure, Anthropic, Google, Cohere, vLLM, SGLang, llama.cpp, Ollama
and LiteLLM give it. Letter case and separators do not count: `maxTokens` is `max_tokens`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from graft.schemas.addresses import KEY_FIX
from graft.schemas.problems import FieldErrors, Finding
from graft.schemas.redaction import FIELD_LIKE, has_key

DEEPEST = 32

_SETTINGS: dict[str, str] = {
    "remove it: set max_tokens of a role, such as roles.generator.max_tokens": """
        max_tokens max_completion_tokens max_output_tokens max_new_tokens max_tokens_to_sample max_token_count
        max_length max_gen_len max_decode_steps n_predict num_predict""",
    "remove it: every call requests one reply": """
        n n_cmpl best_of num_return_sequences num_completions num_generations num_results candidate_count""",
    "remove it: set models[].model": """
        model models model_name model_id model_list engine deployment deployment_id route fallbacks base_model
        context_window_fallback_dict content_policy_fallbacks model_alias_map silent_model custom_llm_provider
        use_litellm_proxy hf_model_name""",
    "remove it: the prompt is the role's": """
        messages prompt prompts input inputs contents system system_prompt system_instruction instructions preamble
        input_ids prompt_token_ids prompt_embeds suffix echo prefix input_prefix input_suffix input_extra chat_history
        documents prompt_id prompt_variables prompt_label prompt_version custom_prompt_dict initial_prompt_value
        final_prompt_value roles litellm_system_prompt user_continue_message assistant_continue_message
        ensure_alternating_roles continue_final_message add_generation_prompt""",
    "remove it: Graft reads whole replies": "stream stream_options stream_timeout stream_response stream_chunk_size",
    "remove it: set temperature of a role, such as roles.generator.temperature": "temperature temp",
    "remove it: set top_p of a role, such as roles.generator.top_p": "top_p p",
    "remove it: set seed, from which every call's seed follows": "seed random_seed",
    "remove it: set models[].top_logprobs, and answer: logprobs of a role": """
        logprobs top_logprobs n_probs num_logprobs return_logprob top_logprobs_num response_logprobs prompt_logprobs""",
    "remove it: Graft sets where a reply stops": "stop stop_sequences",
    "remove it: Graft sends the JSON schema of each role": """
        response_format response_schema response_mime_type response_json_schema json_schema grammar guided_json
        guided_regex guided_choice guided_grammar structured_outputs structural_tag output_format format regex ebnf""",
    "remove it: Graft's calls use no tools and make text only": """
        tools tool_choice tool_config functions function_call web_search_options search_parameters enable_search
        plugins mcp_servers connectors data_sources audio modalities prediction""",
    "remove it: set models[].base_url": "base_url api_base endpoint endpoint_url url",
    "remove it: set models[].timeout_s": "timeout request_timeout force_timeout client_side_timeout mock_timeout",
    "remove it: Graft alone retries and paces calls": """
        num_retries max_retries retry_policy retry_strategy cooldown_time rpm tpm max_parallel_requests""",
    "remove it: the journal is the only cache": "cache caching cache_key preset_cache_key no_cache",
    "remove it: set models[].price and limits.money_usd": "tiered_pricing max_budget budget_duration",
    "remove it: it would change the request": """
        drop_params additional_drop_params allowed_openai_params mock_response mock_tool_calls mock_delay client
        logger_fn callbacks success_callback failure_callback input_callback service_callback guardrails
        complete_response acompletion atext_completion text_completion proxy_server_request model_info""",
    "remove it: name each header and the environment variable of its value in models[].headers_env": """
        headers extra_headers default_headers http_headers provider_specific_header""",
    "remove it: an address has no query string; LiteLLM takes api_version": "extra_query default_query query_params",
}
_PATTERNS = (
    (re.compile(r"^max\w*tokens?$"), next(iter(_SETTINGS))),
    (re.compile(r"costper|pricing$"), "remove it: set models[].price and limits.money_usd"),
)
_INNER_DATA = frozenset({"chattemplatekwargs", "metadata", "logitbias", "provider", "loraadapter"})
"""Fields whose content is data to the server, or OpenRouter's provider choice: names in them are no parameters."""
PRICED = frozenset({"servicetier", "speed", "performanceconfig"})
"""Fields that change a call's price: they require `price` in the recipe, which is then reserved."""

OWN_HEADERS = frozenset({
    "content-type", "content-length", "content-encoding", "host", "connection", "transfer-encoding", "accept-encoding",
    "expect", "te", "trailer", "upgrade",
})  # fmt: skip
"""Headers that the transports set; none of them holds a key."""


def plain_name(name: object) -> str:
    """A field's name without letter case and separators."""
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


_OWN = {plain_name(name): fix for fix, names in _SETTINGS.items() for name in names.split()}
_SPECIAL_TOKEN = re.compile(r"^(?:bos|eos|pad|unk|sep|cls|mask|stop|image|special)token$")


def own_setting(name: object) -> str | None:
    """The setting to use in place of this field; None if the field is free."""
    plain = plain_name(name)
    return _OWN.get(plain) or next((fix for pattern, fix in _PATTERNS if pattern.search(plain)), None)


def is_key_name(name: object) -> bool:
    """Return True if a field of this name holds a key. Vocabulary tokens, such as `eos_token`, do not count."""
    return bool(FIELD_LIKE.search(str(name))) and not _SPECIAL_TOKEN.search(plain_name(name))


def check_extra(extra: Mapping[str, Any]) -> None:
    """Raise FieldErrors with every field of `extra` that a recipe must not set, and a value that JSON cannot hold."""
    problems = list(_misplaced(extra, (), inner=False))
    if not problems:
        try:
            orjson.dumps(extra)
        except (TypeError, ValueError):
            fix = "write numbers of 64 bits at most and texts of whole characters"
            problems.append(Finding((), "extra has a value that JSON cannot hold", fix))
    if problems:
        raise FieldErrors(problems)


def sendable(extra: Mapping[str, Any]) -> dict[str, Any]:
    """`extra` without the fields that `check_extra` refuses: the same for every model that was validated."""
    return dict(_without(extra, inner=False, deepest=DEEPEST))


def _misplaced(value: Any, path: tuple[str | int, ...], *, inner: bool) -> Iterator[Finding]:
    if len(path) > DEEPEST:
        yield Finding(path[:3], "extra is nested too deeply", "flatten it")
    elif isinstance(value, Mapping):
        for name, below in value.items():
            here = (*path, "(a key)" if has_key(str(name)) else str(name))
            fix = None if inner else own_setting(name)
            if fix:
                yield Finding(here, f"{here[-1]} is a field that Graft itself sets or prices", fix)
            elif is_key_name(name) or here[-1] == "(a key)":
                yield Finding(here, "a key does not belong in a recipe", KEY_FIX)
            else:
                yield from _misplaced(below, here, inner=inner or plain_name(name) in _INNER_DATA)
    elif isinstance(value, list | tuple):
        for index, below in enumerate(value):
            yield from _misplaced(below, (*path, index), inner=inner)
    elif isinstance(value, str) and has_key(value):
        yield Finding(path, "a key does not belong in a recipe", KEY_FIX)


def _without(value: Any, *, inner: bool, deepest: int) -> Any:
    if isinstance(value, Mapping) and deepest:
        return {
            name: _without(below, inner=inner or plain_name(name) in _INNER_DATA, deepest=deepest - 1)
            for name, below in value.items()
            if (inner or not own_setting(name)) and not is_key_name(name) and not _holds_key(name, below)
        }
    if isinstance(value, list | tuple) and deepest:
        return [_without(below, inner=inner, deepest=deepest - 1) for below in value if not _holds_key("", below)]
    return value


def _holds_key(name: object, value: Any) -> bool:
    return has_key(str(name)) or (isinstance(value, str) and has_key(value))
