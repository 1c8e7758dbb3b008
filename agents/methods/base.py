"""The contract of a method: plain async Python that turns one slot into one decided candidate.

A method gets everything that it may use: `ask` calls models, `clean` redacts, `screen` runs the gates that need no
other row, `calibration` holds the corrections of label log-probabilities. It
depends on neither Prefect nor the lake. Its module ends with `KIND`, an instance of its class (see `schemas.kinds`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import Field, JsonValue

from graft.agents.roles.asking import Ask
from graft.agents.roles.own_prompts import problems_of
from graft.agents.roles.prompting import originals
from graft.schemas.base import Value, stable_hash
from graft.schemas.binding import LEAST_SCORE, MethodSettings, Role
from graft.schemas.documents import Passage
from graft.schemas.errors import GraftError
from graft.schemas.problems import Finding
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Accepted, Candidate, GateResult, GivenText, Proposal, Seed, Slot
from graft.schemas.sections import Section

S = TypeVar("S", bound=MethodSettings)

Screen = Callable[[Proposal], tuple[GateResult, ...]]
"""Row to one result per gate, in order; the last result is a failure if any gate failed."""

Clean = Callable[[str, str | None], tuple[str, str | None, tuple[GateResult, ...]]]
"""(text, response) to the redacted pair and one result per redaction. A failed result rejects the row: its text was too
long to search."""


Retrieve = Callable[[str, int], Sequence[Passage]]
"""(query, number) to that many passages of the recipe's documents at most, the best match first."""

Query = Callable[[str, Sequence[Any]], list[dict[str, Any]]]
"""SQL over the lake with its parameters, such as `SELECT … FROM lake.candidates WHERE run_id = ?`, to rows."""


TOLERANCE = 1e-9
"""Keeps float rounding from moving a row over a bound."""


class Bounds(NamedTuple):
    """Least probability of an accepted label, and its least lead over the next one (both inclusive)."""

    min_probability: float
    min_margin: float

    def accept(self, probability: float, margin: float) -> bool:
        """Return True if a probability and its lead reach their bounds."""
        return probability >= self.min_probability - TOLERANCE and margin >= self.min_margin - TOLERANCE


@dataclass(frozen=True)
class Place:
    """Place of a slot: `index` counts a label's slots within a shard of a round."""

    run_id: str
    shard: int
    round: int
    index: int
    label: str


@dataclass(frozen=True)
class Drawn:
    """Material that slots are drawn from: rows by label, and each label's most confusable others, nearest first.

    `texts` are a person's texts in the order in which they are labelled; `round` is the round that is drawn;
    `attributes` are those that the method proposed for the run, name to values.
    """

    recipe: Recipe
    pool: Mapping[str, Sequence[Seed]]
    neighbours: Mapping[str, Sequence[str]] = field(default_factory=dict)
    texts: Sequence[GivenText] = ()
    round: int = 0
    complete: frozenset[str] = frozenset()
    """Labels that lack no row: their rows of the pool serve where a preparation needs texts."""
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    passages: Sequence[Passage] = ()
    """Passages of the recipe's documents, by document and span; `steps.passages.passage_for` draws one."""


@dataclass(frozen=True)
class Context:
    """Everything that a method gets for one slot."""

    recipe: Recipe
    seeds: Sequence[Seed]
    ask: Ask
    screen: Screen = lambda proposal: ()
    clean: Clean = lambda text, response: (text, response, ())
    calibration: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Model name to label to mean raw log-probability (batch calibration, Zhou et al. 2023)."""
    by_name: frozenset[str] = frozenset()
    """Models whose server gives no log-probabilities: they name the label instead, which counts as a vote."""
    bounds: Bounds | None = None
    """The bounds on a label that preparation found for `auto`."""
    texts: Mapping[str, GivenText] = field(default_factory=dict)
    """A person's texts by id. They are in no slot: the lake holds them as redacted."""
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """As in Drawn."""
    passages: Mapping[str, Passage] = field(default_factory=dict)
    """Passages of the recipe's documents by id."""
    retrieve: Retrieve | None = None
    """Finds passages by a query; None if the recipe has no documents, or no index of them."""


class TextSource(Value):
    """A file of a person's texts that become rows, in a run's first round, before the method writes any.

    A slot of such a text has no label, and its index is the text's place in its shard.
    """

    path: str = Field(description="relative to the recipe's folder")
    field: str = Field(description="field of the recipe that names the file, for errors")
    column: str | None = Field(default=None, description="column of the texts; None: detected")
    most: int | None = Field(default=None, description="texts to use, at most")
    spread: bool = Field(default=True, description="if not all are used: those that represent the others best")
    each: int = Field(description="texts of a shard, and of the first batch")
    uncertain: bool = Field(default=False, description="whether later batches have texts that a student finds hard")
    margin_of_error: float | None = Field(
        default=None, description="half the 95% interval of a quick student's held-out accuracy at which it is enough"
    )

    @property
    def batches(self) -> bool:
        """True if the texts are chosen batch by batch, as the labels so far decide; else all at once."""
        return self.uncertain or self.margin_of_error is not None


