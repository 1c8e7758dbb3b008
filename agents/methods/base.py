"""What a method is: plain async Python that turns one slot into one decided candidate.

It is handed everything it may touch: `ask` reaches models, `clean` takes out what the recipe redacts, `screen` runs the
gates that need no other row, and `calibration` holds what label log-probabilities are corrected by. It knows neither
Prefect nor the lake.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from graft.schemas.calls import CallRequest, Reply
from graft.schemas.models import RoleName
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, GateResult, Proposal, Seed, Slot

Ask = Callable[[CallRequest], Awaitable[Reply]]
"""Sends one request through the gateway. Raises CallFailed (or BudgetExhausted) when no usable reply can be had."""

Screen = Callable[[Proposal], tuple[GateResult, ...]]
"""A row to one result a gate, in order; the last one is a failure if any gate failed."""

Clean = Callable[[str, str | None], tuple[str, str | None, tuple[GateResult, ...]]]
"""(text, response) to the same with what the recipe redacts taken out, and a result for each thing that was. A failed
result rejects the row: it was too long to be looked through."""


@dataclass(frozen=True)
class Place:
    """Where a slot stands: `index` counts a label's slots within a shard of a round."""

    run_id: str
    shard: int
    round: int
    index: int
    label: str


@dataclass(frozen=True)
class Drawn:
    """What slots are drawn from: rows by label, and each label's most confusable others, nearest first."""

    recipe: Recipe
    pool: Mapping[str, Sequence[Seed]]
    neighbours: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What a method is given for one slot."""

    recipe: Recipe
    seeds: Sequence[Seed]
    ask: Ask
    screen: Screen = lambda proposal: ()
    clean: Clean = lambda text, response: (text, response, ())
    calibration: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Model name to label to mean raw log-probability (batch calibration, Zhou et al. 2023)."""
    by_name: frozenset[str] = frozenset()
    """Models whose server gives no log-probabilities: they name the label instead, which counts as a vote."""


class Method(Protocol):
    """One way to make a row."""

    def roles(self, recipe: Recipe) -> tuple[RoleName, ...]:
        """The roles that this recipe's rows need, in the order in which they act."""
        ...

    def make_slot(self, place: Place, drawn: Drawn) -> Slot:
        """The slot at a place; it follows from the recipe's seed and what is drawn from, never from timing."""
        ...

    async def propose(self, slot: Slot, context: Context) -> str:
        """The text that the slot's first call writes, for calibration. Raises CallFailed."""
        ...

    async def run_slot(self, slot: Slot, context: Context) -> Candidate:
        """The decided candidate of one slot. Never raises for what a model did: that ends in its decision."""
        ...
