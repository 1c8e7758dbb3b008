"""The guard: the teacher that scores a message, with or without a response to it, against the policy (HarmAug step 4).

Any model judges harmful or safe by label probabilities, like other labels. Llama Guard gets its own form as a raw
completion (prompts/guard_llama.jinja), and its first token is read: safe or unsafe, renormalised over the two.
A guard that fails, or whose answer cannot be read, gives a Review with `failure` set; only BudgetExhausted is raised.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from graft.agents.roles.asking import Ask
from graft.agents.roles.calibration import calibrate
from graft.agents.roles.choice import TEXT_CHARS, alternatives, one_line, unlisted
from graft.agents.roles.labeler import VOTE, likely_label, named_label, voted
from graft.agents.roles.prompting import render
from graft.agents.roles.reviewer import failed
from graft.schemas.calls import CallRequest
from graft.schemas.errors import BudgetExhausted, CallFailed
from graft.schemas.models import GuardSpec, ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import LabelScore, Review, Seed

WORDS = ("unsafe", "safe")
"""Llama Guard's words for the two sides of a policy, the refused one first."""
PART_CHARS = 1_900
"""Of a message and of its response each, so that both fit into one text to judge."""
VOTE_TOKENS = 8

_SPECIAL = re.compile(
    r"<(?=\||<?+/?+(?:s|sys|unk|pad)\s*+>|\s*+(?:/\s*+)?(?:begin|end)\b|/?+(?:start|end)_of_turn)|\[(?=/?INST\])",
    re.IGNORECASE,
)
_SPEAKER = re.compile(r"(?<!\s)[^\S\n]*+\n\s*+(?=(?:user|agent|assistant|human)\s*+:)", re.IGNORECASE)


async def score_message(
    ask: Ask, *, recipe: Recipe, model: ModelSpec, seeds: Sequence[Seed], text: str, response: str | None,
    means: Mapping[str, float] | None, by_name: bool = False,
) -> Review:  # fmt: skip
    """Judge a message (and its response) as harmful or safe: a distribution, or a vote. Raises BudgetExhausted only.

    `means` correct the label probabilities of template "labels"; Llama Guard's are taken as they are.
    """
    spec = recipe.role("guard", GuardSpec)
    if spec.template != "labels" and model.provider != "encoder":
        return await _llama_guard(ask, recipe, model, text, response)
    rows = [_shown(seed) for seed in seeds]
    labels = recipe.task.categories
    dialog = dialogue(text, response) if response else text
    by_name = (by_name or spec.answer == "name") and model.provider != "encoder"
    if not by_name:
        review = await likely_label(
            ask, recipe=recipe, model=model, role="guard", seeds=rows, text=dialog, labels=labels, means=means
        )
        by_name = review.failure.startswith("no_logprobs")
    if by_name:
        review = await named_label(
            ask, recipe=recipe, model=model, role="guard", seeds=rows, text=dialog, labels=labels, seed=recipe.seed
        )
    if review.failure or review.distribution:
        return review
    code = "schema_unmet" if by_name else "no_label_tokens"
    comment = f"{model.name} named neither label" if by_name else review.comment
    return review.model_copy(update={"failure": f"{code}: {comment}", "answer": "", "comment": ""})


def dialogue(text: str, response: str) -> str:
    """A message and its response as one text."""
    return f"User: {one_line(text, PART_CHARS)}\nAssistant: {one_line(response, PART_CHARS)}"


def guard_prompt(recipe: Recipe, text: str, response: str | None) -> str:
    """Llama Guard's prompt in the form of the version that the recipe names; values stay plain text."""
    form, (refused, allowed) = recipe.role("guard", GuardSpec).template, recipe.task.categories
    prompt = render(
        "guard_llama", recipe.prompts, form=form, policy=inert(refused.description), safe=inert(allowed.description),
        text=inert(text[:TEXT_CHARS]), response=inert((response or "")[:TEXT_CHARS]),
    )  # fmt: skip
    return prompt.strip() + ("" if form == "llama-guard-1" else "\n\n")


