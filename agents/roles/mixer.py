"""The generator of PromptMix and HarmAug: a numbered list of texts between two classes, or one message by a prefilled
turn.

PromptMix's reply is read strictly: numbered lines only, without marks, quotes and percentages around the text. A reply
that repeats the request is rejected as a whole; a refusal is distinguished from a bad list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from graft.agents.roles.asking import (
    LENGTH,
    WORDS,
    Ask,
    cleaned,
    concept_of,
    cut,
    ended,
    examples_for,
    folded,
    request_for,
    steered_by,
)  # fmt: skip
from graft.schemas.base import Value
from graft.schemas.calls import CallRequest, Message, Reply
from graft.schemas.errors import CallFailed, TextCut
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.refusals import refusal_of
from graft.schemas.rows import Slot

_ITEM = re.compile(
    r"\A\s*+(?:(?:example|text|utterance|sentence)\s*+)?[(\[]?(\d{1,2})\s*+[.):\]](?!\d)\s*+(\S.*)$", re.IGNORECASE
)
_SHARES = re.compile(r"(?<!\s)\s*+[(\[](?=[^()\[\]]*?\d\s?%)[^()\[\]]*+[)\]]\s*+$")
_LEAD = re.compile(
    r"\A[^:\"“]{0,40}\b(?:prompt|idea|message|question|example)\b[^:\"“]{0,20}:\s*+(?=[\"“'\w])", re.IGNORECASE
)
"""Announcement of a model before the message itself, such as "Here's the message:"."""
ECHO_WORDS = 7
"""This many consecutive words of our own request are an echo."""


class Mix(Value):
    """A text that is mostly of the slot's class and partly of another, the partner."""

    partner: str
    alpha: float = Field(ge=0.5, le=1, description="share of the slot's own class")
    classes: tuple[str, ...] = Field(description="the classes that the prompt describes, in its order")


@dataclass(frozen=True)
class Mixed:
    """Result of one generation call. `refusal` names the pattern that matched, `echo` marks a repeated request.

    `cut` is the failure of a last text that was cut off and is not among the texts.
    """

    texts: tuple[str, ...]
    key: str
    refusal: str = ""
    echo: bool = False
    cut: TextCut | None = None


def percentages(alpha: float) -> tuple[int, int]:
    """The shares of class and partner as whole percentages that add up to 100 (rounded, not cut off)."""
    share = round(100 * alpha)
    return share, 100 - share


async def write_mix(
    ask: Ask, recipe: Recipe, model: ModelSpec, slot: Slot, mix: Mix, *, count: int, sample: int = 0
) -> Mixed:
    """Up to `count` texts of the slot's mix, in the order in which they were written. Raises CallFailed."""
    request = mix_request(recipe, model, slot, mix, count=count, sample=sample)
    reply = await ask(request)
    known = [seed.text for seed in slot.exemplars]
    if _echoes(reply.text, request, known):
        return Mixed((), reply.key, echo=True)
    refusal = refusal_of(reply.text)
    if refusal:
        return Mixed((), reply.key, refusal=refusal)
    short = reply.finish_reason == LENGTH
    listed = _numbered(reply.text, model)
    texts = texts_in(listed, known, cut=short)
    last = cut(request, cleaned(listed.rpartition("\n")[2])) if short and len(texts) < count else None
    return Mixed(texts[:count], reply.key, cut=last)


def mix_request(recipe: Recipe, model: ModelSpec, slot: Slot, mix: Mix, *, count: int, sample: int = 0) -> CallRequest:
    """The single user message (or the list to continue) that requests the texts."""
    share, rest = percentages(mix.alpha)
    own = [seed.text for seed in slot.exemplars if seed.label == slot.label]
    return request_for(
        "mix", recipe=recipe, model=model, role="generator", purpose="generate.mix", seed=slot.seed, sample=sample,
        stop=("\n\n", f"\n{len(own) + count + 1}."), own=own, noun=recipe.task.noun, count=count,
        language=recipe.task.language,
        kinds=_kinds(recipe, slot, mix, examples_for(recipe, model, slot)),
        shown=bool(slot.exemplars), share=share, rest=rest, seed_class=slot.label,
        partner=mix.partner, about=recipe.task.category(slot.label).description or slot.label,
        partner_about=recipe.task.category(mix.partner).description or mix.partner, concept=concept_of(slot),
        steered=steered_by(recipe, slot.label),
    )  # fmt: skip


