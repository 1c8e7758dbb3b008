"""The generator: one text for a label, or keywords, then an instruction, then its response (GRA section 3).

Every function returns the text and the key of the call. All raise CallFailed if no reply is usable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graft.agents.roles.asking import (
    LENGTH,
    Ask,
    cleaned,
    concept_of,
    cut,
    ended,
    examples_for,
    folded,
    object_in,
    object_schema,
    request_for,
    short_string,
    steered_by,
    unmet,
    whole_sentences,
)  # fmt: skip
from graft.schemas.calls import CallRequest, Reply
from graft.schemas.errors import CallFailed, TextCut
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Slot

KEYWORD_CHARS = 60
NEWLINE = ("\n",)
CUT = "cut"
"""Code of a call whose reply was cut off before its JSON ended."""
ENDS, CLOSING = (".", "!", "?", "…", "。", "！", "？"), "\"'”’») "
"""Signs that end a sentence, and those that may follow them."""
_STRING = re.compile(r'"((?:[^"\\]++|\\.)*+)"?', re.DOTALL)
VALUE_CHARS, MOST_VALUES = 80, 6
"""Characters of an attribute's value, and values of an attribute, at most."""
MOST_CONCEPTS, SHOWN = 5, 6
"""Most subjects of one label, and most texts in the prompt that they are named from."""


async def write_text(ask: Ask, recipe: Recipe, model: ModelSpec, slot: Slot, manner: str = "") -> tuple[str, str]:
    """A new text for the slot's label, on one line, after its exemplars; `manner` tells how. Raises CallFailed."""
    request = _request(
        recipe, model, slot, "text", {"text": _string(recipe, model)}, stop=NEWLINE, manner=manner,
        **_wanted(recipe, model, slot),
    )  # fmt: skip
    reply = await ask(request)
    return " ".join(_text_of(reply, recipe, request, "text").split()), reply.key


@dataclass(frozen=True)
class Written:
    """One text of a list. `cut` is the failure of a text that was cut off."""

    text: str
    cut: TextCut | None = None


async def write_texts(
    ask: Ask, recipe: Recipe, model: ModelSpec, slot: Slot, count: int, manners: Sequence[str], sample: int = 0
) -> tuple[Written, ...]:
    """Up to `count` texts of one reply in their order, each on one line; `manners` holds one for each, or is empty.

    `max_tokens` of the generator holds for one text. Raises CallFailed if the reply holds no list.
    """
    texts = {"type": "array", "items": _string(recipe, model), "minItems": count, "maxItems": count}
    request = _request(
        recipe, model, slot, "texts", {"texts": texts}, stop=("\n\n",), sample=sample,
        max_tokens=count * recipe.role("generator").max_tokens, count=count, manners=list(manners),
        **_wanted(recipe, model, slot),
    )  # fmt: skip
    try:
        reply = await ask(request)
    except CallFailed as failure:
        given = _begun(failure.raw) if failure.code == CUT else []
        if not given:
            raise
        whole = len(given) - 1
    else:
        given = _listed(reply, model)
        whole = len(given) - (reply.finish_reason == LENGTH)
    found = [
        Written(" ".join(cleaned(text).split()), _cut_off(text, recipe, request, place >= whole))
        for place, text in enumerate(given)
    ]
    return tuple(one for one in found if one.text or model.style == "chat")[:count]


def _listed(reply: Reply, model: ModelSpec) -> list[str]:
    """The texts of a whole reply. Raises CallFailed."""
    given: Any = reply.text.strip().splitlines()
    if model.style == "chat":
        given = object_in(reply, model).get("texts")
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise unmet(model, "gave no list of texts", reply)
    return given


def _begun(raw: str) -> list[str]:
    """The texts of a JSON list that was cut off, the unfinished one last; empty if it holds none."""
    texts = list[str]()
    for found in _STRING.finditer(raw.partition("[")[2]):
        try:
            texts.append(json.loads(f'"{found[1]}"', strict=False))
        except ValueError:
            texts.append(found[1])
    return texts


def _cut_off(text: str, recipe: Recipe, request: CallRequest, short: bool) -> TextCut | None:
    """The failure of a text that ends at its token limit (`short`), or in mid-sentence at the length of its schema."""
    if short:
        return cut(request, text)
    most = _most_chars(recipe, request.model)
    if most is None or len(text) < most or text.rstrip(CLOSING).endswith(ENDS):
        return None
    by = "gates.max_chars" if most == recipe.longest_text() else f"roles.{request.role}.max_tokens"
    return cut(request, text, most, by)


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
    return _text_of(reply, recipe, request, "instruction"), reply.key


