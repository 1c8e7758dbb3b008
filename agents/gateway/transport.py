"""Transport protocol: one attempt at one request. The gateway adds retries, limits and the journal."""

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
        """Close the connections."""
        ...


class NotBilled(CallFailed):
    """Failure that no provider bills: the request was never sent, or the answer is an error that is free of charge.

    Any other failed attempt may be billed and is charged at its reservation.
    """


class RateLimited(NotBilled):
    """Rate limit of the server, with its `retry_after` in seconds if given. `final`: no retry follows."""

    def __init__(
        self, what: str, *, where: str = "", retry_after: float | None = None, raw: str = "", code: str = ""
    ) -> None:
        self.retry_after, self.final = retry_after, False
        super().__init__(code or "rate_limited", what, where=where, raw=raw)


class Refused(NotBilled):
    """The server refuses this request; `status` is the HTTP status."""

    def __init__(self, what: str, *, where: str = "", raw: str = "", code: str = "", status: int = 400) -> None:
        self.status = status
        super().__init__(code or "refused_by_server", what, where=where, raw=raw)


class Damaged(CallFailed):
    """Unusable reply, which the server bills all the same. `usage` is None if it cannot be read."""

    def __init__(
        self, code: str, what: str, *, where: str = "", raw: str = "", usage: Usage | None = None,
        price_usd: float | None = None,
    ) -> None:  # fmt: skip
        self.usage, self.price_usd = usage, price_usd
        super().__init__(code, what, where=where, raw=raw)


@contextmanager
def recorded(model: ModelSpec, *, billed: bool = True) -> Iterator[None]:
    """Turn any exception other than GraftError into the failure `unexpected` of one call, which is not retried.

    The traceback goes to the run's log (INFO stays off the terminal), the type and message to `raw`. If `billed`, the
    failure is a Damaged reply of unknown cost, because the provider may have answered.
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


def prefill_of(request: CallRequest) -> str:
    """Text of the assistant turn that the model continues; empty if there is no prefill."""
    return request.messages[-1].content if request.continues and request.messages else ""


def no_prefill(model: ModelSpec, why: str = "", fix: str = "") -> NoPrefill:
    """Build the error for a model that cannot continue a prefilled turn; `why` is the server's reason or ours."""
    fix = fix or "set chat_template to the model's turn format"
    return NoPrefill(
        "the server cannot continue a prefilled turn" + (f" ({why})" if why else ""), where=f"models.{model.name}",
        fix=f"{fix}, or prefill: none with method.prefill: false",
    )  # fmt: skip
