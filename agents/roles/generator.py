"""The generator: one text for a label, or keywords, then an instruction, then its response (GRA section 3).

Every function returns the text and the key of the call. All raise CallFailed if no reply is usable.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from graft.agents.roles.asking import (
    Ask,
    cleaned,
    concept_of,
    ended,
    examples_for,
    object_in,
    object_schema,
    request_for,
    short_string,
    steered_by,
    unmet,
)  # fmt: skip
from graft.schemas.calls import CallRequest, Reply
from graft.schemas.errors import CallFailed
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Slot

KEYWORD_CHARS = 60
NEWLINE = ("\n",)
MOST_CONCEPTS, SHOWN = 5, 6
"""Most subjects of one label, and most texts in the prompt that they are named from."""


async def write_text(ask: Ask, recipe: Recipe, model: ModelSpec, slot: Slot, manner: str = "") -> tuple[str, str]:
    """A new text for the slot's label, on one line, after its exemplars; `manner` tells how. Raises CallFailed."""
    request = _request(
        recipe, model, slot, "text", {"text": _string(recipe, model)}, stop=NEWLINE, manner=manner,
        **_wanted(recipe, model, slot),
    )  # fmt: skip
    reply = await ask(request)
    return " ".join(_text_of(reply, model, "text").split()), reply.key


async def write_texts(
    ask: Ask, recipe: Recipe, model: ModelSpec, slot: Slot, count: int, manners: Sequence[str], sample: int = 0
) -> tuple[str, ...]:
    """Up to `count` texts of one reply in their order, each on one line; `manners` holds one for each, or is empty.

    `max_tokens` of the generator holds for one text. Raises CallFailed if the reply holds no list.
    """
    texts = {"type": "array", "items": _string(recipe, model), "minItems": count, "maxItems": count}
    request = _request(
        recipe, model, slot, "texts", {"texts": texts}, stop=("\n\n",), sample=sample,
        max_tokens=count * recipe.role("generator").max_tokens, count=count, manners=list(manners),
        **_wanted(recipe, model, slot),
    )  # fmt: skip
    reply = await ask(request)
    if model.style == "completion":
        given: Any = reply.text.strip().splitlines()
        given = given[:-1] if reply.finish_reason == "length" and len(given) > 1 else given
    else:
        given = object_in(reply, model).get("texts")
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise unmet(model, "gave no list of texts", reply)
    lines = (" ".join(cleaned(text).split()) for text in given)
    return tuple(line for line in lines if line or model.style == "chat")[:count]


def _wanted(recipe: Recipe, model: ModelSpec, slot: Slot) -> dict[str, Any]:
    """The part of a prompt for texts of a label that the label and its slot decide."""
    return {
        "noun": recipe.task.noun, "clause": recipe.task.clause(slot.label), "language": recipe.task.language,
        "examples": examples_for(recipe, model, slot), "concept": concept_of(slot),
        "steered": steered_by(recipe, slot.label),
    }  # fmt: skip


async def write_keywords(
    ask: Ask, recipe: Recipe, model: ModelSpec, slot: Slot, *, most: int
) -> tuple[tuple[str, ...], str]:
    """At most `most` keywords that none of the exemplars has. Raises CallFailed if none is new."""
    domain = recipe.task.category(slot.label)
    words = {"type": "array", "items": short_string(model, KEYWORD_CHARS), "minItems": 1, "maxItems": most}
    request = _request(
        recipe, model, slot, "keywords", {"keywords": words}, stop=NEWLINE, max_tokens=128,
        most=most, domain=domain.name, about=domain.description,
        examples=[", ".join(seed.keywords) for seed in slot.exemplars if seed.keywords],
    )  # fmt: skip
    reply = await ask(request)
    given = keywords_in(reply, model)
    known = {word.casefold() for seed in slot.exemplars for word in seed.keywords}
    new = tuple(word for word in given if word.casefold() not in known)[:most]
    if not new:
        raise unmet(model, "gave no keyword that the examples do not have", reply)
    return new, reply.key


