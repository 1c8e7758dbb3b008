"""Recall: rows are withdrawn because of where they come from, in a version without them and in all that follow.

What is recalled is kept as a rule (`--model gemma`), not only as a list of rows: a later run's rows that the same model
touched are left out too. Only direct touches count, but for seeds, which count through accepted rows as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.arrow import from_table, to_table
from data.trace import Selector, Touched, latest, touched, trace
from data.versions import derive, held_by, versions
from schemas.base import stable_hash, utc_now
from schemas.datasets import DatasetVersion
from schemas.errors import GraftError
from schemas.rows import GateResult
from schemas.students import Student
from schemas.versions import Recall

if TYPE_CHECKING:
    from data.lake import Lake

GATE = "recall"
"""The gate's name in the drops of a recall."""


@dataclass(frozen=True)
class Plan:
    """What a recall takes from one dataset: rows of `parent`, and how many of each version held them.

    `students` learned from such a row of any version: they must be trained again.
    """

    parent: DatasetVersion
    rows: tuple[Touched, ...]
    held: dict[int, int]
    students: tuple[Student, ...]


@dataclass(frozen=True)
class Done:
    """A recall that is written. `version` is the one without the rows; None where the parent held none of them."""

    recall: Recall
    version: DatasetVersion | None


def plan(lake: Lake, selector: Selector, among: Sequence[DatasetVersion] | None = None) -> list[Plan]:
    """What a recall would take from these versions (left out: the latest of every dataset). Writes nothing.

    A dataset that never held such a row is left out. Raises NotFound where the lake knows no such thing.
    """
    plans: list[Plan] = []
    for parent in latest(lake) if among is None else among:
        every = trace(lake, selector, versions(lake, parent.dataset))
        if every:
            learned = {row.version for row in every if row.split == "train"}
            plans.append(
                Plan(
                    parent=parent,
                    rows=tuple(row for row in every if row.version == parent.version),
                    held=dict(sorted(Counter(row.version for row in every).items())),
                    students=tuple(s for s in lake.students(parent.dataset) if s.version in learned),
                )
            )
    return plans


def recall(lake: Lake, selector: Selector, plans: Sequence[Plan], *, reason: str, by: str) -> list[Done]:
    """Writes a recall and, of each dataset that holds such rows, a version without them. Repeating it changes nothing.

    Raises GraftError, before anything is written, where a dataset would be left without a row.
    """
    for one in plans:
        if one.rows and len(one.rows) == one.parent.rows:
            raise GraftError(
                f"all {one.parent.rows} rows would go", where=one.parent.ref, fix="delete the version instead"
            )
    return [_withdraw(lake, selector, one, _recorded(lake, selector, one, reason, by)) for one in plans]


def withdrawal(record: Recall, how: str = "") -> GateResult:
    """Why a recall drops a row, as a gate's result; `how` says in which way the row was touched."""
    detail = f"{record.kind} {record.value}{how}: {record.reason}"
    return GateResult(gate=GATE, rule=record.kind, passed=False, neighbour=record.id, detail=detail)


def _recorded(lake: Lake, selector: Selector, one: Plan, reason: str, by: str) -> Recall:
    dataset = one.parent.dataset
    name = "rc_" + stable_hash(dataset, selector.kind, selector.value)
    for there in recalls(lake, dataset):
        if there.id == name:
            return there
    made = Recall(
        id=name, dataset=dataset, kind=selector.kind, value=selector.value, reason=reason, rows=len(one.rows), by=by,
        at=utc_now(),
    )  # fmt: skip
    lake.replace("recalls", to_table(Recall, [made]), id=name)
    return made


def _withdraw(lake: Lake, selector: Selector, one: Plan, record: Recall) -> Done:
    gone = {row.id: row for row in one.rows}
    if not gone:
        return Done(record, None)
    held = [row for row in held_by(lake, one.parent) if row[0].id not in gone]
    drops = [withdrawal(record, f" ({', '.join(row.how)})") for row in gone.values()]
    note = f"recall of {selector.kind} {selector.value}, {len(gone)} rows: {record.reason}"
    made = derive(lake, one.parent, held, origin="recall", note=note, drops=drops, dropped=list(gone))
    return Done(record, made)


def recalls(lake: Lake, dataset: str | None = None) -> list[Recall]:
    """Recalls, oldest first; of one dataset where it is named."""
    query = 'SELECT * FROM lake.recalls WHERE ?::VARCHAR IS NULL OR dataset = ? ORDER BY "at", id'
    return from_table(Recall, lake.sql(query, [dataset, dataset]))


def recalled_rows(lake: Lake, dataset: str, run_ids: Sequence[str]) -> dict[str, Recall]:
    """Row id to the recall that withdraws it, for the candidates of these runs and for rows withdrawn before.

    What publishes asks this and leaves the rows out. Cheap where the dataset has no recall.
    """
    found: dict[str, Recall] = {}
    for one in recalls(lake, dataset):
        selector = Selector(one.kind, one.value)
        query = "SELECT DISTINCT row_id FROM lake.drops WHERE dataset = ? AND gate = ? AND neighbour = ?"
        ids = [str(row["row_id"]) for row in lake.sql(query, [dataset, GATE, one.id]).to_pylist()]
        ids += [candidate_id for _, candidate_id in touched(lake, selector, run_ids)]
        ids += [one.value] if one.kind == "row" else []
        for name in ids:
            found.setdefault(name, one)
    return found
