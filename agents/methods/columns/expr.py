"""The step `expr`: a column that is calculated from others by a pure expression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field, JsonValue

from graft.agents.methods.columns.base import State, Step
from graft.agents.methods.columns.parts.expressions import Expression, Path, compiled
from graft.agents.methods.columns.parts.shapes import ANY, Shape, walk


class ExprStep(Step):
    """A value calculated from other columns, such as `len(review.text)`."""

    kind: Literal["expr"] = "expr"
    value: Expression = Field(description="expression over other columns")

    def expressions(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """See Step."""
        yield from super().expressions()
        yield ("value",), self.value

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """The shape of the one path that it is; else of a value that is plain if all that it reads is trusted."""
        read = compiled(self.value)
        found = [walk(shapes.get(str(path[0]), ANY), path[1:]) for path in read.paths]
        if read.path is not None and isinstance(found[0], Shape):
            return found[0]
        return Shape("any", plain=all(isinstance(one, Shape) and one.trusted for one in found))

    async def run(self, state: State) -> JsonValue:
        """See Step."""
        found: JsonValue = state.value(self.value, self.name)
        return found


_Paths = Iterator[tuple[tuple[str | int, ...], Path]]
KIND = ExprStep
