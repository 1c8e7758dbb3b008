"""A person's edits of rows: recorded beside a version, and applied to it or to a later one as a derived version.

An edit never changes a version. An edited row keeps its id, so that its history holds; the version's content hash and
the row's text say that it is another text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from data.arrow import from_table, to_table
from data.versions import Held, derive, held_by
from schemas.base import Value, stable_hash, utc_now
from schemas.datasets import Row
from schemas.errors import GraftError, NotFound
from schemas.restricted import SAFE
from schemas.rows import GateResult
from schemas.versions import Edit, EditAction

if TYPE_CHECKING:
    import duckdb

    from data.lake import Lake
    from schemas.datasets import DatasetVersion

GATE = "person"
LEAST_PREFIX = 6


class Conflict(Value):
    """An edit that a version does not bear out: its row says something else there than the person saw."""

    edit: Edit
    field: Literal["text", "label"]
    restricted: bool


class Rebased(Value):
    """What the edits of a dataset make of one version. `version` is None where nothing changes, or on a dry run."""

    onto: str
    version: str | None = None
    relabelled: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    absent: tuple[str, ...] = ()
    """Edited rows that the version does not hold."""

    @property
    def changes(self) -> bool:
        """Whether the version would become another."""
        return bool(self.relabelled or self.edited or self.rejected)


class Decided(Value):
    """The edits of one row folded into one: the newest decision if it is a reject, newest text, response and label."""

    reject: Edit | None = None
    text: Edit | None = None
    response: Edit | None = None
    label: Edit | None = None


def edits(lake: Lake, dataset: str) -> list[Edit]:
    """Every edit of a dataset, oldest first."""
    return from_table(Edit, lake.sql('SELECT * FROM lake.edits WHERE dataset = ? ORDER BY "at", id', [dataset]))


def record(lake: Lake, made: Sequence[Edit]) -> int:
    """Store edits, in one transaction; those whose id is there already are left out. Returns how many were new."""

    def work(connection: duckdb.DuckDBPyConnection) -> int:
        wanted = [edit.id for edit in made]
        query = "SELECT id FROM lake.edits WHERE list_contains(?::VARCHAR[], id)"
        known = {str(row[0]) for row in connection.execute(query, [wanted]).fetchall()}
        fresh = [edit for edit in {edit.id: edit for edit in made}.values() if edit.id not in known]
        if fresh:
            lake.insert("edits", to_table(Edit, fresh))
        return len(fresh)

    return lake.write(work) if made else 0


def decide(
    lake: Lake,
    found: DatasetVersion,
    row_id: str,
    action: EditAction,
    *,
    text: str | None = None,
    response: str | None = None,
    label: str | None = None,
    note: str = "",
    by: str,
) -> Edit:
    """An edit of a row as this version shows it, not yet recorded. A unique beginning of its id is enough.

    Raises NotFound where the version has no such row or its task no such label, GraftError where the edit says nothing.
    """
    row = row_of(lake, found, row_id)
    given = {"relabel": label, "edit": text if text is not None else response, "note": note or None}
    if (action in given and given[action] is None) or (text is not None and not text.strip()):
        fix = "--label X, --text Y, --reject, --accept or --note"
        raise GraftError("this edit says nothing", where=row.id, fix=fix)
    labels = _labels(lake, found)
    if label is not None and label not in labels:
        raise NotFound(f"no label {label!r}", where=found.ref, fix=f"one of: {', '.join(labels[:40])}")
    at = utc_now()
    return Edit(
        id="e_" + stable_hash(found.dataset, found.version, row.id, action, text, response, label, note, by, str(at)),
        dataset=found.dataset, version=found.version, row_id=row.id, action=action, base_text=row.text,
        base_label=row.label, text=text, response=response, label=label, note=note, by=by, at=at,
    )  # fmt: skip


def row_of(lake: Lake, found: DatasetVersion, row_id: str) -> Row:
    """The row of a version with that id, or that alone begins with it (6 characters or more). Raises NotFound."""
    name = row_id.strip()
    columns = ", ".join(f'"{column}"' for column in Row.model_fields)
    query = f"""
        SELECT {columns} FROM lake.version_rows WHERE dataset = ? AND version = ? AND (id = ? OR starts_with(id, ?))
        ORDER BY id <> ?, id LIMIT 3"""
    rows = from_table(Row, lake.sql(query, [found.dataset, found.version, name, name, name]))
    if rows and (rows[0].id == name or (len(rows) == 1 and len(name) >= LEAST_PREFIX)):
        return rows[0]
    if rows:
        fix = f"more of its id (6 characters or more), such as: {', '.join(row.id for row in rows)}"
        raise NotFound(f"{name!r} is no whole id", where=found.ref, fix=fix)
    raise NotFound(f"{found.ref} has no row {name!r}", where=found.ref, fix=f"graft show {found.ref}")


def _task(lake: Lake, found: DatasetVersion) -> dict[str, object]:
    run = lake.run(found.run_id)
    task = run.recipe.get("task") if run else None
    return task if isinstance(task, dict) else {}


def _labels(lake: Lake, found: DatasetVersion) -> list[str]:
    """Those of the recipe's task, and those that the version has."""
    named = _task(lake, found).get("labels")
    of_task = [one["name"] for one in named if isinstance(one, dict)] if isinstance(named, list) else []
    return list(dict.fromkeys([*of_task, *found.labels]))


