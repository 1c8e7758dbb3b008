"""The step `vote`: the value that most samples of an `ask` agree on (self-consistency, Wang et al. 2022)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field, JsonValue

from graft.agents.methods.base import TOLERANCE
from graft.agents.methods.columns.base import State, Step, rejected
from graft.agents.methods.columns.parts.expressions import Expression, compiled
from graft.agents.methods.columns.parts.functions import number_in, shown
from graft.agents.methods.columns.parts.predicates import normal
from graft.agents.methods.columns.parts.shapes import ANY, NUMBER, Shape, walk
from graft.schemas.decisions import DecisionCode, declare
from graft.schemas.problems import Finding

NO_MAJORITY = "no_majority"

_SPLIT = "had no majority: lower `least` of the step vote, ask for more samples, or name a larger model"
declare(DecisionCode(f"rejected.{NO_MAJORITY}", "labelling", "samples of one question disagreed", advice=_SPLIT))


class VoteStep(Step):
    """The majority of a field over the samples of an ask with `n`: an object with value, share and the first sample."""

    kind: Literal["vote"] = "vote"
    of: Expression = Field(description="the field of every sample, such as guess.label")
    least: float = Field(default=0.5, ge=0, le=1, description="least share of the samples that were requested")
    by: Literal["text", "number"] = Field(
        default="text",
        description="texts are equal but for case and spaces; of numbers the last one of each text counts",
    )

    decides = True

    def expressions(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """See Step."""
        yield from super().expressions()
        yield ("of",), self.of

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """An object: value, share, sample."""
        path = compiled(self.of).path
        root = shapes.get(str(path[0]), ANY) if path else ANY
        found = walk(root, path[1:]) if path else ANY
        value = found.item if isinstance(found, Shape) and found.type == "list" else None
        return Shape("object", fields={"value": value or ANY, "share": NUMBER, "sample": root.item or ANY})

    def problem(self, shapes: Mapping[str, Shape]) -> list[Finding]:
        """A vote is over a list."""
        path = compiled(self.of).path
        found = walk(shapes.get(str(path[0]), ANY), path[1:]) if path else ANY
        if not isinstance(found, Shape) or found.type in ("list", "any"):
            return []
        fix = f"set n: 3 on the step that fills {path[0]}" if path else "name a list"
        return [Finding(("of",), f"{self.of} is one value: a vote needs several samples", fix)]

    async def run(self, state: State) -> JsonValue:
        """The majority with its share; of equal ones there is none."""
        found = state.value(self.of, self.name)
        given = found if isinstance(found, list) else []
        path = compiled(self.of).path
        root = str(path[0]) if path else ""
        forms = [self._form(one) for one in given]
        ranked = Counter(form for form in forms if form is not None).most_common(2)
        asked = state.asked.get(root, len(given))
        if not ranked:
            raise rejected(self, NO_MAJORITY, f"none of {asked} samples gave a value.")
        (best, votes), *others = ranked
        share = votes / max(1, asked)
        if (others and others[0][1] == votes) or share < self.least - TOLERANCE:
            what = f"{votes} of {asked} samples agree on the most frequent value"
            raise rejected(self, NO_MAJORITY, f"{what}, less than the share of {self.least:g} or as often as another.")
        place = forms.index(best)
        samples = state.columns.get(root)
        sample = samples[place] if isinstance(samples, list) and place < len(samples) else given[place]
        return {"value": given[place], "share": round(share, 6), "sample": sample}

    def _form(self, value: JsonValue) -> str | None:
        if value is None:
            return None
        if self.by == "text":
            return normal(shown(value)) or None
        number = number_in(shown(value))
        return None if number is None else f"{number:.9g}"


KIND = VoteStep
