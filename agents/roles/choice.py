"""A label's log-probability from a model: one call gives a distribution over the labels, not only a winner.

Labels are requested by their own names (lettered options stayed at chance with small models) and recognised in the
alternatives of the first token without knowing the tokenizer: a token belongs to every label that it begins. Another
call, with the token appended, separates labels that share a token; for a chat it prefills the assistant's turn
(`CallRequest.continues`). If no label's token is listed, the judgement fails.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graft.agents.roles.asking import Ask
from graft.agents.roles.prompting import render
from graft.schemas.base import stable_hash
from graft.schemas.calls import CallRequest, Message, Reply
from graft.schemas.errors import CallFailed
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed
from graft.schemas.tasks.base import Label

MAX_DEPTH = 4
EXAMPLE_CHARS = 300
EXAMPLES_CHARS = 4_000
TEXT_CHARS = 4_000


@dataclass(frozen=True)
class Judged:
    """One model's judgement of the labels for one text."""

    raw: dict[str, float]
    """Each label's natural log-probability, in the order of the requested labels."""
    key: str
    """The key of the (first) call."""
    answer: str
    """The likeliest alternative of the first token, stripped (for an encoder its best label)."""
    listed: frozenset[str]
    """Labels that an alternative of the first token begins; the probabilities of the others are upper bounds."""


async def judge_label(
    ask: Ask, *, recipe: Recipe, model: ModelSpec, role: str, seeds: Sequence[Seed], text: str,
    labels: Sequence[Label] | None = None,
) -> Judged:  # fmt: skip
    """Each label's raw natural log-probability for `text`; `labels` narrows the choice (None: all of the task).

    A label that the server does not list gets the lowest log-probability that it did list. Raises CallFailed, with
    the code no_logprobs if the reply holds no log-probabilities, and no_label_tokens if it lists no label at
    all (`raw` is then the likeliest alternative).
    """
    request = choice_request(recipe=recipe, model=model, role=role, seeds=seeds, text=text, labels=labels)
    reply = await ask(request)
    top = alternatives(reply, model)
    answer = max(top, key=lambda entry: entry[1])[0].strip()
    if model.provider == "encoder":
        scores = dict(top)
        return Judged({name: scores[name] for name in request.choices}, request.key(), answer, frozenset(scores))
    rests = {name: name for name in request.choices}
    listed = frozenset(match_tokens(rests, top))
    if not listed:
        raise unlisted(model, len(top), answer)
    return Judged(await _spread(ask, request, reply, rests), request.key(), answer, listed)


def choice_request(
    *, recipe: Recipe, model: ModelSpec, role: str, seeds: Sequence[Seed], text: str,
    labels: Sequence[Label] | None = None,
) -> CallRequest:  # fmt: skip
    """The first, one-token question of `judge_label`: examples from the seeds, then the text."""
    labels = recipe.task.categories if labels is None else labels
    names = tuple(label.name for label in labels)
    purpose, text = f"{role}.label", one_line(text, TEXT_CHARS)
    if model.provider == "encoder":
        described = tuple((label.description, label.name) for label in labels if label.description)
        context = tuple((seed.text, seed.label) for seed in seeds if seed.label in names) + described
        return CallRequest(model=model, role=role, purpose=purpose, prompt=text, choices=names, context=context)
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    examples = pick_examples(seeds, labels)
    if model.style == "completion":
        prompt = render("choice_completion", recipe.prompts, examples=examples, text=text).rstrip()
    else:
        said = render("choice_chat", recipe.prompts, labels=labels, noun=recipe.task.noun).strip()
        turns = [Message(role="system", content=said)]
        for example in examples:
            turns.append(Message(role="user", content=_turn(recipe, example["text"])))
            turns.append(Message(role="assistant", content=example["label"]))
        messages = (*turns, Message(role="user", content=_turn(recipe, text)))
    return CallRequest(
        model=model, role=role, purpose=purpose, messages=messages, prompt=prompt, choices=names,
        temperature=0.0, top_p=1.0, max_tokens=1, top_logprobs=model.top_logprobs,
    )  # fmt: skip


def _turn(recipe: Recipe, text: str) -> str:
    return render("choice_chat_turn", recipe.prompts, text=text).strip()


def pick_examples(seeds: Sequence[Seed], labels: Sequence[Label]) -> list[dict[str, str]]:
    """Seeds as one-line examples, at most 4,000 characters: a first one of every label before a second one of any.

    A label without a seed shows its description (or its name) instead. The order is shuffled, so that labels do not
    stand in blocks, but depends on the examples alone: every prompt of a run begins alike.
    """
    queues = {label.name: [seed.text for seed in seeds if seed.label == label.name] for label in labels}
    for label in labels:
        queues[label.name] = queues[label.name] or [label.description or label.name]
    examples: list[dict[str, str]] = []
    room = EXAMPLES_CHARS
    for place in range(max(map(len, queues.values()))):
        for name, queue in queues.items():
            text = one_line(queue[place], EXAMPLE_CHARS) if place < len(queue) else ""
            room -= len(text) + len(name) + 16 if text else 0
            if text and room >= 0:
                examples.append({"text": text, "label": name})
    return sorted(examples, key=lambda example: stable_hash(example["text"], example["label"]))


