"""A method without models: it quotes the passage that each slot draws, wrongly where that names granite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from graft.agents.methods import Calls, Context, Drawn, Method, Place
from graft.agents.methods.steps.draft import Draft, decided, decision, screened
from graft.agents.methods.steps.draw import make_slot
from graft.agents.methods.steps.passages import PASSAGE, passage_for, passage_of
from graft.schemas.binding import MethodSettings
from graft.schemas.decisions import DecisionCode, declare
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Decision, Seed, Slot

declare(DecisionCode("accepted.quoted", "review", "it quotes its passage"))


class Settings(MethodSettings):
    kind: Literal["quoting"] = "quoting"


class Quoting(Method[Settings]):
    kind, Settings, roles, needs_seeds = "quoting", Settings, {}, False

    def make_slot(self, place: Place, drawn: Drawn) -> Slot:
        slot, passage = make_slot(place, drawn, 0, 0), passage_for(place, drawn)
        return slot.model_copy(update={"payload": {PASSAGE: passage.id} if passage else {}})

    async def run_slot(self, slot: Slot, context: Context) -> Candidate:
        draft = Draft(slot, context, {})

        async def steps() -> Decision:
            passage = passage_of(slot, context)
            assert passage is not None
            words = passage.text.split()
            draft.text = f"{slot.label} {slot.index}: {' '.join(words[1:7])}"
            wrong = "granite" in words
            near = context.retrieve(words[1], 2) if context.retrieve else ()
            draft.data = {
                "source": passage.source, "evidence": "no such words" if wrong else " ".join(words[:3]).upper(),
                "near": [one.id for one in near],
            }  # fmt: skip
            return screened(draft) or decision("accepted", "agreed", "accepted.quoted", "It quotes its passage.")

        return await decided(draft, steps(), "nobody")

    def estimate(self, recipe: Recipe, candidates: int, seeds: Sequence[Seed]) -> tuple[Calls, ...]:
        return ()

    def describe(self, slot: Slot, notes: Any) -> list[tuple[str, str]]:
        return []


KIND = Quoting()
