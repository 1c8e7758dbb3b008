"""The rows that people's edits refer to, by id or its beginning, and the task and labels that bind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from graft.data.arrow import from_rows
from graft.data.rescue import Rejected, rejected_like
from graft.schemas.datasets import DatasetVersion, Row
from graft.schemas.errors import NotFound
from graft.schemas.tasks.base import Task

if TYPE_CHECKING:
    from graft.data.lake import Lake

Like = TypeVar("Like", Row, Rejected)
LEAST_PREFIX = 6


def seen(lake: Lake, found: DatasetVersion, row_id: str) -> Row | Rejected:
    """Return the row of a version with that id, else the rejected candidate of its runs. Raises NotFound."""
    name = row_id.strip()
    if _rows_like(lake, found, name):
        return row_of(lake, found, name)
    some = rejected_like(lake, found, name, 3) if len(name) >= LEAST_PREFIX else []
    return _meant(found, name, some) if some else row_of(lake, found, name)


def row_of(lake: Lake, found: DatasetVersion, row_id: str) -> Row:
    """Return the row of a version by its id, or by a unique prefix of 6 characters or more. Raises NotFound."""
    name = row_id.strip()
    rows = _rows_like(lake, found, name)
    if not rows:
        raise NotFound(f"{found.ref} has no row {name!r}", where=found.ref, fix=f"graft show {found.ref}")
    return _meant(found, name, rows)


def _rows_like(lake: Lake, found: DatasetVersion, name: str) -> list[Row]:
    columns = ", ".join(f'"{column}"' for column in Row.model_fields)
    query = f"""
        SELECT {columns} FROM lake.version_rows WHERE dataset = ? AND version = ? AND (id = ? OR starts_with(id, ?))
        ORDER BY id <> ?, id LIMIT 3"""
    return from_rows(Row, lake.query(query, [found.dataset, found.version, name, name, name]))


def _meant(found: DatasetVersion, name: str, rows: Sequence[Like]) -> Like:
    """The row with that id, or the only row if the prefix is long enough. Raises NotFound."""
    if rows[0].id == name or (len(rows) == 1 and len(name) >= LEAST_PREFIX):
        return rows[0]
    fix = f"give more of its id (6 characters or more), such as: {', '.join(row.id for row in rows)}"
    raise NotFound(f"{name!r} is not a complete id", where=found.ref, fix=fix)


def task_of(lake: Lake, found: DatasetVersion) -> Task:
    """Return the task of the run that made this version."""
    run = lake.run(found.run_id)
    return run.task if run else Task()


def labels_of(lake: Lake, found: DatasetVersion) -> list[str]:
    """Return the allowed labels of a row of this version: those of the recipe's task and those in the version."""
    return list(dict.fromkeys([*task_of(lake, found).names, *found.labels]))
