"""A candidate in the making and its decision, shared by all methods."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import JsonValue

from graft.agents.methods.base import Context
from graft.schemas.base import stable_hash
from graft.schemas.decisions import CUT
from graft.schemas.errors import BudgetExhausted, CallFailed, TextCut
from graft.schemas.rows import (
    Candidate,
    Data,
    Decision,
    GateResult,
    Labelling,
    LabelScore,
    Proposal,
    Review,
    Route,
    Slot,
    Status,
)  # fmt: skip
from graft.schemas.tasks.base import Words

REDACTED = "redacted"
"""Rule of a result that reports a redaction; such a result has passed."""


@dataclass
class Draft:
    """State of a candidate while its steps run. `label` is the slot's until a labelling changes it.

    `risky`: the text may be harmful whatever label it gets, so that the row is restricted. `thorough`: all reviewers
    judge it, also once the outcome is settled.
    """

    slot: Slot
    context: Context
    models: dict[str, str]
    text: str = ""
    response: str | None = None
    keywords: tuple[str, ...] = ()
    label: str = ""
    labelling: Labelling | None = None
    soft_label: dict[str, float] = field(default_factory=dict)
    notes: dict[str, JsonValue] = field(default_factory=dict)
    data: Data = field(default_factory=dict)
    risky: bool = False
    thorough: bool = False
    reviews: list[Review] = field(default_factory=list)
    gates: list[GateResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.label = self.label or self.slot.label

    @property
    def judged(self) -> Slot:
        """The slot for judges: with the row's present label."""
        return self.slot if self.label == self.slot.label else self.slot.model_copy(update={"label": self.label})

    @property
    def proposal(self) -> Proposal:
        """The draft as gates see it."""
        return Proposal(
            text=self.text, response=self.response, label=self.label, reviews=tuple(self.reviews),
            soft_label=self.soft_label, exemplars=self.slot.exemplars, data=self.data,
        )  # fmt: skip


def screened(draft: Draft) -> Decision | None:
    """The rejection by the first gate that fails, if one does; results of an earlier, narrower check are replaced.

    Its columns are brought into their task's form. The draft is redacted first, so that gates, judges and the lake see
    the redacted text. Redaction itself rejects a text over the length limit: it is cut, and no other gate reads it.
    """
    earlier = [result for result in draft.gates if result.rule == REDACTED]
    before = draft.text
    draft.text, draft.response, cleaned = draft.context.clean(draft.text, draft.response)
    if draft.data:
        words = Words(draft.text, draft.response, draft.label, draft.data)
        draft.data = draft.context.recipe.task.settle(words, before)
    results = cleaned
    if all(result.passed for result in cleaned):
        results = (*cleaned, *draft.context.screen(draft.proposal))
    draft.gates = [*earlier, *results]
    hit = next((result for result in results if not result.passed), None)
    if hit is None:
        return None
    score = f" with score {hit.score:.3f}" if hit.score is not None else ""
    neighbour = f", too near to {hit.neighbour}" if hit.neighbour else ""
    detail = f": {hit.detail}" if hit.detail else ""
    reason = f"Gate {hit.gate} refused the row by rule {hit.rule}{score}{neighbour}{detail}."
    return Decision(status="rejected", route="gate", code=f"gate.{hit.rule}", reason=reason)


def decision(status: Status, route: Route, code: str, reason: str, **figures: Any) -> Decision:
    """A decision with the figures behind it."""
    return Decision(status=status, route=route, code=code, reason=reason, **figures)


def failure(code: str, reason: str) -> Decision:
    """Decision for a candidate that no model could finish."""
    return Decision(status="failed", route="failed", code=f"failed.{code}", reason=reason.replace("..", "."))


async def decided(draft: Draft, steps: Awaitable[Decision], who: str) -> Candidate:
    """The candidate once its steps have ended: a model's failure ends it as failed, a reached budget as failed.budget.

    `who` names the model role that `steps` could not do without and begins the reason.
    """
    try:
        ended = await steps
    except BudgetExhausted as caught:
        ended = failure("budget", f"The budget allows no further call: {caught.what}.")
    except TextCut as caught:
        ended = cut_off(draft, caught)
    except CallFailed as caught:
        ended = failure(caught.code, f"{who} returned nothing usable: {caught.what}.")
    return candidate(draft, ended)


def cut_off(draft: Draft, caught: TextCut) -> Decision:
    """The rejection of a draft whose text or response was cut off; it is kept as written, but for redactions."""
    what = "response" if draft.text else "text"
    text, response = (draft.text, caught.raw) if draft.text else (caught.raw, draft.response)
    draft.text, draft.response, cleaned = draft.context.clean(text, response)
    draft.gates = [*(result for result in draft.gates if result.rule == REDACTED), *cleaned]
    return decision("rejected", "cut", CUT, f"The {what} is cut off: {caught.what}. Raise {caught.where}.")


def code_of(review: Review) -> str:
    """The failure code of a judge that gave no judgement."""
    return review.failure.partition(":")[0]


def candidate(draft: Draft, ended: Decision) -> Candidate:
    """The decided candidate; its id follows from the slot's."""
    slot, task = draft.slot, draft.context.recipe.task
    risky = task.has_restricted and draft.risky
    given = [review.distribution for review in draft.reviews if review.distribution]
    return Candidate(
        id="c_" + stable_hash(slot.id), slot=slot, text=draft.text, response=draft.response,
        label=draft.label, intended_label=slot.label, keywords=draft.keywords, models=draft.models,
        reviews=tuple(draft.reviews), gates=tuple(draft.gates), decision=ended,
        soft_label=draft.soft_label or soft_label(given), labelling=draft.labelling, notes=draft.notes, data=draft.data,
        restricted=risky or task.restricts(slot.label) or task.restricts(draft.label),
    )  # fmt: skip


def soft_label(distributions: Sequence[Sequence[LabelScore]]) -> dict[str, float]:
    """Mean calibrated probability of each label over the judgements by probabilities; empty if there is none.

    A label that one of the judgements lacks counts there as 0.
    """
    total: dict[str, float] = {}
    for distribution in distributions:
        for entry in distribution:
            total[entry.label] = total.get(entry.label, 0.0) + math.exp(entry.calibrated)
    return {label: value / len(distributions) for label, value in total.items()}
