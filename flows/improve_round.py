"""One round of a loop: its recipe, its version, its student, and the evidence that decides the next one."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from graft.agents.local import encoder
from graft.data.gates import without
from graft.data.lake import Lake
from graft.data.scores.answers import VALIDATION
from graft.data.versions import version as find_version
from graft.flows import artifacts
from graft.flows.make_dataset import make_run
from graft.flows.progress import current
from graft.flows.steer_models import SteerModels
from graft.schemas.datasets import DatasetVersion
from graft.schemas.errors import GraftError
from graft.schemas.gates import GateSettings
from graft.schemas.home import Home
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed
from graft.schemas.steering import Arm, RoundResult
from graft.schemas.students import Student
from graft.students.heads import head_of
from graft.students.rows import TrainRow, as_one_text, read_version, unique
from graft.students.steer import Evidence, SteeringRow, decide
from graft.students.train import Learner, Lesson, learn

NOTHING = "nothing to steer by"
"""Begins the reason of a loop that ended because its student makes too few mistakes."""
LEAST_MISTAKES = 3

JUDGE = "student"
"""The name of the last student in a round's model pool."""


def say(text: str) -> None:
    """Show one line of progress in the live display and the log."""
    now = current()
    if now is not None:
        now.stage = text
    artifacts.say(text)


@dataclass(frozen=True)
class Loop:
    """State shared by all rounds. `test` never steers; `steering` are rows from a file that steer."""

    recipe: Recipe
    file: Path
    seeds: list[Seed]
    home: Home
    lake: Lake
    labels: list[str]
    test: list[tuple[str, str]]
    test_name: str
    steering: list[tuple[str, str]]

    @property
    def seed_rows(self) -> list[TrainRow]:
        """The seeds that have a label, as a student reads them."""
        return [TrainRow(as_one_text(seed.text, seed.response), seed.label) for seed in self.seeds if seed.label]


@dataclass
class Spending:
    """An arm's spending so far. `price_usd` is None once any price is unknown."""

    candidates: int = 0
    calls: int = 0
    tokens: int = 0
    price_usd: float | None = 0.0

    def add(self, candidates: int, calls: int, tokens: int, price: float | None) -> None:
        """Add a run, or calls between two runs."""
        self.candidates += candidates
        self.calls += calls
        self.tokens += tokens
        self.price_usd = None if self.price_usd is None or price is None else self.price_usd + price


@dataclass(frozen=True)
class Made:
    """A round's version, and its rows by split; no student is trained on `validation`, whose ids are kept too."""

    version: DatasetVersion
    train: list[TrainRow]
    validation: list[TrainRow]
    validation_ids: list[str]


