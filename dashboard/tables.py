"""Downloads of a page: a table as CSV under `?csv=NAME`, and the header that names a file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from starlette.responses import Response

from graft.schemas.sections import Table, inert_cell


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
