"""Tables of a page: parts of a version's report, and downloads as CSV under `?csv=NAME`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from graft.schemas.sections import Section, Table, inert_cell


@dataclass(frozen=True)
class Part:
    """Tables and values for a template. `ready` is false while some figure is still being computed."""

    tables: tuple[Table, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    ready: bool = True


def as_csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], name: str) -> Response:
    """Rows as CSV; a cell that a spreadsheet would run as a formula is prefixed with an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows([_safe(row[column]) for column in columns] for row in rows)
    return Response(out.getvalue(), media_type="text/csv", headers=attachment(f"{name}.csv"))


def attachment(name: str) -> dict[str, str]:
    """The header that makes a browser save a response under this name (RFC 6266), in any script."""
    plain = re.sub(r"[^\w.@+-]", "_", name, flags=re.ASCII)
    full = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return {"Content-Disposition": f'attachment; filename="{plain}"{full}'}


def table_csv(table: Table) -> Response:
    """A page's table as CSV, with unformatted values."""
    return as_csv([column.key for column in table.columns], table.rows, table.name)


def _safe(value: Any) -> Any:
    return inert_cell(value) if isinstance(value, str) else "" if value is None else value


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
