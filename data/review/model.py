"""What a review is told in: queues and their items, decisions, agreement, and judges measured against people."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from graft.schemas.base import Value
from graft.schemas.datasets import SplitName
from graft.schemas.versions import Edit

QueueRule = Literal["disagreement", "margin", "random", "gate", "query"]

REJECTED = "reject"
"""What agreement calls a decision to leave a row out."""


class Said(Value):
    """What one judge said of a row."""

    role: str
    model: str
    mean: float | None = Field(description="mean of its scores, 0 to 10; None where it gave none")
    answer: str = Field(description="the label that it chose; empty where it chose none")
    comment: str


class Item(Value):
    """One row of a queue as a person sees it, without what others decided. Words of a restricted row are hidden."""

    row_id: str
    text: str
    response: str | None
    label: str
    intended_label: str
    split: SplitName | None = Field(description="None for a rejected candidate")
    status: Literal["accepted", "rejected"]
    restricted: bool
    why: str = Field(description="why a person is asked, in a line")
    score: float | None = Field(description="what the queue sorts by: spread, margin or the gate's score")
    reviews: tuple[Said, ...]
    second: str = Field(description="the likeliest other label; empty: not known")
    neighbour: str = Field(description="id of the row that a gate hit; empty: none")
    neighbour_text: str | None = Field(description="its text, hidden where it is restricted; None: not known")


class Queue(Value):
    """The first rows of a queue, in its order; `total` counts all that fit the rule and are open to this person."""

    rule: QueueRule
    items: tuple[Item, ...]
    total: int

    @property
    def ids(self) -> tuple[str, ...]:
        """The rows' ids, in order."""
        return tuple(item.row_id for item in self.items)


class Standing(Value):
    """A decision or note that stands, and where its row is: in the version, among rejected candidates, or in neither.

    `held` says what the version itself holds, whatever was decided. Words of a restricted row are hidden.
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
    kappa: float | None = Field(description="Cohen's kappa; None where chance alone would make them equal")


class Difference(Value):
    """A row that people decided differently: person to label, or `reject`."""

    row_id: str
    said: dict[str, str]


class Agreement(Value):
    """How far people agree on the rows that two or more of them decided; of each person the first standing decision."""

    rows: int
    equal: float | None = Field(description="share of the rows on which all agree; None: there are no such rows")
    people: tuple[str, ...]
    pairs: tuple[Pair, ...]
    alpha: float | None = Field(description="Krippendorff's alpha, nominal")
    missing: str = Field(description="why there is no alpha; empty where there is one")
    blind: int = Field(description="those rows where everyone after the first decided blind")
    differ: tuple[Difference, ...] = Field(description="by row id, the first 1,000")


class Judge(Value):
    """One judge on rows that people decided too. It agrees where it kept what stands, or refused what does not.

    A row stands where people keep it under the label that it had. A false accept is a row that the judge let pass and
    that does not stand, a false reject one that it refused and that stands.
    """

    kind: str = Field(description="a role, gate or decision")
    name: str = Field(description="model or gate; for the final decision the route that it took")
    rows: int
    accepted: int
    agreed: int
    false_accepts: int
    false_rejects: int
    share: float = Field(description="of the rows, those on which it agrees with people")
    interval: tuple[float, float] = Field(description="Wilson's 95% interval of the share")


class AgainstPeople(Value):
    """Every judge measured against people, most rows first within its kind; `rows` are those that people decided."""

    rows: int
    judges: tuple[Judge, ...]


class Person(Value):
    """What one person did to the rows of a version or its rejected candidates; `seconds` is the median look."""

    by: str
    decided: int
    skipped: int
    seconds: float | None


class Progress(Value):
    """How far the review of a version is."""

    ref: str
    rows: int
    decided: int = Field(description="rows of the version that somebody decided")
    outside: int = Field(description="rejected candidates of its runs that somebody decided")
    skipped: int = Field(description="rows of the version that somebody skipped and nobody decided")
    waiting: int = Field(description="decided rows that would make this version another one")
    people: tuple[Person, ...] = Field(description="most decisions first")
