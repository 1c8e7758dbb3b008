"""The contract of a pipeline's step: a value of the recipe that fills one column of a row in the making.

A kind is a subclass of `Step` in a module of its name, or in another distribution by an entry point of the group
`graft.steps`. Its module ends with `KIND`, the class. A step declares what it reads, so that the order of steps, and
every path into a column, is known before a run.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, JsonValue
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from graft.agents.methods.base import Calls, Drawn, Place
from graft.agents.methods.columns.parts.expressions import Expression, Path, compiled, evaluate
from graft.agents.methods.columns.parts.functions import BadExpression
from graft.agents.methods.columns.parts.shapes import ANY, PLAIN, TEXT, Shape
from graft.agents.methods.steps.draft import Draft, decision, failure
from graft.schemas.base import Value, stable_hash
from graft.schemas.documents import Passage
from graft.schemas.kinds import STEPS
from graft.schemas.problems import FieldErrors, Finding, did_you_mean
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Decision, Seed, Slot

PREDECLARED: Mapping[str, Shape] = {
    "label": PLAIN, "labels": Shape("list", item=PLAIN), "description": PLAIN, "language": PLAIN, "concept": TEXT,
}  # fmt: skip
"""Columns of every pipeline: the slot's label, all labels, the label's description, the task's language, and the
concept that a round of `graft improve` wants."""
RESERVED = frozenset({
    "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del", "elif", "else", "except",
    "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "loop", "none", "nonlocal", "not", "null",
    "or", "pass", "raise", "return", "row", "self", "system", "true", "false", "try", "undefined", "while", "with",
    "yield",
})  # fmt: skip
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}(?<!_)")


class Ended(Exception):
    """Raised by a step that decides the candidate."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.code)
        self.decision = decision


@dataclass
class State:
    """One candidate on its way through the steps.

    Args:
        draft: the candidate
        columns: the values so far, by column
        shapes: the shapes of all columns
        tags: the names of tags that no text may open or close
        verdict: a panel's acceptance
        prepared: as `Step.prepare` made it, by column
        asked: samples that were requested for a column of several
        apart: columns that depend on the slot's part of a group; all others are the same for the whole group
    """

    draft: Draft
    columns: dict[str, JsonValue]
    shapes: Mapping[str, Shape]
    tags: tuple[str, ...] = ()
    prepared: Mapping[str, Any] = field(default_factory=dict)
    verdict: Decision | None = None
    apart: frozenset[str] = frozenset()
    asked: dict[str, int] = field(default_factory=dict)

    @property
    def slot(self) -> Slot:
        """The candidate's slot."""
        return self.draft.slot

    @property
    def recipe(self) -> Recipe:
        """The run's recipe."""
        return self.draft.context.recipe

    def seed(self, column: str) -> int:
        """The random seed of a column: of the slot's own, and of its part if the column depends on it."""
        part = (self.slot.part,) if column in self.apart else ()
        return int(stable_hash(self.slot.seed, column, *part, length=8), 16) % 2**31

    def rng(self, column: str) -> random.Random:
        """The random numbers of a column."""
        return random.Random(f"{column}-{self.seed(column)}")

    def count(self, column: str, **figures: int) -> None:
        """Note figures of a step with the candidate."""
        noted = self.draft.notes.get("counts")
        self.draft.notes["counts"] = {**(noted if isinstance(noted, dict) else {}), column: {**figures}}

    def value(self, expression: str, step: str) -> Any:
        """The value of an expression of a step. Raises Ended if it has none."""
        try:
            return evaluate(compiled(expression), self.columns)
        except BadExpression as bad:
            raise Ended(failure("expression", f"Step {step}: {bad}.")) from None