@dataclass
class State:
    """The memory of a loop's policies: failed rows of each round, each policy's last weights, labelers' answers."""

    failed: list[list[SteeringRow]] = field(default_factory=list)
    weights: dict[str, Mapping[str, float]] = field(default_factory=dict)
    taught: dict[str, Mapping[str, float] | None] = field(default_factory=dict)
    summaries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Arms:
    """One random seed of a loop, with its datasets and students. The first seed is the recipe's own."""

    loop: Loop
    seed: int
    first: bool

    def dataset(self, arm: Arm) -> str:
        """The dataset that an arm publishes into; a loop never publishes into the recipe's own."""
        kind = "improved" if arm == "steered" else "unsteered"
        return f"{self.loop.recipe.name}-{kind}" + ("" if self.first else f"-{self.seed}")

    def learn(
        self, version: int | None, train: Sequence[TrainRow], validation: Sequence[TrainRow], dataset: str = ""
    ) -> Learner:
        """Train a student on the seeds and these rows and save it in the lake."""
        loop, seeds = self.loop, self.loop.seed_rows
        settings = loop.recipe.student.model_copy(
            update={"seed": loop.recipe.student.seed + self.seed - loop.recipe.seed}
        )
        head = head_of(settings, loop.labels)
        lesson = Lesson(
            dataset or self.dataset("steered"), version, head.training_rows([*seeds, *train]), validation, head,
            settings.model_copy(update={"select": None}), "seeds" if version is None else "version",
        )  # fmt: skip
        stored = {student.id: student for student in loop.lake.students(lesson.dataset)}
        learner = learn(lesson, loop.home, stored.get, say)
        if learner.student.id not in stored:
            loop.lake.save_student(learner.student)
        return learner

    def result(
        self, arm: Arm, number: int, learner: Learner, made: Made | None, spent: Spending, started: float,
        judged_rows: Sequence[SteeringRow] = (), wanted: dict[str, int] | None = None, said: tuple[str, ...] = (),
    ) -> RoundResult:  # fmt: skip
        """The round's line in the report; the student's evaluations are saved. `judged_rows` are those that steer."""
        loop, student = self.loop, learner.student
        _, judged = learner.judged(loop.test, loop.test_name)
        loop.lake.save_evaluation(judged)
        if made is not None and made.validation:
            rows = [row.pair for row in made.validation]
            loop.lake.save_evaluation(learner.judged(rows, VALIDATION, made.validation_ids)[1])
        return RoundResult(
            arm=arm, seed=self.seed, round=number, dataset=self.dataset(arm), student_id=student.id,
            version=made.version.version if made else None, run_id=made.version.run_id if made else "",
            rows=made.version.rows if made else 0, candidates=spent.candidates, calls=spent.calls,
            tokens=spent.tokens, price_usd=spent.price_usd, steering=right_share(judged_rows),
            loss=mean_loss(judged_rows), test=judged.accuracy,
            interval=judged.interval, seconds=round(time.monotonic() - started, 1), wanted=wanted or {}, said=said,
        )  # fmt: skip

    def steering_rows(self, learner: Learner, made: Made | None) -> list[SteeringRow]:
        """The student's predictions on the rows that steer: from a file, else the version's validation rows."""
        if self.loop.steering:
            return judged_rows(learner, [TrainRow(text, label) for text, label in self.loop.steering])
        return judged_rows(learner, made.validation) if made else []

    def mined(self, made: Made, rows: Sequence[SteeringRow]) -> Sequence[SteeringRow]:
        """Rows whose mistakes the generator may see: those of a file, else the training rows, judged out of fold."""
        if self.loop.steering:
            return rows
        embed, why = encoder.find_embed()
        if embed is None:
            say(f"no mistakes are looked for among the training rows: {why}")
            return ()
        from graft.students.folds import out_of_fold

        train, labels = unique([*self.loop.seed_rows, *made.train]), self.loop.labels
        found = out_of_fold(embed([row.text for row in train]), [row.label for row in train], seed=self.seed)
        return [
            SteeringRow(
                train[at].text, train[at].label,
                dict.fromkeys(labels, 0.0) | dict(zip(found.names, map(float, shares), strict=True)),
            )
            for at, shares in zip(found.rows, found.probabilities, strict=True)
        ]  # fmt: skip


def right_share(rows: Sequence[SteeringRow]) -> float | None:
    """Accuracy, 0 to 1; None without rows."""
    return sum(not row.wrong for row in rows) / len(rows) if rows else None


def mean_loss(rows: Sequence[SteeringRow]) -> float | None:
    """Mean negative log-probability of the rows' labels, in nats; None without rows."""
    return sum(row.loss(row.student) for row in rows) / len(rows) if rows else None


def nothing_to_steer_by(rows: Sequence[SteeringRow], mined: Sequence[SteeringRow], enough: float) -> str:
    """Why the next round would be steered by nothing, for people; empty if there is something."""
    share = right_share(rows)
    if share is None:
        return f"{NOTHING}: no row steers. Raise splits.validation or rows_per_round, or name rows in improve.steer_on"
    if share >= enough:
        return f"{NOTHING}: the student has {share:.1%} of {len(rows)} steering rows right, and {enough:.0%} is enough"
    mistakes = len({(row.text, row.label) for row in (*rows, *mined) if row.wrong})
    if mistakes < LEAST_MISTAKES:
        return f"{NOTHING}: too few mistakes ({mistakes}, and {LEAST_MISTAKES} are the least)"
    return ""


def judged_rows(learner: Learner, rows: Sequence[TrainRow]) -> list[SteeringRow]:
    """Rows with the student's probabilities and, if known, the teacher's."""
    _, shares = learner.ask([row.text for row in rows])
    labels = learner.labels
    return [
        SteeringRow(
            row.text, row.label, dict(zip(labels, probabilities, strict=True)),
            dict(zip(labels, row.soft, strict=True)) if row.soft else None,
        )
        for row, probabilities in zip(rows, shares, strict=True)
    ]  # fmt: skip