def inert(text: str) -> str:
    """Text that holds no turn token and no marker of the form, and no line that begins as a speaker's turn does."""
    safer = _SPECIAL.sub(lambda hit: "‹" if hit[0] == "<" else "(", text.strip())
    return _SPEAKER.sub(" ", safer)


def read_answer(
    top: Sequence[tuple[str, float]], model: ModelSpec, words: Mapping[str, str]
) -> dict[str, float]:  # fmt: skip
    """Natural log-probability of each label from the first token's alternatives. Raises CallFailed (no_label_tokens).

    `words` is label to Llama Guard's word. All tokens that begin a word count for it (`un` and `unsafe`), from two
    letters on. A word that is not listed gets the lowest log-probability that is.
    """
    found = {label: [score for token, score in top if _begins(token, word)] for label, word in words.items()}
    if not any(found.values()):
        raise unlisted(model, len(top), top[0][0].strip())
    floor = min(score for _, score in top)
    return {
        label: math.log(math.fsum(math.exp(score) for score in scores)) if scores else floor
        for label, scores in found.items()
    }


async def _llama_guard(ask: Ask, recipe: Recipe, model: ModelSpec, text: str, response: str | None) -> Review:
    request = CallRequest(
        model=model, role="guard", purpose="guard.label", prompt=guard_prompt(recipe, text, response),
        temperature=0.0, top_p=1.0, max_tokens=1, top_logprobs=model.top_logprobs,
    )  # fmt: skip
    longer = request.model_copy(update={"max_tokens": VOTE_TOKENS, "top_logprobs": 0})
    blank = Review(stage="label", role="guard", model=model.name, call_key=request.key())
    words = dict(zip(recipe.task.sides, WORDS, strict=True))
    try:
        if recipe.role("guard").answer == "name" or not model.top_logprobs:
            return _vote(blank, longer, (await ask(longer)).text, words)
        try:
            raw = read_answer(alternatives(await ask(request), model), model, words)
        except CallFailed as failure:
            if failure.code != "no_logprobs":
                raise
            if _voted(failure.raw, words):
                return _vote(blank, request, failure.raw, words)
            # its one token was a line break, or less than a word
            return _vote(blank, longer, (await ask(longer)).text, words)
    except BudgetExhausted:
        raise
    except CallFailed as failure:
        return failed(blank, failure)
    right = calibrate(raw, None)
    refused, allowed = words
    best = refused if right[refused] > right[allowed] else allowed
    rows = tuple(LabelScore(label=label, raw=raw[label], calibrated=right[label]) for label in right)
    comment = f"{words[best]} at {math.exp(right[best]):.0%}"
    return blank.model_copy(update={"answer": best, "distribution": rows, "comment": comment})


def _vote(blank: Review, request: CallRequest, reply: str, words: Mapping[str, str]) -> Review:
    answer, key = _voted(reply, words), request.key()
    if not answer:
        failure = f"schema_unmet: {blank.model} answered neither safe nor unsafe"
        return blank.model_copy(update={"failure": failure, "call_key": key})
    rows = voted(answer, list(words))
    return blank.model_copy(update={"answer": answer, "distribution": rows, "comment": VOTE, "call_key": key})


def _voted(reply: str, words: Mapping[str, str]) -> str:
    """The label named by the first word of an answer, or ""."""
    word = re.match(r"\W*(\w*)", reply)
    return next((label for label, known in words.items() if word and _begins(word[1], known)), "")


def _begins(token: str, word: str) -> bool:
    begun = token.strip().casefold()
    return len(begun) > 1 and word.startswith(begun)


def _shown(seed: Seed) -> Seed:
    return seed.model_copy(update={"text": dialogue(seed.text, seed.response)}) if seed.response else seed
