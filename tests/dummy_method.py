"""A plugin's method in one file, with one prompt beside it: haiku about a season, judged by nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import Field, JsonValue

from graft.agents.methods import Calls, Context, Drawn, Method, Place, Query, Traits
from graft.agents.methods.steps.draft import Draft, decided, decision, screened
from graft.agents.methods.steps.draw import draw_model, make_slot
from graft.agents.roles.asking import request_for
from graft.schemas.base import Value
from graft.schemas.binding import MethodSettings, Role
from graft.schemas.models import RoleSpec
from graft.schemas.problems import Finding
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Decision, Seed, Slot
from graft.schemas.sections import Column, Section, Table

PROMPT = Path(__file__).with_name("dummy_method.jinja")


class HaikuSettings(MethodSettings):
    """Haiku about seasons."""

    kind: Literal["haiku"] = "haiku"
    seasons: tuple[str, ...] = ("spring", "winter")
    lines: int = Field(default=3, ge=1, le=5, description="lines of a poem")


class PoetSpec(RoleSpec):
    """Sampling of the poet, at a higher temperature than other roles."""

    temperature: float = Field(default=1.2, ge=0, le=2)
    rhyme: bool = False


class Season(Value):
    """Payload of a slot."""

    season: str
    lines: int


class Haiku(Method[HaikuSettings]):
    """One call a poem."""

    kind = "haiku"
    Settings = HaikuSettings
    roles = MappingProxyType({"poet": Role(PoetSpec, writes=True)})
    prompts = (PROMPT,)
    needs_seeds = False

    def traits(self, recipe: Recipe) -> Traits:
        return Traits(max_cosine=None, assumed_yield=0.8, assumptions=("poets rhyme by chance",))

    def check(self, recipe: Recipe, seeds: Sequence[Seed] | None) -> list[Finding]:
        if self.settings(recipe).seasons:
            return []
        return [Finding(("method", "seasons"), "a haiku needs a season", "add seasons: [winter]")]

    def make_slot(self, place: Place, drawn: Drawn) -> Slot:
        settings = self.settings(drawn.recipe)
        wanted = Season(season=settings.seasons[place.index % len(settings.seasons)], lines=settings.lines)
        return make_slot(place, drawn, 0, 0).model_copy(update={"payload": wanted.model_dump(mode="json")})

    async def run_slot(self, slot: Slot, context: Context) -> Candidate:
        draft = Draft(slot, context, {"poet": draw_model(context.recipe, slot, "poet").name})
        return await decided(draft, self._run(draft), "The poet")

    async def _run(self, draft: Draft) -> Decision:
        slot, recipe, wanted = draft.slot, draft.context.recipe, Season.model_validate(draft.slot.payload)
        request = request_for(
            PROMPT, recipe=recipe, model=draw_model(recipe, slot, "poet"), role="poet", purpose="haiku.write",
            seed=slot.seed, season=wanted.season, lines=wanted.lines, label=slot.label,
            rhyme=recipe.role("poet", PoetSpec).rhyme,
        )  # fmt: skip
        reply = await draft.context.ask(request)
        draft.text, draft.notes["words"] = reply.text.strip(), len(reply.text.split())
        return screened(draft) or decision("accepted", "labelled", "accepted.labelled", f"About {wanted.season}.")

    def estimate(self, recipe: Recipe, candidates: int, seeds: Sequence[Seed]) -> tuple[Calls, ...]:
        made = Calls(purpose="haiku", role="poet", calls=candidates, prompt_tokens=50, completion_tokens=20)
        return (made,)

    def describe(self, slot: Slot, notes: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
        return [("season", f"{slot.payload['season']}, {notes['words']} words")]

    def report(self, query: Query, run_id: str, counts: Mapping[str, int]) -> Section | None:
        rows = query(
            """SELECT payload->>'season' AS season, count(*) AS poems FROM lake.candidates
               WHERE run_id = ? AND status = 'accepted' GROUP BY 1 ORDER BY 1""",
            [run_id],
        )
        columns = (Column("season", "season"), Column("poems", "poems", "number", bar=True))
        table = Table("seasons", "", columns, rows)
        return Section("haiku", "Poems by season", f"{len(rows)} seasons.", tables=(table,))


KIND = Haiku()
