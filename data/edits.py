"""People's edits of rows: recorded beside a version, and applied to it or to a later version as a derived version.

An edit never changes a version. An edited row keeps its id, so that its history remains valid; the version's content
hash changes with the row's text. A rejected candidate of the version's runs that a person accepts is rescued: it
becomes a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from graft.data.arrow import from_rows, to_table
from graft.data.decided import NEWS, Conflict, Decided, breach, conflicts_of, decided_row, without
from graft.data.duck import execute, rows_of
from graft.data.rescue import Rejected, recalled, rejected, take_in
from graft.data.seen import labels_of, seen, task_of
from graft.data.versions import Held, derive, held_by
from graft.schemas.base import Value, stable_hash, utc_now
from graft.schemas.datasets import Edit, EditAction, Row
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.rows import GateResult
from graft.schemas.sections import HIDDEN
from graft.schemas.tasks.base import Task, Words

if TYPE_CHECKING:
    import duckdb

    from graft.data.lake import Lake
    from graft.schemas.datasets import DatasetVersion

GATE = "person"
DECISIONS: tuple[EditAction, ...] = ("accept", "reject", "relabel", "edit")
"""Actions that decide on a row."""
WORDS = ("base_text", "text", "response", "note", "data", "base_data")
"""Fields of an edit that may quote its row."""


class Rebased(Value):
    """The effect of a dataset's edits on a version. `version` is None if nothing changes, or on a dry run."""

    onto: str
    version: str | None = None
    relabelled: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()
    rescued: tuple[str, ...] = ()
    """Rejected candidates that people accepted."""
    conflicts: tuple[Conflict, ...] = ()
    absent: tuple[str, ...] = ()
    """Edited rows that are missing from the version, except rejected candidates that people rejected too."""

    @property
    def changes(self) -> bool:
        """True if the version would change."""
        return bool(self.relabelled or self.edited or self.rejected or self.rescued)