def fold(some: Iterable[Edit]) -> dict[str, Decided]:
    """Row id to what its edits, oldest first, come to."""
    folded: dict[str, Decided] = {}
    for edit in some:
        fields = ("text", "response", "label")
        news: dict[str, Edit | None] = {name: edit for name in fields if getattr(edit, name) is not None}
        if edit.action in ("accept", "reject"):
            news["reject"] = edit if edit.action == "reject" else None
        folded[edit.row_id] = folded.get(edit.row_id, Decided()).model_copy(update=news)
    return folded


def rebase(lake: Lake, found: DatasetVersion, *, force: bool = False, dry_run: bool = False) -> Rebased:
    """Apply the dataset's edits, whichever version they were made on, to this one, and publish what comes of it.

    An edit whose row says something else here than the person saw is a conflict and is not applied, unless `force`;
    what another edit of the same row made of it is none. Rejected rows become drops of the gate `person`. Raises
    GraftError where no row would be left.
    """
    made = edits(lake, found.dataset)
    by_row, folded, guard = _by_row(made), fold(made), _restricted_guard(lake, found)
    held, kept, drops = held_by(lake, found), [], []
    report: dict[str, list[str]] = {"relabelled": [], "edited": [], "rejected": []}
    conflicts: list[Conflict] = []
    for row, run_id, candidate in held:
        wanted = folded.get(row.id, Decided())
        against = [] if force else list(_conflicts(row, wanted, by_row.get(row.id, [])))
        conflicts += against
        fine = _without(wanted, {conflict.edit.id for conflict in against}) if against else wanted
        if fine.reject is not None:
            report["rejected"].append(row.id)
            drops.append(GateResult(gate=GATE, rule="reject", passed=False, detail=_said(fine.reject)))
            continue
        changed = _changed(row, fine, guard)
        _tell(report, row, changed)
        kept.append((changed, run_id, candidate))
    plan = Rebased(
        onto=found.ref,
        conflicts=tuple(conflicts),
        absent=tuple(sorted(folded.keys() - {row.id for row, *_ in held})),
        **{name: tuple(ids) for name, ids in report.items()},
    )
    if dry_run or not plan.changes:
        return plan
    return plan.model_copy(update={"version": _publish(lake, found, kept, plan, drops).ref})


def apply(lake: Lake, found: DatasetVersion, *, force: bool = False) -> DatasetVersion:
    """The version that the dataset's edits make of this one; itself where they change nothing. See `rebase`."""
    from data.versions import version

    made = rebase(lake, found, force=force).version
    return found if made is None else version(lake, made)


def _publish(
    lake: Lake, found: DatasetVersion, kept: Sequence[Held], plan: Rebased, drops: Sequence[GateResult]
) -> DatasetVersion:
    told = f"{len(plan.relabelled)} relabelled, {len(plan.edited)} edited, {len(plan.rejected)} rejected by people"
    left = f"; {len(plan.conflicts)} conflicts were left alone" if plan.conflicts else ""
    return derive(lake, found, kept, origin="edits", note=told + left, drops=drops, dropped=plan.rejected)


def _by_row(made: Iterable[Edit]) -> dict[str, list[Edit]]:
    found: dict[str, list[Edit]] = {}
    for edit in made:
        found.setdefault(edit.row_id, []).append(edit)
    return found


def _conflicts(row: Row, wanted: Decided, of_row: Sequence[Edit]) -> Iterable[Conflict]:
    """Each edit in force whose row is neither as the person saw it nor as people made it."""
    for edit in {edit.id: edit for _, edit in wanted if edit is not None}.values():
        for field in ("text", "label"):
            if getattr(row, field) not in _known(edit, of_row, field):
                yield Conflict(edit=edit, field=field, restricted=row.restricted)
                break


def _known(edit: Edit, of_row: Sequence[Edit], field: Literal["text", "label"]) -> set[str]:
    """What the row may say: what the person saw, what that was made from, and whatever people wrote."""
    known = {getattr(edit, f"base_{field}")}
    for earlier in reversed(of_row):  # newest first, so that one pass goes all the way back
        if getattr(earlier, field) in known:
            known.add(getattr(earlier, f"base_{field}"))
    return known | {words for one in of_row if (words := getattr(one, field)) is not None}


def _without(wanted: Decided, ids: set[str]) -> Decided:
    fields: dict[str, Edit | None] = {name: getattr(wanted, name) for name in Decided.model_fields}
    return Decided(**{name: None if edit is None or edit.id in ids else edit for name, edit in fields.items()})


def _changed(row: Row, wanted: Decided, guard: bool) -> Row:
    """The row as people want it, in its split. A row of a restricted guard that becomes harmful is restricted."""
    news = {name: getattr(edit, name) for name in ("text", "response", "label") if (edit := getattr(wanted, name))}
    if guard and news.get("label", SAFE) != SAFE:
        news["restricted"] = True
    return row.model_copy(update=news)


def _restricted_guard(lake: Lake, found: DatasetVersion) -> bool:
    task = _task(lake, found)
    return task.get("kind") == "guard" and task.get("restricted", True) is not False


def _tell(report: dict[str, list[str]], row: Row, changed: Row) -> None:
    if changed.label != row.label:
        report["relabelled"].append(row.id)
    if (changed.text, changed.response) != (row.text, row.response):
        report["edited"].append(row.id)


def _said(edit: Edit) -> str:
    return f"{edit.by}: {edit.note}" if edit.note else edit.by
