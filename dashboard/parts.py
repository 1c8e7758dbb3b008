"""A part of a version's report: tables and values shown on a page and in the HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from graft.schemas.sections import Section, Table


@dataclass(frozen=True)
class Part:
    """Tables and values for a template. `ready` is false while some figure is still being computed."""

    tables: tuple[Table, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    ready: bool = True


def for_file(table: Table) -> Table:
    """The table for a file: without links to the dashboard, and with moments as dates."""
    columns = tuple(
        replace(column, link="", kind="text" if column.kind in ("ago", "ahead") else column.kind)
        for column in table.columns
    )
    return replace(
        table, columns=columns, rows=[{key: _dated(value) for key, value in row.items()} for row in table.rows]
    )


def section_for_file(section: Section) -> Section:
    """The section with its tables as in a file."""
    return replace(section, tables=tuple(for_file(table) for table in section.tables))


def moment(at: datetime) -> str:
    """A moment as day and minute, UTC."""
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _dated(value: Any) -> Any:
    return moment(value) if isinstance(value, datetime) else value