def one_line(text: str, limit: int) -> str:
    """`text` with each run of white space as one space, cut to `limit` characters."""
    return " ".join(text.split())[:limit]


def match_tokens(rests: Mapping[str, str], top: Sequence[tuple[str, float]]) -> dict[str, tuple[str, float]]:
    """For each label the (token, log-probability) that begins the rest of its name.

    `rests` maps a label to the remaining part of its name. The longest match wins, one with the same case
    before one without; an empty rest matches a token that ends the line. Labels without a match are left out.
    """
    found: dict[str, tuple[str, float]] = {}
    for label, rest in rests.items():
        wanted = rest.lstrip()
        ranked = [
            (len(token.strip()), exact, logprob, token)
            for token, logprob in top
            if (exact := _begins(token, wanted)) is not None
        ]
        if ranked:
            _, _, logprob, token = max(ranked, key=lambda entry: (entry[1], entry[0], entry[2]))
            found[label] = (token, logprob)
    return found


def alternatives(reply: Reply, model: ModelSpec) -> tuple[tuple[str, float], ...]:
    """Alternatives of the model's first token, with log-probabilities; leading white space is skipped.

    Raises CallFailed (no_logprobs) if the reply holds none.
    """
    places = reply.logprobs
    top = next((place.top for place in places if place.token.strip()), places[0].top) if places else ()
    if not top:
        raise CallFailed(
            "no_logprobs",
            f"{model.name} gave no log-probabilities, so it cannot judge labels by them; "
            "set another answer for its role (scores or name), or use a server that supports logprobs",
            where=f"models.{model.name}",
            raw=reply.text,
        )
    return top


def unlisted(model: ModelSpec, listed: int, answer: str) -> CallFailed:
    """The failure of a judge whose alternatives contain no label."""
    return CallFailed(
        "no_label_tokens",
        f"{model.name}: none of the labels is among the {listed} alternatives for the first token; "
        f"raise its top_logprobs (now {model.top_logprobs}) if the server allows it, or set answer: name for its role",
        where=f"models.{model.name}",
        raw=answer,
    )


async def _spread(
    ask: Ask, request: CallRequest, reply: Reply, rests: dict[str, str], depth: int = 1
) -> dict[str, float]:
    """Log-probability of each label, with further calls for the labels that share a token."""
    top = alternatives(reply, request.model)
    floor = min(logprob for _, logprob in top)
    matches = match_tokens(rests, top)
    scores = {label: matches[label][1] if label in matches else floor for label in rests}
    sharing: dict[str, list[str]] = defaultdict(list)
    for label, (token, _) in matches.items():
        sharing[token].append(label)
    groups = {token: labels for token, labels in sharing.items() if len(labels) > 1}
    if depth >= MAX_DEPTH:  # labels that are still indistinguishable share their probability evenly
        for label in (label for labels in groups.values() for label in labels):
            scores[label] -= math.log(len(groups[matches[label][0]]))
        return scores
    calls = (_follow(ask, request, token, rests, labels, depth) for token, labels in groups.items())
    for further in await asyncio.gather(*calls):
        for label, logprob in further.items():
            scores[label] += logprob
    return scores


async def _follow(
    ask: Ask, request: CallRequest, token: str, rests: dict[str, str], labels: list[str], depth: int
) -> dict[str, float]:
    stripped = token.strip()
    left = {label: rests[label].lstrip()[len(stripped) :] for label in labels}
    if request.prompt is not None:
        joint = "" if depth > 1 and not token.startswith(" ") else " "
        longer = request.model_copy(update={"prompt": request.prompt + joint + stripped})
    else:
        *turns, last = request.messages
        turns = turns if request.continues else [*turns, last]
        content = last.content + token.rstrip() if request.continues else stripped
        begun = (*turns, Message(role="assistant", content=content))
        longer = request.model_copy(update={"messages": begun, "continues": True})
    return await _spread(ask, longer, await ask(longer), left, depth + 1)


def _begins(token: str, wanted: str) -> bool | None:
    """Return True if a token begins `wanted` in the same case, False if only in another case, None if it does not."""
    stripped = token.strip()
    if not wanted:
        ends = not stripped or (stripped.startswith("<") and stripped.endswith(">"))
        return True if ends else None
    if not stripped:
        return None
    if wanted.startswith(stripped):
        return True
    return False if wanted.casefold().startswith(stripped.casefold()) else None
