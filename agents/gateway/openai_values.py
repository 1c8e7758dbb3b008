"""Values in the answer of a server that speaks OpenAI's protocol: tokens, log-probabilities, times, words.

A server may send anything; what is absent or nonsense is None, or left out.
"""

from __future__ import annotations

import math
import time
from email.utils import parsedate_to_datetime
from operator import itemgetter
from typing import Any

from graft.agents.gateway.payload import storable
from graft.schemas.calls import TokenLogprob, Usage

LONGEST_WORD = 200
"""Characters of a finish reason or a model's name that are kept."""
LEAST_LOGPROB = -10_000.0
MOST_TOKENS = 10_000_000
"""A count above it is nonsense: ten times the longest context there is."""


def usage_of(usage: Any) -> Usage:
    """Token counts; None where the server left them out or they cannot be true: no number of tokens, no token in the
    prompt, more cached than sent. DeepSeek has a name of its own for cached ones."""
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    own = usage.get("prompt_cache_hit_tokens")
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
    """A count of tokens; 12.0 is one, true and "12" are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= MOST_TOKENS and value == int(value) else None


def logprobs_of(logprobs: dict[str, Any] | None) -> tuple[TokenLogprob, ...]:
    """Alternatives at each place, best first, from the chat form (also llama.cpp's) or the older completions form.

    Raises TypeError, AttributeError, LookupError, ValueError for any other form.
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
    """A log-probability in the range that sums of exponentials bear. Raises TypeError for no number."""
    if not isinstance(value, int | float):
        raise TypeError("no number")
    return max(LEAST_LOGPROB, min(0.0, float(value)))


def seconds_of(retry_after: str | None) -> float | None:
    """Retry-After in seconds, from a number or a date; None where it is absent or unreadable."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, OverflowError, LookupError, TypeError, AttributeError, OSError):
            return None  # the parser of dates raises each of these for some text
    return None if math.isnan(seconds) else max(0.0, seconds)


def word_of(value: Any) -> str | None:
    """A short text of an answer, such as a model's name; None where it is none."""
    return storable(value[:LONGEST_WORD]) if isinstance(value, str) else None