class Step(Value):
    """One step of a pipeline. A subclass narrows `kind` to a Literal with its name as default."""

    kind: str
    name: str = Field(description="the column that it fills")
    when: Expression | None = Field(default=None, description="expression; the step is skipped where it is not true")

    version: ClassVar[int] = 1
    """Raise it if the kind fills its column differently: recipes with such a step get new run ids."""
    calls_models: ClassVar[bool] = False
    """True if it makes calls: it waits for all steps that may end the candidate without one."""
    decides: ClassVar[bool] = False
    """True if it may end a candidate."""
    named: ClassVar[str] = "name"
    """The field that the kind's key in a recipe gives: `ask: review` is the column `review`."""
    written: ClassVar[Mapping[str, str]] = {}
    """Fields that a recipe writes by another word."""
    spreads: ClassVar[bool] = False
    """True if it makes a group of candidates, `most` of them; a pipeline has one such step."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The step as it is written in a recipe: its kind is the key of its name."""
        made = handler(schema)
        own, kind = handler.resolve_ref_schema(made), str(cls.model_fields["kind"].default)
        fields = {cls.written.get(name, name): one for name, one in own["properties"].items()}
        column = {**fields.pop(cls.named), "title": kind}
        hidden = {"kind", "name", "rows"}
        own["properties"] = {kind: column, **{name: one for name, one in fields.items() if name not in hidden}}
        if cls.named != "name":
            own["properties"]["as"] = {"type": "string", "description": "the column's name"}
        own["required"] = [kind, *(name for name in own.get("required", ()) if name not in ("kind", cls.named, "name"))]
        return made

    @property
    def changes(self) -> str:
        """A column of another step from which it takes something away; empty if there is none."""
        return ""

    def passages(self, state: State) -> Sequence[Passage]:
        """Passages that its column found, on which the row rests besides the one that was drawn."""
        return ()

    @classmethod
    def shorthand(cls, name: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a step written as `KIND: name` with the other fields beside it."""
        return {"kind": cls.model_fields["kind"].default, "name": name, **given}

    @classmethod
    def with_files(cls, given: Mapping[str, Any], read: Callable[[str], str]) -> dict[str, Any]:
        """The step as it is written in a recipe, with the texts of files that it names. Raises FieldErrors."""
        return dict(given)

    def sentences(self) -> tuple[str, ...]:
        """Its prompts, whose words must not come into rows."""
        return ()

    def expressions(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """(field, expression) of all its expressions."""
        if self.when is not None:
            yield ("when",), self.when

    def paths(self) -> Iterator[tuple[tuple[str | int, ...], Path]]:
        """(field, path) of all that it reads; by default what its expressions read."""
        for place, expression in self.expressions():
            for path in compiled(expression).paths:
                yield place, path

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """The shape of its column, where the columns that it reads have these."""
        return ANY

    def prepare(self, shapes: Mapping[str, Shape], tags: tuple[str, ...]) -> Any:
        """Whatever the step makes once a recipe of the shapes of all columns and the tags that texts must not close;
        `State.prepared` holds it by column."""
        return None

    def problem(self, shapes: Mapping[str, Shape]) -> list[Finding]:
        """Problems of the step with the shapes that it reads; paths are within the step."""
        return []

    def check(self, recipe: Recipe) -> list[Finding]:
        """Problems of the step in this recipe; paths are within the step."""
        return []

    def check_seeds(self, recipe: Recipe, seeds: Sequence[Seed]) -> list[Finding]:
        """Problems of the step with the run's seeds; paths are the recipe's."""
        return []

    def roles(self) -> tuple[str, ...]:
        """The roles that it calls."""
        return ()

    @property
    def writes(self) -> bool:
        """True if its column holds words of its models."""
        return False

    def estimate(self, recipe: Recipe, candidates: int, seeds: Sequence[Seed]) -> tuple[Calls, ...]:
        """The calls of so many candidates."""
        return ()

    def tokens(self, recipe: Recipe) -> int:
        """About how many tokens its column adds to a prompt that shows it."""
        return 20

    def draw(self, slot: Slot, place: Place, drawn: Drawn) -> Slot:
        """The slot with what the step draws of the run's material; the slots of a group count as one place."""
        return slot

    def spent(self, place: Place, drawn: Drawn) -> bool:
        """True if nothing is left that the step could draw for the place."""
        return False

    async def run(self, state: State) -> JsonValue:
        """The column's value. Raises Ended where the step decides, CallFailed and BudgetExhausted as the gateway."""
        raise NotImplementedError


def rejected(step: Step, code: str, reason: str) -> Ended:
    """The end of a candidate that a step rejects."""
    return Ended(decision("rejected", "step", f"rejected.{code}", f"Step {step.name}: {reason}"))


def share_of(texts: Sequence[str]) -> int:
    """Tokens of texts, approximately."""
    return max(1, sum(map(len, texts)) // 4)


def passage_tokens(recipe: Recipe) -> int:
    """Tokens of a passage of the recipe's documents: most of them are nearly as long as is allowed."""
    documents = recipe.seeds.documents
    return documents.chunk.words * 4 // 3 if documents else 0


class StepOf:
    """Binds the annotated field to the kind that a step names, in its shorthand (`ask: review`) or with `kind`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Called by pydantic for the annotated field."""
        written = core_schema.plain_serializer_function_ser_schema(dumped)
        return core_schema.no_info_plain_validator_function(bind, serialization=written)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Called by pydantic: every usable kind, as it is written in a recipe."""
        every = {name: STEPS.get(name).__pydantic_core_schema__ for name in sorted(STEPS.names)}
        made = handler(core_schema.tagged_union_schema(every, "kind"))
        return {"oneOf": made["oneOf"]}


def dumped(step: Step) -> dict[str, Any]:
    """A step as a run keeps it: without defaults, so that a later field renames no run."""
    return {"kind": step.kind, **step.model_dump(mode="json", exclude_defaults=True)}


def bind(given: Any) -> Step:
    """The step of a recipe's block. Raises FieldErrors, or pydantic's errors for its fields."""
    if isinstance(given, Step):
        return given
    if not isinstance(given, Mapping):
        fix = f"begin with one of: {', '.join(STEPS.names)}, such as - ask: review"
        raise FieldErrors([Finding((), "a step is a block of fields", fix)])
    if "kind" in given:
        return _kind(given["kind"], given).model_validate(given)
    named = [name for name in given if name in STEPS.names]
    if len(named) != 1:
        what = f"a step has one kind, this one {' and '.join(named)}" if named else "this step names no kind"
        near = next((did_you_mean(str(name), STEPS.names) for name in given), "")
        raise FieldErrors([Finding((), what, f"{near}write one of: {', '.join(STEPS.names)}, with the column's name")])
    [name] = named
    column = given[name]
    if not isinstance(column, str):
        raise FieldErrors([Finding((name,), "a column's name is a text", f"write - {name}: review")])
    kind = _kind(name, given)
    return kind.model_validate(kind.shorthand(column, {key: one for key, one in given.items() if key != name}))


def _kind(name: Any, given: Mapping[str, Any]) -> type[Step]:
    if name not in STEPS.names:
        plugin = STEPS.plugins.get(name) if isinstance(name, str) else None
        what = f"step {name!r} cannot be used: {plugin.problem}" if plugin else f"no kind of step {name!r}"
        raise FieldErrors([Finding(("kind",), what, f"use one of {', '.join(STEPS.names)}")])
    found: type[Step] = STEPS.get(name)
    return found


def name_problem(name: str) -> str:
    """Why a name cannot be a column's; empty if it can."""
    if name in PREDECLARED:
        return f"{name!r} is a column of every pipeline"
    if name in RESERVED:
        return f"{name!r} is a word of the grammar"
    return "" if NAME.fullmatch(name) else f"{name!r} is no name of a column"
