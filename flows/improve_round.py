"""One round of a loop: its recipe, its version, its student, and the evidence that decides the next one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from graft.agents.local import encoder
from graft.data.gates import without
from graft.data.lake import Lake
from graft.data.versions import version as find_version
from graft.flows import artifacts
from graft.flows.make_dataset import make_run
from graft.flows.progress import current
from graft.flows.steer_models import SteerModels
from graft.schemas.base import stable_hash
from graft.schemas.datasets import DatasetVersion
from graft.schemas.errors import GraftError
from graft.schemas.gates import GateSettings
from graft.schemas.home import Home
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed
from graft.schemas.steering import Arm, RoundResult
from graft.schemas.students import Student
from graft.students.kinds.base import InRounds, Pupil, Term
from graft.students.rows import TrainRow
from graft.students.steer import Evidence, SteeringRow, decide
from graft.students.steer.base import LABELS

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
    kind: InRounds

    @property
    def id(self) -> str:
        """The improvement's id."""
        settings = self.recipe.improve.model_dump(mode="json")
        return f"im_{stable_hash(self.recipe.fingerprint(), settings, self.test_name)}"


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
    """The memory of a loop: failed rows of each round, each policy's last weights, labelers' answers, reviewers' scores
    of responses, and the texts that the next student does not learn from.
    """

    failed: list[list[SteeringRow]] = field(default_factory=list)
    weights: dict[str, Mapping[str, float]] = field(default_factory=dict)
    taught: dict[str, Mapping[str, float] | None] = field(default_factory=dict)
    scored: dict[tuple[str, str], float | None] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()
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
    ) -> Pupil:
        """Train a student on the seeds and these rows and save it in the lake."""
        loop, settings = self.loop, self.loop.recipe.student
        seeded = settings.model_copy(update={"seed": settings.seed + self.seed - loop.recipe.seed})
        term = Term(loop.lake, loop.home, seeded, loop.labels, loop.test, loop.test_name, say)
        rows = [*loop.kind.seed_rows(loop.seeds), *train]
        return loop.kind.learn(term, dataset or self.dataset("steered"), version, rows, validation)

    def result(
        self, arm: Arm, number: int, pupil: Pupil, made: Made | None, spent: Spending, started: float,
        judged_rows: Sequence[SteeringRow] = (), wanted: dict[str, int] | None = None, said: tuple[str, ...] = (),
    ) -> RoundResult:  # fmt: skip
        """The round's line in the report; the student's evaluations are saved. `judged_rows` are those that steer."""
        test, interval = pupil.tested(made.validation, made.validation_ids) if made else pupil.tested((), ())
        return RoundResult(
            arm=arm, seed=self.seed, round=number, dataset=self.dataset(arm), student_id=pupil.student.id,
            version=made.version.version if made else None, run_id=made.version.run_id if made else "",
            rows=made.version.rows if made else 0, candidates=spent.candidates, calls=spent.calls,
            tokens=spent.tokens, price_usd=spent.price_usd, steering=right_share(judged_rows),
            loss=mean_loss(judged_rows), test=test,
            interval=interval, seconds=round(time.monotonic() - started, 1), wanted=wanted or {}, said=said,
        )  # fmt: skip

    @asynccontextmanager
    async def advisers(
        self, made: Made | None, number: int, spent: Spending, state: State
    ) -> AsyncIterator[SteerModels]:
        """The models that advise after a round; their spending is added at the end."""
        loop = self.loop
        run_id = made.version.run_id if made else loop.id
        opened = SteerModels(
            loop.recipe, loop.home, loop.lake, loop.seeds, say, run_id, self.seed + number, capped_as=loop.id,
            scored=state.scored,
        )  # fmt: skip
        async with opened:
            yield opened
        spent.add(0, *opened.spent)

    async def steering_rows(self, pupil: Pupil, made: Made | None, models: SteerModels) -> list[SteeringRow]:
        """The student's answers on the rows that steer: from a file, else the version's validation rows."""
        given = [TrainRow(text, label) for text, label in self.loop.steering]
        return await pupil.judged(given or (made.validation if made else ()), models.score)

    async def mined(
        self, pupil: Pupil, made: Made, rows: Sequence[SteeringRow], models: SteerModels
    ) -> Sequence[SteeringRow]:
        """Rows whose mistakes the generator may see: those of a file, else the training rows."""
        train = [*self.loop.kind.seed_rows(self.loop.seeds), *made.train]
        return rows if self.loop.steering else await pupil.mined(train, models.score)


def right_share(rows: Sequence[SteeringRow]) -> float | None:
    """Accuracy, 0 to 1; None without rows."""
    return sum(not row.wrong for row in rows) / len(rows) if rows else None


def mean_loss(rows: Sequence[SteeringRow]) -> float | None:
    """Mean of the rows' costs, such as the negative log-probability of their labels in nats; None without rows."""
    return sum(row.cost for row in rows) / len(rows) if rows else None


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


def first_recipe(arms: Arms) -> Recipe:
    """The first round's recipe: the loop's own, with an even share of rows."""
    recipe, settings = arms.loop.recipe, arms.loop.recipe.improve
    wanted = recipe.wanted()
    if settings.rows_per_round is not None:
        wanted = evenly(settings.rows_per_round, wanted)
    return _with(recipe, arms, "steered", wanted)


def evenly(count: int, labels: Collection[str]) -> dict[str, int]:
    """A count spread over labels: the first get one more if it does not divide."""
    each, more = divmod(count, len(labels))
    return {label: each + (place < more) for place, label in enumerate(labels)}


async def next_recipe(
    arms: Arms,
    recipe: Recipe,
    state: State,
    pupil: Pupil,
    made: Made,
    rows: Sequence[SteeringRow],
    mined: Sequence[SteeringRow],
    number: int,
    models: SteerModels,
) -> Recipe:
    """The next round's recipe, decided by the policies, whose notes are kept in `state`."""
    loop, settings, asked = arms.loop, arms.loop.recipe.improve, recipe.wanted()
    pool = await pupil.judged(made.train, models.score) if loop.kind.steered == LABELS else ()
    decided = await decide(
        Evidence(
            number, settings.rounds, loop.labels, rows, pool, models.name,
            teach=models.with_memory(state.taught), embed=encoder.find_embed()[0], student=pupil.student.id,
            mined=mined, failed=tuple(state.failed), wanted=first_recipe(arms).wanted(),
        ),
        settings, rows=sum(asked.values()), after=made.version.version, before=state.weights,
    )  # fmt: skip
    state.failed.append([row for row in mined if row.wrong])
    state.weights, state.left_out = decided.weights, decided.left_out
    state.summaries = decided.summaries
    for sentence in state.summaries:
        say(sentence)
    changed = _with(loop.recipe, arms, "steered", decided.wanted)
    changed = changed.model_copy(update={"steering": decided.steering, "gates": loop.recipe.gates})
    return _judged_by(changed, pupil.student) if settings.judge and loop.kind.steered == LABELS else changed


def unsteered_recipe(arms: Arms, candidates: int) -> Recipe:
    """A recipe for that many candidates at once: only they can end the run."""
    recipe = arms.loop.recipe
    wanted = evenly(candidates, recipe.wanted())
    limits = recipe.limits.model_copy(update={"candidates": candidates, "out_of_reach": "go_on", "min_yield": 0.0})
    changed = _with(recipe, arms, "unsteered", wanted)
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
    material = loop.kind.version_rows(loop.lake, found, loop.labels, artifacts.say)
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
