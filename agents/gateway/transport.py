"""What every transport is: one attempt at one request. Retrying, limits and the journal are the gateway's."""

from __future__ import annotations

from typing import Protocol

from schemas.calls import CallRequest, Reply, Usage
from schemas.errors import CallFailed, NoPrefill
from schemas.models import ModelSpec


class Transport(Protocol):
    """Sends a request once. Raises CallFailed; a rate limit carries the server's `retry_after` in seconds."""

    async def send(self, request: CallRequest) -> Reply:
        """One attempt."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class NotBilled(CallFailed):
    """The provider bills nothing: the request was never sent, or answered by an error that no provider charges for.

    Any other failure of an attempt may be billed, and is charged as all that was reserved for it.
    """


class RateLimited(NotBilled):
    """The server asked to wait, for `retry_after` seconds where it said so. `final`: it was asked often enough."""

    def __init__(
        self, what: str, *, where: str = "", retry_after: float | None = None, raw: str = "", code: str = ""
    ) -> None:
        self.retry_after, self.final = retry_after, False
        super().__init__(code or "rate_limited", what, where=where, raw=raw)


class Refused(NotBilled):
    """The server will not serve this request; `status` is what it answered with."""

    def __init__(self, what: str, *, where: str = "", raw: str = "", code: str = "", status: int = 400) -> None:
        self.status = status
        super().__init__(code or "refused_by_server", what, where=where, raw=raw)


class Damaged(CallFailed):
    """The server answered, and bills it, but the reply is of no use. `usage` is None where it cannot be read."""

    def __init__(
        self, code: str, what: str, *, where: str = "", raw: str = "", usage: Usage | None = None,
        price_usd: float | None = None,
    ) -> None:  # fmt: skip
        self.usage, self.price_usd = usage, price_usd
        super().__init__(code, what, where=where, raw=raw)


def begun_of(request: CallRequest) -> str:
    """The text of the assistant's turn that the model is to go on with; empty where none is begun."""
    return request.messages[-1].content if request.continues and request.messages else ""


def no_prefill(model: ModelSpec, why: str = "", fix: str = "") -> NoPrefill:
    """The error for a person where a model cannot go on with a begun turn; `why` in the server's or our words."""
    fix = fix or "set chat_template to the model's turn format"
    return NoPrefill(
        "the server cannot continue a begun turn" + (f" ({why})" if why else ""), where=f"models.{model.name}",
        fix=f"{fix}, or prefill: none with method.prefill: false",
    )  # fmt: skip
