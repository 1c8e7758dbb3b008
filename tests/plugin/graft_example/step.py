"""A step of pipelines: a text with typing errors, as the slot's random numbers decide."""

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field, JsonValue

from graft.agents.methods.columns.base import State, Step
from graft.agents.methods.columns.parts.expressions import Expression
from graft.agents.methods.columns.parts.functions import shown
from graft.agents.methods.columns.parts.shapes import TEXT, Shape


class TyposStep(Step):
    """A text of which some neighbouring letters have changed places."""

    kind: Literal["typos"] = "typos"
    of: Expression = Field(description="the text")
    share: float = Field(default=0.05, gt=0, le=0.5, description="share of places at which letters change")

    def expressions(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """What the step reads: the order of steps follows from it."""
        yield from super().expressions()
        yield ("of",), self.of

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """A text that may come from a model: prompts fence it."""
        return TEXT

    async def run(self, state: State) -> JsonValue:
        """The column's value."""
        letters, rng = list(shown(state.value(self.of, self.name))), state.rng(self.name)
        for at in range(len(letters) - 1):
            if letters[at].isalpha() and letters[at + 1].isalpha() and rng.random() < self.share:
                letters[at], letters[at + 1] = letters[at + 1], letters[at]
        return "".join(letters)


KIND = TyposStep
