"""The step `retrieve`: passages of the recipe's documents that match a query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field, JsonValue

from graft.agents.methods.columns.base import State, Step, passage_tokens, rejected
from graft.agents.methods.columns.draw import PASSAGE_SHAPE, passage_value
from graft.agents.methods.columns.parts.expressions import Expression
from graft.agents.methods.columns.parts.functions import shown
from graft.agents.methods.columns.parts.shapes import Shape
from graft.schemas.documents import Passage
from graft.schemas.problems import Finding
from graft.schemas.recipe import Recipe

MOST = 50


class RetrieveStep(Step):
    """The passages of the recipe's documents that match a query best, the best first."""

    kind: Literal["retrieve"] = "retrieve"
    query: Expression = Field(description="the text to search with")
    k: int = Field(default=3, ge=1, le=MOST, description="passages, at most")

    decides = True

    def expressions(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """See Step."""
        yield from super().expressions()
        yield ("query",), self.query

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """A list of passages."""
        return Shape("list", item=PASSAGE_SHAPE)

    def check(self, recipe: Recipe) -> list[Finding]:
        """The recipe has documents, and an index of them."""
        documents = recipe.seeds.documents
        if documents is None:
            return [Finding((), "the recipe has no documents to search", "add seeds.documents with their path")]
        if documents.index == "none":
            return [Finding((), "the recipe's documents have no index", "set seeds.documents.index: bm25, or encoder")]
        return []

    def passages(self, state: State) -> list[Passage]:
        """The passages of its column."""
        column, known = state.columns.get(self.name), state.draft.context.passages
        names = [str(one.get("id")) for one in column if isinstance(one, dict)] if isinstance(column, list) else []
        return [known[name] for name in names if name in known]

    def tokens(self, recipe: Recipe) -> int:
        """See Step."""
        return self.k * passage_tokens(recipe)

    async def run(self, state: State) -> JsonValue:
        """The passages. Raises Ended if none matches."""
        search = state.draft.context.retrieve
        found = search(shown(state.value(self.query, self.name)), self.k) if search else ()
        if not found:
            raise rejected(self, "no_passage", "no passage matches the query.")
        return [passage_value(one) for one in found]


KIND = RetrieveStep
