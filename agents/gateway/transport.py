"""What every transport is: one attempt at one request. Retrying, limits and the journal are the gateway's."""

from __future__ import annotations

from typing import Protocol

from schemas.calls import CallRequest, Reply
from schemas.errors import CallFailed

RETRYABLE = frozenset({"timeout", "rate_limited", "server_error", "connection", "malformed", "empty", "schema_unmet"})


class Transport(Protocol):
    """Sends a request once. Raises CallFailed; a rate limit carries the server's `retry_after` in seconds."""

    async def send(self, request: CallRequest) -> Reply:
        """One attempt."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class RateLimited(CallFailed):
    """The server asked to wait, for `retry_after` seconds where it said so."""

    def __init__(
        self, what: str, *, where: str = "", retry_after: float | None = None, raw: str = "", code: str = ""
    ) -> None:
        self.retry_after = retry_after
        super().__init__(code or "rate_limited", what, where=where, raw=raw)
