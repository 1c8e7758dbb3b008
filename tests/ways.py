"""The ways to send a call to a fake server of OpenAI's protocol, for tests that all of them must pass."""

from __future__ import annotations

WAYS = ("openai", "hosted", "litellm")
"""A server of your own; a hosted provider, sent directly; a provider that LiteLLM sends."""
_CHAT = {"openai": "fake", "hosted": "openai/fake", "litellm": "custom_openai/fake"}


def named(way: str, *, chat: bool = True) -> dict[str, str]:
    """Provider and model of a way. LiteLLM sends all completions of provider litellm."""
    model = _CHAT[way] if chat or way == "openai" else "text-completion-openai/fake"
    return {"provider": "openai" if way == "openai" else "litellm", "model": model}
