"""People's decisions on a version's rows, and the progress of its review."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import TYPE_CHECKING, Any

from graft.data.arrow import from_table
from graft.data.edits import DECISIONS, WORDS, Decided, edits, fold, in_force, seen
from graft.data.rescue import Rejected, rejected
from graft.data.review.model import Person, Progress, Standing
from graft.schemas.sections import HIDDEN
from graft.schemas.versions import Edit

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.schemas.datasets import DatasetVersion

_HELD = """
    SELECT id, text, response, label, restricted FROM lake.version_rows
    WHERE dataset = $1 AND version = $2 AND id IN (SELECT unnest($3::VARCHAR[]))"""


def decisions(lake: Lake, found: DatasetVersion, *, restricted: bool = False) -> tuple[Standing, ...]:
    """Return every decision and note in force in the version's dataset, newest first.

    Words of restricted rows are hidden unless `restricted`.
    """
    made = [edit for edit in in_force(edits(lake, found.dataset)) if edit.action != "skip"]
    held, outside = _places(lake, found, {edit.row_id for edit in made})
    return tuple(_standing(edit, held, outside, restricted) for edit in reversed(made))


def standing(lake: Lake, found: DatasetVersion, row_id: str, *, restricted: bool = False) -> list[Edit]:
    """Return the decisions and notes in force on a row, oldest first; a unique prefix of its id suffices.

    Words of a restricted row are hidden unless `restricted`. Raises NotFound.
    """
    row = seen(lake, found, row_id)
    query = 'SELECT * FROM lake.edits WHERE dataset = ? AND row_id = ? ORDER BY "at", id'
    made = in_force(from_table(Edit, lake.sql(query, [found.dataset, row.id])))
    hide = row.restricted and not restricted
    return [hidden(edit) if hide else edit for edit in made if edit.action != "skip"]


def progress(lake: Lake, found: DatasetVersion) -> Progress:
    """Return the numbers of decided and skipped rows, by person, and of decisions that wait for a version."""
    made = in_force(edits(lake, found.dataset))
    held, outside = _places(lake, found, {edit.row_id for edit in made})
    decided = {edit.row_id for edit in made if edit.action in DECISIONS}
    skipped = {edit.row_id for edit in made if edit.action == "skip"} - decided
    here = held.keys() | outside.keys()
    return Progress(
        ref=found.ref,
        rows=found.rows,
        decided=len(decided & held.keys()),
        outside=len(decided & outside.keys()),
        skipped=len(skipped & held.keys()),
        waiting=sum(_changes(wanted, held.get(row_id), row_id in outside) for row_id, wanted in fold(made).items()),
        people=_people(edit for edit in made if edit.row_id in here),
    )


def hidden(edit: Edit) -> Edit:
    """Return the edit without the words that may quote its row."""
    return edit.model_copy(update={name: HIDDEN for name in WORDS if getattr(edit, name)})


def _places(lake: Lake, found: DatasetVersion, ids: set[str]) -> tuple[dict[str, dict[str, Any]], dict[str, Rejected]]:
    """The rows that the version contains, and those that its runs rejected."""
    params = [found.dataset, found.version, sorted(ids)]
    held = {row["id"]: row for row in lake.sql(_HELD, params).to_pylist()} if ids else {}
    return held, rejected(lake, found, ids - held.keys())


def _standing(edit: Edit, held: dict[str, dict[str, Any]], outside: dict[str, Rejected], restricted: bool) -> Standing:
    row, candidate = held.get(edit.row_id), outside.get(edit.row_id)
    secret = bool(row["restricted"]) if row else candidate is None or candidate.restricted
    return Standing(
        edit=hidden(edit) if secret and not restricted else edit,
        held="accepted" if row else "rejected" if candidate else "absent",
        restricted=secret,
    )


def _changes(wanted: Decided, row: dict[str, Any] | None, rescuable: bool) -> bool:
    """Return True if the decisions on a row would change the version, ignoring conflicts."""
    if row is None:
        return rescuable and wanted.accept is not None
    if wanted.reject is not None:
        return True
    fields = ("text", "response", "label")
    return any(edit and getattr(edit, name) != row[name] for name in fields if (edit := getattr(wanted, name)))


def _people(made: Iterable[Edit]) -> tuple[Person, ...]:
    of_person: dict[str, list[Edit]] = {}
    for edit in made:
        of_person.setdefault(edit.by, []).append(edit)
    people: list[Person] = []
    for by, theirs in of_person.items():
        decided = {edit.row_id for edit in theirs if edit.action in DECISIONS}
        skipped = {edit.row_id for edit in theirs if edit.action == "skip"} - decided
        looked = [edit.seconds for edit in theirs if edit.seconds is not None and edit.action in DECISIONS]
        seconds = round(median(looked), 2) if looked else None
        people.append(Person(by=by, decided=len(decided), skipped=len(skipped), seconds=seconds))
    return tuple(sorted(people, key=lambda one: (-one.decided, one.by)))
