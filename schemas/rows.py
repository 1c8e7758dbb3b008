"""From a requested row to a decided one: seed, slot, candidate, review, gate result, decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, JsonValue

from graft.schemas.base import Value, stable_hash

Data = dict[str, JsonValue]
"""A row's columns beyond text, response and label, by name: spans, messages, evidence, whatever its task holds."""
Status = Literal["accepted", "rejected", "failed"]
Route = Literal[
    "flag", "low_mean", "agreed", "adjudicated", "gate", "failed", "labelled", "no_label", "refusal", "intended",
    "unsure", "cut", "not_chosen", "step",
]  # fmt: skip


class Seed(Value):
    """A row that a person gave. `label` is a label or a domain of the task; empty if it is still to be found."""

    id: str
    text: str
    label: str = ""
    response: str | None = None
    keywords: tuple[str, ...] = ()
    summary: str = ""

    @classmethod
    def of(cls, text: str, label: str = "", response: str | None = None) -> Seed:
        """A seed whose id is the hash of its content."""
        return cls(id="s_" + stable_hash(text, label, response), text=text, label=label, response=response)


class GivenText(Value):
    """A text without a label from a person's file, to be labelled."""

    id: str
    text: str
    file: str = Field(description="the file's name, without its folder")
    row: int = Field(ge=1, description="line or row in the file, counted from 1")

    @classmethod
    def of(cls, text: str, file: str, row: int) -> GivenText:
        """A text whose id is the hash of its words."""
        return cls(id="t_" + stable_hash(text), text=text, file=file, row=row)


class Steer(Value):
    """A round's request (`improve`) to a slot beyond its label."""

    concept: str = Field(default="", description="subject of the text, within its label")


class Slot(Value):
    """One requested row. Its id and random seed depend on the recipe alone, so every rerun draws the same.

    Slots of one `group` share their random seed, and so their first call: it is made once, each takes its `part` of it.
    """

    id: str
    run_id: str
    shard: int = Field(ge=0)
    round: int = Field(ge=0)
    index: int = Field(ge=0, description="place in its label's stream within the shard")
    label: str = Field(
        description="the requested label (classification, guard) or domain (instruction); empty for a given text"
    )
    exemplars: tuple[Seed, ...] = Field(default=(), description="rows shown to the generator, in prompt order")
    seed: int = Field(ge=0, lt=2**31)
    group: str = Field(default="", description="id of the first slot of those that share a call; empty: it is alone")
    part: int = Field(default=0, ge=0, description="place within the group")
    payload: dict[str, JsonValue] = Field(default={}, description="its method's requests beyond the label")
    steer: Steer | None = None


class LabelScore(Value):
    """One label's log-probability from one judge, raw and calibrated (natural log, calibrated ones sum to 1)."""

    label: str
    raw: float
    calibrated: float


class Review(Value):
    """One judgement of one candidate by one model.

    `flags` are GRA's 0/1 answers on an instruction, `scores` its six 0..10 dimensions or, for a judgement by
    probabilities, one number: 10 times the wanted label's calibrated probability over the best label's.
    """

    stage: Literal["instruction", "content", "adjudication", "label"]
    role: str
    model: str
    flags: dict[str, int] = Field(default_factory=dict)
    scores: dict[str, float] = Field(default_factory=dict)
    mean: float | None = Field(default=None, description="mean of scores; None for a flags-only or failed review")
    comment: str = ""
    distribution: tuple[LabelScore, ...] = ()
    answer: str = Field(default="", description="the label that this judge chose, or the raw answer that is no label")
    call_key: str = ""
    failure: str = Field(default="", description="reason for a missing judgement; else empty")


@dataclass(frozen=True, slots=True)
class Proposal:
    """A candidate as gates see it. Reviews and soft label are empty before judges are called.

    Args:
        id: under which the text is compared with other rows: `Candidate.text_id`
        soft_label: mean calibrated probability of each label, 0 to 1
        exemplars: the rows that the generator was shown
        concept: the concept that its slot was steered to, if any
        data: the row's further columns
        parts: text and response, without an empty one
    """

    text: str
    response: str | None = None
    label: str = ""
    id: str = ""
    reviews: tuple[Review, ...] = ()
    soft_label: Mapping[str, float] = field(default_factory=dict)
    exemplars: tuple[Seed, ...] = ()
    concept: str = ""
    data: Mapping[str, JsonValue] = field(default_factory=dict)
    parts: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        text = (self.text,) if self.text else ()
        object.__setattr__(self, "parts", (*text, self.response) if self.response else text)

    @property
    def words(self) -> tuple[str, ...]:
        """Its parts and the texts within its further columns."""
        return (*self.parts, *words_in(self.data)) if self.data else self.parts


