"""Values of human review: queues and their items, decisions, agreement, and judges measured against people."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from graft.schemas.base import Value
from graft.schemas.datasets import Edit, SplitName
from graft.schemas.rows import Data
from graft.schemas.shown import Shown, table

QueueRule = Literal["disagreement", "margin", "random", "gate", "query"]

REJECTED = "reject"
"""The name of a rejection in the agreement figures."""


class Verdict(Value):
    """A judge's verdict on a row."""

    role: str
    model: str
    mean: float | None = Field(description="mean of its scores, 0 to 10; None without scores")
    probability: float | None = Field(description="its probability of the row's label, 0 to 1; None if it gave none")
    answer: str = Field(description="the label that it chose; empty if it chose none")
    comment: str


class Item(Value):
    """A row of a queue as a person sees it, without others' decisions. Words of a restricted row are hidden."""

    row_id: str
    text: str
    response: str | None
    label: str
    intended_label: str
    split: SplitName | None = Field(description="None for a rejected candidate")
    status: Literal["accepted", "rejected"]
    restricted: bool
    why: str = Field(description="the reason for the review, in one line")
    score: float | None = Field(description="the sort key of the queue: spread, margin or the gate's score")
    reviews: tuple[Verdict, ...]
    second: str = Field(description="the likeliest other label; empty: unknown")
    neighbour: str = Field(description="id of the row that a gate matched; empty: none")
    neighbour_text: str | None = Field(description="its text, hidden if it is restricted; None: unknown")
    data: Data = Field(default={}, description="its further columns; empty if they are hidden")


class Queue(Shown, Value):
    """The first rows of a queue, in order; `total` counts all matching rows that are open to this person."""

    rule: QueueRule
    items: tuple[Item, ...]
    total: int

    def shown(self) -> dict[str, object]:
        """See Shown."""
        return {"rule": self.rule, "rows": len(self.items), "of": self.total}

    def _repr_html_(self) -> str:
        """The rows with the reason for which each needs review."""
        head = ("row", "label", "why", "text")
        return table([(one.row_id, one.label, one.why, one.text) for one in self.items], head)

    @property
    def ids(self) -> tuple[str, ...]:
        """The rows' ids, in order."""
        return tuple(item.row_id for item in self.items)


class Standing(Value):
    """A decision or note in force, and the state of its row: in the version, a rejected candidate, or absent.

    `held` is the state in the version itself, whatever was decided. Words of a restricted row are hidden.
    """

    edit: Edit
    held: Literal["accepted", "rejected", "absent"]
    restricted: bool


class Pair(Value):
    """Two people and the rows that both decided."""

    a: str
    b: str
    rows: int
    equal: int
    kappa: float | None = Field(description="Cohen's kappa; None if chance alone would make them equal")


class Difference(Value):
    """A row that people decided differently: person to label, or `reject`."""

    row_id: str
    said: dict[str, str]


class Agreement(Value):
    """Agreement on the rows that two or more people decided, by each person's first decision in force."""

    rows: int
    equal: float | None = Field(description="share of the rows on which all agree; None: there are no such rows")
    people: tuple[str, ...]
    pairs: tuple[Pair, ...]
    alpha: float | None = Field(description="Krippendorff's alpha, nominal")
    missing: str = Field(description="why there is no alpha; empty if there is one")
    blind: int = Field(description="rows on which everyone after the first person decided blind")
    differ: tuple[Difference, ...] = Field(description="by row id, the first 1,000")


class Judge(Value):
    """A judge on rows that people decided too. It agrees if it passed a row that stands, or rejected one that does not.

    A row stands if people keep it under its label. A false accept is a row that the judge passed and that does not
    stand; a false reject is a row that it rejected and that stands.
    """

    kind: str = Field(description="a role, gate or decision")
    name: str = Field(description="model or gate; for the final decision its route")
    rows: int
    accepted: int
    agreed: int
    false_accepts: int
    false_rejects: int
    share: float = Field(description="share of the rows on which it agrees with people")
    interval: tuple[float, float] = Field(description="Wilson's 95% interval of the share")


class AgainstPeople(Value):
    """Every judge measured against people, most rows first within its kind; `rows` are those that people decided."""

    rows: int
    judges: tuple[Judge, ...]


class Person(Value):
    """A person's work on the rows of a version or its rejected candidates; `seconds` is the median per decision."""

    by: str
    decided: int
    skipped: int
    seconds: float | None


class Progress(Value):
    """Progress of the review of a version."""

    ref: str
    rows: int
    decided: int = Field(description="rows of the version that somebody decided")
    outside: int = Field(description="rejected candidates of its runs that somebody decided")
    skipped: int = Field(description="rows of the version that somebody skipped and nobody decided")
    waiting: int = Field(description="decided rows that would change this version")
    people: tuple[Person, ...] = Field(description="most decisions first")
