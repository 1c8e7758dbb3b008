"""The step `check`: a named test of columns. A row that fails it is rejected with the test's name as its code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from graft.agents.methods.columns.base import State, Step, rejected
from graft.agents.methods.columns.parts.expressions import Expression, Path, compiled, field_of
from graft.agents.methods.columns.parts.predicates import PREDICATES, Arguments
from graft.agents.methods.columns.parts.shapes import NUMBER, Shape
from graft.schemas.decisions import DecisionCode, declare
from graft.schemas.problems import did_you_mean, field_error

RESULTS = {
    "keep": Shape("object", fields={
        "words": Shape("list", item=Shape("text")), "labels": Shape("list", item=Shape("integer")), "rate": NUMBER,
        "variation": NUMBER, "gap": NUMBER,
    }),
    **dict.fromkeys(("length", "length_ratio", "rouge"), NUMBER),
}  # fmt: skip

WRONG = frozenset({"equals", "number_equal"})
"""Tests that a wrong answer fails: its row is a negative for preference pairs."""

declare(*(
    DecisionCode(f"rejected.{name}", "review", f"it failed the recipe's check {name}", negative=name in WRONG)
    for name in PREDICATES
))  # fmt: skip


class CheckStep(Step):
    """A test of one value, or of every element of a list. Its column holds the test's figure or true."""

    kind: Literal["check"] = "check"
    rule: str = Field(description="the test")
    of: Expression = Field(description="the value that is tested; of a list each element is")
    inside: Expression | None = Field(default=None, description="in: the text that must hold it")
    to: Expression | None = Field(default=None, description="the value that it is compared with")
    pattern: str | None = Field(default=None, max_length=500, description="regular expression")
    least: float | None = Field(default=None, description="least figure of the test")
    most: float | None = Field(default=None, description="greatest figure of the test")
    by: Literal["chars", "words"] = Field(default="chars", description="unit of a text's length")
    json_schema: dict[str, JsonValue] | None = Field(default=None, description="JSON Schema")
    window: int = Field(default=400, ge=1, le=2_000, description="words searched in each direction, for keep")
    drop: Literal["element"] | None = Field(
        default=None, description="element: leave out failing elements of the list instead of rejecting the row"
    )

    decides = True
    named = "rule"
    written: ClassVar[Mapping[str, str]] = {"inside": "in"}

    @classmethod
    def shorthand(cls, name: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        """`check: in_text` names the test; `as` names the column, by default the test."""
        if name not in PREDICATES:
            fix = f"{did_you_mean(str(name), PREDICATES)}tests: {', '.join(PREDICATES)}"
            raise field_error(("check",), f"there is no test {name!r}", fix)
        rest = {{"in": "inside"}.get(key, key): one for key, one in given.items() if key != "as"}
        return {"kind": "check", "rule": name, "name": given.get("as", name), **rest}

    @field_validator("rule")
    @classmethod
    def _known(cls, rule: str) -> str:
        if rule not in PREDICATES:
            raise field_error((), f"there is no test {rule!r}", f"tests: {', '.join(PREDICATES)}")
        return rule

    @model_validator(mode="after")
    def _complete(self) -> CheckStep:
        found, given = PREDICATES[self.rule], self.model_fields_set - {"kind", "name", "rule", "of", "when", "drop"}
        fields = {"schema": "json_schema"}
        needs = [fields.get(name, name) for name in found.needs]
        missing = [name for name in needs if getattr(self, name) is None]
        if missing:
            name = self.written.get(missing[0], missing[0])
            raise field_error((), f"check {self.rule} needs {name}", f"add {name}: …")
        surplus = [name for name in given if name not in (*needs, *found.takes) and getattr(self, name) is not None]
        default = type(self).model_fields
        surplus = [name for name in surplus if getattr(self, name) != default[name].default]
        if surplus:
            takes = ", ".join(["of", *(self.written.get(one, one) for one in (*needs, *found.takes))])
            raise field_error((self.written.get(surplus[0], surplus[0]),), f"check {self.rule} does not take it",
                              f"it takes {takes}")  # fmt: skip
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise field_error(("pattern",), f"it is no regular expression: {error}", "correct it") from None
        if self.drop and self._list_path() is None:
            fix = "name a field of a list's elements, such as found.entities.text"
            raise field_error(("of",), "only elements of a list can be left out", fix)
        return self

    def expressions(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """See Step."""
        yield from super().expressions()
        yield ("of",), self.of
        for name in ("inside", "to"):
            if (given := getattr(self, name)) is not None:
                yield (self.written.get(name, name),), given

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """The test's figure."""
        return RESULTS.get(self.rule, Shape("boolean"))

    @property
    def changes(self) -> str:
        """The column from which it leaves out elements; empty if it does not."""
        return str((self._list_path() or ("",))[0]) if self.drop else ""

    @property
    def code(self) -> str:
        """The end of its decision code: the test, but the step's name for `holds`, which says nothing by itself."""
        return self.name if self.rule == "holds" else self.rule

    def _list_path(self) -> Path | None:
        path = compiled(self.of).path
        return path if path and len(path) > 1 else None

    async def run(self, state: State) -> JsonValue:
        """The test's figure; an element's, the last of a list's."""
        arguments = Arguments(
            inside=self.inside and state.value(self.inside, self.name), to=self.to and state.value(self.to, self.name),
            pattern=self.pattern or "", least=self.least, most=self.most, by=self.by, schema=self.json_schema,
            window=self.window, labels=state.recipe.task.names,
        )  # fmt: skip
        test = PREDICATES[self.rule].test
        if self.drop:
            return self._dropped(state, arguments)
        value = state.value(self.of, self.name)
        whole = self.rule in ("length", "json_schema", "holds") or not isinstance(value, list)
        result: JsonValue = True
        for one in [value] if whole else value:
            what, result = test(one, arguments)
            if what:
                raise rejected(self, self.code, f"{what}.")
        return result

    def _dropped(self, state: State, arguments: Arguments) -> JsonValue:
        """Leave out failing elements: the column's list is replaced; the number is noted."""
        root, *steps = self._list_path() or ("",)
        *above, last = steps
        test, column = PREDICATES[self.rule].test, state.columns.get(str(root))
        elements = column
        for step in above:
            elements = field_of(elements, step)
        given = elements if isinstance(elements, list) else []
        kept = [one for one in given if not test(field_of(one, last), arguments)[0]]
        state.columns[str(root)] = _with(column, above, kept)
        state.count(self.name, left_out=len(given) - len(kept), of=len(given))
        return len(kept)


def _with(value: Any, path: list[str | int], new: Any) -> Any:
    """A copy of a value with another part at a path."""
    if not path:
        return new
    head, *rest = path
    return {**value, head: _with(value[head], rest, new)} if isinstance(value, dict) and head in value else value


KIND = CheckStep
