"""A pipeline's plan: its steps checked against each other, with the shapes of their columns and their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graft.agents.methods.columns.base import PREDECLARED, Step, name_problem
from graft.agents.methods.columns.parts.expressions import compiled
from graft.agents.methods.columns.parts.order import Node, circle, reached, waves
from graft.agents.methods.columns.parts.shapes import ANY, Shape, walk
from graft.schemas.problems import Finding, did_you_mean

ROW = "row"
"""The step that makes text, label and response and lets the gates see them; no column has its name."""
OTHER_TAGS = ("review", "system", "instruction", "text", "response", "example", "examples")
"""Tags of Graft's own prompts, which no text may open or close either."""


@dataclass(frozen=True)
class Plan:
    """Steps by column, their waves, and the shapes of all columns.

    Args:
        apart: columns that differ within a group, as they depend on the step `explode`
        parts: slots of a group
        prepared: as `Step.prepare` made it
        tags: names of tags that no text may open or close
        early: columns of the row's data that the gates see; the others rest on a review, which follows the gates
        writing: roles whose words are in the row
        given: whether no model writes the row's text: it is a seed's, a passage's, or drawn
    """

    steps: Mapping[str, Step]
    waves: tuple[tuple[str, ...], ...]
    shapes: Mapping[str, Shape]
    apart: frozenset[str] = frozenset()
    parts: int = 1
    prepared: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    early: tuple[str, ...] = ()
    writing: frozenset[str] = frozenset()
    given: bool = False


def problems_of(steps: Sequence[Step], row: Sequence[tuple[str, str]]) -> list[Finding]:
    """The problems of steps and row, each at its field; `row` are (field, expression)."""
    found = _named_twice(steps)
    if found:
        return found
    known = {**PREDECLARED, **{step.name: ANY for step in steps}}
    places = [(("steps", at, *place), path) for at, step in enumerate(steps) for place, path in step.paths()]
    places += [(("row", *name.split(".")), path) for name, text in row for path in compiled(text).paths]
    for place, path in places:
        if path[0] not in known:
            fix = f"{did_you_mean(str(path[0]), known)}columns: {', '.join(known)}"
            found.append(Finding(place, f"there is no column {str(path[0])!r}", fix))
    if found:
        return found
    reads = _reads(steps)
    round_ = circle(reads)
    if round_:
        at = next(place for place, step in enumerate(steps) if step.name == round_[0])
        what = f"its column depends on itself: {' reads '.join([*round_, round_[0]])}"
        return [Finding(("steps", at), what, "let one of these steps read other columns")]
    several = [at for at, step in enumerate(steps) if step.spreads]
    if len(several) > 1:
        return [Finding(("steps", several[1]), "a pipeline explodes one list", "explode the longest list only")]
    shapes = shapes_of(steps, reads)
    for place, path in places:
        problem = walk(shapes[str(path[0])], path[1:])
        if isinstance(problem, str):
            found.append(Finding(place, f"{'.'.join(map(str, path))}: {path[0]} {problem}", "correct the path"))
    for at, step in enumerate(steps):
        found += [Finding(("steps", at, *one.path), one.what, one.fix) for one in step.problem(shapes)]
    return found


def plan_of(steps: Sequence[Step], row: Sequence[tuple[str, str]], data: Mapping[str, str]) -> Plan:
    """The plan of steps without problems; `row` are its words, `data` its data: (field, expression)."""
    reads, own = _reads(steps), {step.name: step for step in steps}
    shapes = shapes_of(steps, reads)
    judges = {step.name for step in steps if step.calls_models and step.decides}
    early = tuple(
        column for column, text in data.items()
        if not any(judges & {name, *reached(reads, name)} for name in compiled(text).names)
    )  # fmt: skip
    shown = [*(text for _, text in row), *(data[name] for name in early)]
    worded = [*(text for name, text in row if name != "label"), *data.values()]
    read = {name for text in worded for name in compiled(text).names}
    read |= {name for one in read for name in reached(reads, one)}
    writing = frozenset(role for name in read & own.keys() if own[name].writes for role in own[name].roles())
    texts = {name for field, text in row if field == "text" for name in compiled(text).names}
    texts |= {name for one in texts for name in reached(reads, one)}
    made = frozenset(name for text in shown for name in compiled(text).names if name in own)
    made = made.union(*(frozenset({one.name}) for one in steps if one.changes in made and one.changes))
    nodes = [Node(step.name, reads[step.name], step.calls_models, at) for at, step in enumerate(steps)]
    exploding = next((step for step in steps if step.spreads), None)
    apart = frozenset(
        name for name in own if exploding and (name == exploding.name or exploding.name in reached(reads, name))
    )
    tags = (*own, *PREDECLARED, *OTHER_TAGS)
    return Plan(
        own, waves([*nodes, Node(ROW, made, False, len(steps))]), shapes, apart, int(getattr(exploding, "most", 1)),
        {name: step.prepare(shapes, tags) for name, step in own.items()}, tags, early, writing,
        not any(own[name].calls_models for name in texts & own.keys()),
    )  # fmt: skip


def shapes_of(steps: Sequence[Step], reads: Mapping[str, frozenset[str]]) -> dict[str, Shape]:
    """The shapes of all columns: each step's follows from those that it reads."""
    own, shapes = {step.name: step for step in steps}, dict(PREDECLARED)
    for wave in waves([Node(name, of, False, 0) for name, of in reads.items()]):
        for name in wave:
            shape = own[name].shape(shapes)
            shapes[name] = shape
    return shapes


def _named_twice(steps: Sequence[Step]) -> list[Finding]:
    found = [
        Finding(("steps", at, step.kind), problem, "choose another name: lower-case letters, digits and underscore")
        for at, step in enumerate(steps) if (problem := name_problem(step.name))
    ]  # fmt: skip
    counted = Counter(step.name for step in steps)
    seen = set[str]()
    for at, step in enumerate(steps):
        if counted[step.name] > 1 and step.name in seen:
            found.append(Finding(("steps", at, step.kind), f"two steps fill the column {step.name!r}", "rename one"))
        seen.add(step.name)
    return found


def _reads(steps: Sequence[Step]) -> dict[str, frozenset[str]]:
    """The columns that each step waits for: those that it reads, and the steps that change one of them before it."""
    own = {step.name: step for step in steps}
    reads = {step.name: frozenset(str(path[0]) for _, path in step.paths()) & own.keys() for step in steps}
    for changing in steps:
        root = changing.changes
        before = reached(reads, changing.name)
        for name, of in reads.items() if root else ():
            first = own[name].changes == root and not _after(steps, name, changing.name)
            if root in of and name != changing.name and name not in before and not first:
                reads[name] = of | {changing.name}
    return reads


def _after(steps: Sequence[Step], name: str, other: str) -> bool:
    order = [step.name for step in steps]
    return order.index(name) > order.index(other)
