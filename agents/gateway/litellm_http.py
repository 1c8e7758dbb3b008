"""LiteLLM's HTTP layer: follows no redirect, bounds a reply's size, and replaces broken text."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import httpx
import orjson

from graft.agents.gateway.openai_transport import seconds_of
from graft.agents.gateway.payload import MOST_BYTES, json_of

LONGEST_S = 1e6
"""Largest Retry-After passed on, in seconds."""
most_bytes: ContextVar[int] = ContextVar("most_bytes", default=MOST_BYTES)
"""Most bytes of one reply; a batch's result file may be larger."""


class Oversized(httpx.RemoteProtocolError):
    """A reply that is, or could decompress to, more than `most_bytes`."""


class _Bounded(httpx.AsyncByteStream):
    """A body that raises Oversized beyond `most` bytes."""

    def __init__(self, inner: Any, most: int) -> None:
        self._inner, self._most = inner, most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._inner:
            size += len(part)
            if size > self._most:
                raise Oversized(f"more than {self._most / 1e6:g} MB")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


class BoundedTransport(httpx.AsyncBaseTransport):
    """Wraps a transport so that its replies are bounded, uncompressed, readable, and free of redirects."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request. Raises Oversized, also for a compressed reply, which could decompress to any size."""
        request.headers["accept-encoding"] = "identity"
        response = await self._inner.handle_async_request(request)
        headers = response.headers
        if headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            await response.aclose()
            raise Oversized("it is compressed although the request excludes compression")
        headers.pop("location", None)  # without it httpx cannot follow a redirect
        after = seconds_of(headers.pop("retry-after", None))
        if after is not None:
            headers["retry-after"] = f"{min(after, LONGEST_S):.3f}"
        response.stream = _Bounded(response.stream, most_bytes.get())
        if "json" in headers.get("content-type", ""):
            await _mend(response)
        return response

    async def aclose(self) -> None:
        """Close the wrapped transport."""
        await self._inner.aclose()


async def _mend(response: httpx.Response) -> None:
    """Replace a body of broken text or JSON by the value that `json_of` reads from it."""
    stream: Any = response.stream
    try:
        payload = b"".join([part async for part in stream])
    finally:
        await stream.aclose()
    try:
        orjson.loads(payload)
    except orjson.JSONDecodeError:
        with contextlib.suppress(ValueError, TypeError):
            payload = orjson.dumps(json_of(payload))
    response.headers.pop("transfer-encoding", None)
    response.headers["content-length"] = str(len(payload))
    response.stream = httpx.ByteStream(payload)


def bound(handler: Any) -> None:
    """Patch LiteLLM's AsyncHTTPHandler, which creates all its asynchronous connections, to create bounded ones."""
    make: Callable[..., httpx.AsyncBaseTransport | None] = handler.create_async_transport
    if getattr(make, "bounded", False):
        return

    def bounded(*given: Any, **named: Any) -> httpx.AsyncBaseTransport:
        return BoundedTransport(make(*given, **named) or httpx.AsyncHTTPTransport())

    bounded.bounded = True  # type: ignore[attr-defined]
    handler.create_async_transport = staticmethod(bounded)
