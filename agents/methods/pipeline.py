"""Pipeline: rows of a recipe's own columns. Each step fills one column; what a step reads decides the order.

Steps that cost nothing run as soon as their columns are there, so that a candidate that fails a check ends before the
next call. As soon as the row's text, label and response are known, the gates see them. Every call has a key of its own:
a change of the last step repeats no call of the others.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from graft.agents.methods.base import Calls, Context, Drawn, Method, Place, Query, Traits
from graft.agents.methods.columns.base import NAME, Ended, State, Step, StepOf
from graft.agents.methods.columns.parts.expressions import Expression
from graft.agents.methods.columns.parts.functions import shown
from graft.agents.methods.columns.parts.plan import ROW, Plan, plan_of, problems_of
from graft.agents.methods.columns.parts.reports import steps_report
from graft.agents.methods.steps.draft import Draft, cut_off, decided, decision, failure, screened
from graft.agents.methods.steps.draw import make_slot, slot_id
from graft.agents.methods.steps.passages import passage_of
from graft.agents.roles.asking import concept_of
from graft.schemas.base import Value
from graft.schemas.binding import MethodSettings, Role
from graft.schemas.decisions import DecisionCode, declare
from graft.schemas.errors import BudgetExhausted, CallFailed, GraftError, TextCut
from graft.schemas.kinds import STEPS
from graft.schemas.models import LabelerSpec
from graft.schemas.problems import FieldErrors, Finding, field_error
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Accepted, Candidate, Decision, Seed, Slot
from graft.schemas.sections import Section

MOST_STEPS = 50
MOST_CHARS, MOST_NOTED = 1_000, 12_000
"""Characters of a column that are kept with a candidate, and of all of them."""
MADE = "accepted.made"
YIELD = 0.7

declare(DecisionCode(MADE, "review", "it passed every step of the recipe's pipeline"))


class RowSettings(Value):
    """Expressions that make the row of the columns."""

    text: Expression = Field(description="the row's text")
    label: Expression | None = Field(default=None, description="the row's label; null: the slot's")
    response: Expression | None = Field(default=None, description="the row's response")
    soft_label: Expression | None = Field(default=None, description="an object: label to probability")
    data: dict[str, Expression] = Field(default={}, max_length=30, description="further columns of the row, by name")

    @property
    def words(self) -> list[tuple[str, str]]:
        """(field, expression) of text, label and response."""
        return [(name, text) for name in ("text", "label", "response") if (text := getattr(self, name)) is not None]

    @property
    def every(self) -> list[tuple[str, str]]:
        """(field, expression) of all."""
        soft = [("soft_label", self.soft_label)] if self.soft_label else []
        return [*self.words, *soft, *((f"data.{name}", text) for name, text in self.data.items())]

    @field_validator("data")
    @classmethod
    def _data_names(cls, data: dict[str, str]) -> dict[str, str]:
        taken = ("id", "text", "label", "response", "split", "source", "sources", "restricted")
        for name in data:
            if name in taken or not NAME.fullmatch(name):
                what = f"{name!r} is a field of every row" if name in taken else f"{name!r} is no name of a column"
                raise field_error((name,), what, "use lower-case letters, digits and underscore")
        return data


class PipelineSettings(MethodSettings):
    """Named columns from steps, and the row that they make."""

    kind: Literal["pipeline"] = "pipeline"
    steps: tuple[Annotated[Step, StepOf()], ...] = Field(min_length=1, max_length=MOST_STEPS)
    row: RowSettings
    max_cosine: float | None = Field(default=0.9, gt=0, le=1, description="rows at or above are duplicates; null: off")

    @field_validator("steps", mode="before")
    @classmethod
    def _names(cls, given: Any) -> Any:
        """Give every step that is named by its test, such as the second `check: equals`, a column of its own."""
        if not isinstance(given, list | tuple):
            return given
        seen, named = set[str](), list[Any]()
        for one in given:
            step = dict(one) if isinstance(one, Mapping) else one
            if isinstance(step, dict) and isinstance(rule := step.get("check"), str) and "as" not in step:
                step["as"] = next(
                    name for at in range(1, len(given) + 2) if (name := rule + f"_{at}" * (at > 1)) not in seen
                )
                seen.add(step["as"])
            named.append(step)
        return named

    @model_validator(mode="after")
    def _fits(self) -> PipelineSettings:
        problems = problems_of(self.steps, self.row.every)
        if problems:
            raise FieldErrors(problems)
        return self

    @cached_property
    def plan(self) -> Plan:
        """The steps in their order."""
        return plan_of(self.steps, self.row.words, self.row.data)

    @property
    def kinds(self) -> list[tuple[Any, str]]:
        """The kinds of its steps."""
        return [(STEPS, step.kind) for step in self.steps]

    @property
    def writing(self) -> frozenset[str]:
        """The roles of steps whose words the row's expressions read, directly or through other columns."""
        return self.plan.writing

    @classmethod
    def with_files(cls, block: Mapping[str, Any], read: Callable[[str], str]) -> tuple[dict[str, Any], list[Finding]]:
        """The block with the texts of its prompt files and the rows of files to draw from."""
        steps, found = block.get("steps"), list[Finding]()
        if not isinstance(steps, list):
            return dict(block), []
        filled = []
        for at, step in enumerate(steps):
            filled.append(step)
            kind = (
                next((STEPS.get(name) for name in step if name in STEPS.names), None)
                if isinstance(step, dict)
                else None
            )
            if kind is None:
                continue
            try:
                filled[-1] = kind.with_files(step, read)
            except FieldErrors as errors:
                found += [dataclasses.replace(one, path=("steps", at, *one.path)) for one in errors.findings]
        return {**block, "steps": filled}, found