@dataclass(frozen=True)
class Prepared:
    """Results of a method's preparation, before the first slot of a run."""

    calibration: dict[str, dict[str, float]] = field(default_factory=dict)
    """As in Context."""
    by_name: frozenset[str] = frozenset()
    """As in Context."""
    bounds: Bounds | None = None
    """As in Context."""
    figures: dict[str, int] = field(default_factory=dict)
    """Counts that join the run's."""
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """As in Drawn; kept for the run."""
    notes: tuple[str, ...] = ()
    """Warnings for people."""


class Traits(Value):
    """Properties of a method that a run depends on. The defaults are those of a method without the property."""

    rounds: int = Field(
        default=1, description="after each round its accepted rows join the exemplars; 0: it writes no rows"
    )
    repeats_published: bool = Field(default=False, description="whether rows may repeat earlier versions' rows")
    max_cosine: float | None = Field(default=None, description="rows at or above are duplicates; None: off")
    max_refusals: float = Field(default=1.0, description="share of refusals above which the run stops early")
    agreement_after: int = Field(
        default=0, description="candidates after which the run stops if judges agree less than chance; 0: never"
    )
    together: int = Field(default=1, description="candidates of a label that share one reply, and so mostly one fate")
    confusable: bool = Field(default=False, description="whether slots are drawn by which classes are alike")
    assumed_yield: float = Field(default=0.5, description="share of candidates accepted if no run has measured it")
    assumptions: tuple[str, ...] = Field(default=(), description="what its estimate assumes, in clauses")
    refusal_fix: str = Field(default="", description="what to change first if a run stopped for refusals")


class Calls(Value):
    """One kind of call in an estimate: number of calls, role, tokens of each call."""

    purpose: str
    role: str
    calls: int
    prompt_tokens: int
    completion_tokens: int


