"""Safe reading of an endpoint's bytes: bounded size, JSON of any shape, text that every store accepts."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    import aiohttp

MOST_BYTES = 16_000_000
"""Most bytes of one decompressed reply; 128,000 tokens with log-probabilities take about 8 MB."""
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""Characters that a store may reject: NUL (Postgres), and lone surrogates, which UTF-8 cannot encode."""
LARGEST_INT = 2**63 - 1


class TooLarge(ValueError):
    """An endpoint sent more than `MOST_BYTES`."""


def storable(text: str) -> str:
    """Replace NULs and lone surrogates by U+FFFD. Raises TypeError or AttributeError if the value is not text."""
    if "\x00" not in text:
        try:
            text.encode()
        except UnicodeEncodeError:
            pass
        else:
            return text
    return UNSTORABLE.sub("\ufffd", text)


def cleaned(value: Any) -> Any:
    """Make a JSON value's strings storable and its numbers finite (else null) and 64-bit (else float).

    Raises RecursionError for a value that is nested too deeply.
    """
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list):
        return [cleaned(item) for item in value]
    if isinstance(value, dict):
        return {storable(name): cleaned(item) for name, item in value.items()}
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        value = float(value)
    return value if not isinstance(value, float) or math.isfinite(value) else None


def json_of(payload: bytes) -> Any:
    """Parse JSON; if strict parsing fails, replace invalid UTF-8, lone surrogates, NaN and Infinity.

    Raises ValueError.
    """
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        try:
            return cleaned(json.loads(payload.decode(errors="replace")))
        except (RecursionError, OverflowError) as error:
            raise ValueError(f"unreadable JSON ({type(error).__name__})") from None


def bytes_of(value: Any) -> bytes:
    """Serialise a value that a library parsed as JSON for `json_of`. Raises ValueError, TypeError."""
    try:
        return orjson.dumps(value, default=str)
    except TypeError:  # a lone surrogate, a large number, a deep nesting
        try:
            return json.dumps(value, default=str).encode()
        except RecursionError:
            raise ValueError("nested too deeply") from None


async def body_within(response: aiohttp.ClientResponse, most: int = MOST_BYTES) -> bytes:
    """Read and decompress a response's body. Raises TooLarge before more than `most` bytes are held."""
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > most:
            raise TooLarge(f"more than {most / 1e6:g} MB")
        parts.append(part)
    return b"".join(parts)
