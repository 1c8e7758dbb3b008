"""The step `draw`: a column from the recipe, a file or the seeds, as the slot's random seed decides, without a call."""

from __future__ import annotations

import csv
import io
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date as Date
from datetime import timedelta
from typing import Any, Literal

from pydantic import Field, JsonValue, model_validator

from graft.agents.methods.base import Drawn, Place, unseeded
from graft.agents.methods.columns.base import State, Step, passage_tokens, rejected
from graft.agents.methods.columns.parts.expressions import Expression
from graft.agents.methods.columns.parts.functions import shown
from graft.agents.methods.columns.parts.shapes import ANY, PLAIN, TEXT, Shape
from graft.agents.methods.steps.draw import shots
from graft.agents.methods.steps.passages import PASSAGE, TOP_UP, passage_for, passage_of
from graft.schemas.decisions import DecisionCode, declare
from graft.schemas.documents import Passage
from graft.schemas.problems import FieldErrors, Finding, field_error
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed, Slot

SOURCES = ("of", "number", "date", "file", "seeds", "seed", "labels", "passage")
MOST_ROWS, MOST_BYTES = 5_000, 1_000_000
"""Rows and size of a file that is drawn from: they are kept with the run."""
SEEDS_USED, SHOTS = "seeds_used", "shots"
PASSAGE_SHAPE = Shape("object", fields=dict.fromkeys(("text", "document", "file", "id"), TEXT))
ROW = Shape("object", fields={"text": TEXT, "label": PLAIN, "response": TEXT})

_FEW = "found no further seed: lower target.rows_per_label to the number of seeds, or add seeds"
declare(DecisionCode(f"rejected.{SEEDS_USED}", "writing", "every seed of its label has been used", advice=_FEW))


