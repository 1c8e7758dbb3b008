"""Recall: withdraws rows because of their origin, in a version without them and in all later ones.

A recall is stored as a rule (`--model gemma`), not only as a list of rows: `data.withdrawn` applies it inside every
publishing transaction. Record and versions are one transaction, so that a concurrent run, edit or recall publishes
wholly before it, and its rows are withdrawn, or wholly after it, without them. Only direct contact counts, except for
seeds, which also count through accepted rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graft.data.arrow import to_table
from graft.data.tags import tags
from graft.data.trace import Touched, check_known, rows_at
from graft.data.versions import derivation, held_by, insert_version, version, versions
from graft.data.withdrawn import Selector, recalls, touched
from graft.schemas.base import stable_hash, utc_now
from graft.schemas.datasets import DatasetVersion, Recall
from graft.schemas.errors import GraftError
from graft.schemas.students import Student

if TYPE_CHECKING:
    import duckdb

    from graft.data.lake import Lake

GOING_ON = ("running", "interrupted", "failed")
"""Status of runs that may still publish."""


@dataclass(frozen=True)
class RecallPlan:
    """Effect of a recall on one dataset: rows of `parent`, and the number in each version.

    `parent` is None if nothing is published yet. `students` learned from such a row of any version: they must be
    trained again. `tags` name a version with such rows and stay on it.
    """

    dataset: str
    parent: DatasetVersion | None
    rows: tuple[Touched, ...] = ()
    held: Mapping[int, int] = field(default_factory=dict)
    students: tuple[Student, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    """A recorded recall. `version` is the one without the rows; None if the parent held none of them."""

    plan: RecallPlan
    recall: Recall
    version: DatasetVersion | None


def plan(lake: Lake, selector: Selector, ref: str | None = None) -> list[RecallPlan]:
    """Plan a recall from this dataset or version (default: the latest of every dataset). Writes nothing.

    A dataset without such rows, candidates for them and unfinished runs that could make them is left out. Raises
    NotFound if the lake has no record of the selector.
    """
    every, places = versions(lake), touched(lake, selector)
    parents: dict[str, DatasetVersion | None] = {one.dataset: one for one in every}
    concerned = _concerned(lake, selector, {run_id for run_id, _ in places})
    if ref is None:
        parents |= dict.fromkeys(sorted(concerned - parents.keys()))
    else:
        name = ref.strip().partition("@")[0]
        parents = {name: None if ref == name and name not in parents and name in concerned else version(lake, ref)}
    held: dict[str, list[Touched]] = {}
    for row in rows_at(lake, selector, places, [one for one in every if one.dataset in parents]):
        held.setdefault(row.dataset, []).append(row)
    plans = [
        _of_dataset(lake, name, parent, held.get(name, ()))
        for name, parent in parents.items()
        if name in held or name in concerned
    ]
    if not plans:
        check_known(lake, selector)
    return plans


def _of_dataset(lake: Lake, dataset: str, parent: DatasetVersion | None, every: Sequence[Touched]) -> RecallPlan:
    held = Counter(row.version for row in every)
    learned = {row.version for row in every if row.split == "train"}
    return RecallPlan(
        dataset=dataset,
        parent=parent,
        rows=tuple(row for row in every if parent is not None and row.version == parent.version),
        held=dict(sorted(held.items())),
        students=tuple(s for s in lake.students(dataset) if s.version in learned),
        tags=tuple(f"{tag.tag} = {dataset}@{tag.version}" for tag in tags(lake, dataset) if tag.version in held),
    )


def _concerned(lake: Lake, selector: Selector, made: set[str]) -> set[str]:
    """Datasets of the runs that made such candidates, that use the seed, or that are unfinished and name the model."""
    of_run = {row["id"]: row["dataset"] for row in lake.query("SELECT id, dataset FROM lake.runs")}
    found = {of_run[run_id] for run_id in made if run_id in of_run}
    going = lake.query("SELECT id, recipe FROM lake.runs WHERE list_contains(?::VARCHAR[], status)", [list(GOING_ON)])
    for row in going:
        models = json.loads(row["recipe"]).get("models") or ()
        named = {"model": {one.get(key) for one in models for key in ("name", "model")}, "run": {row["id"]}}
        if selector.value in named.get(selector.kind, ()):
            found.add(of_run[row["id"]])
    if selector.kind == "seed":
        rows = lake.query("SELECT DISTINCT run_id FROM lake.seeds WHERE id = ?", [selector.value])
        found |= {of_run[row["run_id"]] for row in rows if row["run_id"] in of_run}
    return found


def recall(lake: Lake, selector: Selector, ref: str | None = None, *, reason: str, by: str) -> list[Done]:
    """Writes a recall and, of each dataset that holds such rows, a version without them, in one transaction.

    The plan is computed again inside it, with the versions that were published meanwhile. Repeating
    a recall changes nothing. Raises GraftError if a dataset would be left without a row, NotFound as `plan`.
    """

    def work(connection: duckdb.DuckDBPyConnection) -> list[Done]:
        plans = plan(lake, selector, ref)
        for one in plans:
            if one.parent is not None and len(one.rows) == one.parent.rows:
                raise GraftError(
                    f"all {one.parent.rows} rows would go", where=one.parent.ref, fix="delete the version instead"
                )
        return [_withdraw(lake, connection, selector, one, reason, by) for one in plans]

    return lake.write(work)


def _withdraw(
    lake: Lake, connection: duckdb.DuckDBPyConnection, selector: Selector, one: RecallPlan, reason: str, by: str
) -> Done:
    record = _recorded(lake, selector, one, reason, by)
    if one.parent is None or not one.rows:
        return Done(one, record, None)
    note = f"recall of {selector.kind} {selector.value}, {len(one.rows)} rows: {record.reason}"
    draft = derivation(one.parent, held_by(lake, one.parent), "recall", note)
    return Done(one, record, insert_version(lake, connection, draft))


def _recorded(lake: Lake, selector: Selector, one: RecallPlan, reason: str, by: str) -> Recall:
    name = "rc_" + stable_hash(one.dataset, selector.kind, selector.value)
    for there in recalls(lake, one.dataset):
        if there.id == name:
            return there
    made = Recall(
        id=name, dataset=one.dataset, kind=selector.kind, value=selector.value, reason=reason, rows=len(one.rows),
        by=by, at=utc_now(),
    )  # fmt: skip
    lake.insert("recalls", to_table(Recall, [made]))
    return made