async def write_instruction(
    ask: Ask, recipe: Recipe, model: ModelSpec, slot: Slot, keywords: tuple[str, ...]
) -> tuple[str, str]:
    """One instruction from domain, new keywords and the exemplars' summaries (never their texts). Raises CallFailed."""
    domain = recipe.task.category(slot.label)
    request = _request(
        recipe, model, slot, "instruction", {"instruction": _string(recipe, model)}, stop=NEWLINE,
        domain=domain.name, about=domain.description, keywords=", ".join(keywords), language=recipe.task.language,
        examples=[{"keywords": ", ".join(s.keywords), "summary": s.summary} for s in slot.exemplars if s.summary],
    )  # fmt: skip
    reply = await ask(request)
    return _text_of(reply, model, "instruction"), reply.key


async def write_response(ask: Ask, recipe: Recipe, model: ModelSpec, slot: Slot, instruction: str) -> tuple[str, str]:
    """The response to the instruction alone: free text. Raises CallFailed if it is empty.

    The slots of a group share their instruction; each takes another sample of the response: its part.
    """
    request = _request(
        recipe, model, slot, "response", None, stop=("\nInstruction:",), sample=slot.part, instruction=instruction
    )
    reply = await ask(request)
    if not reply.text.strip():
        raise CallFailed("empty", f"{model.name} gave an empty response", where=f"models.{model.name}")
    return reply.text.strip(), reply.key


async def name_concepts(
    ask: Ask, recipe: Recipe, model: ModelSpec, label: str, texts: Sequence[str], *, seed: int
) -> tuple[str, ...]:
    """At most MOST_CONCEPTS subjects of texts of one label, named by a generator (SwS, step 1). Raises CallFailed.

    The label's own name is left out.
    """
    words = {"type": "array", "items": short_string(model, KEYWORD_CHARS), "minItems": 1, "maxItems": MOST_CONCEPTS}
    request = request_for(
        "concepts", recipe=recipe, model=model, role="generator", purpose="steer.concepts", seed=seed, stop=NEWLINE,
        schema=object_schema({"keywords": words}) if model.style == "chat" else None, max_tokens=96, most=MOST_CONCEPTS,
        label=label.replace("_", " "), about=recipe.task.category(label).description, texts=list(texts)[:SHOWN],
    )  # fmt: skip
    named = keywords_in(await ask(request), model)
    own = label.replace("_", " ").casefold()
    return tuple(word for word in named if word.casefold() != own)[:MOST_CONCEPTS]


def keywords_in(reply: Reply, model: ModelSpec) -> list[str]:
    """The distinct keywords of a reply: of its JSON list, or of a completion's line. Raises CallFailed."""
    if model.style == "completion":
        given: Any = re.split(r"[,;|]", reply.text.strip().partition("\n")[0])
    else:
        given = object_in(reply, model).get("keywords")
    if not isinstance(given, list) or not all(isinstance(word, str) for word in given):
        raise unmet(model, "gave no list of keywords", reply)
    words: dict[str, str] = {}
    for word in given:
        word = " ".join(cleaned(word).strip(" .").split())
        if 1 < len(word) <= KEYWORD_CHARS:
            words.setdefault(word.casefold(), word)
    return list(words.values())


def _request(
    recipe: Recipe, model: ModelSpec, slot: Slot, step: str, fields: dict[str, dict[str, Any]] | None,
    *, stop: tuple[str, ...], max_tokens: int | None = None, sample: int = 0, **values: Any,
) -> CallRequest:  # fmt: skip
    schema = object_schema(fields) if fields and model.style == "chat" else None
    return request_for(
        step, recipe=recipe, model=model, role="generator", purpose=f"generate.{step}", seed=slot.seed,
        sample=sample, schema=schema, stop=stop, max_tokens=max_tokens, **values,
    )  # fmt: skip


def _text_of(reply: Reply, model: ModelSpec, field: str) -> str:
    """The written text without the decoration that models add."""
    if model.style == "completion":
        value: Any = ended(reply, reply.text.strip().partition("\n")[0])
    else:
        value = object_in(reply, model).get(field)
    if not isinstance(value, str):
        raise unmet(model, f"gave no {field}", reply)
    text = cleaned(value)
    if not text:
        raise CallFailed("empty", f"{model.name} gave an empty {field}", where=f"models.{model.name}", raw=reply.text)
    return text


def _string(recipe: Recipe, model: ModelSpec) -> dict[str, Any]:
    """About 3 characters a token, so that an embedded model closes its JSON before its token limit."""
    if model.provider != "embedded":
        return short_string(model, 0)  # without a limit, so the gates need not state theirs for each of 1,000 texts
    return short_string(model, int(min(recipe.longest_text(), 1000, 3 * (recipe.role("generator").max_tokens - 16))))
