"""Teachers label texts: a sample of the test rows as a baseline, and known rows for a verdict (flows.verdict).

Such texts go only to judges, in the role `labeler`, never into a generator's prompt.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from graft.agents.methods import Ask
from graft.agents.roles.calibration import batch_means, calibrate, content_free_means
from graft.agents.roles.choice import pick_examples
from graft.agents.roles.labeler import is_vote, label_text
from graft.data.gates.shared.held_out import text_hash
from graft.flows import stopping
from graft.flows.run_context import Say, open_gateway, weighed
from graft.schemas.calls import CallRequest, Reply
from graft.schemas.errors import BudgetExhausted, CallFailed
from graft.schemas.home import Home
from graft.schemas.models import LabelerSpec, ModelSpec, RoleSpec
from graft.schemas.money import money
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Review, Seed
from graft.schemas.students import TeacherScore

Rows = Sequence[tuple[str, str]]

Examples = Callable[[str], Sequence[Seed]]
"""The labelled examples that a prompt shows for a text; for the empty text all of them."""


@dataclass(frozen=True)
class Labels:
    """A teacher's label for each text, empty if it gave none, and the means that corrected its probabilities.

    `failure` is the first reason for a missing label.
    """

    guesses: list[str]
    means: dict[str, float]
    failure: str = ""


async def teacher_scores(
    recipe: Recipe, seeds: Sequence[Seed], test_rows: Rows, *, rows: int, home: Home, seed: int,
    predict: Callable[[Sequence[str]], Sequence[str]], say: Say = lambda text: None,
) -> tuple[TeacherScore, ...]:  # fmt: skip
    """Evaluate each teacher on up to `rows` test rows, drawn by `seed`: zero-shot, then with seeds as examples.

    A teacher is a labeler of the recipe that is not an encoder, else any generating model of the pool.
    `predict` gives the student's labels for texts. Calls go through the journal and under the recipe's limits; a
    teacher whose calls would exceed them is left out with a note. Raises ModelUnreachable, and errors of server starts.
    """
    sampled = sample(test_rows, rows, seed)
    models = teachers(recipe)
    if not models or not sampled:
        return ()
    predicted = predict([text for text, _ in sampled])
    right = sum(guess == label for guess, (_, label) in zip(predicted, sampled, strict=True)) / len(sampled)
    held_out = {text_hash(text) for text, _ in test_rows}
    shown = [one for one in seeds if one.label and text_hash(one.text) not in held_out]
    scores: list[TeacherScore] = []
    narrowed = await asyncio.to_thread(weighed, narrowed_to(recipe, models), home)
    models = narrowed.models
    async with open_gateway(narrowed, home, say, time.time()) as gateway:
        for model in models:
            for examples in ([], shown) if shown else ([],):
                what = f"teacher {model.name}, {'with examples' if examples else 'zero-shot'}"
                say(f"{what}: {len(sampled)} test rows")
                try:
                    score, _ = await score_teacher(
                        gateway.call, narrowed, model, _always(examples), sampled, right, seed
                    )  # fmt: skip
                    scores.append(score)
                except BudgetExhausted as error:
                    say(f"{what}: left out, because its calls would exceed a limit: {error.what}")
    return tuple(scores)


def teachers(recipe: Recipe) -> tuple[ModelSpec, ...]:
    """The recipe's labelers that are not encoders; else all such models of the pool."""
    named = tuple(model for model in recipe.models_for("labeler") if model.provider != "encoder")
    return named or tuple(model for model in recipe.models if model.provider != "encoder")


def sample(rows: Rows, most: int, seed: int) -> list[tuple[str, str]]:
    """A sample of at most that many rows, in their order, fixed by the seed."""
    places = random.Random(seed).sample(range(len(rows)), min(most, len(rows)))
    return [rows[place] for place in sorted(places)]


def table(scores: Sequence[TeacherScore], local: Collection[str] = ()) -> str:
    """Teachers compared with the student, as lines of text. `local` names the models that cost nothing."""
    if not scores:
        return ""
    rows = scores[0].rows
    lines = [
        f"teachers on {rows} of the test rows (the student there: {scores[0].student_accuracy:.1%})",
        f"{'':<32}{'accuracy':>10}{'95% interval':>16}{'answered':>10}{'price':>12}{'p50 of a call':>15}",
    ]
    for one in scores:
        shots = f"{one.shots} examples a label" if one.shots else "zero-shot"
        between = " to ".join(f"{share:.1%}" for share in one.between)
        price = money(one.price_usd, one.model in local)
        took = f"{one.p50_s:.3f} s" if one.p50_s else "journaled"
        name = f"{one.model}, {shots}"[:31]
        lines.append(f"{name:<32}{one.accuracy:>10.1%}{between:>16}{one.answered:>10}{price:>12}{took:>15}")
    return "\n".join(lines)


def _always(seeds: Sequence[Seed]) -> Examples:
    return lambda text: seeds


def narrowed_to(recipe: Recipe, models: Sequence[ModelSpec]) -> Recipe:
    """The recipe with only these models, for every role, so that no other server is started, and with a labeler."""
    free: dict[str, RoleSpec] = {name: spec.model_copy(update={"models": ()}) for name, spec in recipe.roles.items()}
    if not isinstance(free.get("labeler"), LabelerSpec):
        free["labeler"] = LabelerSpec()
    return recipe.model_copy(update={"models": tuple(models), "roles": free})


