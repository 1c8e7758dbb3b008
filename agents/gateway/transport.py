"""What every transport is: one attempt at one request. Retrying, limits and the journal are the gateway's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from graft.agents.gateway.payload import storable
from graft.schemas.calls import CallRequest, Reply, Usage
from graft.schemas.errors import CallFailed, GraftError, NoPrefill
from graft.schemas.models import ModelSpec
from graft.schemas.redaction import redact

_log = logging.getLogger(__name__)
MESSAGE = 500
"""Characters of an unexpected exception's message that are kept."""


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


@contextmanager
def recorded(model: ModelSpec, *, billed: bool = True) -> Iterator[None]:
    """Turn any exception that is not a GraftError into the failure `unexpected` of one call, which is not tried again.

    The traceback goes to the run's log (INFO stays off the terminal), the type and message to `raw`. Where `billed`,
    the failure is a Damaged reply of unknown cost: the provider may have answered.
    """
    try:
        yield
    except GraftError:
        raise
    except Exception as error:
        _log.info("a call failed unexpectedly", extra={"event": "call.unexpected", "model": model.name}, exc_info=error)
        kind = type(error).__name__
        message = redact(storable(f"{kind}: {error}"), [model.api_key_env] if model.api_key_env else ())[:MESSAGE]
        what = f"the call failed unexpectedly ({kind}; the run's log has the traceback)"
        if billed:
            raise Damaged("unexpected", what, where=model.name, raw=message) from error
        raise CallFailed("unexpected", what, where=model.name, raw=message) from error


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
