"""A table of a page, said once: drawn by the macro `table`, and given as CSV under `?csv=NAME`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from starlette.responses import Response

from graft.dashboard import show
from graft.schemas.cells import inert_cell

Kind = Literal["text", "code", "number", "share", "money", "seconds", "ago", "ahead", "status"]
TO_THE_RIGHT = ("number", "share", "money", "seconds")


@dataclass(frozen=True)
class Column:
    """One column. `key` names the value in a row; `link` the key that holds an address of ours, or nothing.

    `bar` draws a share (0 to 1) as a bar beside its number; `digits` are those after the point.
    """

    key: str
    title: str
    kind: Kind = "text"
    digits: int = 0
    link: str = ""
    bar: bool = False

    @property
    def right(self) -> bool:
        """Whether cells stand to the right, as numbers do."""
        return self.kind in TO_THE_RIGHT

    def said(self, row: Mapping[str, Any]) -> str:
        """The cell as words. It is text: the template escapes it."""
        value = row[self.key]
        if self.kind in ("number", "share"):
            return str(show.FILTERS[self.kind](value, self.digits if self.kind == "number" else self.digits or 1))
        if self.kind in ("money", "seconds", "ago", "ahead"):
            return str(show.FILTERS[self.kind](value))
        return show.shown(None if value is None else str(value))

    def rank(self, row: Mapping[str, Any]) -> str:
        """What a click on the column's head sorts by: the bare number or moment; empty for words."""
        value = row[self.key]
        if self.kind in ("ago", "ahead"):
            return "" if value is None else str(value.timestamp())
        return str(value) if self.right and value is not None else ""


@dataclass(frozen=True)
class Table:
    """A table with a name for its address and a title that stands above it. `empty` is said where there is no row."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Mapping[str, Any]]
    empty: str = ""
    note: str = ""


def as_csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], name: str) -> Response:
    """Rows as a file; a cell that a spreadsheet would take for a formula gets an apostrophe before it."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows([_safe(row[column]) for column in columns] for row in rows)
    return Response(out.getvalue(), media_type="text/csv", headers=attachment(f"{name}.csv"))


def attachment(name: str) -> dict[str, str]:
    """The header under which a browser keeps an answer as a file of this name (RFC 6266): any name, any script."""
    plain = re.sub(r"[^\w.@+-]", "_", name, flags=re.ASCII)
    full = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return {"Content-Disposition": f'attachment; filename="{plain}"{full}'}


def table_csv(table: Table) -> Response:
    """A page's table as a file, its values bare."""
    return as_csv([column.key for column in table.columns], table.rows, table.name)


def _safe(value: Any) -> Any:
    return inert_cell(value) if isinstance(value, str) else "" if value is None else value