class Method(Generic[S]):
    """One way to make a row. A subclass sets `kind`, `Settings`, `roles`, `version` and `prompts`.

    It implements `make_slot`, `run_slot` and `estimate`; all other methods have a default here.
    """

    kind: str
    Settings: type[S]
    roles: Mapping[str, Role]
    """The roles that a recipe may name, by name."""
    version: int = 1
    """Raise it if drawing, parsing or decisions change: only this method's recipes get new run ids."""
    prompts: tuple[str | Path, ...] = ()
    """Every prompt that it may render: names of agents/roles/prompts, or paths of Jinja files of its own."""
    needs_seeds: bool = True
    """True if each requested label needs a seed, because exemplars are drawn from them."""
    group_shares_text: bool = False
    """True if the slots of a group share one text, such as several responses to one instruction."""
    keeps_one_of_group: bool = False
    """True if at most one row of a group is accepted."""
    fills: bool = False
    """True if its rows may have the further columns that a task needs, such as spans."""
    one_split: bool = False
    """True if the rows of a group lie in one split, although their texts differ."""
    least_score: str = ""
    """Field under `method` that holds the least mean score of an accepted row, such as tau; empty: none."""

    def settings(self, recipe: Recipe) -> S:
        """The recipe's settings of this method. Raises GraftError if it has another method."""
        if not isinstance(recipe.method, self.Settings):
            what = f"the recipe's method is {recipe.method.kind}"
            raise GraftError(what, where="method.kind", fix=f"use kind: {self.kind}")
        return recipe.method

    def traits(self, recipe: Recipe) -> Traits:
        """Properties of this method under the recipe's settings."""
        return Traits()

    def source(self, recipe: Recipe) -> TextSource | None:
        """The file of texts that become rows in the first round; None: the method writes all of its rows."""
        return None

    def inner(self, recipe: Recipe) -> Sequence[Method[Any]]:
        """The methods that it hands slots to: their prompts and versions decide its rows too."""
        return ()

    def versions(self, recipe: Recipe) -> tuple[Any, ...]:
        """Further versions of rules that decide this recipe's rows; empty while each is the first."""
        return ()

    def own_prompts(self, recipe: Recipe) -> tuple[str, ...]:
        """Prompts that the recipe itself holds: a text that contains their sentences repeats the prompt."""
        return ()

    def writing(self, recipe: Recipe) -> Recipe | None:
        """The recipe under the method that writes texts, for a pilot; None if no text is written."""
        return recipe

    def preview(self, recipe: Recipe, rows: int) -> Recipe:
        """The recipe for a preview: so many candidates, rounded up to as many of each label that is shown."""
        names = [name for name, count in recipe.wanted().items() if count]
        shown = random.Random(recipe.seed).sample(names, min(rows, len(names)))
        each, others = math.ceil(rows / max(1, len(shown))), set(recipe.wanted()) - {*shown}
        return recipe.small(each * max(1, len(shown)), each, dict.fromkeys(others, 0))

    def wanted(self, recipe: Recipe) -> dict[str, int]:
        """Target rows of each label; empty if there are as many rows as its texts yield."""
        return recipe.wanted()

    def least_accepted(self, recipe: Recipe) -> float:
        """The least mean score that the recipe accepts."""
        found: Any = recipe.method
        for step in self.least_score.split("."):
            found = getattr(found, step, None)
        return LEAST_SCORE if found is None else float(found)

    def roles_of(self, recipe: Recipe) -> tuple[str, ...]:
        """The roles that this recipe's rows need, in the order in which they act."""
        return tuple(self.roles)

    def check(self, recipe: Recipe, seeds: Sequence[Seed] | None) -> list[Finding]:
        """Problems of the recipe with this method; with its seeds as well, once they are read."""
        if seeds is None:
            given = recipe.seeds.path or recipe.seeds.rows or not self.needs_seeds
            fix = "add path: seeds.jsonl, or rows: with a text and a label each"
            what = "seeds are empty: give path (a CSV, JSONL or Parquet file) or rows"
            return [] if given else [Finding(("seeds",), what, fix)]
        return unseeded(recipe, seeds) if self.needs_seeds else []

    def all_prompts(self, recipe: Recipe) -> tuple[str | Path, ...]:
        """Its prompts and those of the methods that it hands slots to."""
        return tuple(dict.fromkeys(prompt for one in (self, *self.inner(recipe)) for prompt in one.prompts))

    def check_prompts(self, recipe: Recipe) -> list[Finding]:
        """Problems of the prompts that the recipe replaces."""
        return problems_of(recipe.prompts, originals(self.all_prompts(recipe))) if recipe.prompts else []

    def make_slot(self, place: Place, drawn: Drawn) -> Slot:
        """The slot at a place; it depends on the recipe's seed and the pool, never on timing."""
        raise NotImplementedError

    def spent(self, place: Place, drawn: Drawn) -> bool:
        """True if nothing is left to make the place's slot of, such as seeds that are used once each."""
        return False

    async def run_slot(self, slot: Slot, context: Context) -> Candidate:
        """The decided candidate of one slot. Never raises for a model's failure: that becomes the decision."""
        raise NotImplementedError

    async def propose(self, slot: Slot, context: Context) -> str:
        """The text that the slot's first call writes, for calibration. Raises CallFailed."""
        raise NotImplementedError

    async def prepare_seeds(self, context: Context) -> Sequence[Seed]:
        """The seeds with the fields that prompts show beside their texts."""
        return context.seeds

    async def prepare(self, context: Context, drawn: Drawn) -> Prepared:
        """Prepare a run before its first slot, such as by calibrating judges."""
        return Prepared()

    async def exemplar(self, candidate: Candidate, context: Context) -> Seed:
        """An accepted row as an exemplar of the next round."""
        return Seed.of(candidate.text, candidate.label, candidate.response)

    def estimate(self, recipe: Recipe, candidates: int, seeds: Sequence[Seed]) -> tuple[Calls, ...]:
        """The calls that this many candidates take, in the order in which they are made."""
        raise NotImplementedError

    def estimate_texts(self, recipe: Recipe, texts: Sequence[GivenText], seeds: Sequence[Seed]) -> tuple[Calls, ...]:
        """The calls that label these texts of its `source`."""
        return ()

    def report(self, query: Query, run_id: str, counts: Mapping[str, int]) -> Section | None:
        """The method's own figures of a run, for card, terminal and pages: counts and shares, never a text.

        Args:
            query: runs SQL over the lake; `payload` of lake.candidates holds the slots' payloads as JSON, `notes` the
                notes
            run_id: the run
            counts: its counts so far, with the figures that `prepare` gave
        """
        return None

    def judged_by_all(self, recipe: Recipe, slot: Slot) -> bool:
        """Return True if every reviewer judges the slot's row, so that it measures their agreement without bias."""
        return False

    def text_id(self, row: Candidate | Accepted) -> str:
        """Id under which a row's text is compared for duplicates: rows of one text share it."""
        group = row.group if self.group_shares_text else ""
        return "c_" + stable_hash(group) if group else row.id

    def one_of(self, row: Candidate | Accepted) -> str:
        """The group of which at most one row is accepted; empty if the row is in none."""
        return row.group if self.keeps_one_of_group else ""

    def describe(self, slot: Slot, notes: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
        """Requests to a slot beyond its label, and notes on how it was made, as (name, text) for people.

        Shown for restricted rows too, so it quotes no text that a model wrote.
        """
        return [(name, str(value)) for name, value in {**slot.payload, **notes}.items() if not isinstance(value, str)]


def unseeded(recipe: Recipe, seeds: Sequence[Seed]) -> list[Finding]:
    """Labels that need a seed and have none. Empty if a seed has no label yet: it gets one later."""
    where = recipe.seeds.path or "recipe"
    if not seeds:
        fix = f"write at least one row for each label in {where}"
        return [Finding(("seeds",), "there are no seeds at all", fix)]
    seen = {seed.label for seed in seeds}
    missing = [] if "" in seen else [name for name, wanted in recipe.wanted().items() if wanted and name not in seen]
    return [
        Finding(
            ("seeds",), f"label {name!r} has no seed",
            f"add a row with the label {name!r}, or set target.labels.{name}: 0",
        )
        for name in missing
    ]  # fmt: skip