NAMES = frozenset(("type", "role", "id", "name", "tool_call_id", "source"))
"""Keys of further columns whose values are names, not words of a row."""


def words_in(data: Mapping[str, JsonValue]) -> list[str]:
    """The texts within a row's further columns, at any depth."""
    found, left = list[str](), list[Any](reversed([one for name, one in data.items() if name not in NAMES]))
    while left:
        one = left.pop()
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, Mapping):
            left += reversed([inner for name, inner in one.items() if name not in NAMES])
        elif isinstance(one, list):
            left += reversed(one)
    return found


class GateResult(Value):
    """One gate's result on one candidate."""

    gate: str
    rule: str
    passed: bool
    score: float | None = None
    neighbour: str = Field(default="", description="id of the row that was hit, such as a near-duplicate")
    detail: str = ""


class Decision(Value):
    """A candidate's outcome and its rule; `reason` is for people, `code` for programs."""

    status: Status
    route: Route
    code: str
    reason: str
    mean: float | None = None
    spread: float | None = Field(default=None, description="population standard deviation of the reviewers' means")
    asked: int = Field(default=0, description="content reviewers called")
    saved: int = Field(default=0, description="content reviewers not called, as the outcome was settled")


class Labelling(Value):
    """Labelling of a row by models that did not see the intended label."""

    by: str = Field(description="the role that gave it, or the panel of reviewers")
    candidates: tuple[str, ...] = Field(description="the labels that they chose among, nearest first")
    label: str = Field(description="the label given; empty if there is none")
    relabelled: bool = Field(description="whether it differs from the intended label")
    margin: float | None = Field(
        default=None, description="the label's probability minus that of `second`; negative if a judge overruled"
    )
    second: str = Field(default="", description="the likeliest other label")
    votes: bool = Field(default=False, description="counted from answers, as a judge gave no log-probabilities")


class Candidate(Value):
    """A method's result for a slot, with all its steps. `text`: the text, instruction or guard's prompt."""

    id: str
    slot: Slot
    text: str = ""
    response: str | None = None
    label: str
    intended_label: str
    keywords: tuple[str, ...] = ()
    summary: str = ""
    models: dict[str, str] = Field(default_factory=dict, description="role to model name, as drawn for this slot")
    reviews: tuple[Review, ...] = ()
    gates: tuple[GateResult, ...] = ()
    decision: Decision
    soft_label: dict[str, float] = Field(default_factory=dict, description="mean calibrated probability of each label")
    labelling: Labelling | None = None
    notes: dict[str, JsonValue] = Field(default={}, description="its method's notes")
    data: Data = Field(default={}, description="the row's columns beyond text, response and label")
    restricted: bool = False

    def proposal(self, text_id: str = "") -> Proposal:
        """The candidate as gates see it, compared for duplicates under `text_id`, by default its own id."""
        return Proposal(
            text=self.text, response=self.response, label=self.label, id=text_id or self.id, reviews=self.reviews,
            soft_label=self.soft_label, exemplars=self.slot.exemplars,
            concept=self.slot.steer.concept if self.slot.steer else "", data=self.data,
        )  # fmt: skip

    @property
    def group(self) -> str:
        """The group of its slot."""
        return self.slot.group

    @property
    def accepted(self) -> bool:
        """True if the row passed everything."""
        return self.decision.status == "accepted"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The part of an accepted candidate that later steps of a run compare and publish: half a kilobyte a row, where
    the whole candidate takes 30. `mean` is 0 without scores; `group` is its slot's; `given` is True
    for a person's text.
    """

    id: str
    text: str
    response: str | None
    label: str
    mean: float
    restricted: bool
    group: str
    shard: int
    given: bool = False
    data: Data = field(default_factory=dict)

    def proposal(self, text_id: str) -> Proposal:
        """The row as gates of scope `run` see it, compared for duplicates under `text_id`."""
        return Proposal(text=self.text, response=self.response, label=self.label, id=text_id, data=self.data)
