"""`graft teacher`: label what is known, generate a little, compare quick students, and advise before money is spent.

Known rows go to judges only.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from graft.agents.local import encoder
from graft.agents.methods import Ask, method_of
from graft.data.gates.shared.held_out import text_hash
from graft.data.scores.maths import accuracy_interval
from graft.data.seeds import load_labelled, load_texts
from graft.data.verdicts import save_verdict, verdict_key
from graft.flows.given import read_given
from graft.flows.make_dataset import downloaded
from graft.flows.pilot import run_pilot
from graft.flows.plan import read_recipe
from graft.flows.progress import Progress, begin
from graft.flows.run_context import Say, open_gateway, run_lock, weighed
from graft.flows.teacher import Examples, Labels, label_texts, narrowed_to, score_teacher
from graft.schemas.base import stable_hash, utc_now
from graft.schemas.calls import CallRequest, Reply
from graft.schemas.errors import BudgetExhausted, GraftError, ModelUnreachable
from graft.schemas.home import Home
from graft.schemas.load import resolve_path
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Seed
from graft.schemas.students import TeacherScore
from graft.schemas.verdict import Evidence, Verdict, conclude
from graft.students.gains import Material, base_of, gains_of
from graft.students.quick import FOLDS, Known, Rows, dealt, told_apart
from graft.students.rows import as_one_text, named

Pairs = list[tuple[str, str]]

ROWS, JUDGED, PILOT = 200, 40, 12
"""Defaults: known rows, known rows that models label, and generated candidates of each label."""
OWN = 150
"""The user's texts that the best model labels at most: the run that follows the advice labels them too."""
MOST_FOLDS = 25
"""Folds of known seeds at most: each seed is left out alone up to this number."""
TEST_SHARE = 2
"""At most one in so many rows of each label of the recipe's own test file is used: the evaluation needs the others."""


@dataclass(frozen=True)
class Case:
    """A recipe, and what is known about it.

    Args:
        known: rows with a person's labels, on which students are tested
        judged: the first of them, which models label
        source: the file of the known rows; empty: they are the seeds
        own: the user's texts without labels, sampled
    """

    recipe: Recipe
    file: Path
    seeds: list[Seed]
    known: Pairs
    judged: Pairs
    source: str
    own: list[str]
    home: Home

    @property
    def standing_in(self) -> list[str]:
        """More known texts that the best model labels, as it would the user's own, if there are none of these."""
        rest = [] if self.own or not self.source else self.known[len(self.judged) : 2 * len(self.judged)]
        return [text for text, _ in rest]

    @property
    def key(self) -> str:
        """The verdict's key."""
        return verdict_key(self.recipe, self.seeds)

    @property
    def work(self) -> str:
        """Name of the lock and of the folder of the pilot."""
        return f"{self.recipe.name}-teacher-{self.key}"

    @property
    def asked(self) -> str:
        """Id under which calls of the judges are charged: caps hold over all attempts at one verdict, not over all."""
        return f"{self.recipe.name}-teacher-{stable_hash(self.key, self.judged, self.own)[:12]}"


@dataclass
class Judged:
    """Results of the models' labelling. `best` is the best judge's place in `scores`."""

    scores: list[TeacherScore] = field(default_factory=list)
    guesses: list[str] = field(default_factory=list)
    pilot: list[str] = field(default_factory=list)
    own: list[str] = field(default_factory=list)
    more: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    calls: int = 0
    price_usd: float | None = 0.0


