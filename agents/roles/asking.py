"""Shared by the roles: one step's request, and the strict reading of a reply."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson

from graft.agents.roles.prompting import question, render
from graft.schemas.calls import CallRequest, Message, Reply
from graft.schemas.errors import CallFailed, TextCut
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Slot
from graft.schemas.steering import SteerRow

Ask = Callable[[CallRequest], Awaitable[Reply]]
"""Sends one request through the gateway. Raises CallFailed (or BudgetExhausted) if there is no usable reply."""

_PAIRS = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`"}
_MARKERS = re.compile(
    r"\A(?:(?:[-*•–]\s|\(?\d{1,2}[.)]\s|(?:example|text|task|answer)\s*+(?:\d++\s*+)?:)\s*+)+", re.IGNORECASE
)
WORDS = re.compile(r"[^\W_]+")
LENGTH = "length"
"""Finish reason of a reply that its token limit cut off."""
MOST_MISTAKES = 8
"""Mistakes in a prompt, unless a label has more of its own."""
_SENTENCES = re.compile(r"\A.*[.!?…](?=\s)", re.DOTALL)


def concept_of(slot: Slot) -> str:
    """The concept that a steered slot's text is about, within its label; empty for all others."""
    return slot.steer.concept if slot.steer else ""


def mistakes_for(recipe: Recipe, label: str) -> list[SteerRow]:
    """The student's mistakes that a request for a label shows: all of the label's own, then some taken for it."""
    wrong = [row for row in recipe.steering.exemplars if row.taken_for] if recipe.steering else []
    own = [row for row in wrong if row.label == label]
    return own + [row for row in wrong if row.taken_for == label][: max(0, MOST_MISTAKES - len(own))]


def steered_by(recipe: Recipe, label: str) -> str:
    """The part of a request for a label that shows the last student's report and mistakes; empty if neither is set."""
    report, mistakes = recipe.steering.report if recipe.steering else (), mistakes_for(recipe, label)
    if not report and not mistakes:
        return ""
    return render("steered", recipe.prompts, classes=recipe.task.names, report=report, mistakes=mistakes).strip()


def examples_for(recipe: Recipe, model: ModelSpec, slot: Slot) -> list[str]:
    """The slot's exemplars as a prompt lists them: a chat model does not see a mistake of `steered_by` twice.

    A base model does, as its prompt is a list that goes on.
    """
    wrong = set[str]() if model.style == "completion" else {row.text for row in mistakes_for(recipe, slot.label)}
    return [seed.text for seed in slot.exemplars if seed.text not in wrong]


def request_for(
    template: str | Path, *, recipe: Recipe, model: ModelSpec, role: str, purpose: str, seed: int, sample: int = 0,
    schema: dict[str, Any] | None = None, stop: tuple[str, ...] = (), max_tokens: int | None = None, **values: Any,
) -> CallRequest:  # fmt: skip
    """One step's request in the model's style, sampled as the role sets; `stop` is for completions only."""
    spec = recipe.role(role)
    return CallRequest(
        model=model, role=role, purpose=purpose, json_schema=schema, sample=sample, seed=(seed + sample) % 2**31,
        temperature=spec.temperature, top_p=spec.top_p, max_tokens=max_tokens or spec.max_tokens,
        stop=stop if model.style == "completion" else (), **question(template, model, recipe.prompts, **values),
    )  # fmt: skip


def can_begin(model: ModelSpec) -> bool:
    """Return True if the model may continue a prefilled turn; a completion's text always may be."""
    return model.style != "chat" or model.prefill != "none"


def continued(request: CallRequest, prefix: str) -> CallRequest:
    """The request whose reply continues `prefix`: the prompt of a base model, or the turn of a tuned one."""
    if request.prompt is not None:
        return request.model_copy(update={"prompt": f"{request.prompt} {prefix}"})
    turns = (*request.messages, Message(role="assistant", content=prefix))
    return request.model_copy(update={"messages": turns, "continues": True})


def object_schema(properties: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A JSON schema of an object with exactly these properties, in this order."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def short_string(model: ModelSpec, chars: int) -> dict[str, Any]:
    """A string's schema. A small embedded model would ramble to the token limit, so its grammar ends the string.

    Hosted servers refuse maxLength in strict schemas; their models end the string without it.
    """
    return {"type": "string", "maxLength": max(40, chars)} if model.provider == "embedded" else {"type": "string"}


def object_in(reply: Reply, model: ModelSpec) -> dict[str, Any]:
    """The JSON object of a reply. Raises CallFailed (malformed) with the raw text if there is none."""
    value = reply.parsed
    if value is None:
        try:
            value = orjson.loads(reply.text.strip())
        except orjson.JSONDecodeError:
            value = None
    if not isinstance(value, dict):
        raise CallFailed("malformed", f"{model.name} gave no JSON object", where=f"models.{model.name}", raw=reply.text)
    return value


def unmet(model: ModelSpec, what: str, reply: Reply) -> CallFailed:
    """The failure of a reply without the requested content."""
    return CallFailed("schema_unmet", f"{model.name} {what}", where=f"models.{model.name}", raw=reply.text)


def cleaned(text: str) -> str:
    """Text without the decoration that models add: bullets, "1.", "Example 1:", and quotation marks around the
    whole."""
    text = text.strip()
    while (bare := unquoted(_MARKERS.sub("", text, count=1)).strip()) != text:
        text = bare
    return text


def ended(reply: Reply, text: str, request: CallRequest) -> str:
    """Plain text of a reply; of one that ran into its token limit up to its last whole sentence. Raises TextCut if it
    has none."""
    if reply.finish_reason != LENGTH:
        return text
    whole = whole_sentences(text)
    if not whole:
        raise cut(request, text)
    return whole


def whole_sentences(text: str) -> str:
    """A text up to its last whole sentence; empty if it has none."""
    found = _SENTENCES.match(text + " ")
    return found[0] if found else ""


def cut(request: CallRequest, text: str, chars: int = 0, by: str = "") -> TextCut:
    """The failure of a text that ended at its request's token limit, or at the `chars` that the field `by` allows."""
    where = by or f"roles.{request.role}.max_tokens"
    how = f"held to {chars} characters by" if chars else "cut off at"
    return TextCut(f"{request.model.name} was {how} {where}", where=where, raw=text)


def folded(text: str) -> str:
    """The words of a text only: texts that fold alike are the same text."""
    return " ".join(WORDS.findall(text.casefold()))


def first_words(text: str, most: int) -> str:
    """At most `most` words of a text, on one line."""
    return " ".join(text.split()[:most])


def unquoted(text: str) -> str:
    """Text without quotation marks around the whole of it, or one that only opens it."""
    opening = text[:1]
    closing = _PAIRS.get(opening, "")
    inner = text[1:-1]
    if closing and len(text) > 1 and text.endswith(closing) and opening not in inner and closing not in inner:
        return inner
    if opening in ('"', "“") and not set('"“”') & set(text[1:]):
        return text[1:]
    return text
