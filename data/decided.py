"""A row after people's decisions, and the conflicts of decisions with the row or with each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from graft.schemas.base import Value
from graft.schemas.datasets import Edit, Row
from graft.schemas.rows import Data
from graft.schemas.tasks.base import Task, Words

NEWS = ("text", "response", "label", "data")
"""Fields of an edit that change its row."""
Field = Literal["text", "label", "data"]
FIELDS: tuple[Field, ...] = get_args(Field)
"""Fields in which an edit and a row may conflict."""


class Conflict(Value):
    """An edit whose row differs in the version from the row that the person saw.

    Also a rescued row whose text the row `repeats` already has: it stays out, even with `force`.
    """

    edit: Edit
    field: Field
    restricted: bool
    repeats: str = ""
    fault: str = ""
    """The first fault of the row after all its edits, if they break its task together."""


class Decided(Value):
    """The combined edits of a row: the newest accept or reject, the newest text, response, label and columns."""

    accept: Edit | None = None
    reject: Edit | None = None
    text: Edit | None = None
    response: Edit | None = None
    label: Edit | None = None
    data: Edit | None = None


def conflicts_of(row: Row, wanted: Decided, of_row: Sequence[Edit], task: Task) -> Iterable[Conflict]:
    """Yield each edit in force whose row is neither as the person saw it nor as other edits made it."""
    for edit in {edit.id: edit for _, edit in wanted if edit is not None}.values():
        for field in FIELDS:
            if not _is_known(row, edit, of_row, field, task):
                yield Conflict(edit=edit, field=field, restricted=row.restricted)
                break


def _is_known(row: Row, edit: Edit, of_row: Sequence[Edit], field: Field, task: Task) -> bool:
    """True without conflict: the value is what the person saw, a predecessor of it, or what any person wrote."""
    if field == "data" and edit.data is None:
        return True
    value, known = getattr(row, field), [getattr(edit, f"base_{field}")]
    for earlier in reversed(of_row):  # newest first, so that one pass goes all the way back
        if getattr(earlier, field) in known:
            known.append(getattr(earlier, f"base_{field}"))
    written = [(one, words) for one in of_row if (words := getattr(one, field)) is not None]
    if value in known or any(value == words for _, words in written):
        return True
    return field == "data" and any(
        value == _on(row, given, made_for, task)
        for one, words in written
        for given, made_for in ((words, one.text or one.base_text), (one.base_data, one.base_text))
    )


def _on(row: Row, data: Data | None, made_for: str, task: Task) -> Data:
    """Columns that were made for another text, on the row's text."""
    if made_for == row.text or not data:
        return data or {}
    return task.settle(Words(row.text, row.response, row.label, data), before=made_for)


def without(wanted: Decided, ids: set[str]) -> Decided:
    """The decisions without these edits."""
    fields: dict[str, Edit | None] = {name: getattr(wanted, name) for name in Decided.model_fields}
    return Decided(**{name: None if edit is None or edit.id in ids else edit for name, edit in fields.items()})


def decided_row(row: Row, wanted: Decided, task: Task) -> Row:
    """The row after the decisions, in its split. A row that gets a label restricted by its task is restricted."""
    news = {name: getattr(edit, name) for name in NEWS if (edit := getattr(wanted, name))}
    if not news:
        return row
    if "label" in news and task.restricts(news["label"]):
        news["restricted"] = True
    made = row.model_copy(update=news)
    made_for = row.text if wanted.data is None else wanted.data.text or wanted.data.base_text
    return made.model_copy(update={"data": _on(made, made.data, made_for, task)})


def breach(row: Row, wanted: Decided, task: Task) -> Conflict | None:
    """The conflict of decisions that fit the row one by one, and together break its task."""
    edit = wanted.data or wanted.text or wanted.response or wanted.accept
    if edit is None or wanted.reject is not None:
        return None
    after = decided_row(row, wanted, task)
    faults = task.faults(Words(after.text, after.response, after.label, after.data))
    return Conflict(edit=edit, field="data", restricted=row.restricted, fault=faults[0].detail) if faults else None