async def look(
    recipe: str, *, file: str | None = None, texts: str | None = None, rows: int = ROWS, judged: int = JUDGED,
    pilot: int = PILOT,
) -> Verdict:  # fmt: skip
    """Measure what a run of the recipe would bring, store the verdict and return it.

    Every call is journaled: repeating it makes none. Raises GraftError for a task without labels, InputInvalid for
    broken files, ModelUnreachable if no model answers, MissingExtra without the sentence encoder.

    Args:
        recipe: path of a recipe, or the bare name of one
        file: labelled rows to test on; default: the recipe's test file, else its seeds, each left out in turn
        texts: unlabelled texts of the user
        rows: known rows at most, on which students are tested; that takes no call
        judged: of these, rows that every model labels twice; without texts of the user the best model labels as many
            more in their place
        pilot: generated candidates of each label
    """
    began, case = time.monotonic(), _case(recipe, file, texts, rows, judged)
    progress = begin(Progress(case.recipe.name, "", {}, stage="loading the sentence encoder"))
    await asyncio.to_thread(encoder.embed, ["ready?"])
    with run_lock(case.home, case.work):
        case = replace(case, recipe=await downloaded(case.recipe, case.file, case.home))
        candidates, run = await _pilot(case, pilot)
        passed = [one for one in candidates if one.text and all(result.passed for result in one.gates)]
        progress = begin(Progress(case.recipe.name, "", {}))
        given = await _judge(case, passed, run, progress)
        progress.stage = "comparing quick students"
        found = await asyncio.to_thread(_evidence, case, candidates, passed, given, run)
        found = found.model_copy(update={"seconds": round(time.monotonic() - began, 1)})
        used = [text_hash(text) for text, _ in case.known] if case.source else []
        verdict = conclude(found, used=used, at=utc_now())
        save_verdict(case.home, verdict)
    return verdict


def _case(name: str, given: str | None, texts: str | None, rows: int, judged: int) -> Case:
    """The recipe with its known rows and the user's texts, sampled. Errors as `look`."""
    file, recipe, seeds = read_recipe(name)
    if not recipe.task.labelled:
        what = f"graft teacher compares students of labels, and the rows of task {recipe.task.kind!r} have none"
        raise GraftError(what, where="task.kind", fix="run a few rows and read them: graft run, then graft show")
    if recipe.student.multi_label is not None:
        what = "graft teacher compares students of one label a text, and student.multi_label allows several"
        raise GraftError(what, where="student.multi_label", fix="leave it out for the verdict")
    fields = (recipe.student.text_field, recipe.student.label_field)
    seen = {text_hash(seed.text) for seed in seeds}
    source = given or recipe.student.test or ""
    known = [(seed.text, seed.label) for seed in seeds if seed.label]
    if source:
        path = Path(given) if given else resolve_path(file, source)
        held = load_labelled(path, *fields, recipe.task.names)
        held = [row for row in held if text_hash(row[0]) not in seen]
        known = _spread(held, rows, recipe.seed, share=1 if given else TEST_SHARE)
    else:
        known = _spread(known, rows, recipe.seed)
    if len({label for _, label in known}) < 2:
        what = "the known rows have fewer than two labels, so students cannot be compared"
        raise GraftError(what, where=source or "seeds", fix="give --file with labelled rows of every label")
    seen |= {text_hash(text) for text, _ in known}
    own = _own_texts(recipe, file, texts)
    own = list({text_hash(text): text for text in own if text_hash(text) not in seen}.values())
    own = random.Random(recipe.seed).sample(own, min(OWN, len(own)))
    return Case(recipe, file, seeds, known, known[:judged], source, own, Home.find())


def _own_texts(recipe: Recipe, file: Path, given: str | None) -> list[str]:
    """The user's unlabelled texts: those of a file, else those that the recipe's method labels."""
    if given:
        return load_texts(Path(given), recipe.student.text_field)
    return [row.text for row in read_given(recipe, file).rows]


