"""What a batch's result files say, call by call, and the reply or the failure that it is."""

from __future__ import annotations

import asyncio
from typing import Any

from graft.agents.gateway.ledger import cost_of
from graft.agents.gateway.openai_transport import failure_of, keys_of, raw_of, reply_of
from graft.agents.gateway.payload import bytes_of, json_of
from graft.agents.gateway.transport import Damaged, NotBilled, Refused
from graft.schemas.calls import CallRequest, Reply, Usage
from graft.schemas.errors import CallFailed, GraftError
from graft.schemas.models import ModelSpec, Price
from graft.schemas.redaction import redact

YIELD_EVERY = 100
"""Lines of results after which other tasks get their turn."""
CODES = {"batch_expired": "timeout", "batch_cancelled": "cancelled"}
WORDS = 600
"""Characters of a provider's reasons that are passed on."""


class Again(Exception):
    """No batch has this call any more, and none has failed it: it is to be sent with the next one."""


Outcome = bytes | GraftError | Again
"""What became of a call: the body of the provider's answer, or why there is none."""


async def results_of(payload: bytes, model: ModelSpec) -> dict[str, Outcome]:
    """Every line of a result file by its call's key. A line that cannot be read counts as missing."""
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
        said = redact(str((error or {}).get("message") or ""), model.key_variables)[:WORDS]
        code = CODES.get(str((error or {}).get("code")), "server_error")
        return NotBilled(code, f"the batch has no reply to this call ({said or code})", where=model.name)
    body, status = bytes_of(response.get("body")), int(response.get("status_code") or 200)
    if status == 200:
        return body
    failure = failure_of(status, None, body, model)
    return failure if isinstance(failure, GraftError) else CallFailed("server_error", "it failed", where=model.name)


def reply_from(request: CallRequest, body: bytes, price: Price | None, latency_s: float) -> Reply:
    """The reply in an answer's body, at the batch's price. Raises Damaged, as a transport does."""
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
    """What became of the calls that a finished batch's files do not name."""
    kind = status.get("status")
    if kind == "failed":
        errors = ((status.get("errors") or {}).get("data") or [])[:5]
        said = "; ".join(str(error.get("message") or error.get("code") or "") for error in errors)
        words = redact(said, model.key_variables)[:WORDS] or "it gives no reason"
        return Refused(f"the provider refused the batch: {words}", where=model.name, raw=raw_of(said.encode(), model))
    if kind == "expired":
        return NotBilled("timeout", "the batch expired before this call's turn", where=model.name)
    if kind == "cancelled":
        return NotBilled("cancelled", "its batch was cancelled", where=model.name)
    return CallFailed("server_error", "the batch's results do not name this call", where=model.name)


def unconfirmed(model: ModelSpec) -> Damaged:
    """The failure of calls whose batch may or may not exist; not tried again, since it may be billed."""
    what = "the provider did not confirm the batch and lists none: it may have it and bill it; a rerun sends it again"
    return Damaged("unexpected", what, where=model.name)


def cancelled(what: str, where: str = "") -> CallFailed:
    """The failure of a call that nobody wants any more."""
    return CallFailed("cancelled", what, where=where)