class Pipeline(Method[PipelineSettings]):
    """Runs a recipe's steps for each slot."""

    kind = "pipeline"
    Settings = PipelineSettings
    roles = MappingProxyType({
        "generator": Role(writes=True), "labeler": Role(LabelerSpec), "reviewer": Role(), "adjudicator": Role(),
    })  # fmt: skip
    prompts = ("review_columns",)
    needs_seeds = False
    one_split = True
    fills = True

    def traits(self, recipe: Recipe) -> Traits:
        """Duplicates by cosine; candidates of one list share their fate. Texts that no model writes may repeat earlier
        versions': each run goes through them again."""
        settings = self.settings(recipe)
        return Traits(
            max_cosine=settings.max_cosine, together=settings.plan.parts, assumed_yield=YIELD,
            repeats_published=settings.plan.given,
            assumptions=(f"{YIELD:.0%} of candidates pass every step",),
        )  # fmt: skip

    def versions(self, recipe: Recipe) -> tuple[Any, ...]:
        """The versions of its steps that are not the first."""
        return tuple((step.kind, step.version) for step in self.settings(recipe).steps if step.version > 1)

    def own_prompts(self, recipe: Recipe) -> tuple[str, ...]:
        """The prompts and rubrics of the recipe."""
        return tuple(text for step in self.settings(recipe).steps for text in step.sentences())

    def roles_of(self, recipe: Recipe) -> tuple[str, ...]:
        """The roles that its steps call, in the order of the steps."""
        return tuple(dict.fromkeys(role for step in self.settings(recipe).steps for role in step.roles()))

    def check(self, recipe: Recipe, seeds: Sequence[Seed] | None) -> list[Finding]:
        """The problems of each step with the recipe, and with its seeds once they are read."""
        steps = self.settings(recipe).steps
        if seeds is not None:
            return next(filter(None, (step.check_seeds(recipe, seeds) for step in steps)), [])
        found = [
            dataclasses.replace(one, path=("method", "steps", at, *one.path))
            for at, step in enumerate(steps) for one in step.check(recipe)
        ]  # fmt: skip
        given = recipe.seeds.path or recipe.seeds.rows
        if not given and any(step.check_seeds(recipe, ()) for step in steps):
            fix = "add path: seeds.jsonl, or rows: with a text and a label each"
            found.append(Finding(("seeds",), "a step draws from seeds, and there are none", fix))
        if recipe.task.needs_response and self.settings(recipe).row.response is None:
            fix = "add response: an expression, such as answer.text"
            found.append(Finding(("method", "row"), f"rows of task {recipe.task.kind!r} have a response", fix))
        early = self.settings(recipe).plan.early
        for name in (name for name in recipe.task.needed if name not in early):
            what = f"rows of task {recipe.task.kind!r} need the column {name}, known before any review"
            found.append(Finding(("method", "row", "data"), what, f"add data: {{{name}: an expression}} under row"))
        return found

    async def prepare_seeds(self, context: Context) -> Sequence[Seed]:
        """The seeds; where labels only group rows, those without one are dealt to the groups in turn."""
        task = context.recipe.task
        if task.labelled:
            return context.seeds
        groups = itertools.cycle(task.names)
        return [one if one.label else one.model_copy(update={"label": next(groups)}) for one in context.seeds]

    def make_slot(self, place: Place, drawn: Drawn) -> Slot:
        """A slot with what its steps draw; with a step that explodes it is one of a group with the same random seed."""
        plan = self.settings(drawn.recipe).plan
        part, counted = place.index % plan.parts, _counted(place, plan.parts)
        first = dataclasses.replace(place, index=place.index - part)
        slot = make_slot(first, drawn, 0, 0)
        for step in plan.steps.values():
            slot = step.draw(slot, counted, drawn)
        if plan.parts == 1:
            return slot
        own = {"id": slot_id(place), "index": place.index, "group": slot.id, "part": part}
        return slot.model_copy(update=own)

    def spent(self, place: Place, drawn: Drawn) -> bool:
        """True if a step has nothing left to draw."""
        plan = self.settings(drawn.recipe).plan
        return any(step.spent(_counted(place, plan.parts), drawn) for step in plan.steps.values())

    async def run_slot(self, slot: Slot, context: Context) -> Candidate:
        """The candidate after the last step, or the step that ended it. A reached budget ends it as failed.budget."""
        draft = Draft(slot, context, {})
        state = state_of(self.settings(context.recipe).plan, draft)
        return await decided(draft, _made(state, self.settings(context.recipe)), "The pipeline")

    def estimate(self, recipe: Recipe, candidates: int, seeds: Sequence[Seed]) -> tuple[Calls, ...]:
        """The calls of each step; those before a step that explodes are made once a group."""
        plan = self.settings(recipe).plan
        groups = math.ceil(candidates / plan.parts)
        return tuple(
            calls
            for name, step in plan.steps.items()
            for calls in step.estimate(recipe, candidates if name in plan.apart else groups, seeds)
        )

    def report(self, query: Query, run_id: str, counts: Mapping[str, int]) -> Section | None:
        """For each step its calls, and the candidates that ended there."""
        return steps_report(query, run_id)

    def describe(self, slot: Slot, notes: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
        """The columns that the recipe itself holds: drawn values and numbers, no text of a model."""
        drawn = notes.get("drawn")
        return [(name, shown(value)) for name, value in drawn.items()] if isinstance(drawn, dict) else []

    def one_of(self, row: Candidate | Accepted) -> str:
        """None: every element of a list may become a row."""
        return ""


def state_of(plan: Plan, draft: Draft) -> State:
    """A candidate before its first step."""
    slot, task = draft.slot, draft.context.recipe.task
    columns: dict[str, JsonValue] = {
        "label": slot.label, "labels": list(task.names), "description": task.category(slot.label).description,
        "language": task.language, "concept": concept_of(slot),
    }  # fmt: skip
    return State(draft, columns, plan.shapes, tags=plan.tags, prepared=plan.prepared, apart=plan.apart)


async def _made(state: State, settings: PipelineSettings) -> Decision:
    """Run the waves of steps until one ends the candidate, or all have passed."""
    plan, draft = settings.plan, state.draft
    try:
        for wave in plan.waves:
            if len(wave) == 1:
                await _run(wave[0], state, settings)
                continue
            ended = await asyncio.gather(*(_run(name, state, settings) for name in wave), return_exceptions=True)
            raised = [one for one in ended if isinstance(one, BaseException)]
            if raised:
                raise raised[0]
        draft.soft_label = _soft_label(state, settings)
        late = {name: text for name, text in settings.row.data.items() if name not in plan.early}
        draft.data |= {name: state.value(text, f"row.data.{name}") for name, text in late.items()}
    except Ended as end:
        draft.notes.setdefault("step", ROW)
        return end.decision
    finally:
        _note(state)
    return state.verdict or decision("accepted", "step", MADE, "Every step of the pipeline passed.")


async def _run(name: str, state: State, settings: PipelineSettings) -> None:
    """One step: its value becomes its column. Raises Ended with a reason that names the step."""
    if name == ROW:
        _row(state, settings)
        return
    step = settings.plan.steps[name]
    try:
        if step.when is not None and not state.value(step.when, name):
            state.columns[name] = None
            return
        state.columns[name] = await step.run(state)
        return
    except BudgetExhausted:
        raise
    except TextCut as caught:
        ended = cut_off(state.draft, caught)
    except CallFailed as caught:
        ended = failure(caught.code, f"{caught.what}.")
    except Ended as end:
        state.draft.notes["step"] = name
        raise end from None
    except GraftError:
        raise
    except Exception as error:  # whatever the code of a plugin's step raises: it ends one candidate, not the run
        ended = failure("unexpected", f"{type(error).__name__}: {error}.")
    state.draft.notes["step"] = name
    raise Ended(ended.model_copy(update={"reason": f"Step {name}: {ended.reason}"}))


def _row(state: State, settings: PipelineSettings) -> None:
    """Text, label and response of the row, which the gates see. Raises Ended."""
    row, draft = settings.row, state.draft
    draft.text = shown(state.value(row.text, "row.text")).strip()
    if row.response is not None:
        draft.response = shown(state.value(row.response, "row.response")).strip()
    if not draft.text or draft.response == "":
        draft.notes["step"] = ROW
        raise Ended(failure("empty", f"Step row: the {'text' if not draft.text else 'response'} is empty."))
    if row.label is not None:
        label = state.value(row.label, "row.label")
        if label not in state.recipe.task.names:
            draft.notes["step"] = ROW
            reason = f"Step row: {shown(label)[:80]!r} is no label of the task."
            raise Ended(decision("rejected", "no_label", "rejected.no_label", reason))
        draft.label = str(label)
    passage = passage_of(state.slot, draft.context)
    draft.data = {"source": passage.source} if passage else {}
    found = {one.id: one.source for step in settings.plan.steps.values() for one in step.passages(state)}
    draft.data |= {"sources": list(found.values())} if found else {}
    draft.data |= {name: state.value(row.data[name], f"row.data.{name}") for name in settings.plan.early}
    ended = screened(draft)
    if ended:
        draft.notes["step"] = ROW
        raise Ended(ended)


def _soft_label(state: State, settings: PipelineSettings) -> dict[str, float]:
    """The row's probabilities of labels, which add up to 1; empty without such an expression."""
    if settings.row.soft_label is None:
        return {}
    given = state.value(settings.row.soft_label, "row.soft_label")
    names = state.recipe.task.names
    scores = {
        name: float(value) for name, value in (given if isinstance(given, dict) else {}).items()
        if name in names and isinstance(value, int | float) and value > 0
    }  # fmt: skip
    total = math.fsum(scores.values())
    if not total:
        state.draft.notes["step"] = ROW
        raise Ended(failure("expression", "Step row.soft_label: it gives no label a probability."))
    return {name: value / total for name, value in scores.items()}


def _counted(place: Place, parts: int) -> Place:
    """The place of the group that a slot belongs to, counted in groups."""
    return dataclasses.replace(place, index=place.index // parts)


def _note(state: State) -> None:
    """Keep the columns with the candidate, cut; of a task with restricted rows those of the recipe itself alone."""
    known = set(state.shapes) & set(state.columns) - {"label", "labels", "description", "language", "concept"}
    plain = {name for name in known if state.shapes[name].trusted}
    notes, left = state.draft.notes, MOST_NOTED
    shown_to = plain if state.recipe.task.has_restricted else known
    columns: dict[str, JsonValue] = {}
    for name in (name for name in state.columns if name in shown_to):
        text = shown(state.columns[name])
        columns[name] = text[: min(MOST_CHARS, left)] + ("…" if len(text) > min(MOST_CHARS, left) else "")
        left = max(0, left - len(text))
    if columns:
        notes["columns"] = columns
    if plain:
        notes["drawn"] = {name: value for name, value in columns.items() if name in plain}


KIND = Pipeline()