def first_recipe(arms: Arms) -> Recipe:
    """The first round's recipe: the loop's own, with an even share of rows."""
    recipe, settings = arms.loop.recipe, arms.loop.recipe.improve
    wanted = recipe.wanted()
    if settings.rows_per_round is not None:
        each, more = divmod(settings.rows_per_round, len(wanted))
        wanted = {label: each + (place < more) for place, label in enumerate(wanted)}
    return _with(recipe, arms, "steered", wanted)


async def next_recipe(
    arms: Arms,
    recipe: Recipe,
    state: State,
    learner: Learner,
    made: Made,
    rows: Sequence[SteeringRow],
    mined: Sequence[SteeringRow],
    number: int,
    spent: Spending,
) -> Recipe:
    """The next round's recipe, decided by the policies, whose notes are kept in `state`."""
    loop, settings = arms.loop, arms.loop.recipe.improve
    opened = SteerModels(loop.recipe, loop.home, loop.lake, loop.seeds, say, made.version.run_id, arms.seed + number)
    async with opened as models:
        decided = await decide(
            Evidence(
                number, settings.rounds, loop.labels, rows, judged_rows(learner, made.train), models.name,
                teach=models.with_memory(state.taught), embed=encoder.find_embed()[0], student=learner.student.id,
                mined=mined, failed=tuple(state.failed),
            ),
            settings, rows=sum(recipe.wanted().values()), after=made.version.version, before=state.weights,
        )  # fmt: skip
    spent.add(0, *models.spent)
    state.failed.append([row for row in mined if row.wrong])
    state.weights = decided.weights
    state.summaries = decided.summaries
    for sentence in state.summaries:
        say(sentence)
    changed = _with(loop.recipe, arms, "steered", decided.wanted)
    changed = changed.model_copy(update={"steering": decided.steering, "gates": loop.recipe.gates})
    return _judged_by(changed, learner.student) if settings.judge else changed


def unsteered_recipe(arms: Arms, candidates: int) -> Recipe:
    """A recipe for that many candidates at once: only they can end the run."""
    recipe = arms.loop.recipe
    each = math.ceil(candidates / len(recipe.wanted()))
    limits = recipe.limits.model_copy(update={"candidates": candidates, "out_of_reach": "go_on", "min_yield": 0.0})
    changed = _with(recipe, arms, "unsteered", dict.fromkeys(recipe.wanted(), each))
    return changed.model_copy(update={"limits": limits})


async def make_version(loop: Loop, recipe: Recipe, spent: Spending) -> Made | None:
    """Run a round's recipe and read its version; None if it published nothing. Raises YieldTooLow as make_dataset.

    A run that ended early with some rows published counts as a success.
    """
    result = await make_run(recipe, loop.file, loop.seeds)
    run, version = result["run"], result["version"]
    tokens = run["prompt_tokens"] + run["completion_tokens"]
    spent.add(run["counts"]["opened"], run["calls"], tokens, run["price_usd"])
    if version is None:
        return None
    found = find_version(loop.lake, f"{version['dataset']}@{version['version']}")
    material = read_version(loop.lake, found, loop.labels, artifacts.say)
    return Made(found, material.rows["train"], material.rows["validation"], material.ids["validation"])


def _with(recipe: Recipe, arms: Arms, arm: Arm, wanted: dict[str, int]) -> Recipe:
    """The recipe with an arm's name, seed and counts; versions of other loops do not constrain it."""
    target = recipe.target.model_copy(update={"labels": wanted})
    free = without(lambda kind: kind.published)
    gates = GateSettings.model_validate({**recipe.gates.model_dump(), **free})
    return recipe.model_copy(update={"name": arms.dataset(arm), "seed": arms.seed, "target": target, "gates": gates})


def _judged_by(recipe: Recipe, student: Student) -> Recipe:
    """The recipe with the student replacing every encoder, in the pool and in roles."""
    encoders = {model.name for model in recipe.models if model.provider == "encoder"}
    licence = next((model.licence for model in recipe.models if model.provider == "encoder"), None)
    judge = ModelSpec(name=JUDGE, provider="encoder", model=student.id, licence=licence)
    models = (*(model for model in recipe.models if model.name not in encoders), judge)
    roles = {}
    for role, spec in recipe.roles.items():
        names = dict.fromkeys(JUDGE if name in encoders else name for name in spec.models)
        roles[role] = spec.model_copy(update={"models": tuple(names)})
    changed = {"models": models, "roles": roles}
    try:
        return Recipe.model_validate(recipe.model_copy(update=changed).model_dump())
    except ValueError as error:
        raise GraftError(f"the student cannot join the judges: {error}", where="improve.judge", fix="false") from None