def without_words(edit: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an edit, as plain values, that may quote its row, with their words hidden."""
    given = {name: value for name in WORDS if (value := edit.get(name))}
    return {name: dict.fromkeys(value, HIDDEN) if isinstance(value, dict) else HIDDEN for name, value in given.items()}


def edits(lake: Lake, dataset: str) -> list[Edit]:
    """Return every edit of a dataset, oldest first."""
    return from_rows(Edit, lake.query('SELECT * FROM lake.edits WHERE dataset = ? ORDER BY "at", id', [dataset]))


def record(lake: Lake, made: Sequence[Edit]) -> int:
    """Store edits in one transaction, skipping known ids. Returns the number of new edits."""

    def work(connection: duckdb.DuckDBPyConnection) -> int:
        wanted = [edit.id for edit in made]
        query = "SELECT id FROM lake.edits WHERE list_contains(?::VARCHAR[], id)"
        known = {str(row[0]) for row in execute(connection, query, [wanted]).fetchall()}
        fresh = [edit for edit in {edit.id: edit for edit in made}.values() if edit.id not in known]
        if fresh:
            lake.insert("edits", to_table(Edit, fresh))
        return len(fresh)

    return lake.write(work) if made else 0


def decide(
    lake: Lake, found: DatasetVersion, row_id: str, action: EditAction, *, text: str | None = None,
    response: str | None = None, label: str | None = None, data: Mapping[str, JsonValue] | None = None, note: str = "",
    by: str, queue: str = "", blind: bool = False, seconds: float | None = None,
) -> Edit:  # fmt: skip
    """Create an edit of a row of this version, without recording it.

    `row_id` may be a unique prefix. If the version has no such row, the id is looked up among the rejected candidates
    of its runs; accepting a candidate (with a label or a text, if it lacks one) rescues it. `queue` is the rule that
    offered the row, `seconds` the time that the person took. `data` are the columns to change; where
    the text changes, columns follow it, such as spans, which are looked up in the new text.

    Raises:
        NotFound: There is no such row, or the task has no such label.
        GraftError: The edit has no content, the action does not apply to the row, or the row would break its task.
    """
    row = seen(lake, found, row_id)
    content = next((one for one in (text, response, data) if one is not None), None)
    given = {"relabel": label, "edit": content, "note": note or None}
    if (action in given and given[action] is None) or (text is not None and not text.strip()):
        fix = "--label X, --text Y, --reject, --accept or --note"
        raise GraftError("this edit has no content", where=row.id, fix=fix)
    if action == "undo":
        raise GraftError("an undo refers to an edit, not to a row", where=row.id, fix="undo the edit by its id")
    labels = labels_of(lake, found)
    if label is not None and label not in labels:
        raise NotFound(f"no label {label!r}", where=found.ref, fix=f"one of: {', '.join(labels[:40])}")
    if isinstance(row, Rejected) and action == "accept":
        _check_whole(row, text, label)
        data = data or {}
    columns = _columns(task_of(lake, found), row, text, response, label, data)
    changed = columns != row.data
    at, more = utc_now(), [columns] if changed else []
    return Edit(
        id="e_" + stable_hash(found.dataset, found.version, row.id, action, text, response, label, note, by, str(at),
                              *more),
        data=columns if changed else None, base_data=row.data if changed else None,
        dataset=found.dataset, version=found.version, row_id=row.id, action=action, base_text=row.text,
        base_label=row.label, text=text, response=response, label=label, note=note, by=by, at=at, queue=queue,
        blind=blind, seconds=seconds,
    )  # fmt: skip


def _columns(
    task: Task, row: Row | Rejected, text: str | None, response: str | None, label: str | None,
    data: Mapping[str, JsonValue] | None,
) -> dict[str, Any]:  # fmt: skip
    """The row's columns after the change. Raises GraftError if the changed row breaks its task."""
    if text is None and response is None and data is None:
        return row.data
    answer, columns = row.response if response is None else response, {**row.data, **(data or {})}
    new = Words(row.text if text is None else text, answer, label or row.label, columns)
    columns = task.settle(new, before=row.text if data is None else None)
    if faults := task.faults(replace(new, data=columns)):
        raise GraftError(faults[0].detail, where=row.id, fix=f"correct it: an {task.kind} row must be whole")
    return columns


def _check_whole(row: Rejected, text: str | None, label: str | None) -> None:
    missing = [name for name, given in (("text", text or row.text), ("label", label or row.label)) if not given.strip()]
    if missing:
        what = f"this candidate was rejected before it had a {' and a '.join(missing)}"
        raise GraftError(what, where=row.id, fix=f"give it a {' and a '.join(missing)}")


def undo(lake: Lake, edit_id: str, *, by: str, force: bool = False) -> Edit:
    """Record the undo of an edit in one transaction and return it. Versions that contain the edit do not change.

    Raises NotFound if there is no such edit; GraftError if it was undone already, is itself an undo (decide again
    instead), or was made by another person and `force` is not set.
    """

    def work(connection: duckdb.DuckDBPyConnection) -> Edit:
        query = "SELECT * FROM lake.edits WHERE id = $1 OR (action = 'undo' AND undoes = $1)"
        there = from_rows(Edit, rows_of(execute(connection, query, [edit_id])))
        edit = next((one for one in there if one.id == edit_id), None)
        if edit is None:
            raise NotFound(f"no edit {edit_id!r}", where="edit id", fix="graft explain ROW lists the edits of a row")
        if edit.action == "undo":
            raise GraftError("an undo cannot be undone", where=edit_id, fix=f"decide on {edit.row_id} again")
        earlier = next((one for one in there if one.undoes == edit_id), None)
        if earlier is not None:
            raise GraftError(f"{earlier.by} has already undone it", where=edit_id, fix=f"decide on {edit.row_id} again")
        if edit.by != by and not force:
            raise GraftError(f"it is {edit.by}'s, not {by}'s", where=edit_id, fix=f"ask {edit.by}, or decide yourself")
        made = Edit(
            id="e_" + stable_hash("undo", edit_id), action="undo", undoes=edit_id, by=by,
            at=max(utc_now(), edit.at + timedelta(microseconds=1)),
            **{name: getattr(edit, name) for name in ("dataset", "version", "row_id", "base_text", "base_label")},
        )  # fmt: skip
        lake.insert("edits", to_table(Edit, [made]))
        return made

    return lake.write(work)


def in_force(some: Iterable[Edit]) -> list[Edit]:
    """Return the edits in force, in order: neither undone nor an undo."""
    given = list(some)
    undone = {edit.undoes for edit in given if edit.action == "undo"}
    return [edit for edit in given if edit.action != "undo" and edit.id not in undone]


def fold(some: Iterable[Edit]) -> dict[str, Decided]:
    """Combine edits, oldest first, by row id. Skips and undone edits are ignored."""
    folded: dict[str, Decided] = {}
    for edit in in_force(some):
        if edit.action == "skip":
            continue
        news: dict[str, Edit | None] = {name: edit for name in NEWS if getattr(edit, name) is not None}
        if edit.action in ("accept", "reject"):
            news |= {name: edit if edit.action == name else None for name in ("accept", "reject")}
        folded[edit.row_id] = folded.get(edit.row_id, Decided()).model_copy(update=news)
    return folded


def rebase(lake: Lake, found: DatasetVersion, *, force: bool = False, dry_run: bool = False) -> Rebased:
    """Apply the dataset's edits, whichever version they were made on, to this version, and publish the result.

    An edit whose row differs here from the row that the person saw is a conflict and is not applied, unless `force`;
    changes by other edits of the same row are not conflicts. Rejected rows become drops of the gate `person`; rejected
    candidates of the version's runs that people accepted become rows. Raises GraftError if no row would be left.
    """
    made = edits(lake, found.dataset)
    by_row, folded, task = _by_row(made), fold(made), task_of(lake, found)
    held, kept, drops = held_by(lake, found), [], []
    report: dict[str, list[str]] = {"relabelled": [], "edited": [], "rejected": [], "rescued": []}
    conflicts: list[Conflict] = []
    for row, run_id, candidate in held:
        wanted = folded.get(row.id, Decided()).model_copy(update={"accept": None})
        against = [] if force else list(conflicts_of(row, wanted, by_row.get(row.id, []), task))
        fine = without(wanted, {conflict.edit.id for conflict in against}) if against else wanted
        if fault := breach(row, fine, task):
            against.append(fault)
            fine = without(fine, {edit.id for _, edit in fine if edit is not None and edit.action != "reject"})
        conflicts += against
        if fine.reject is not None:
            report["rejected"].append(row.id)
            drops.append(GateResult(gate=GATE, rule="reject", passed=False, detail=_reason(fine.reject)))
            continue
        after = decided_row(row, fine, task)
        _tell(report, row, after)
        kept.append((after, run_id, candidate))
    outside = {name: folded[name] for name in folded.keys() - {row.id for row, *_ in held}}
    rescue = _rescue(lake, found, kept, outside, {} if force else by_row, task)
    plan = Rebased(
        onto=found.ref,
        conflicts=(*conflicts, *rescue.conflicts),
        absent=rescue.absent,
        **{name: tuple(ids) for name, ids in (report | {"rescued": [row.id for row, *_ in rescue.rows]}).items()},
    )
    if dry_run or not plan.changes:
        return plan
    return plan.model_copy(update={"version": _publish(lake, found, [*kept, *rescue.rows], plan, drops).ref})


@dataclass(frozen=True)
class _Rescue:
    """The outcome for edited rows that a version does not contain."""

    rows: tuple[Held, ...]
    conflicts: tuple[Conflict, ...]
    absent: tuple[str, ...]


def _rescue(
    lake: Lake, found: DatasetVersion, kept: Sequence[Held], outside: Mapping[str, Decided],
    by_row: Mapping[str, Sequence[Edit]], task: Task,
) -> _Rescue:  # fmt: skip
    """Rescue the accepted rows among those that a run rejected, except recalled rows and repeats."""
    there = rejected(lake, found, outside)
    agreed = {name for name in there if outside[name].reject is not None}
    accepted = [one for name, one in there.items() if outside[name].accept is not None]
    gone = recalled(lake, found.dataset, accepted)
    fine: list[tuple[Rejected, Row]] = []
    conflicts: list[Conflict] = []
    for one in sorted(accepted, key=lambda one: one.id):
        row, wanted = one.as_row(), outside[one.id]
        against = list(conflicts_of(row, wanted, by_row[one.id], task)) if one.id in by_row else []
        after = decided_row(row, wanted, task)
        if not against and (fault := breach(row, wanted, task)):
            against.append(fault)
        conflicts += against
        if not against and one.id not in gone and after.text.strip() and after.label:
            fine.append((one, after))
    taken = take_in(kept, fine)
    conflicts += [
        Conflict(edit=edit, field="text", restricted=row.restricted, repeats=taken.repeats[row.id])
        for _, row in fine
        if row.id in taken.repeats and (edit := outside[row.id].accept) is not None
    ]
    settled = agreed | {row.id for row, *_ in taken.rows} | {conflict.edit.row_id for conflict in conflicts}
    return _Rescue(taken.rows, tuple(conflicts), tuple(sorted(outside.keys() - settled)))


def apply(lake: Lake, found: DatasetVersion, *, force: bool = False) -> DatasetVersion:
    """Apply the dataset's edits, as `rebase`, and return the new version, or the same if they change nothing."""
    from graft.data.versions import version

    made = rebase(lake, found, force=force).version
    return found if made is None else version(lake, made)


def _publish(
    lake: Lake, found: DatasetVersion, kept: Sequence[Held], plan: Rebased, drops: Sequence[GateResult]
) -> DatasetVersion:
    summary = f"{len(plan.relabelled)} relabelled, {len(plan.edited)} edited, {len(plan.rejected)} rejected by people"
    back = f"; {len(plan.rescued)} rescued after a run had rejected them" if plan.rescued else ""
    left = f"; {len(plan.conflicts)} conflicts were not applied" if plan.conflicts else ""
    return derive(lake, found, kept, origin="edits", note=summary + back + left, drops=drops, dropped=plan.rejected)


def _by_row(made: Iterable[Edit]) -> dict[str, list[Edit]]:
    found: dict[str, list[Edit]] = {}
    for edit in made:
        found.setdefault(edit.row_id, []).append(edit)
    return found


def _tell(report: dict[str, list[str]], row: Row, changed: Row) -> None:
    if changed.label != row.label:
        report["relabelled"].append(row.id)
    if (changed.text, changed.response, changed.data) != (row.text, row.response, row.data):
        report["edited"].append(row.id)


def _reason(edit: Edit) -> str:
    return f"{edit.by}: {edit.note}" if edit.note else edit.by