def texts_in(reply: str, known: list[str], *, cut: bool = False) -> tuple[str, ...]:
    """The distinct texts of a numbered list, without `known` texts and a last item that was cut off."""
    seen = {folded(text) for text in known}
    items = [found[2] for line in reply.splitlines() if (found := _ITEM.match(line))]
    if cut and items:
        items.pop()
    texts: list[str] = []
    for item in items:
        text = cleaned(_SHARES.sub("", cleaned(item)))
        if text and folded(text) not in seen:
            seen.add(folded(text))
            texts.append(text)
    return tuple(texts)


def _numbered(reply: str, model: ModelSpec) -> str:
    """A reply as a whole list: the prompt ends on the first number, so its first line may be an item without one.

    A chat model may announce its list instead: that line is no text.
    """
    reply = reply.lstrip()
    first, _, rest = reply.partition("\n")
    if _ITEM.match(first):
        return reply
    begins = any(found[1] == "1" for line in rest.splitlines() if (found := _ITEM.match(line)))
    return rest if model.style == "chat" and (begins or first.rstrip(" *").endswith(":")) else f"1. {reply}"


async def write_message(
    ask: Ask, recipe: Recipe, model: ModelSpec, slot: Slot, *, prefix: str, prefill: bool, borderline: bool = False,
    sample: int = 0,
) -> tuple[str, str, bool]:  # fmt: skip
    """(message, call key, whether the turn was prefilled). A refusal is returned unchanged. Raises CallFailed if empty.

    Args:
        prefix: begins the turn of a chat model if `prefill`, and is removed from the reply in any case
        borderline: whether the message should be safe and only look harmful
    """
    begun = prefill and model.style == "chat" and bool(prefix)
    request = request_for(
        "harm_message", recipe=recipe, model=model, role="generator", purpose="generate.message", seed=slot.seed,
        sample=sample, stop=("\n",), noun=recipe.task.noun, clause=recipe.task.clause(slot.label),
        wanted=_wanted(recipe, slot, borderline), language=recipe.task.language,
        examples=[seed.text for seed in slot.exemplars],
    )  # fmt: skip
    if begun:
        turns = (*request.messages, Message(role="assistant", content=prefix))
        request = request.model_copy(update={"messages": turns, "continues": True})
    reply = await ask(request)
    text = _message(reply, prefix, request)
    if not text:
        raise CallFailed("empty", f"{model.name} gave an empty message", where=f"models.{model.name}")
    return text, reply.key, begun


def repeats_prefix(text: str, prefix: str) -> bool:
    """Return True if a reply continues the prefix ("I have an idea for a prompt that …") but gives no message."""
    begun = folded(prefix)
    return bool(begun) and folded(text).startswith(begun)


def _message(reply: Reply, prefix: str, request: CallRequest) -> str:
    """The first line with content, without marks, quotes and the prefix. Raises TextCut if it was cut off; a refusal
    that was is one all the same."""
    content = reply.text.strip()
    if content.startswith(prefix):
        content = content[len(prefix) :].strip()
    lines = [line for line in (cleaned(line) for line in content.splitlines()) if line]
    if not lines:
        return ""
    line = lines[0] if len(lines) > 1 or refusal_of(lines[0]) else ended(reply, lines[0], request)
    return " ".join(cleaned(_LEAD.sub("", line)).split())


def _wanted(recipe: Recipe, slot: Slot, borderline: bool) -> str:
    """Completion of "a message which …" for the requested side."""
    task = recipe.task
    if borderline and task.sides:
        refused, allowed = (task.clause(side) for side in task.sides)
        return f"{allowed}, though at first sight it looks as if it {refused}"
    return task.clause(slot.label)


def _kinds(recipe: Recipe, slot: Slot, mix: Mix, shown: Sequence[str]) -> list[dict[str, object]]:
    return [
        {
            "name": name,
            "about": recipe.task.category(name).description,
            "examples": [seed.text for seed in slot.exemplars if seed.label == name and seed.text in shown],
        }
        for name in mix.classes
    ]


def _runs(text: str) -> set[tuple[str, ...]]:
    words = WORDS.findall(text.casefold())
    return {tuple(words[at : at + ECHO_WORDS]) for at in range(len(words) - ECHO_WORDS + 1)}


def _echoes(reply: str, request: CallRequest, known: list[str]) -> bool:
    """Return True if any line repeats a piece of our request; the examples themselves do not count."""
    prompt = request.prompt or request.messages[-1].content
    own, examples = set[tuple[str, ...]](), {folded(text) for text in known}
    for line in prompt.splitlines():
        if folded(cleaned(line)) not in examples:
            own |= _runs(line)
    return any(_runs(line) & own for line in reply.splitlines())