def _spread(rows: Pairs, most: int, seed: int, share: int = 1) -> Pairs:
    """At most that many rows, of each label in turn, drawn by the seed; of each label one in `share`."""
    of_label: dict[str, Pairs] = defaultdict(list)
    for row in random.Random(seed).sample(rows, len(rows)):
        of_label[row[1]].append(row)
    turns = sorted((turn, label) for label, found in of_label.items() for turn in range(len(found) // share))
    return [of_label[label][turn] for turn, label in turns[:most]]


async def _pilot(case: Case, each: int) -> tuple[list[Candidate], dict[str, Any]]:
    """The candidates of a small run in a scratch lake, and the run's record; nothing if no method writes texts."""
    recipe = method_of(case.recipe).writing(case.recipe)
    if recipe is None:
        return [], {"price_usd": 0.0, "prompt_tokens": 0, "completion_tokens": 0, "calls": 0, "stopped": ""}
    unwanted = {name: 0 for name, count in recipe.wanted().items() if not count}
    most = max(1, each * (len(recipe.wanted()) - len(unwanted)))
    found, run = await run_pilot(
        _half(recipe.small(most, each, unwanted)), case.file, case.seeds, case.home, case.work,
        lambda lake, run: list(lake.iter_candidates(run["id"])),
    )  # fmt: skip
    return sorted(found, key=lambda one: (one.slot.round, one.slot.shard, one.slot.label, one.slot.index)), run


async def _judge(case: Case, passed: Sequence[Candidate], run: dict[str, Any], progress: Progress) -> Judged:
    """Let every writing model of the pool label the known rows, and the best of them the pilot's and the user's texts.

    Raises ModelUnreachable if no model gives a label.
    """
    models = [model for model in case.recipe.models if model.provider != "encoder"]
    recipe = _left(narrowed_to(case.recipe, models), run)
    recipe = await asyncio.to_thread(weighed, recipe, case.home)
    judged = Judged()

    def say(text: str) -> None:
        progress.stage = text

    async with open_gateway(recipe, case.home, say, time.time(), case.asked) as gateway:
        progress.gateway = lambda: gateway.stats
        ask = _counted(gateway.call, judged)
        given, model, examples = await _best(ask, case, recipe, judged, say)
        judged.guesses = given.guesses
        asked = {
            "pilot": ("generated", [_as_text(one) for one in passed]), "own": ("of your", case.own),
            "more": ("more known", case.standing_in),
        }  # fmt: skip
        for what, (whose, texts) in asked.items():
            if texts:
                say(f"{model.name} labels {len(texts)} {whose} texts")
            try:
                labels = await label_texts(ask, recipe, model, examples, texts, recipe.seed, given.means)
                setattr(judged, what, labels.guesses)
            except BudgetExhausted as error:
                judged.notes.append(f"Texts ({whose}) have no label of a model, because of a limit: {error.what}.")
                setattr(judged, what, [""] * len(texts))
    return judged


async def _best(
    ask: Ask, case: Case, recipe: Recipe, judged: Judged, say: Say
) -> tuple[Labels, ModelSpec, Examples]:  # fmt: skip
    """Score every model on the known rows, zero-shot and with examples; the best one and its labels of these rows."""
    tried = list[tuple[TeacherScore, Labels, ModelSpec, Examples]]()
    for model in recipe.models:
        for examples in _shown(case):
            say(f"{model.name} labels {len(case.judged)} known rows, {'few' if examples('') else 'zero'}-shot")
            try:
                score, given = await score_teacher(ask, recipe, model, examples, case.judged, 0.0, recipe.seed)
            except BudgetExhausted as error:
                judged.notes.append(f"{model.name} is left out, because of a limit: {error.what}.")
                continue
            if not score.answered:
                judged.notes.append(f"{model.name} labelled no row: {given.failure or 'it named no label'}.")
            tried.append((score, given, model, examples))
    if not any(score.answered for score, *_ in tried):
        raise ModelUnreachable(
            f"no model labelled a known row: {' '.join(dict.fromkeys(judged.notes))}", where="models",
            fix="see: graft doctor RECIPE; or name other models",
        )  # fmt: skip
    tried.sort(key=lambda one: (-one[0].accuracy, one[0].shots))
    judged.scores = [score for score, *_ in tried]
    _, given, model, examples = tried[0]
    return given, model, examples


def _shown(case: Case) -> list[Examples]:
    """Zero-shot, then the seeds as examples, if there are some; a known row is never shown with its own text."""
    seeds = [(text_hash(seed.text), seed) for seed in case.seeds if seed.label]

    def few(text: str) -> list[Seed]:
        return [seed for name, seed in seeds if not text or name != text_hash(text)]

    return [lambda text: (), few] if seeds else [lambda text: ()]


def _half(recipe: Recipe) -> Recipe:
    """The recipe with half its caps on money and tokens: the pilot leaves the rest to the models that judge."""
    limits = recipe.limits
    halves = {"money_usd": limits.money_usd and limits.money_usd / 2, "tokens": limits.tokens and limits.tokens // 2}
    return recipe.model_copy(update={"limits": limits.model_copy(update=halves)})


def _left(recipe: Recipe, run: dict[str, Any]) -> Recipe:
    """The recipe with the caps on money and tokens that the pilot left."""
    limits, used = recipe.limits, {
        "money_usd": run["price_usd"] or 0.0, "tokens": run["prompt_tokens"] + run["completion_tokens"],
    }  # fmt: skip
    left = {name: max(0, cap - used[name]) for name in used if (cap := getattr(limits, name)) is not None}
    return recipe.model_copy(update={"limits": limits.model_copy(update=left)})


def _counted(ask: Ask, judged: Judged) -> Ask:
    """Forward calls; count them and their prices."""

    async def counted(request: CallRequest) -> Reply:
        reply = await ask(request)
        judged.calls += 1
        known = judged.price_usd is not None and reply.price_usd is not None
        judged.price_usd = (judged.price_usd or 0.0) + (reply.price_usd or 0.0) if known else None
        return reply

    return counted


def _as_text(one: Candidate) -> str:
    """A candidate as a student reads it."""
    return as_one_text(one.text, one.response)


def _evidence(
    case: Case, candidates: Sequence[Candidate], passed: Sequence[Candidate], judged: Judged, run: dict[str, Any]
) -> Evidence:
    """All figures, from vectors of all texts."""
    made, auc = _material(case, passed, judged)
    base = base_of(made)
    accuracy, judged_base = float(base.mean()), float(base[: len(case.judged)].mean())
    prices, notes = (judged.price_usd, run["price_usd"]), [run["stopped"], *judged.notes]
    failed = [one for one in candidates if one not in passed]
    return Evidence(
        dataset=case.recipe.name, key=case.key, method=case.recipe.method.kind, known=len(case.known),
        source=Path(case.source).name, base=accuracy, base_interval=accuracy_interval(int(base.sum()), len(base)),
        teachers=tuple(score.model_copy(update={"student_accuracy": judged_base}) for score in judged.scores),
        candidates=len(candidates), texts=len(passed),
        agreed=sum(one.intended_label == label for one, label in zip(passed, judged.pilot, strict=True)),
        refused=dict(Counter(one.decision.code for one in failed)), own_texts=len(case.own), auc=auc,
        gains=gains_of(made, base), notes=tuple(filter(None, notes)), calls=judged.calls + run["calls"],
        price_usd=None if None in prices else sum(price or 0.0 for price in prices),
        local=tuple(model.name for model in case.recipe.models if model.local), seconds=0.0,
    )  # fmt: skip


def _material(case: Case, passed: Sequence[Candidate], judged: Judged) -> tuple[Material, float | None]:
    """The rows as vectors, and the AUC of real against generated texts."""

    def rows(pairs: Sequence[tuple[str, str]]) -> Rows:
        return Rows(encoder.features([text for text, _ in pairs]), tuple(label for _, label in pairs))

    known, seeds = rows(case.known), [(as_one_text(seed.text, seed.response), seed.label) for seed in case.seeds]
    names = named(case.recipe.task.names)
    folds = FOLDS if case.source else min(len(case.known), MOST_FOLDS)
    pilot = rows([(_as_text(one), one.intended_label) for one in passed])
    own = rows(list(zip(case.own, judged.own, strict=True)))
    guesses = [*judged.guesses, *judged.more]
    made = Material(
        known=Known(known, dealt(known.labels, folds, case.recipe.seed)),
        fixed=rows([*names, *(seeds if case.source else [])]).labelled, seeds_are_known=not case.source,
        guesses=(*guesses, *[""] * (len(known.labels) - len(guesses))), pilot=pilot, relabelled=tuple(judged.pilot),
        own=own,
    )  # fmt: skip
    real = own if case.own else known
    return made, told_apart(real.vectors, pilot.vectors, case.recipe.seed)
