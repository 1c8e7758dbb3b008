"""Result files of a batch: the reply or failure of each call."""

from __future__ import annotations

import asyncio
from typing import Any

from graft.agents.gateway.credentials import keys_of, raw_of
from graft.agents.gateway.ledger import cost_of
from graft.agents.gateway.openai_transport import failure_of, reply_of
from graft.agents.gateway.payload import bytes_of, json_of
from graft.agents.gateway.transport import Damaged, NotBilled, Refused
from graft.schemas.calls import CallRequest, Reply, Usage
from graft.schemas.errors import CallFailed, GraftError
from graft.schemas.models import ModelSpec, Price
from graft.schemas.redaction import redact

YIELD_EVERY = 100
"""Result lines after which the event loop runs other tasks."""
CODES = {"batch_expired": "timeout", "batch_cancelled": "cancelled"}
WORDS = 600
"""Characters kept of a provider's reasons."""


class Again(Exception):
    """No batch holds the call any more, and none has failed it: send it with the next batch."""


Outcome = bytes | GraftError | Again
"""Outcome of a call: the body of the provider's answer, or the failure."""


async def results_of(payload: bytes, model: ModelSpec) -> dict[str, Outcome]:
    """Read the lines of a result file by their calls' keys; an unreadable line counts as missing."""
    found: dict[str, Outcome] = {}
    secrets = [key.encode() for key in keys_of(model)]
    for place, line in enumerate(payload.splitlines()):
        if place % YIELD_EVERY == YIELD_EVERY - 1:
            await asyncio.sleep(0)
        try:
            result = json_of(line)
            key, outcome = str(result["custom_id"]), _outcome(result, model)
        except (LookupError, TypeError, AttributeError, ValueError):
            continue
        if isinstance(outcome, bytes):
            for secret in secrets:
                outcome = outcome.replace(secret, b"(key)")
        found.setdefault(key, outcome)
    return found


def _outcome(result: dict[str, Any], model: ModelSpec) -> Outcome:
    response, error = result.get("response"), result.get("error")
    if not response:
        reason = redact(str((error or {}).get("message") or ""), model.key_variables)[:WORDS]
        code = CODES.get(str((error or {}).get("code")), "server_error")
        return NotBilled(code, f"the batch has no reply to this call ({reason or code})", where=model.name)
    body, status = bytes_of(response.get("body")), int(response.get("status_code") or 200)
    if status == 200:
        return body
    failure = failure_of(status, None, body, model)
    if isinstance(failure, GraftError):
        return failure
    return CallFailed("server_error", "the call failed", where=model.name)


def reply_from(request: CallRequest, body: bytes, price: Price | None, latency_s: float) -> Reply:
    """Parse an answer's body to a reply at the batch's price. Raises Damaged, as a transport does."""
    try:
        reply = reply_of(request, body, bool(request.messages), latency_s)
    except Damaged as failure:
        failure.price_usd = _cost(price, failure.usage)
        raise
    return reply.model_copy(update={"price_usd": _cost(price, reply.usage)})


def _cost(price: Price | None, usage: Usage | None) -> float | None:
    if usage is None:
        return None
    return cost_of(price, usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)


def otherwise_of(status: dict[str, Any], model: ModelSpec) -> CallFailed:
    """Failure of the calls that a finished batch's files do not name."""
    kind = status.get("status")
    if kind == "failed":
        errors = ((status.get("errors") or {}).get("data") or [])[:5]
        text = "; ".join(str(error.get("message") or error.get("code") or "") for error in errors)
        reason = redact(text, model.key_variables)[:WORDS] or "no reason given"
        return Refused(f"the provider refused the batch: {reason}", where=model.name, raw=raw_of(text.encode(), model))
    if kind == "expired":
        return NotBilled("timeout", "the batch expired before it reached this call", where=model.name)
    if kind == "cancelled":
        return NotBilled("cancelled", "its batch was cancelled", where=model.name)
    return CallFailed("server_error", "the batch's results do not name this call", where=model.name)


def unconfirmed(model: ModelSpec) -> Damaged:
    """Failure of calls whose batch may exist; they are not retried, because the batch may be billed."""
    what = "the provider did not confirm the batch and lists none: it may run and bill it; a rerun submits it again"
    return Damaged("unexpected", what, where=model.name)


def cancelled(what: str, where: str = "") -> CallFailed:
    """Failure of a call that has no caller any more."""
    return CallFailed("cancelled", what, where=where)