async def write_response(ask: Ask, recipe: Recipe, model: ModelSpec, slot: Slot, instruction: str) -> tuple[str, str]:
    """The response to the instruction alone: free text. Raises CallFailed if it is empty or cut off.

    The slots of a group share their instruction; each takes another sample of the response: its part.
    """
    request = _request(
        recipe, model, slot, "response", None, stop=("\nInstruction:",), sample=slot.part, instruction=instruction
    )
    reply = await ask(request)
    if not reply.text.strip():
        raise CallFailed("empty", f"{model.name} gave an empty response", where=f"models.{model.name}")
    if reply.finish_reason == LENGTH and model.style == "chat":
        raise cut(request, reply.text.strip())
    return ended(reply, reply.text.strip(), request), reply.key


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


async def propose_attributes(
    ask: Ask, recipe: Recipe, model: ModelSpec, texts: Sequence[str], most: int, sample: int = 0
) -> dict[str, tuple[str, ...]]:
    """At most `most` attributes in which real texts of the task differ, each with its values. Raises CallFailed."""
    name, values = short_string(model, KEYWORD_CHARS), {"type": "array", "items": short_string(model, VALUE_CHARS)}
    one = object_schema({"name": name, "values": {**values, "minItems": 2, "maxItems": MOST_VALUES}})
    listed = {"type": "array", "items": one, "minItems": 1, "maxItems": most}
    request = request_for(
        "attributes", recipe=recipe, model=model, role="generator", purpose="generate.attributes", seed=recipe.seed,
        schema=object_schema({"attributes": listed}) if model.style == "chat" else None, max_tokens=400,
        sample=sample, stop=("\n\n",), most=most, noun=recipe.task.noun, labels=recipe.task.categories,
        texts=list(texts),
    )  # fmt: skip
    reply = await ask(request)
    found = _attributes_in(reply, model, [*recipe.task.names, *texts])
    if not found:
        raise unmet(model, "proposed no attribute with two values that name no label and quote no example", reply)
    return dict(list(found.items())[:most])


def _attributes_in(reply: Reply, model: ModelSpec, known: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Attributes of a reply with two values or more; values and names that contain a `known` text are left out."""
    if model.style == "completion":
        lines = (line.partition(":") for line in reply.text.strip().splitlines())
        given: Any = [{"name": name, "values": re.split(r"[,;|]", values)} for name, _, values in lines]
    else:
        given = object_in(reply, model).get("attributes")
    found = dict[str, tuple[str, ...]]()
    for one in given if isinstance(given, list) else ():
        fields = one if isinstance(one, dict) else {}
        name, values = fields.get("name"), fields.get("values")
        if not isinstance(values, list) or not (names := _short_words([name], KEYWORD_CHARS, known)):
            continue
        if len(kept := _short_words(values, VALUE_CHARS, known)) > 1:
            found.setdefault(names[0].casefold(), tuple(kept[:MOST_VALUES]))
    return found


def _short_words(given: Sequence[Any], chars: int, known: Sequence[str]) -> list[str]:
    """The distinct texts among `given` of at most that many characters, on one line, that contain no `known` text."""
    held = [f" {folded(text.replace('_', ' '))} " for text in known]
    words: dict[str, str] = {}
    for value in given:
        text = " ".join(cleaned(value).strip(" .").split()) if isinstance(value, str) else ""
        if 1 < len(text) <= chars and not any(one in f" {folded(text)} " for one in held):
            words.setdefault(folded(text), text)
    return list(words.values())


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


def _text_of(reply: Reply, recipe: Recipe, request: CallRequest, field: str) -> str:
    """The written text without the decoration that models add. Raises CallFailed if it is empty or cut off.

    A base model's text, and one that a grammar ended, may end before the sentence that was cut: nothing told the model
    where to stop.
    """
    model = request.model
    if model.style == "completion":
        value: Any = ended(reply, reply.text.strip().partition("\n")[0], request)
    else:
        value = object_in(reply, model).get(field)
    if not isinstance(value, str):
        raise unmet(model, f"gave no {field}", reply)
    short = reply.finish_reason == LENGTH
    if model.style == "chat" and (failure := _cut_off(value, recipe, request, short)):
        value = "" if short else whole_sentences(value)
        if not value:
            raise failure
    text = cleaned(value)
    if not text:
        raise CallFailed("empty", f"{model.name} gave an empty {field}", where=f"models.{model.name}", raw=reply.text)
    return text


def _string(recipe: Recipe, model: ModelSpec) -> dict[str, Any]:
    most = _most_chars(recipe, model)
    return {"type": "string"} if most is None else {"type": "string", "maxLength": most}


def _most_chars(recipe: Recipe, model: ModelSpec) -> int | None:
    """Characters to which a model's grammar holds a text: about 3 a token, so that it closes its JSON before its token
    limit. None for hosted models, so that the gates need not state theirs for each of 1,000 texts."""
    if model.provider != "embedded" or model.style != "chat":
        return None
    return max(40, int(min(recipe.longest_text(), 1000, 3 * (recipe.role("generator").max_tokens - 16))))
