"""The labeler: gives a text its label without seeing the intended one.

Candidates are the labels nearest to the text (PromptMix, arXiv 2310.14192). An answer outside of them is no label: it
is kept as the model wrote it and never forced to the nearest name. A model without log-probabilities names its label: a
vote.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from graft.agents.roles.asking import Ask, request_for
from graft.agents.roles.calibration import calibrate
from graft.agents.roles.choice import TEXT_CHARS, alternatives, choice_request, judge_label, one_line, pick_examples
from graft.agents.roles.reviewer import failed
from graft.schemas.calls import Reply
from graft.schemas.errors import BudgetExhausted, CallFailed
from graft.schemas.models import EMBEDDED_POOL, ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import LabelScore, Review, Seed
from graft.schemas.tasks.base import Label

Giver = Literal["labeler", "reviewer", "adjudicator", "guard"]
"""A role that may give a label."""

ANSWER_CHARS = 200
UNVOTED = -30.0
"""Log-probability of labels that a vote did not name: so low that the distribution still sums to 1."""
VOTE = "a vote"
_PREFIX = re.compile(r"\A\W*+(?:the )?label\s*+(?:is\b|:)", re.IGNORECASE)


async def nearest_labels(ask: Ask, *, recipe: Recipe, seeds: Sequence[Seed], text: str, most: int) -> tuple[str, ...]:
    """The labels that `text` may have: all, in the task's order, or the `most` nearest ones, nearest first.

    A class is the mean of its seeds', its description's and its name's embeddings. Raises CallFailed.
    """
    labels = recipe.task.categories
    if len(labels) <= most:
        return tuple(label.name for label in labels)
    pool = (*recipe.models, *EMBEDDED_POOL)
    encoder = next(model for model in pool if model.provider == "encoder")
    request = choice_request(recipe=recipe, model=encoder, role="labeler", seeds=seeds, text=text)
    reply = await ask(request.model_copy(update={"purpose": "labeler.nearest"}))
    scores = dict(alternatives(reply, encoder))
    return tuple(sorted(request.choices, key=lambda name: -scores[name])[:most])


async def label_text(
    ask: Ask, *, recipe: Recipe, model: ModelSpec, role: Giver, seeds: Sequence[Seed], text: str,
    labels: Sequence[str], means: Mapping[str, float] | None, by_name: bool, seed: int, sample: int = 0,
) -> Review:  # fmt: skip
    """One model's label for `text` among `labels`: a calibrated distribution, or a vote. Raises BudgetExhausted only.

    `answer` is the label, or the raw answer with an empty distribution if it is none of them. `by_name` requests the
    name (never from an encoder).
    """
    choice = [recipe.task.category(name) for name in labels]
    if model.provider != "encoder" and (by_name or recipe.role(role).answer == "name"):
        return await named_label(
            ask, recipe=recipe, model=model, role=role, seeds=seeds, text=text, labels=choice, seed=seed, sample=sample
        )
    return await likely_label(
        ask, recipe=recipe, model=model, role=role, seeds=seeds, text=text, labels=choice, means=means
    )


async def likely_label(
    ask: Ask, *, recipe: Recipe, model: ModelSpec, role: Giver, seeds: Sequence[Seed], text: str,
    labels: Sequence[Label], means: Mapping[str, float] | None,
) -> Review:  # fmt: skip
    """The label with the highest calibrated probability, and the distribution. Raises BudgetExhausted only."""
    blank = Review(stage="label", role=role, model=model.name)
    try:
        judged = await judge_label(
            ask, recipe=recipe, model=model, role=role, seeds=seeds, text=text, labels=labels
        )  # fmt: skip
    except BudgetExhausted:
        raise
    except CallFailed as failure:
        if failure.code != "no_label_tokens":
            return failed(blank, failure)
        key = choice_request(recipe=recipe, model=model, role=role, seeds=seeds, text=text, labels=labels).key()
        return blank.model_copy(update={"answer": _shown(failure.raw), "comment": failure.what, "call_key": key})
    right = calibrate(judged.raw, means)
    best = max(right, key=lambda label: right[label])
    rows = tuple(LabelScore(label=label, raw=judged.raw[label], calibrated=right[label]) for label in right)
    comment = f"most likely {best} at {math.exp(right[best]):.0%}"
    return blank.model_copy(
        update={"answer": best, "distribution": rows, "comment": comment, "call_key": judged.key}
    )  # fmt: skip


async def named_label(
    ask: Ask, *, recipe: Recipe, model: ModelSpec, role: Giver, seeds: Sequence[Seed], text: str,
    labels: Sequence[Label], seed: int, sample: int = 0,
) -> Review:  # fmt: skip
    """The label that the model names, as a vote: all probability on it. Raises BudgetExhausted only."""
    request = request_for(
        "label_name", recipe=recipe, model=model, role=role, purpose=f"{role}.name", seed=seed, sample=sample,
        stop=("\n",), noun=recipe.task.noun, labels=labels, examples=pick_examples(seeds, labels),
        text=one_line(text, TEXT_CHARS),
    )  # fmt: skip
    blank = Review(stage="label", role=role, model=model.name, call_key=request.key())
    try:
        reply = await ask(request)
    except BudgetExhausted:
        raise
    except CallFailed as failure:
        return failed(blank, failure)
    names = [label.name for label in labels]
    answered = _answer_in(reply, model)
    answer = label_in(answered, names)
    if not answer:
        return blank.model_copy(
            update={"answer": _shown(answered), "comment": f"{VOTE}, but not for a label of the set"}
        )
    return blank.model_copy(update={"answer": answer, "distribution": voted(answer, names), "comment": VOTE})


def label_in(answered: str, names: Sequence[str]) -> str:
    """The label named by an answer, or "". Case, quotes, punctuation, underscores and a leading `label:` do not
    count."""
    for text in (answered, _PREFIX.sub("", answered)):
        for folded in (_bare, _words):
            wanted = folded(text)
            hits = [name for name in names if wanted and folded(name) == wanted]
            if len(hits) == 1:
                return hits[0]
    return ""


def voted(answer: str, names: Sequence[str]) -> tuple[LabelScore, ...]:
    """A distribution with all probability on one label."""
    return tuple(
        LabelScore(label=name, raw=score, calibrated=score)
        for name in names
        for score in (0.0 if name == answer else UNVOTED,)
    )


def is_vote(review: Review) -> bool:
    """Return True if a judge named the label instead of giving probabilities."""
    return review.stage == "label" and review.comment.startswith(VOTE)


def _answer_in(reply: Reply, model: ModelSpec) -> str:
    return reply.text.strip().partition("\n")[0] if model.style == "completion" else reply.text.strip()


def _shown(answered: str) -> str:
    """An answer that is no label, in the form in which it is kept: one line, never empty."""
    return one_line(answered, ANSWER_CHARS) or "(nothing)"


def _bare(text: str) -> str:
    """Folded text that keeps inner signs which may distinguish labels, such as c and c++."""
    return " ".join(text.replace("_", " ").split()).strip(" \"'`“”‘’«»*.,:;!").casefold()


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))
