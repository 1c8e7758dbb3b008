"""The step `explode`: one candidate per element of a list. The slots of a group share every call before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field, JsonValue

from graft.agents.methods.columns.base import State, Step, rejected
from graft.agents.methods.columns.parts.expressions import Expression, compiled
from graft.agents.methods.columns.parts.shapes import ANY, Shape, walk
from graft.schemas.decisions import DecisionCode, declare

MOST = 50
NO_ELEMENT = "no_element"

_SHORT = "found no element in their list: lower `most` of the step explode, or ask for more elements"
declare(DecisionCode(f"rejected.{NO_ELEMENT}", "writing", "its list has fewer elements", advice=_SHORT))


class ExplodeStep(Step):
    """One candidate per element of a list column: so many slots share the calls before it, and each takes its own."""

    kind: Literal["explode"] = "explode"
    of: Expression = Field(description="the list")
    most: int = Field(
        default=5, ge=2, le=MOST, description="elements that become candidates; further ones are left out"
    )

    decides = True
    spreads = True

    def expressions(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """See Step."""
        yield from super().expressions()
        yield ("of",), self.of

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """The shape of the list's elements."""
        path = compiled(self.of).path
        found = walk(shapes.get(str(path[0]), ANY), path[1:]) if path else ANY
        return (found.item or ANY) if isinstance(found, Shape) and found.type == "list" else ANY

    async def run(self, state: State) -> JsonValue:
        """The element at the slot's place; a place beyond the list's end is rejected."""
        found = state.value(self.of, self.name)
        elements = found if isinstance(found, list) else []
        state.count(self.name, elements=len(elements), used=min(len(elements), self.most))
        if state.slot.part >= len(elements):
            what = f"the list has {len(elements)} elements, this candidate is for element {state.slot.part + 1}"
            raise rejected(self, NO_ELEMENT, f"{what} of at most {self.most}.")
        element: JsonValue = elements[state.slot.part]
        return element


KIND = ExplodeStep
