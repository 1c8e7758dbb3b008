"""A method: one model writes a haiku about a season. Settings, slot payload, role and prompt are its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import Field, JsonValue

from graft.agents.methods import Calls, Context, Drawn, Method, Place, Query, Traits
from graft.agents.methods.steps.draft import Draft, decided, decision, screened
from graft.agents.methods.steps.draw import draw_model, make_slot
from graft.agents.roles.asking import request_for
from graft.schemas.binding import MethodSettings, Role
from graft.schemas.models import RoleSpec
from graft.schemas.problems import Finding
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Decision, Seed, Slot
from graft.schemas.sections import Column, Section, Table

PROMPT = Path(__file__).with_name("haiku.jinja")


class HaikuSettings(MethodSettings):
    """The block `method` in a recipe."""

    kind: Literal["haiku"] = "haiku"
    seasons: tuple[str, ...] = ("spring", "winter")
    lines: int = Field(default=3, ge=1, le=5, description="lines of a poem")


class PoetSpec(RoleSpec):
    """The block `roles.poet` in a recipe."""

    temperature: float = Field(default=1.2, ge=0, le=2)
    rhyme: bool = False


class Haiku(Method[HaikuSettings]):
    """A slot is one poem to write; its candidate is decided by the gates alone."""

    kind, Settings, prompts, needs_seeds = "haiku", HaikuSettings, (PROMPT,), False
    roles = MappingProxyType({"poet": Role(PoetSpec, writes=True)})

    def traits(self, recipe: Recipe) -> Traits:
        """Assumptions of the estimate. Without `max_cosine`, poems may be alike in meaning."""
        return Traits(max_cosine=None, assumed_yield=0.8, assumptions=("poets rhyme by chance",))

    def check(self, recipe: Recipe, seeds: Sequence[Seed] | None) -> list[Finding]:
        """Problems of a recipe as a whole: field, problem, fix."""
        if self.settings(recipe).seasons:
            return []
        return [Finding(("method", "seasons"), "a haiku needs a season", "add seasons: [winter]")]

    def make_slot(self, place: Place, drawn: Drawn) -> Slot:
        """A slot without exemplars, with its payload."""
        own = self.settings(drawn.recipe)
        wanted = {"season": own.seasons[place.index % len(own.seasons)], "lines": own.lines}
        return make_slot(place, drawn, 0, 0).model_copy(update={"payload": wanted})

    async def run_slot(self, slot: Slot, context: Context) -> Candidate:
        """The candidate; calls that fail, and budgets that end, become its decision."""
        draft = Draft(slot, context, {"poet": draw_model(context.recipe, slot, "poet").name})
        return await decided(draft, self._write(draft), "The poet")

    async def _write(self, draft: Draft) -> Decision:
        slot, recipe = draft.slot, draft.context.recipe
        request = request_for(
            PROMPT, recipe=recipe, model=draw_model(recipe, slot, "poet"), role="poet", purpose="haiku.write",
            seed=slot.seed, clause=recipe.task.clause(slot.label), rhyme=recipe.role("poet", PoetSpec).rhyme,
            **slot.payload,
        )  # fmt: skip
        reply = await draft.context.ask(request)
        draft.text, draft.notes["words"] = reply.text.strip(), len(reply.text.split())
        return screened(draft) or decision("accepted", "labelled", "accepted.labelled", "The gates passed it.")

    def estimate(self, recipe: Recipe, candidates: int, seeds: Sequence[Seed]) -> tuple[Calls, ...]:
        """One call per candidate."""
        return (Calls(purpose="haiku", role="poet", calls=candidates, prompt_tokens=50, completion_tokens=20),)

    def describe(self, slot: Slot, notes: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
        """The payload and notes of a row, for `graft explain`."""
        return [("season", f"{slot.payload['season']}, {notes['words']} words")]

    def report(self, query: Query, run_id: str, counts: Mapping[str, int]) -> Section | None:
        """A run's own figures, for terminal, card and pages."""
        rows = query(
            """SELECT payload->>'season' AS season, count(*) AS poems FROM lake.candidates
               WHERE run_id = ? AND status = 'accepted' GROUP BY 1 ORDER BY 1""",
            [run_id],
        )
        columns = (Column("season", "season"), Column("poems", "poems", "number", bar=True))
        table = Table("seasons", "", columns, rows)
        return Section("haiku", "Poems by season", f"{len(rows)} seasons.", tables=(table,))


KIND = Haiku()
