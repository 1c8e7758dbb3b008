"""The responder: an answer to an instruction that refuses it or complies with it (HarmAug step 3).

It decides no label: the guard judges each pair afterwards.
"""

from __future__ import annotations

import re
from typing import Literal

from graft.agents.roles.asking import Ask, can_begin, continued, ended, request_for
from graft.schemas.calls import CallRequest, Reply
from graft.schemas.errors import CallFailed, NoPrefill
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Slot

Kind = Literal["refusal", "compliance"]

TEMPLATES = {"refusal": "respond_refusal", "compliance": "respond_comply"}
OFFSETS = {"refusal": 101, "compliance": 202}
"""Added to the slot's random seed, so that the variants of one instruction are drawn independently."""

_SPEAKER = re.compile(r"\A(?:assistant|response|answer|reply)\s*+:\s*+", re.IGNORECASE)
_NEXT = re.compile(r"(?<!\s)[^\S\n]*+\n\s*+(?:user|instruction)\s*+:", re.IGNORECASE)


async def respond(
    ask: Ask,
    *,
    recipe: Recipe,
    model: ModelSpec,
    slot: Slot,
    instruction: str,
    variant: Kind,
    prefix: str = "",
) -> tuple[str, str, bool]:
    """The response, the key of its call, and whether the model's turn was prefilled. Raises CallFailed.

    A compliant response begins with `prefix`; a model that cannot continue a prefilled turn
    (`prefill: none`, or its server cannot) is called without it.
    """
    plain = _request(recipe, model, slot, instruction, variant)
    prefix = prefix.strip() if variant == "compliance" and can_begin(model) else ""
    if prefix:
        begun = continued(plain, prefix)
        try:
            reply = await ask(begun)
        except NoPrefill:
            pass
        else:
            return _joined(prefix, _response_in(reply, begun, prefix)), reply.key, True
    reply = await ask(plain)
    return _response_in(reply, plain), reply.key, False


def _request(recipe: Recipe, model: ModelSpec, slot: Slot, instruction: str, variant: Kind) -> CallRequest:
    return request_for(
        TEMPLATES[variant], recipe=recipe, model=model, role="responder", purpose=f"respond.{variant}",
        seed=slot.seed + OFFSETS[variant], stop=("\nUser:",), instruction=instruction,
        policy=recipe.task.clause(recipe.task.names[0]),
    )  # fmt: skip


def _response_in(reply: Reply, request: CallRequest, prefix: str = "") -> str:
    """The text without the decoration that models add, nor the prefix if the server repeats it. Raises CallFailed."""
    text, model = reply.text.strip(), request.model
    if model.style == "completion":
        text = _NEXT.split(text, maxsplit=1)[0]
    text = _SPEAKER.sub("", ended(reply, text, request).strip())
    if prefix and text.startswith(prefix):
        text = text.removeprefix(prefix)
    text = _unquoted(text.strip())
    if not text:
        raise CallFailed("empty", f"{model.name} gave an empty response", where=f"models.{model.name}", raw=reply.text)
    return text


def _joined(prefix: str, text: str) -> str:
    """The prefix followed by the model's continuation."""
    return f"{prefix} {text}" if text[0].isalnum() or text[0] in "\"'(*-#[“‘`" else f"{prefix}{text}"


def _unquoted(text: str) -> str:
    """The text without quotation marks around the whole; a list's numbers and dashes belong to the answer and stay."""
    inner = text[1:-1]
    return inner.strip() if len(text) > 1 and text[0] + text[-1] in ('""', "“”") and text[0] not in inner else text
