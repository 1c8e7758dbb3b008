"""A method: one model writes a poem per row. It has a setting, a role and a prompt of its own."""

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from graft.agents.methods import Calls, Context, Drawn, Method, Place
from graft.agents.methods.steps.draft import Draft, decided, decision, screened
from graft.agents.methods.steps.draw import draw_model, make_slot
from graft.agents.roles.asking import request_for
from graft.schemas.binding import MethodSettings, Role
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Decision, Seed, Slot

PROMPT = Path(__file__).with_name("verse.jinja")


class VerseSettings(MethodSettings):
    """The block `method` in a recipe."""

    kind: Literal["verse"] = "verse"
    lines: int = Field(default=4, ge=1, description="lines of a poem")


class Verse(Method[VerseSettings]):
    """A slot is one poem to write; its candidate is decided by the gates alone."""

    kind, Settings, prompts, needs_seeds = "verse", VerseSettings, (PROMPT,), False
    roles = MappingProxyType({"poet": Role(writes=True)})

    def make_slot(self, place: Place, drawn: Drawn) -> Slot:
        """A slot without exemplars, with its payload."""
        wanted = {"lines": self.settings(drawn.recipe).lines}
        return make_slot(place, drawn, 0, 0).model_copy(update={"payload": wanted})

    async def run_slot(self, slot: Slot, context: Context) -> Candidate:
        """The candidate; calls that fail, and budgets that end, become its decision."""
        draft = Draft(slot, context, {"poet": draw_model(context.recipe, slot, "poet").name})
        return await decided(draft, self._write(draft), "The poet")

    async def _write(self, draft: Draft) -> Decision:
        slot, recipe = draft.slot, draft.context.recipe
        request = request_for(
            PROMPT, recipe=recipe, model=draw_model(recipe, slot, "poet"), role="poet", purpose="verse.write",
            seed=slot.seed, lines=slot.payload["lines"], clause=recipe.task.clause(slot.label),
        )  # fmt: skip
        draft.text = (await draft.context.ask(request)).text.strip()
        return screened(draft) or decision("accepted", "labelled", "accepted.labelled", "The gates passed it.")

    def estimate(self, recipe: Recipe, candidates: int, seeds: Sequence[Seed]) -> tuple[Calls, ...]:
        """One call per candidate."""
        return (Calls(purpose="write", role="poet", calls=candidates, prompt_tokens=40, completion_tokens=30),)


KIND = Verse()