class DrawStep(Step):
    """A drawn value. Exactly one of its fields from `of` to `passage` names its source."""

    kind: Literal["draw"] = "draw"
    of: JsonValue = Field(
        default=None, description="a list; value to weight; or with `by`, that column's value to a list"
    )
    by: Expression | None = Field(default=None, description="for `of`: expression that chooses one of its lists")
    number: tuple[float, float] | None = Field(default=None, description="least and most; whole if both are")
    date: tuple[Date, Date] | None = Field(default=None, description="first and last day")
    file: str | None = Field(default=None, description="CSV or JSONL beside the recipe; a row becomes an object")
    rows: tuple[dict[str, JsonValue], ...] = Field(default=(), description="the file's rows, filled in on reading")
    seeds: int | None = Field(default=None, ge=1, le=20, description="few-shot rows of the slot's label")
    seed: bool = Field(default=False, description="true: each seed of the label in turn, once")
    labels: int | None = Field(default=None, ge=1, le=100, description="so many labels, the slot's own first")

    passage: bool = Field(default=False, description="true: a passage of the recipe's documents, each equally often")

    @model_validator(mode="after")
    def _one_source(self) -> DrawStep:
        given = [name for name in SOURCES if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            what = f"it is drawn from {' and '.join(given)}" if given else "it is drawn from nothing"
            raise field_error((), what, f"give exactly one of {', '.join(SOURCES)}")
        if self.of is not None:
            _check_choices(self.of, self.by is not None)
        if self.by is not None and self.of is None:
            raise field_error(("by",), "`by` chooses one of the lists of `of`", "add of: with a list for each value")
        for name in ("number", "date"):
            if (bounds := getattr(self, name)) and not bounds[0] < bounds[1]:
                raise field_error((name,), f"{bounds[0]} is not below {bounds[1]}", "give the lower one first")
        if self.file is not None and not self.rows:
            fix = "load the recipe from its file, in whose folder the file lies"
            raise field_error(("file",), f"the rows of {self.file!r} were not read", fix)
        return self

    @classmethod
    def with_files(cls, given: Mapping[str, Any], read: Callable[[str], str]) -> dict[str, Any]:
        """The step with the rows of its `file`."""
        name = given.get("file")
        if not isinstance(name, str) or "rows" in given:
            return dict(given)
        try:
            return {**given, "rows": rows_in(name, read(name))}
        except FieldErrors as errors:
            raise FieldErrors([Finding(("file",), one.what, one.fix) for one in errors.findings]) from None

    def expressions(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """See Step."""
        yield from super().expressions()
        if self.by is not None:
            yield ("by",), self.by

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """Plain if the recipe itself holds it; rows of files and seeds are material."""
        if self.number is not None:
            return Shape("number")
        if self.date is not None:
            return PLAIN
        if self.labels is not None:
            return Shape("list", item=PLAIN)
        if self.seeds is not None or self.seed:
            return Shape("list", item=ROW) if self.seeds else ROW
        if self.passage:
            return PASSAGE_SHAPE
        if self.file is not None:
            return Shape("object", fields={name: _shape_of(value, False) for name, value in self.rows[0].items()})
        return _alike([_shape_of(one, True) for one in _values(self.of, self.by is not None)])

    def check_seeds(self, recipe: Recipe, seeds: Sequence[Seed]) -> list[Finding]:
        """Seeds are drawn from: each label needs one."""
        return unseeded(recipe, seeds) if self.seeds or self.seed else []

    def check(self, recipe: Recipe) -> list[Finding]:
        """As many labels as are drawn, and documents if a passage is."""
        if self.passage and recipe.seeds.documents is None:
            return [Finding(("passage",), "the recipe has no documents", "add seeds.documents with their path")]
        if self.labels is None or self.labels <= len(recipe.task.names):
            return []
        return [Finding(("labels",), f"the task has {len(recipe.task.names)} labels", "draw no more than those")]

    def draw(self, slot: Slot, place: Place, drawn: Drawn) -> Slot:
        """The slot with the seeds or the passage that the column shows."""
        if self.passage:
            passage = passage_for(place, drawn)
            return slot.model_copy(update={"payload": {**slot.payload, PASSAGE: passage.id}}) if passage else slot
        if not self.seeds and not self.seed:
            return slot
        if self.seeds:
            rng = random.Random(f"{self.name}-{slot.seed}")
            rows = shots(drawn, slot.label, self.seeds, rng)
        else:
            rows = _next_seed(self.name, place, drawn)
        known = slot.payload.get(SHOTS)
        held: JsonValue = {**(known if isinstance(known, dict) else {}), self.name: [row.id for row in rows]}
        return slot.model_copy(update={"payload": {**slot.payload, SHOTS: held}, "exemplars": (*slot.exemplars, *rows)})

    def spent(self, place: Place, drawn: Drawn) -> bool:
        """True once every seed of the label has been drawn."""
        return self.seed and not _next_seed(self.name, place, drawn)

    def tokens(self, recipe: Recipe) -> int:
        """See Step."""
        return passage_tokens(recipe) if self.passage else super().tokens(recipe)

    async def run(self, state: State) -> JsonValue:
        """See Step."""
        if self.seeds or self.seed:
            return self._rows(state)
        if self.passage:
            return self._passage(state)
        rng = state.rng(self.name)
        if self.number is not None:
            low, high = self.number
            whole = low == int(low) and high == int(high)
            return rng.randint(int(low), int(high)) if whole else round(rng.uniform(low, high), 4)
        if self.date is not None:
            first, last = self.date
            return (first + timedelta(days=rng.randint(0, (last - first).days))).isoformat()
        if self.labels is not None:
            others = [name for name in state.recipe.task.names if name != state.slot.label]
            own = [state.slot.label] if state.slot.label else []
            return [*own, *rng.sample(others, min(len(others), self.labels - len(own)))]
        if self.file is not None:
            row: JsonValue = rng.choice(self.rows)
            return row
        return self._chosen(state, rng)

    def _passage(self, state: State) -> JsonValue:
        found = passage_of(state.slot, state.draft.context)
        if found is None:
            raise rejected(self, "no_passage", "the recipe's documents have no passage.")
        return passage_value(found)

    def _chosen(self, state: State, rng: random.Random) -> JsonValue:
        choices: Any = self.of
        if self.by is not None:
            key = shown(state.value(self.by, self.name))
            choices = self.of.get(key) if isinstance(self.of, dict) else None
            if choices is None:
                raise rejected(self, "no_choice", f"`of` has no list for {key!r}.")
        if isinstance(choices, dict):
            weights = [float(weight) for weight in choices.values()]
            choices = rng.choices(list(choices), weights)
        found: JsonValue = rng.choice(choices)
        return found

    def _rows(self, state: State) -> JsonValue:
        held = state.slot.payload.get(SHOTS)
        shown_ids = held.get(self.name) if isinstance(held, dict) else None
        ids = shown_ids if isinstance(shown_ids, list) else []
        known = {one.id: one for one in state.slot.exemplars}
        rows: list[JsonValue] = [
            {"text": known[name].text, "label": known[name].label, "response": known[name].response}
            for name in ids if isinstance(name, str)
        ]  # fmt: skip
        if self.seeds:
            return rows
        if not rows:
            raise rejected(self, SEEDS_USED, f"every seed of {state.slot.label!r} has been used.")
        return rows[0]


def passage_value(passage: Passage) -> JsonValue:
    """A passage as a column's value."""
    return {"text": passage.text, "document": passage.document, "file": passage.file, "id": passage.id}


def _next_seed(name: str, place: Place, drawn: Drawn) -> list[Seed]:
    """The next seed of the place's label in a random order; a run's top-ups begin at its end. None if all are used."""
    rows = list(drawn.pool.get(place.label, ()))
    random.Random(f"{name}-{drawn.recipe.seed}-{place.label}").shuffle(rows)
    attempt, shard = divmod(place.shard, TOP_UP)
    at = place.index * (1 if attempt else _shards(drawn)) + shard
    return (rows[::-1] if attempt else rows)[at : at + 1]


def _shards(drawn: Drawn) -> int:
    """The shards of a run, over which the seeds of a label are spread."""
    recipe = drawn.recipe
    return max(1, math.ceil(sum(recipe.made(recipe.wanted()).values()) / recipe.limits.shard_rows))


def _check_choices(of: Any, by: bool) -> None:
    """Raises FieldErrors if `of` is no choice between two values or more."""
    fix = "list the values, or give each a weight: {short: 3, long: 1}"
    if by:
        if not isinstance(of, dict) or not all(isinstance(one, list) and one for one in of.values()):
            fix = "write of: {shoes: [boots, sandals], hats: [cap, beret]}"
            raise field_error(("of",), "with `by`, `of` has a list for each value", fix)
        return
    if isinstance(of, dict):
        weights = [one for one in of.values() if isinstance(one, int | float) and not isinstance(one, bool)]
        if len(weights) < len(of) or any(one < 0 for one in weights) or not sum(weights):
            raise field_error(("of",), "weights are numbers from 0, not all 0", fix)
    elif not isinstance(of, list):
        raise field_error(("of",), "it is no list", fix)
    if len(of) < 2:
        raise field_error(("of",), "a draw needs two values or more", "write a single value into the prompt itself")


def _values(of: Any, by: bool) -> list[Any]:
    if by:
        return [one for values in of.values() for one in values]
    return list(of)


def _shape_of(value: Any, plain: bool) -> Shape:
    if isinstance(value, dict):
        return Shape("object", fields={name: _shape_of(one, plain) for name, one in value.items()})
    if isinstance(value, list):
        return Shape("list", item=_alike([_shape_of(one, plain) for one in value]) if value else ANY)
    if isinstance(value, bool):
        return Shape("boolean")
    return Shape("number") if isinstance(value, int | float) else Shape("text", plain=plain)


def _alike(shapes: Sequence[Shape]) -> Shape:
    """The shape of all; if they differ, that of any value, which is plain if all are."""
    first = shapes[0]
    return first if all(one == first for one in shapes) else Shape("any", plain=all(one.trusted for one in shapes))


def rows_in(name: str, text: str) -> list[dict[str, Any]]:
    """The rows of a CSV or JSONL file. Raises FieldErrors."""
    fix = f"a file to draw from has a head and at most {MOST_ROWS:,} rows, {MOST_BYTES:,} bytes in all"
    if len(text) > MOST_BYTES:
        raise FieldErrors([Finding((), f"{name} is too large to draw from", fix)])
    try:
        if name.endswith((".jsonl", ".ndjson")):
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            rows = [dict(row) for row in csv.DictReader(io.StringIO(text, newline=""), strict=True)]
    except (ValueError, csv.Error) as error:
        raise FieldErrors([Finding((), f"{name} cannot be read: {error}", "give a CSV or JSONL file")]) from None
    whole = all(isinstance(row, dict) and None not in row and None not in row.values() for row in rows)
    if not rows or not whole or len(rows) > MOST_ROWS:
        what = f"has {len(rows):,} rows" if whole else "has a row with another number of fields"
        raise FieldErrors([Finding((), f"{name} {what}", fix)])
    if len({tuple(row) for row in rows}) > 1:
        raise FieldErrors([Finding((), f"{name} has rows with different fields", "give every row the same fields")])
    return rows


KIND = DrawStep