class _Taken:
    """Forwards calls and keeps the replies."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.replies: list[Reply] = []

    async def ask(self, request: CallRequest) -> Reply:
        """The gateway's reply, or its error. Cancelled if the process stops."""
        stopping.call_off()
        reply = await self._ask(request)
        self.replies.append(reply)
        return reply


async def score_teacher(
    ask: Ask, recipe: Recipe, model: ModelSpec, examples: Examples, sampled: Rows, student: float, seed: int
) -> tuple[TeacherScore, Labels]:
    """Evaluate one teacher on labelled rows. `student` is a student's accuracy there. Raises BudgetExhausted."""
    from graft.students.evaluate import evaluate

    taken, labels = _Taken(ask), recipe.task.names
    given = await label_texts(taken.ask, recipe, model, examples, [text for text, _ in sampled], seed)
    judged = evaluate(given.guesses, sampled, labels, student_id=model.name, test_file="")
    usages = [reply.usage for reply in taken.replies]
    prices = [reply.price_usd for reply in taken.replies]
    p50, p95 = _latencies(taken.replies)
    return TeacherScore(
        model=model.name,
        shots=_shots(recipe, examples("")),
        rows=len(sampled),
        answered=sum(bool(guess) for guess in given.guesses),
        accuracy=judged.accuracy,
        interval=judged.interval,
        macro_f1=judged.macro_f1,
        student_accuracy=student,
        prompt_tokens=sum(usage.prompt_tokens or 0 for usage in usages),
        completion_tokens=sum(usage.completion_tokens or 0 for usage in usages),
        price_usd=None if not prices or None in prices else math.fsum(price or 0.0 for price in prices),
        p50_s=p50,
        p95_s=p95,
    ), given  # fmt: skip


async def label_texts(
    ask: Ask, recipe: Recipe, model: ModelSpec, examples: Examples, texts: Sequence[str], seed: int,
    means: Mapping[str, float] | None = None,
) -> Labels:  # fmt: skip
    """The model's label for each text, calibrated as for the recipe's labeler or by given `means`.

    Raises BudgetExhausted.
    """
    reviews = await _reviews(ask, recipe, model, examples, texts, seed) if texts else []
    return await _answers(ask, recipe, model, examples, reviews, means)


async def _reviews(
    ask: Ask, recipe: Recipe, model: ModelSpec, examples: Examples, texts: Sequence[str], seed: int
) -> list[Review]:
    """The model's reviews of the texts: log-probabilities if the first reply has them, else votes."""
    labels = recipe.task.names

    async def one(text: str, by_name: bool) -> Review:
        return await label_text(
            ask, recipe=recipe, model=model, role="labeler", seeds=examples(text), text=text, labels=labels, means=None,
            by_name=by_name, seed=seed,
        )  # fmt: skip

    first = await one(texts[0], False)
    by_name = first.failure.startswith("no_logprobs")
    rest = texts if by_name else texts[1:]
    tasks = [asyncio.ensure_future(one(text, by_name)) for text in rest]
    try:
        others = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return others if by_name else [first, *others]


async def _answers(
    ask: Ask, recipe: Recipe, model: ModelSpec, examples: Examples, reviews: Sequence[Review],
    known: Mapping[str, float] | None,
) -> Labels:  # fmt: skip
    """A label for each review, empty if it has none. Probabilities are calibrated as for the recipe's labeler."""
    raws = [{score.label: score.raw for score in review.distribution} for review in reviews]
    measured = [raw for raw, review in zip(raws, reviews, strict=True) if raw and not is_vote(review)]
    means: dict[str, float] = dict(known or {})
    if known is None and measured and recipe.role("labeler").calibration == "batch":
        means = batch_means(measured)
    elif known is None and measured and recipe.role("labeler").calibration == "content_free":
        try:
            means = await content_free_means(ask, recipe=recipe, model=model, role="labeler", seeds=examples(""))
        except BudgetExhausted:
            raise
        except CallFailed:
            means = {}  # uncorrected if the model's bias is unknown
    answers = []
    for review, raw in zip(reviews, raws, strict=True):
        right = {} if is_vote(review) else calibrate(raw, means)
        answers.append(max(right, key=lambda name: right[name]) if right else review.answer if raw else "")
    return Labels(answers, means, next((review.failure for review in reviews if review.failure), ""))


def _shots(recipe: Recipe, examples: Sequence[Seed]) -> int:
    """Mean number of examples of a label in the prompt, rounded; at least 1 if there are any."""
    labels = recipe.task.categories
    if not examples:
        return 0
    given = {seed.label for seed in examples}
    shown = sum(example["label"] in given for example in pick_examples(examples, labels))
    return max(1, round(shown / len(labels)))


def _latencies(replies: Sequence[Reply]) -> tuple[float, float]:
    """Median and 95th percentile of seconds of sent calls; zeros if all came from the journal."""
    import numpy as np

    took = [reply.latency_s for reply in replies if not reply.cached]
    if not took:
        return 0.0, 0.0
    p50, p95 = np.quantile(took, (0.5, 0.95))
    return round(float(p50), 4), round(float(p95), 4)
